"""A limit that changes over live state: old and new numbers side by side, and changes that start unused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from multiprocessing.connection import Connection
from typing import Any

import pytest

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    LeakyBucket,
    Limiter,
    RateLimited,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.policies import Policy
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, PATIENCE, set_time
from tests.histories import Admitted, most_in_any_window, own_windows
from tests.parallel import child

COUNTING = [FixedWindow, SlidingLog, SlidingWindow]
BUCKETS = [TokenBucket, GCRA, LeakyBucket]


@pytest.fixture
def old_and_new(make_on: Make, place: str, kind: str) -> Any:
    """Make limiters of the same state with each of these limits, all at one time."""

    def make(*sets: Any) -> list[Any]:
        first = make_on(place, sets[0])
        shared = getattr(first, "inner", first) if kind == "memory" else place
        made = [first, *(make_on(shared, limits) for limits in sets[1:])]
        for limiter in made:
            set_time(limiter, NOW_US)
        return made

    return make


@pytest.mark.parametrize("algorithm", COUNTING)
def test_windows_and_logs_keep_their_count(
    old_and_new: Any, subject: str, algorithm: type[Policy]
) -> None:
    """60 of 100 used: of 200, 140 remain; of 50, none, until the old units expire."""
    old, more, less = old_and_new(*(algorithm(limit, 60) for limit in (100, 200, 50)))
    old.hit(subject, 60)
    assert [one.peek(subject).remaining for one in (old, more, less)] == [40, 140, 0]
    assert more.hit(subject, 140)
    assert [one.peek(subject).remaining for one in (old, more, less)] == [0, 0, 0]
    told = less.peek(subject).retry_after
    assert told >= 60
    opens_us = NOW_US + round(told * 1e6)
    set_time(less, opens_us - 1)
    assert not less.hit(subject)
    set_time(less, opens_us)
    assert less.hit(subject)


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_buckets_keep_their_debt_in_time(
    old_and_new: Any, subject: str, algorithm: type[Policy]
) -> None:
    """60 of 100 used: 120 of 200, 6 of 10; a new burst keeps the units, a new rate the seconds."""
    numbers = [(100, 100), (200, 200), (10, 10), (100, 200), (100, 50), (200, 100), (50, 100)]
    limiters = old_and_new(*(algorithm(limit, 60, burst=burst) for limit, burst in numbers))
    limiters[0].hit(subject, 60)
    assert [one.peek(subject).remaining for one in limiters] == [40, 80, 4, 140, 0, 0, 70]
    assert {one.peek(subject, 0).reset_after for one in limiters} == {36.0}
    # No caller is blocked for longer than the old time to full.
    for one in limiters:
        set_time(one, NOW_US + 36_000_000)
        assert one.peek(subject).remaining == one.policies[0].capacity


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_a_much_smaller_burst_refunds_nothing(
    old_and_new: Any, subject: str, algorithm: type[Policy]
) -> None:
    """Its denials, beside the old limiter's calls, cut no debt that the old burst allows."""
    old, new = old_and_new(algorithm(10, 1, burst=1000), algorithm(10, 1, burst=100))
    assert old.hit(subject, 1000)
    for _ in range(3):
        denied = new.hit(subject)
        assert (denied.allowed, denied.retry_after) == (False, 90.1)
        assert old.hit(subject, 1000, at_least=1).granted == 0
    new.refund(subject, 10)
    assert (old.peek(subject).remaining, new.peek(subject).retry_after) == (10, 89.1)
    assert not new.hit(subject)
    assert old.hit(subject, 1000, at_least=1).granted == 10
    # A caller that waits for its ``retry_after`` gets in then.
    set_time(new, NOW_US + 90_100_000)
    assert new.hit(subject)


def test_leases_stay(old_and_new: Any, subject: str) -> None:
    """They keep their end, whatever limit and length come later."""
    old, more, less, other = old_and_new(
        *(Concurrency(limit, lease) for limit, lease in ((3, 60), (5, 60), (1, 60), (3, 10)))
    )
    with old.hold(subject, 2):
        assert [one.peek(subject).remaining for one in (old, more, less, other)] == [1, 3, 0, 1]
        with more.hold(subject, 3):
            assert old.peek(subject).retry_after == less.peek(subject).retry_after == 60.0
            with pytest.raises(RateLimited), old.hold(subject):
                raise AssertionError
        with other.hold(subject) as short:
            assert short.decision.reset_after == 60.0
            assert not old.peek(subject)
        assert old.peek(subject).reset_after == 60.0
    assert less.peek(subject).remaining == 1


