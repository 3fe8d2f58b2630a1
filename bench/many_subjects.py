"""What many subjects cost: memory in the server and in the client, and the time of a hit."""

from __future__ import annotations

import gc
import random
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from bench import peers
from bench.effort import Effort, Step, progress
from bench.hits import TIMEOUT
from bench.pinning import pinned
from bench.sections import Curve, Failed, Section, Spread, tabulate
from bench.server_time import heard
from bench.stores import FLOOR, Program, load
from bench.subjects import YEAR, Policies
from limiter import GCRA, FixedWindow, Limiter, TokenBucket
from service.demo.servers import Server

ONE = "token_bucket"
THREE = "three limits"
POLICIES: dict[str, Policies] = {
    ONE: [TokenBucket(1_000, per=YEAR)],
    THREE: [
        FixedWindow(1_000, per=YEAR),
        TokenBucket(1_000, per=YEAR),
        GCRA(10_000, per=YEAR),
    ],
}
HIT_P50, HIT_P99 = "`Limiter.hit`, median", "`Limiter.hit`, 99 %"
ALL_IN_ALL = "{}, bytes a subject"

#: Fixed in length, so that the command for a subject is made by replacing these bytes.
_NAME = "user:%08d"
_TEMPLATE = _NAME % 0
#: Commands sent at once.
_BATCH = 1_000
#: Subjects made between two steps of the progress bar.
_STEP = 100_000
#: Memory of the server that must be free for each subject that is made.
_ROOM = 1_000
#: Subjects with which the libraries are compared; of the other libraries, made by their own calls.
COMPARED = 10_000

#: What a client remembers for its subjects, off and on.
_CLIENTS: dict[str, dict[str, Any]] = {
    "`Limiter`": {},
    "`Limiter`, with the denial cache and prepaid units": {"denial_cache": 1.0, "prepaid": 100},
}


class Latency(NamedTuple):
    """Microseconds of single calls."""

    median: float
    p99: float


