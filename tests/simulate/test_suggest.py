"""The least limits, against the policies' own decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.accuracy.bounds import BOUNDS
from limiter import InvalidSetting, Limiter, testing
from limiter.policies import ALGORITHMS, FixedWindow, Policy, SlidingLog, SlidingWindow, TokenBucket
from limiter.simulate import needs
from limiter.simulate.demand import Demand, Requests
from limiter.simulate.load import Load
from limiter.simulate.logs import Counts, Reading
from limiter.simulate.suggest import (
    KINDS,
    bound,
    decisions,
    least_for,
    read_share,
    suggest,
    trials,
)
from limiter.units import DAY_US, SECOND_US
from tests.cli.support import shell
from tests.service.support import ROOT

START_US = 1_800_000_000 * SECOND_US


class History(NamedTuple):
    """The requests of one subject, and a period."""

    period_us: int
    times: Sequence[int]
    costs: Sequence[int]

    @property
    def per(self) -> timedelta:
        """The period, for a policy."""
        return timedelta(microseconds=self.period_us)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Requests that are dense, far from each other, at one time, or exactly a period apart."""
    period_us = draw(st.sampled_from([1_000, 7_919, SECOND_US, 60 * SECOND_US, DAY_US]))
    gaps = st.one_of(
        st.just(0),
        st.integers(0, period_us // 10),
        st.integers(0, 2 * period_us),
        st.sampled_from([1, period_us - 1, period_us, period_us + 1, 2 * period_us]),
    )
    costs = st.one_of(st.just(1), st.integers(1, 9), st.integers(1, 4_000))
    requests = draw(st.lists(st.tuples(gaps, costs), min_size=1, max_size=30))
    times = accumulate(
        (gap for gap, _ in requests), initial=START_US + draw(st.integers(0, period_us))
    )
    return History(period_us, list(times)[1:], [cost for _, cost in requests])


def never_denied(policy: Policy, history: History) -> bool:
    return all(decisions(policy, *history[1:]))


@given(histories(), st.sampled_from(KINDS), st.integers(1, 50))
def test_the_least_limit_denies_nothing_and_every_smaller_one_does(
    history: History, kind: Any, other: int
) -> None:
    limit = kind.need(*history)

    assert never_denied(kind.make(limit, history.per), history)
    assert never_denied(kind.make(limit + other, history.per), history)
    for smaller in {limit - 1, limit - other} - {0}:
        if smaller > 0:
            assert not never_denied(kind.make(smaller, history.per), history)


@given(histories(), st.integers(1, 2_000))
def test_the_least_burst_denies_nothing_and_every_smaller_one_does(
    history: History, rate: int
) -> None:
    burst = needs.burst(rate, *history)
    assume(burst * history.period_us <= 3_650 * DAY_US * rate)  # a slower refill is refused

    assert never_denied(TokenBucket(rate, history.per, burst), history)
    assert burst == 1 or not never_denied(TokenBucket(rate, history.per, burst - 1), history)
    assert needs.burst(needs.bucket(*history), *history) <= needs.bucket(*history)


@given(st.lists(st.tuples(st.integers(0, DAY_US), st.integers(1, 10**11)), min_size=1, max_size=20))
def test_a_sliding_window_of_a_large_limit_counts_in_coarser_units_of_time(
    requests: list[tuple[int, int]],
) -> None:
    times, costs = zip(*sorted(requests), strict=True)
    history = History(DAY_US // 3, times, costs)
    limit = needs.sliding_window(*history)

    assert never_denied(SlidingWindow(limit, history.per), history)
    assert limit == 1 or not never_denied(SlidingWindow(limit - 1, history.per), history)


@given(histories(), st.sampled_from([*ALGORITHMS.values()]), st.integers(1, 40))
def test_a_trial_decides_as_a_limiter(
    history: History, algorithm: Callable[..., Policy], limit: int
) -> None:
    policy = algorithm(limit, history.per)
    testing.reset()
    with Limiter(policy, store="memory://") as limiter:
        for at_us, cost, admitted in zip(
            *history[1:], decisions(policy, *history[1:]), strict=True
        ):
            testing.set_time(limiter, at_us)
            decided = cost <= policy.most_cost and limiter.hit("subject", cost=cost).allowed
            assert decided is admitted


def test_a_cost_that_no_sliding_log_accepts_has_no_limit() -> None:
    assert needs.sliding_log(SECOND_US, [START_US], [4_001]) == needs.NO_LIMIT


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 500), st.integers(1, 3)), min_size=1),
    st.sampled_from([Fraction(1, 3), Fraction(99, 100), Fraction(1)]),
    st.sampled_from([1, 2**20]),
)
def test_a_suggestion_is_the_smallest_that_is_enough_for_the_share(
    requests: list[tuple[int, int, int]], share: Fraction, chunk: int
) -> None:
    period_us = 60 * SECOND_US
    with Demand(chunk) as demand:
        for subject, at, cost in sorted(requests, key=lambda request: request[1]):
            demand.add(f"subject {subject}", START_US + at * SECOND_US, cost)
        suggestion = suggest(demand, share, period_us, "api", SlidingLog(2, 60))
        smaller = [
            trial.policy.renumbered(
                trial.policy.limit - 1, trial.policy.limit - 1 if trial.policy.has_burst else None
            )
            for trial in suggestion.limits
            if trial.policy.limit > 1
        ]
        tried = trials(smaller, demand, period_us)

    assert len(suggestion.limits) == len(KINDS)
    assert all(map(suggestion.holds, [*suggestion.limits, *suggestion.bursts]))
    assert not any(map(suggestion.holds, tried))
    assert suggestion.subjects == len({subject for subject, _, _ in requests})


