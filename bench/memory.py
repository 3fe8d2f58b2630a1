"""Memory of a subject beyond its keys' names, and of an entry of a log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import redis

from bench.against import Cases, Library, Side, calls_of, made
from bench.effort import Effort, Step, progress
from bench.sections import Comparison, Failed, Section, Spread, compare, tabulate
from bench.stores import Program
from bench.subjects import Policies
from limiter import GCRA, FixedWindow, Limiter, SlidingLog, SlidingWindow, TokenBucket
from service.demo.servers import Server

#: Names of 1 to 16 characters: the allocator rounds sizes up, so one name alone would mislead.
SUBJECTS = [("user:1234567890"[:length] or "u").ljust(length, "x") for length in range(1, 17)]

ONE_LOG = "sliding_log, bytes an entry"
_COST = 500


_COUNTERS: dict[str, Policies] = {
    "fixed_window, bytes a subject": [FixedWindow(1_000, per="minute")],
    "sliding_window, bytes a subject": [SlidingWindow(1_000, per="minute")],
    "token_bucket, bytes a subject": [TokenBucket(1_000, per="minute")],
    "token_bucket, no whole microseconds, bytes a subject": [TokenBucket(997, per="minute")],
    "three limits, bytes a subject": [
        FixedWindow(1_000, per="minute"),
        TokenBucket(1_000, per="minute"),
        GCRA(10_000, per="hour"),
    ],
}
_LOG: Policies = [SlidingLog(100_000, per="hour")]


def measure(programs: list[Program], effort: Effort, before: Library | None) -> Section:
    """Measure with MEMORY USAGE after real hits."""
    section = Section(
        "memory",
        "Memory",
        "`MEMORY USAGE key SAMPLES 0` over every key of a subject, after real hits. For one and for "
        "three policies: without the length of the keys' names, the mean over subjects of "
        f"{len(SUBJECTS[0])} to {len(SUBJECTS[-1])} characters, in small print the smallest and the "
        "largest. For the log: the whole key, divided by its entries.",
    )
    for program in programs:
        with Server(program.path) as server, ExitStack() as stack:
            side = Side.here([server.url], [server])
            now = made(cases(side, effort, stack))
            other = calls_of(before, "memory", side, effort, stack, section.notes)
            with progress(f"memory on {program.name}", len(now) + len(other)) as step:
                sizes, sizes_before = (_measured(calls, step) for calls in (now, other))
        section.figures[program.name] = sizes
        if sizes_before:
            quotients = {
                name: Spread.of([sizes[name].median / spread.median])
                for name, spread in sizes_before.items()
            }
            section.compared[program.name] = Comparison(sizes_before, quotients)
    section.tables = [
        compare("Bytes: before and now", "", section.figures, section.compared, 1),
        tabulate("Bytes", "", section.figures, 1),
    ]
    return section


def cases(side: Side, effort: Effort, stack: ExitStack) -> Cases:
    """Return what is measured of the library; each call returns a spread of bytes."""
    client: Any = stack.enter_context(redis.Redis.from_url(side.stores[0], decode_responses=True))

    def limiter(policies: Policies) -> Limiter:
        made = Limiter(policies, store=side.stores[0], name="api", timeout=5.0)
        return stack.enter_context(made)

    def subjects(policies: Policies) -> Callable[[], Spread]:
        return partial(_subjects, client, limiter(policies))

    def entry(entries: int) -> Callable[[], Spread]:
        return partial(_entry, client, limiter(_LOG), entries)

    return {
        **{name: partial(subjects, policies) for name, policies in _COUNTERS.items()},
        **{f"{ONE_LOG} at {entries:,}": partial(entry, entries) for entries in effort.entries},
    }


def _measured(calls: dict[str, Callable[[], Spread]], step: Step) -> dict[str, Spread]:
    spreads = {}
    for name, call in calls.items():
        spreads[name] = call()
        step()
    return spreads


def _subjects(client: Any, limiter: Limiter) -> Spread:
    sizes = [_subject(client, limiter, subject) for subject in SUBJECTS]
    return Spread(sum(sizes) / len(sizes), min(sizes), max(sizes))


def _subject(client: Any, limiter: Limiter, subject: str) -> float:
    client.flushall()
    # The second hit changes existing state, as all hits but a subject's first one do.
    limiter.hit(subject)
    limiter.hit(subject)
    keys: list[str] = client.keys("*")
    return float(sum(client.memory_usage(key, samples=0) - len(key) for key in keys))


def _entry(client: Any, limiter: Limiter, entries: int) -> Spread:
    client.flushall()
    for _ in range(entries // _COST):
        limiter.hit("user:42", _COST)
    (key,) = client.keys("*")
    if client.llen(key) != entries:
        raise Failed(f"the log has {client.llen(key)} entries in place of {entries}")
    return Spread.of([client.memory_usage(key, samples=0) / entries])