def measure_subjects(programs: list[Program], effort: Effort) -> Section:
    """Make subjects by replaying one hit, and measure at each power of ten."""
    memory = Curve(
        "server_memory",
        "Memory of the server, all in all",
        "subjects",
        "bytes a subject",
        {},
        file="subjects-server",
    )
    client = Curve(
        "client_memory",
        "Memory of the client",
        "subjects",
        "KiB in all",
        {},
        file="subjects-client",
    )
    latency = Curve("latency", "Time of a hit", "subjects", "us", {}, file="subjects-latency")
    section = Section(
        "subjects",
        "Many subjects",
        "The command of one hit, as the server's MONITOR shows it, is replayed for each subject (names "
        f"of {len(_TEMPLATE)} characters). *All in all* is the growth of the server's `used_memory`: keys, "
        "hash tables, and what the allocator rounds up. The client's memory is what Python allocates, "
        f"after hits on up to {10 * effort.samples:,} different subjects. The time of a hit is taken from "
        f"{effort.samples:,} hits on random subjects, with client and server on one core.",
        curves=[memory, client, latency],
        notes=peers.notes(),
    )
    for program in programs:
        label = f"subjects on {program.name}"
        made = effort.subjects[-1] + effort.subjects[-2]
        with progress(label, -(-made // _STEP) + len(_CLIENTS) + 1) as step:
            lines = memory.lines[program.name] = {}
            times = latency.lines[program.name] = {}
            for name in POLICIES:
                # Three limits take longer to make, and their largest number shows nothing new.
                sizes = effort.subjects if name == ONE else effort.subjects[:-1]
                lines[name] = points = {}
                with (
                    pinned(),
                    Server(program.path) as server,
                    closing(_Filled(server, POLICIES[name])) as filled,
                ):
                    for size in _fitting(sizes, f"{name} on {program.name}", section):
                        points[size] = Spread.of([filled.grow(size, step)])
                        if name == ONE:
                            _time(filled, size, effort, times)
            client.lines[program.name] = _clients(program, effort, step)
            section.figures[program.name] = {
                ALL_IN_ALL.format(name): points[min(points, key=lambda size: abs(size - COMPARED))]
                for name, points in lines.items()
                if points
            } | _peers(program, effort)
            step()
    section.tables = [
        tabulate(f"Bytes a subject, all in all, {COMPARED:,} subjects", "", section.figures, 0)
    ]
    return section


def _fitting(sizes: tuple[int, ...], what: str, section: Section) -> Iterator[int]:
    """Yield the sizes for which there is memory, and note the first for which there is none."""
    for size in sizes:
        if size * _ROOM > _free_memory():
            section.notes.append(
                f"{what}, {size:,} subjects: {size * _ROOM / 1e9:g} GB must be free."
            )
            return
        yield size


class _Filled:
    """A server with many subjects of one limiter."""

    def __init__(self, server: Server, policies: Policies) -> None:
        self.server = server
        self.limiter = Limiter(policies, store=server.url, name="api", timeout=TIMEOUT).open()
        self.client: Any = server.client()
        words = heard(server, lambda: self.limiter.hit(_TEMPLATE))
        self._keys = self.client.dbsize()
        connection: Any = self.client.connection_pool.get_connection()
        packed = b"".join(connection.pack_command(*words))
        self.client.connection_pool.release(connection)
        self._parts = packed.split(_TEMPLATE.encode())
        if len(self._parts) < 2:
            raise Failed(f"the command {words} does not contain the subject {_TEMPLATE}")
        self.client.flushall()
        self._empty = self._used()
        self._size = 0

    def grow(self, size: int, step: Step) -> float:
        """Make subjects until there are ``size``, and return the bytes that each takes, all in all."""
        with self.server.client() as client, closing(client.connection_pool) as pool:
            connection: Any = pool.get_connection()
            # Without replies there is nothing to read; the number of keys shows that all calls passed.
            connection.send_command("CLIENT", "REPLY", "OFF")
            for first in range(self._size, size, _BATCH):
                commands = [
                    (_NAME % number).encode().join(self._parts)
                    for number in range(first, min(first + _BATCH, size))
                ]
                connection.send_packed_command(commands)
                if first % _STEP == 0:
                    step()
            connection.send_command("CLIENT", "REPLY", "ON")
            connection.read_response()
            connection.disconnect()
        self._size = size
        keys = self.client.dbsize()
        if keys != size * self._keys:
            raise Failed(f"the server has {keys:,} keys in place of {size * self._keys:,}")
        return (self._used() - self._empty) / size

    def _used(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def close(self) -> None:
        """Close the clients."""
        self.limiter.close()
        self.client.close()


def _time(filled: _Filled, size: int, effort: Effort, times: dict[str, dict[int, Spread]]) -> None:
    sha = load(filled.client, FLOOR)
    names = [_NAME % random.randrange(size) for _ in range(effort.samples)]
    hit = _latency(filled.limiter.hit, names)
    bare = _latency(lambda _: filled.client.evalsha(sha, 0), names)
    for line, value in (
        (HIT_P50, hit.median),
        (HIT_P99, hit.p99),
        (f"{peers.BARE}, median", bare.median),
        (f"{peers.BARE}, 99 %", bare.p99),
    ):
        times.setdefault(line, {})[size] = Spread.of([value])


def _latency(call: Callable[[str], object], names: list[str]) -> Latency:
    spent = []
    for name in names:
        began = perf_counter()
        call(name)
        spent.append(perf_counter() - began)
    spent.sort()
    return Latency(*(spent[int(len(spent) * share)] * 1e6 for share in (0.5, 0.99)))


def _clients(program: Program, effort: Effort, step: Step) -> dict[str, dict[int, Spread]]:
    """Measure what limiters remember after hits on many subjects."""
    lines: dict[str, dict[int, Spread]] = {}
    sizes = [size for size in effort.subjects if size <= 10 * effort.samples]
    with Server(program.path) as server:
        for name, settings in _CLIENTS.items():
            points = lines[name] = {}
            tracemalloc.start()
            try:
                with Limiter(
                    POLICIES[ONE], store=server.url, timeout=TIMEOUT, **settings
                ) as limiter:
                    limiter.hit("first")
                    empty = _allocated()
                    done = 0
                    for size in sizes:
                        for number in range(done, size):
                            limiter.hit(_NAME % number)
                        done = size
                        points[size] = Spread.of([max(0, _allocated() - empty) / 1024])
            finally:
                tracemalloc.stop()
            step()
    return lines


def _allocated() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _peers(program: Program, effort: Effort) -> dict[str, Spread]:
    """Measure the server's memory of other libraries, all in all."""
    sizes = {}
    with Server(program.path) as server, ExitStack() as stack, server.client() as client:
        for name, hit in peers.peers(server, stack).items():
            if name == peers.BARE:
                continue
            client.flushall()
            hit("first")
            info: Any = client.info("memory")
            empty, count = info["used_memory"], min(COMPARED, 10 * effort.samples)
            for number in range(count):
                hit(_NAME % number)
            info = client.info("memory")
            used = (info["used_memory"] - empty) / count
            sizes[ALL_IN_ALL.format(name)] = Spread.of([used])
    return sizes


def _free_memory() -> int:
    """Return the bytes that the system can give to new processes; where it does not say, a gigabyte."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 10**9
    (kilobytes,) = re.findall(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.M)
    return int(kilobytes) * 1024
