"""Time of a decision inside the server, as a multiple of a reference script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import redis

from bench.effort import Effort, progress
from bench.pinning import pinned
from bench.ratios import Chunk, Cost, ratios
from bench.sections import Failed, Figures, Section, tabulate
from bench.stores import Program
from bench.subjects import (
    ALLOWING,
    DENYING,
    THREE,
    THREE_DENYING,
    YEAR,
    Subject,
)
from limiter import Limiter, SlidingLog
from service.demo.servers import Server

#: One reading of the clock, one read and one write with an expiry: the least that any limiter does.
REFERENCE = """
local time = redis.call("TIME")
redis.call("GET", KEYS[1])
redis.call("SET", KEYS[1], time[1] * 1000000 + time[2], "PX", 3600000)
return 1
"""
DEPTH = 64
SHORT_LOG, LONG_LOG = 100, 50_000
KEY = "user:42"

LENGTHS = f"sliding_log, {LONG_LOG:,} entries: allowed / the same with {SHORT_LOG}"


def measure(programs: list[Program], effort: Effort) -> Section:
    """Replay the commands that the library sends."""
    section = Section(
        "server",
        "The scripts: time in the server",
        f"The command that the library sends (as the server's MONITOR shows it), replayed {DEPTH} "
        "deep in a pipeline; `usec_per_call` of `evalsha` in `INFO commandstats` / the same of a "
        "reference script in the same run (`TIME`; `GET` of the key; `SET` of now in microseconds "
        "with `PX 3600000`; `return 1`). Pinned to one core. "
        f"{effort.pairs} chunks of {effort.pipelines * DEPTH} calls in each of "
        f"{effort.repetitions} repetitions, each between two of the reference; "
        "in small print the smallest and the largest repetition. "
        f"Logs hold {SHORT_LOG} unexpired entries, unless the case says otherwise.",
    )
    floors: Figures = {}
    for program in programs:
        with pinned(), Server(program.path) as server, server.client() as client:
            replay = Replay(client, effort.pipelines)
            cases = dict(_cases(server, replay))
            with progress(f"scripts on {program.name}", effort.repetitions * len(cases)) as step:
                measured = ratios(replay.reference(), cases, effort, step)
            replay.close()
        figures = measured.cases
        short = figures["sliding_log: allowed"].median
        long = figures[_sized("sliding_log", LONG_LOG, "allowed")]
        figures[LENGTHS] = type(long)(*(value / short for value in long))
        section.figures[program.name] = figures
        floors[program.name] = {"the reference script, us": measured.floor}
    section.tables = [
        tabulate("Multiple of the reference script", "script", section.figures, 2),
        tabulate("The reference itself (between the deciles)", "", floors, 2),
    ]
    return section


class Replay:
    """Sends one command repeatedly, and reads its time from the server's statistics."""

    def __init__(self, client: redis.Redis, pipelines: int) -> None:
        self._client: Any = client
        self._pipelines = pipelines
        self._connection: Any = client.connection_pool.get_connection()

    def close(self) -> None:
        """Return the connection to the pool."""
        self._client.connection_pool.release(self._connection)

    def reference(self) -> Chunk:
        """Make a chunk of the reference script."""
        sha = self._client.script_load(REFERENCE)
        return self.chunk(["EVALSHA", sha, "1", "reference"], lambda reply: reply == 1)

    def chunk(
        self,
        words: list[str],
        as_expected: Callable[[Any], bool],
        between: list[str] | None = None,
    ) -> Chunk:
        """Make a chunk of ``words`` that checks each reply; ``between`` is sent after each pipeline."""
        connection = self._connection
        packed = b"".join(connection.pack_command(*words)) * DEPTH
        behind = b"".join(connection.pack_command(*between)) if between else b""

        def run() -> Cost:
            self._client.config_resetstat()
            for _ in range(self._pipelines):
                connection.send_packed_command([packed + behind])
                replies = [connection.read_response() for _ in range(DEPTH)]
                if behind:
                    connection.read_response()
                if not all(map(as_expected, replies)):
                    raise Failed(
                        f"the reply to {words} is {replies[-1]!r}, but this case measures another"
                    )
            spent = self._client.info("commandstats")["cmdstat_evalsha"]
            us = float(spent["usec"]) / int(spent["calls"])
            return Cost(us, us)

        return run


def _cases(server: Server, replay: Replay) -> Iterator[tuple[str, Chunk]]:
    for name, subject in ALLOWING.items():
        if name != "sliding_log":
            yield f"{name}: allowed", replay.chunk(_seen(server, subject, name), _allowed)
    for size in (SHORT_LOG, LONG_LOG):
        log = Subject([SlidingLog(100_000, per=YEAR)], size)
        words = _seen(server, log, f"log-{size}")
        # Remove the entries written, so that the log keeps its size.
        cut = ["LTRIM", words[3], "0", str(size - 1)]
        yield _sized("sliding_log", size, "allowed"), replay.chunk(words, _allowed, cut)
    for name, subject in DENYING.items():
        yield f"{name}: denied", replay.chunk(_seen(server, subject, f"{name}-all"), _denied)
    full = Subject([SlidingLog(LONG_LOG, per=YEAR)], LONG_LOG)
    words = _seen(server, full, "log-all")
    yield _sized("sliding_log", LONG_LOG, "denied"), replay.chunk(words, _denied)
    yield "three limits: allowed", replay.chunk(_seen(server, THREE, "three"), _allowed)
    yield "three limits: denied", replay.chunk(_seen(server, THREE_DENYING, "three-all"), _denied)


def _sized(name: str, size: int, outcome: str) -> str:
    return f"{name}: {outcome}" if size == SHORT_LOG else f"{name}, {size:,} entries: {outcome}"


# A script's reply begins with the units granted.
def _allowed(reply: Any) -> bool:
    return isinstance(reply, list) and reply[0] == 1


def _denied(reply: Any) -> bool:
    return isinstance(reply, list) and reply[0] == 0


def _seen(server: Server, subject: Subject, name: str) -> list[str]:
    """Bring the subject into its state, and return the words of the command that a hit then sends."""
    label = re.sub(r"[^a-z0-9_]+", "-", name)
    with Limiter(subject.policies, store=server.url, name=label, timeout=5.0) as limiter:
        left = subject.taken
        while left > 0:
            # One call may write at most 4,000 entries of a log.
            cost = min(left, 1_000) if subject.policies[0].algorithm == "sliding_log" else left
            if not limiter.hit(KEY, cost):
                raise Failed(f"{subject} denied the units that are taken before the measurement")
            left -= cost
        return heard(server, partial(limiter.hit, KEY))


def heard(server: Server, call: Callable[[], object]) -> list[str]:
    """Return the words of the first script call that reaches the server during ``call``."""
    with server.client() as client, closing(client.connection_pool) as pool:
        connection: Any = pool.get_connection()
        try:
            connection.send_command("MONITOR")
            connection.read_response()
            call()
            while True:
                line = connection.read_response()
                words = re.findall(r'"([^"]*)"', line)
                if words and words[0].upper() == "EVALSHA":
                    if "\\" in line:
                        raise Failed(f"MONITOR shows bytes that are not plain text: {line}")
                    return words
        finally:
            connection.disconnect()
