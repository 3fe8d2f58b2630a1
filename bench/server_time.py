"""Time of a decision inside the server, as a multiple of a reference script."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any, NamedTuple

import redis

from bench.against import Cases, Library, Side, calls_of, made
from bench.effort import Effort, progress
from bench.pinning import pinned
from bench.ratios import Chunk, Cost, ratios
from bench.sections import Failed, Figures, Section, compare, tabulate
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


class Case(NamedTuple):
    """The hit that is replayed."""

    subject: Subject
    allowed: bool
    size: int | None = None
    """Entries to which the log is cut after each pipeline, so that it keeps its size."""


def _sized(name: str, size: int, outcome: str) -> str:
    return f"{name}: {outcome}" if size == SHORT_LOG else f"{name}, {size:,} entries: {outcome}"


LENGTHS = f"sliding_log, {LONG_LOG:,} entries: allowed / the same with {SHORT_LOG}"

CASES: dict[str, Case] = {
    **{
        f"{name}: allowed": Case(subject, True)
        for name, subject in ALLOWING.items()
        if name != "sliding_log"
    },
    **{
        _sized("sliding_log", size, "allowed"): Case(
            Subject([SlidingLog(100_000, per=YEAR)], size), True, size
        )
        for size in (SHORT_LOG, LONG_LOG)
    },
    **{f"{name}: denied": Case(subject, False) for name, subject in DENYING.items()},
    _sized("sliding_log", LONG_LOG, "denied"): Case(
        Subject([SlidingLog(LONG_LOG, per=YEAR)], LONG_LOG), False
    ),
    "three limits: allowed": Case(THREE, True),
    "three limits: denied": Case(THREE_DENYING, False),
}


def measure(programs: list[Program], effort: Effort, before: Library | None) -> Section:
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
        with (
            pinned(),
            Server(program.path) as server,
            server.client() as client,
            closing(Replay(client, effort.pipelines)) as replay,
            ExitStack() as stack,
        ):
            side = Side.here([server.url], [server])
            now, other = (
                {name: replay.hit(CASES[name], heard(server, hit)) for name, hit in hits.items()}
                for hits in (
                    made(cases(side, effort, stack)),
                    calls_of(before, "server", side, effort, stack, section.notes),
                )
            )
            steps = effort.repetitions * (len(now) + len(other))
            with progress(f"scripts on {program.name}", steps) as step:
                measured = ratios(replay.reference(), now, effort, step, other)
        measured.divide(LENGTHS, _sized("sliding_log", LONG_LOG, "allowed"), "sliding_log: allowed")
        measured.record(section, program.name)
        floors[program.name] = {"the reference script, us": measured.floor}
    # Only the server's own time counts, so there is no other time to check it.
    section.checks, section.compared_checks = {}, {}
    title = "Multiple of the reference script"
    section.tables = [
        compare(f"{title}: before and now", "script", section.figures, section.compared),
        tabulate(title, "script", section.figures, 2),
        tabulate("The reference itself (between the deciles)", "", floors, 2),
    ]
    return section


def cases(side: Side, _: Effort, stack: ExitStack) -> Cases:
    """Return the library's cases; each makes one hit."""
    return {
        name: partial(_prepared, f"{side.name}-{number}", side.stores[0], case.subject, stack)
        for number, (name, case) in enumerate(CASES.items())
    }


def _prepared(name: str, store: str, subject: Subject, stack: ExitStack) -> Callable[[], object]:
    """Bring the subject into its state, and return a hit that is ready to be called."""
    limiter = stack.enter_context(Limiter(subject.policies, store=store, name=name, timeout=5.0))
    left = subject.taken
    while left > 0:
        # One call may write at most 4,000 entries of a log.
        cost = min(left, 1_000) if subject.policies[0].algorithm == "sliding_log" else left
        if not limiter.hit(KEY, cost):
            raise Failed(f"{subject} denied the units that are taken before the measurement")
        left -= cost
    return lambda: bool(limiter.hit(KEY))


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
        return self._chunk(["EVALSHA", sha, "1", "reference"], lambda reply: reply == 1)

    def hit(self, case: Case, words: Sequence[bytes]) -> Chunk:
        """Make a chunk of a script call of the library, in any form of arguments and reply."""
        cut = [] if case.size is None else ["LTRIM", words[3], "0", str(case.size - 1)]
        return self._chunk(words, lambda reply: granted(reply) == case.allowed, cut)

    def _chunk(
        self,
        words: Sequence[Any],
        as_expected: Callable[[Any], bool],
        between: Sequence[Any] = (),
    ) -> Chunk:
        """Make a chunk of ``words`` that checks each reply; ``between`` is sent after each pipeline."""
        connection = self._connection
        packed = b"".join(connection.pack_command(*words)) * DEPTH
        behind = b"".join(connection.pack_command(*between)) if between else b""

        def run() -> Cost:
            self._client.config_resetstat()
            for _ in range(self._pipelines):
                connection.send_packed_command([packed + behind])
                replies = [connection.read_response(disable_decoding=True) for _ in range(DEPTH)]
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


def granted(reply: list[int] | bytes) -> float:
    """Return the first number of a script's reply, the units granted: of a list, or of packed doubles."""
    if isinstance(reply, bytes):
        (units,) = struct.unpack_from("<d", reply)
        return float(units)
    return reply[0]


def heard(server: Server, call: Callable[[], object]) -> list[bytes]:
    """Return the words of the first script call that reaches the server during ``call``."""
    with server.client() as client, closing(client.connection_pool) as pool:
        connection: Any = pool.get_connection()
        try:
            connection.send_command("MONITOR")
            connection.read_response()
            call()
            while True:
                words = words_of(connection.read_response())
                if words and words[0].upper() == b"EVALSHA":
                    return words
        finally:
            connection.disconnect()


_ESCAPED = {"n": b"\n", "r": b"\r", "t": b"\t", "a": b"\a", "b": b"\b"}


def words_of(line: str) -> list[bytes]:
    """Return the words of a command as the client sent them, from a line of MONITOR."""
    return [_unescaped(word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]


def _unescaped(text: str) -> bytes:
    parts = re.findall(r"\\x([0-9a-f]{2})|\\(.)|([^\\]+)", text)
    return b"".join(
        bytes.fromhex(code) or _ESCAPED.get(escaped, escaped.encode()) or plain.encode()
        for code, escaped, plain in parts
    )
