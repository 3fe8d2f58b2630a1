"""Memory of a subject beyond its keys' names, and of an entry of a log."""

from __future__ import annotations

from typing import Any

from bench.effort import Effort, progress
from bench.sections import Failed, Section, Spread, tabulate
from bench.stores import Program
from bench.subjects import Policies
from limiter import GCRA, FixedWindow, Limiter, SlidingLog, SlidingWindow, TokenBucket
from service.demo.servers import Server

#: Names of 1 to 16 characters: the allocator rounds sizes up, so one name alone would mislead.
SUBJECTS = [("user:1234567890"[:length] or "u").ljust(length, "x") for length in range(1, 17)]

ONE_LOG = "sliding_log, bytes an entry"
_COST = 500


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure with MEMORY USAGE after real hits."""
    section = Section(
        "memory",
        "Memory",
        "`MEMORY USAGE key SAMPLES 0` over every key of a subject, after real hits. For one and for "
        "three policies: without the length of the keys' names, the mean over subjects of "
        f"{len(SUBJECTS[0])} to {len(SUBJECTS[-1])} characters, in small print the smallest and the "
        "largest. For the log: the whole key, divided by its entries.",
    )
    counters: dict[str, Policies] = {
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
    for program in programs:
        figures: dict[str, Spread] = {}
        steps = len(counters) + len(effort.entries)
        with (
            Server(program.path) as server,
            server.client() as client,
            progress(f"memory on {program.name}", steps) as step,
        ):
            for name, policies in counters.items():
                with Limiter(policies, store=server.url, name="api", timeout=5.0) as limiter:
                    sizes = [_subject(client, limiter, subject) for subject in SUBJECTS]
                figures[name] = Spread(sum(sizes) / len(sizes), min(sizes), max(sizes))
                step()
            log = SlidingLog(100_000, per="hour")
            with Limiter(log, store=server.url, name="api", timeout=5.0) as limiter:
                for entries in effort.entries:
                    figures[f"{ONE_LOG} at {entries:,}"] = _entry(client, limiter, entries)
                    step()
        section.figures[program.name] = figures
    section.tables = [tabulate("Bytes", "", section.figures, 1)]
    return section


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
