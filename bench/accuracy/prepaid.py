"""Prepaid units of four processes in real time: what they admit, and what they save.

All processes call one subject, without prepaid units and with them, below the limit and far above it. A
call counts only in windows that certainly contain it: it was decided between its sending and its answer.
"""

from __future__ import annotations

import multiprocessing
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import redis

from bench.accuracy.bounds import BOUNDS
from bench.accuracy.effort import Effort
from bench.accuracy.simulated import TIMEOUT
from bench.effort import Step
from bench.stores import scripts_run
from limiter import FixedWindow, Limiter, SlidingLog, SlidingWindow, TokenBucket
from limiter.policies import Policy

PROCESSES = 4
MOST, HOLD = 100, 0.2
LIMIT, BURST, PERIOD_US = 1_000, 300, 1_000_000

#: Calls a second of all processes, by load.
LOADS = {"below the limit": 800, "overload": 4_000}


class Behaviour(NamedTuple):
    """What one policy did under one load."""

    calls: int
    admitted: int
    scripts: int
    """Script calls that the server ran."""
    most: int
    """The most that was certainly admitted in one period."""
    most_of_own: int
    """The most that was certainly admitted in one of the windows that end on the clock."""


#: By the policy's name, the load and ``prepaid``.
Results = dict[tuple[str, str, int], tuple[Policy, Behaviour]]

#: A call that was admitted: when it was sent and answered, in microseconds.
Span = tuple[int, int]


def policies() -> Iterator[tuple[str, Policy]]:
    """Make a policy of every algorithm that may have prepaid units, by its name in the report."""
    yield "fixed_window, aligned", FixedWindow(LIMIT, 1, align=True)
    yield "sliding_log", SlidingLog(LIMIT, 1)
    yield "sliding_window", SlidingWindow(LIMIT, 1)
    yield "token_bucket", TokenBucket(LIMIT, 1, burst=BURST)


def bound(policy: Policy, prepaid: int) -> int:
    """The bound in any period; units that were returned late were held for up to one and a half holds."""
    most = BOUNDS[policy.algorithm].most(policy, PERIOD_US)
    if isinstance(policy, TokenBucket):
        longest = 1.5 * HOLD + TIMEOUT
        most += min(PROCESSES * prepaid, int(longest * LIMIT))
    return most


def most_certain(spans: Sequence[Span], window_us: int) -> int:
    """Return the most calls that certainly lie in one window [t, t + window)."""
    ordered = sorted(spans)
    begins = [sent for sent, _ in ordered]
    longest = max((answered - sent for sent, answered in ordered), default=0)
    most = 0
    for place, begin in enumerate(begins):
        end = bisect_left(begins, begin + window_us, place)
        surely = bisect_left(begins, begin + window_us - longest, place)
        late = sum(ordered[other][1] >= begin + window_us for other in range(surely, end))
        most = max(most, end - place - late)
    return most


def most_of_own(spans: Sequence[Span], window_us: int) -> int:
    """Return the most calls that certainly lie in one window that ends at a multiple of its length."""
    counts: dict[int, int] = {}
    for sent, answered in spans:
        if sent // window_us == answered // window_us:
            counts[sent // window_us] = counts.get(sent // window_us, 0) + 1
    return max(counts.values(), default=0)


def measure(url: str, effort: Effort, step: Step) -> Results:
    """Measure every policy under every load, without and with prepaid units."""
    results: Results = {}
    with redis.Redis.from_url(url) as client:
        for name, policy in policies():
            for load, rate in LOADS.items():
                for prepaid in (0, MOST):
                    key = f"prepaid-{name}-{rate}-{prepaid}".replace(", ", "-")
                    before = scripts_run(client)
                    spans, calls = _run(url, policy, key, prepaid, rate, effort.prepaid_seconds)
                    behaviour = Behaviour(
                        calls,
                        len(spans),
                        scripts_run(client) - before,
                        most_certain(spans, PERIOD_US),
                        most_of_own(spans, PERIOD_US),
                    )
                    results[name, load, prepaid] = policy, behaviour
                    step()
    return results


def steps() -> int:
    """Return the number of steps that ``measure`` reports."""
    return len(list(policies())) * len(LOADS) * 2


def violations(results: Results) -> list[str]:
    """Report every exceeded bound."""
    messages = []
    for (name, load, prepaid), (policy, behaviour) in results.items():
        most = bound(policy, prepaid)
        where = f"{name}, {PROCESSES} processes, prepaid={prepaid}, {load}"
        if behaviour.most > most:
            messages.append(f"{where}: {behaviour.most} in one period, the bound is {most}")
        if isinstance(policy, FixedWindow) and behaviour.most_of_own > LIMIT:
            messages.append(f"{where}: {behaviour.most_of_own} in one window, the limit is {LIMIT}")
    return messages


def _run(
    url: str, policy: Policy, key: str, prepaid: int, rate: int, seconds: float
) -> tuple[list[Span], int]:
    # Processes come from a small server, so that starting one takes milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    pipes, running = [], []
    try:
        for number in range(PROCESSES):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(url, policy, key, prepaid, rate, number, seconds, theirs)
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            running.append(process)
        for pipe in pipes:
            pipe.recv()
        start = time.monotonic() + 0.1
        for pipe in pipes:
            pipe.send(start)
        outcomes = [pipe.recv() for pipe in pipes]
    finally:
        for process in running:
            process.join(5)
            process.kill()
    spans = [span for admitted, _ in outcomes for span in admitted]
    return spans, sum(calls for _, calls in outcomes)


def _work(
    url: str,
    policy: Policy,
    key: str,
    prepaid: int,
    rate: int,
    number: int,
    seconds: float,
    pipe: Connection,
) -> None:
    """Call at this process's part of the rate; send the admitted calls, and the number of all."""
    limiter = Limiter(
        policy, store=url, name="accuracy", timeout=TIMEOUT, prepaid=prepaid, prepaid_hold=HOLD
    ).open()
    pipe.send("ready")
    start = pipe.recv() + number / rate
    admitted: list[Span] = []
    calls = 0
    while (due := start + calls * PROCESSES / rate) < start + seconds:
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)
        sent_us = time.time_ns() // 1_000
        if limiter.hit(key):
            admitted.append((sent_us, time.time_ns() // 1_000))
        calls += 1
    limiter.close()
    pipe.send((admitted, calls))