@pytest.mark.parametrize(
    "others",
    [
        (FixedWindow(9, 60), FixedWindow(9, 61), FixedWindow(9, 60, align=True)),
        (SlidingLog(9, 60), SlidingLog(9, 61), SlidingLog(9, 60, name="a")),
        (SlidingWindow(9, 60), SlidingWindow(9, 61), SlidingWindow(9, 60, name="a")),
        (TokenBucket(9, 60), TokenBucket(9, 61), TokenBucket(9, 60, name="a")),
        (GCRA(9, 60), LeakyBucket(9, 60), TokenBucket(9, 60)),
        (FixedWindow(9, 60), SlidingLog(9, 60), SlidingWindow(9, 60)),
        (Concurrency(9, 60), Concurrency(9, 60, name="a")),
    ],
    ids=repr,
)
def test_changes_that_start_unused(
    old_and_new: Any, subject: str, others: tuple[Policy, ...]
) -> None:
    """Another algorithm, period, name or alignment is another limit."""
    limiters = old_and_new(*others)
    with ExitStack() as held:
        for limiter, policy in zip(limiters, others, strict=True):
            assert limiter.peek(subject).remaining == 9
            if policy.leases:
                held.enter_context(limiter.hold(subject, 5))
            else:
                limiter.hit(subject, 5)
        assert [limiter.peek(subject).remaining for limiter in limiters] == [4] * len(others)


def test_one_policy_more(old_and_new: Any, subject: str) -> None:
    """A limiter that goes from one policy to two, and back, keeps the state of the one."""
    log, bucket = SlidingLog(10, 60), TokenBucket(10, 60)
    one, two, other = old_and_new(log, [bucket, log], [bucket])
    one.hit(subject, 4)
    assert two.hit(subject, 3).remaining == 3
    assert one.peek(subject).remaining == 3
    assert other.peek(subject).remaining == 7


def _serve(store: str, pipe: Connection) -> None:
    """Hit as fast as possible, under each policy that arrives, until killed; send what passed."""
    while True:
        policy, subject, seconds = pipe.recv()
        admitted = []
        with Limiter(policy, store=store, timeout=PATIENCE) as limiter:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                if policy.leases:
                    try:
                        with limiter.hold(subject) as lease:
                            admitted.append((lease.decision._reply[-1], 1))
                    except RateLimited:
                        pass
                elif decision := limiter.hit(subject):
                    admitted.append((decision._reply[-1], decision.granted))
        pipe.send(admitted)


@pytest.fixture(scope="module")
def workers(store: str) -> Iterator[list[Connection]]:
    """Four processes: two for the old limits, two for the new."""
    with ExitStack() as stack:
        yield [stack.enter_context(child(_serve, store))[1] for _ in range(4)]


def side_by_side(
    workers: list[Connection], old: Policy, new: Policy, subject: str
) -> list[Admitted]:
    """The units granted to two processes each, all at once."""
    for pipe, policy in zip(workers, (old, old, new, new), strict=True):
        pipe.send((policy, subject, 0.3))
    found = []
    for pipe in workers:
        assert pipe.poll(PATIENCE)
        found += [Admitted(*one) for one in pipe.recv()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", COUNTING)
def test_a_rolling_deploy(workers: list[Connection], subject: str, algorithm: type[Policy]) -> None:
    """The bound of the larger numbers holds in every window, and the smaller ones do not block it."""
    old, new = algorithm(20, 0.1), algorithm(40, 0.1)

    admitted = side_by_side(workers, old, new, subject)

    times_over = {FixedWindow: 80, SlidingLog: 40, SlidingWindow: 79}
    assert 20 <= most_in_any_window(admitted, 100_000) <= times_over[algorithm]
    if algorithm is FixedWindow:
        assert max(own_windows(admitted, 100_000).values()) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BUCKETS)
@pytest.mark.parametrize(
    ("old", "new"), [((20, 20), (40, 40)), ((20, 20), (20, 60)), ((20, 20), (40, 20))]
)
def test_a_rolling_deploy_of_buckets(
    workers: list[Connection],
    subject: str,
    algorithm: Any,
    old: tuple[int, int],
    new: tuple[int, int],
) -> None:
    """No window has more than the longest time to fill and its own length have of the faster rate.

    Where rate and burst grow together that is the bound of the larger numbers.
    """
    both = [algorithm(limit, 0.1, burst=burst) for limit, burst in (old, new)]
    fills_us = [Fraction(one.burst * one.period_us, one.limit) for one in both]
    unit_us = min(Fraction(one.period_us, one.limit) for one in both)

    admitted = sorted(side_by_side(workers, *both, subject))

    debt_us = Fraction(0)
    last_us = admitted[0].decided_us
    for at, cost in admitted:
        debt_us = max(Fraction(0), debt_us - (at - last_us)) + cost * unit_us
        last_us = at
        assert debt_us <= max(fills_us)
    if old[0] / old[1] == new[0] / new[1]:
        assert max(fills_us) / unit_us == max(old[1], new[1])


@pytest.mark.slow
def test_a_rolling_deploy_of_leases(workers: list[Connection], store: str, subject: str) -> None:
    """Never more are held than the larger limit admits; all are released."""
    old, new = Concurrency(1, lease=5), Concurrency(3, lease=9)
    with Limiter(Concurrency(1000), store=store, timeout=PATIENCE) as looks:
        for pipe, policy in zip(workers, (old, old, new, new), strict=True):
            pipe.send((policy, subject, 0.3))
        held = 0
        while not all(pipe.poll() for pipe in workers):
            held = max(held, 1000 - looks.peek(subject).remaining)
        admitted = [one for pipe in workers for one in pipe.recv()]
        assert 0 < held <= 3
        assert admitted
        assert looks.peek(subject).remaining == 1000
