"""What the page draws, against the policies' own decisions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from limiter.policies import ALGORITHMS, Policy, SlidingLog, TokenBucket
from limiter.simulate import counts
from limiter.simulate.curves import limit_curves, worst_subjects
from limiter.simulate.demand import Requests
from limiter.simulate.suggest import decisions
from limiter.units import SECOND_US
from tests.simulate.test_suggest import START_US, History, histories


@given(histories(), st.sampled_from([*ALGORITHMS.values()]), st.integers(1, 60), st.booleans())
def test_a_count_is_that_of_the_decisions(
    history: History, algorithm: Callable[..., Policy], limit: int, has_option: bool
) -> None:
    option = "burst" if algorithm.has_burst else "align"  # type: ignore[attr-defined]
    takes_option = has_option and algorithm not in (
        ALGORITHMS["sliding_log"],
        ALGORITHMS["sliding_window"],
    )
    policy = algorithm(
        limit, history.per, **({option: 7 if option == "burst" else True} if takes_option else {})
    )

    denied = [admitted for admitted in decisions(policy, *history[1:]) if not admitted]
    assert counts.denied(policy, *history[1:]) == len(denied)


@given(st.lists(histories(), min_size=1, max_size=4), st.integers(1, 60))
def test_curves_end_where_no_subject_is_denied(found: list[History], limit: int) -> None:
    demand = [Requests(str(at), *history[1:], []) for at, history in enumerate(found)]  # type: ignore[arg-type]
    policy = TokenBucket(limit, 60, 2 * limit)

    curves = limit_curves(policy, demand)

    assert limit in [point.limit for point in curves.points]
    assert curves.points[-1][1:] == (0, 0)
    shares = [(point.requests, point.subjects) for point in curves.points]
    assert [subjects for _, subjects in shares] == sorted(
        (subjects for _, subjects in shares), reverse=True
    )
    assert sum(each.subjects for each in curves.peaks) == curves.subjects == len(found)
    for point in curves.points:
        other = TokenBucket(point.limit, 60, 2 * point.limit)
        every = [list(decisions(other, *requests[1:3])) for requests in demand]
        assert point.requests == sum(admitted.count(False) for admitted in every)


def test_peaks_are_counted_in_bins_that_leave_no_number_out() -> None:
    peaks = [1, 1, 2, 9, 10, 500]
    demand = [Requests(str(at), [START_US] * peak, [1] * peak, []) for at, peak in enumerate(peaks)]

    bins = limit_curves(SlidingLog(5, 1), demand).peaks

    assert bins[0].low == 1
    assert bins[-1].low <= 500 <= bins[-1].high
    assert all(before.high + 1 == after.low for before, after in pairwise(bins))
    for peak in peaks:
        (found,) = [each for each in bins if each.low <= peak <= each.high]
        assert found.subjects == len([other for other in peaks if found.low <= other <= found.high])


def test_the_worst_subjects_are_those_denied_most_often() -> None:
    times = [START_US, START_US, START_US + 5 * SECOND_US]
    demand = [
        Requests("fine", times, [1] * 3, [0] * 3),
        *(Requests(f"{at}", times, [1] * 3, [0, 1, 0]) for at in range(10)),
        Requests("worst", times, [1] * 3, [0, 1, 1]),
    ]

    worst = worst_subjects(demand)

    assert [each.subject for each in worst] == ["worst", *map(str, range(9))]
    assert worst[0][1:3] == (3, 2)
    assert worst[0].timeline.admitted == [1, 0, 0, 0, 0, 0]
    assert worst[0].timeline.denied == [1, 0, 0, 0, 0, 1]
    assert worst_subjects(demand[:1]) == []