def test_the_number_for_a_share_is_that_of_the_last_subject_that_must_fit() -> None:
    demand = [Requests(str(count), [START_US] * count, [1] * count, []) for count in range(1, 201)]
    wanted = [lambda times, _: len(times)]

    for share, expected in ((Fraction(1), 200), (read_share("99.5%"), 199), (Fraction(1, 200), 1)):
        assert least_for(share, demand, wanted) == [expected]
    assert least_for(read_share("99.51%"), demand, wanted) == [200]


def test_a_trial_counts_what_all_subjects_together_are_admitted() -> None:
    at = [START_US + tenth * SECOND_US // 10 for tenth in (0, 9, 15, 100)]
    demand = [Requests("a", at, [1, 1, 1, 1], []), Requests("b", at[:2], [5, 1], [])]

    (trial,) = trials([FixedWindow(3, 2)], demand, 2 * SECOND_US)

    assert (trial.never_denied, trial.denied) == (1, 1)
    assert trial.peak == (3, 4)
    assert trial.possible == 2 * 6


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 5)), min_size=1), st.integers(1, 90))
def test_the_peak_is_the_most_in_a_second_and_in_a_run_of_seconds(
    admitted: list[tuple[int, int]], length: int
) -> None:
    load, denied = Load(), Load()
    for second, cost in admitted:
        at_us = START_US + second * SECOND_US + Random(second).randrange(SECOND_US)
        load.add(at_us, cost + second % 3)
        denied.add(at_us, second % 3)
    in_seconds = [sum(cost for at, cost in admitted if at == second) for second in range(301)]

    peak = load.peak(length * SECOND_US - SECOND_US // 3, denied)

    assert peak.second == max(in_seconds)
    assert peak.period == max(sum(in_seconds[at : at + length]) for at in range(301))


@pytest.mark.parametrize("algorithm", ALGORITHMS.values())
def test_the_possible_load_has_the_bound_that_the_benchmarks_show(algorithm: Any) -> None:
    for limit in (1, 7):
        policy = algorithm(limit, 60)
        assert bound(policy) == max(limit, BOUNDS[policy.algorithm].most(policy, policy.period_us))


@pytest.mark.parametrize(
    "text", ["", "99.5", "0%", "100.1%", "-1%", "nan%", "1e1%", "٩٩%", "99,5%"]
)
def test_a_share_is_a_percentage(text: str) -> None:
    assert read_share(" 99.5 %") == Fraction(995, 1000)
    with pytest.raises(InvalidSetting, match="expected a percentage above 0% and up to 100%"):
        read_share(text)


def test_a_limit_that_no_policy_accepts_is_explained() -> None:
    with Demand() as demand:
        for at in range(26):
            demand.add("busy", START_US + at, 4_000)
        suggestion = suggest(demand, Fraction(1), SECOND_US)

    assert "sliding_log" not in [trial.policy.algorithm for trial in suggestion.limits]
    assert len(suggestion.notes) == 1
    assert "SlidingLog" in suggestion.notes[0]
    assert "104000" in suggestion.notes[0]


def test_without_requests_there_is_no_suggestion() -> None:
    with Demand() as demand:
        demand.add("free", START_US, 0)
        suggestion = suggest(demand, Fraction(1), SECOND_US, present=SlidingLog(1, 1))

    assert (suggestion.limits, suggestion.present) == ([], None)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Nothing that the disk did not take is blamed on standard output, such as what is left to write."""
    (tmp_path / "log.csv").write_text("time,address\n" + "2026-01-01T00:00:00Z,192.0.2.1\n" * 600)
    done = shell(
        f"ulimit -f 8; limiter simulate {tmp_path}/log.csv --limits 1/second --suggest 90%"
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "limiter: no room for a temporary file: File too large\n"


@pytest.mark.slow(10)
def test_the_suggestion_holds_on_the_log_that_ships() -> None:
    per = timedelta(minutes=1)
    demand = Demand()
    counts = Counts()
    for entry in Reading().entries([str(ROOT / "docs" / "access.log.gz")], counts):
        demand.add(entry.address, entry.time_us, 1)
    with demand:
        suggestion = suggest(demand, read_share("99.5%"), 60 * SECOND_US, "shop")
        smaller = [
            kind.make(trial.policy.limit - 1, per)
            for kind, trial in zip(KINDS, suggestion.limits, strict=True)
        ]
        tried = trials(smaller, demand, 60 * SECOND_US)

    assert suggestion.subjects > 600
    assert len(suggestion.limits) == len(KINDS)
    assert all(map(suggestion.holds, [*suggestion.limits, *suggestion.bursts]))
    assert not any(map(suggestion.holds, tried))
