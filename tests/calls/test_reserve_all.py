"""Reservations of several subjects, with costs by policy: all of them or none, and one settlement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import (
    FixedWindow,
    InvalidCost,
    InvalidKey,
    InvalidPolicy,
    InvalidSetting,
    Limiter,
    RateLimited,
    SlidingLog,
    StoreUnavailable,
    TokenBucket,
)
from limiter.aio import AsyncLimiter
from limiter.testing import StoreCall, intercept
from service.demo.servers import Cluster, Server
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, PATIENCE, PLACES, set_time
from tests.calls.test_interrupted import NotAnException, interrupt_once
from tests.calls.test_reserve import OwnError, fail
from tests.proxy import Proxy, cut
from tests.transport.support import scripts_run
from tests.waiting import soon, until

#: Requests and tokens: limits of different sizes, in different kinds of keys.
BUDGET = [SlidingLog(4, 60), TokenBucket(1_000, 60)]


def lefts(limiter: Any, *subjects: str, **more: Any) -> list[list[int]]:
    """The units that each policy of each subject has left."""
    return [[one.remaining for one in limiter.peek(subject, **more).each] for subject in subjects]


@pytest.mark.parametrize("tagged", [True, False], ids=["tag", "no tag"])
def test_settled_by_policy(make: Make, new_subject: Any, tagged: bool) -> None:
    """Less is refunded and more is charged, each policy of each subject by itself, once."""
    limiter = make(BUDGET)
    set_time(limiter, NOW_US)
    more = {"tag": new_subject()} if tagged else {}
    a, b, c = (new_subject() for _ in range(3))
    with limiter.reserve_all([(a, (1, 400)), (b, (2, 100)), (c, 3)], **more) as reserved:
        granted = [[one.granted for one in decision.each] for decision in reserved.decisions]
        assert granted == [[1, 400], [2, 100], [3, 3]]
        assert reserved.decision == reserved.decisions[2]
        assert lefts(limiter, a, b, c, **more) == [[3, 600], [2, 900], [1, 997]]
        assert not reserved.settled
        for actual in ([(1, 700), (1, 150), 3], [(0, 0), (0, 0), 0]):
            reserved.settle(actual)
            assert reserved.settled
    assert lefts(limiter, a, b, c, **more) == [[3, 300], [3, 850], [1, 997]]
    assert limiter.unsettled == 0


def test_more_than_any_limit(make: Make, new_subject: Any) -> None:
    """Each policy is charged to a debt of one limit; the others of the call as they should be."""
    limiter = make([SlidingLog(9_000, 60), TokenBucket(10, 60), FixedWindow(20, 60)])
    set_time(limiter, NOW_US)
    a, b = new_subject(), new_subject()
    with limiter.reserve_all([(a, (1, 5, 1)), (b, (5, 1, 5))]) as reserved:
        reserved.settle([(8_501, 2, 10**30), (2, 10**6, 5)])
    assert lefts(limiter, a, b) == [[499, 8, 0], [8_998, 0, 15]]
    assert limiter.peek(b).retry_after == 66.0
    for _ in range(2):
        limiter.refund(a, (1, 1, 15))
    assert lefts(limiter, a) == [[501, 10, 10]]


def test_a_denied_reservation(make: Make, new_subject: Any) -> None:
    """Nothing is charged; the error has the denying decision and all of them."""
    limiter = make(BUDGET)
    a, b, c = (new_subject() for _ in range(3))
    limiter.hit(b, (1, 700))
    with (
        pytest.raises(RateLimited, match="denied by TokenBucket") as denied,
        limiter.reserve_all([(a, (1, 400)), (b, (1, 400)), (c, 1)]),
    ):
        raise AssertionError
    error = denied.value
    assert [one.allowed for one in error.decisions] == [True, False, True]
    assert error.decision == error.decisions[1]
    assert lefts(limiter, a, c) == [[4, 1_000]] * 2
    assert lefts(limiter, b)[0][0] == 3


def test_the_end_of_the_body(make: Make, new_subject: Any) -> None:
    """An exception refunds all, unless it was settled; without a settlement the charge stays."""
    limiter = make([FixedWindow(10, 60), SlidingLog(10, 60)])
    a, b = new_subject(), new_subject()
    items = [(a, (2, 3)), (b, 4)]
    with pytest.raises(OwnError), limiter.reserve_all(items):
        fail()
    assert lefts(limiter, a, b) == [[10, 10], [10, 10]]
    with pytest.raises(OwnError), limiter.reserve_all(items) as reserved:
        fail(lambda: reserved.settle([(1, 1), 1]))
    assert lefts(limiter, a, b) == [[9, 9], [9, 9]]
    reservation = limiter.reserve_all(iter(items))
    for _ in range(2):
        with reservation:
            pass
    assert lefts(limiter, a, b) == [[5, 3], [1, 1]]


def test_a_capped_reservation(make: Make, new_subject: Any) -> None:
    """It is settled by what was granted: the true cost is not capped."""
    limiter = make(BUDGET, cap=True)
    set_time(limiter, NOW_US)
    a, b = new_subject(), new_subject()
    with limiter.reserve_all([(a, 50), (b, (1, 5_000))]) as reserved:
        assert [[one.granted for one in each.each] for each in reserved.decisions] == [
            [4, 50],
            [1, 1_000],
        ]
        reserved.settle([30, (2, 400)])
    assert lefts(limiter, a, b) == [[0, 970], [2, 600]]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ("u", InvalidKey, r"reserve_all was given 'u' in the list: expected a list of tuples"),
        (7, InvalidKey, "reserve_all was given 7: expected a list of tuples"),
        ([], InvalidKey, r"reserve_all was given \[\]"),
        ([("u", 1), ("v",)], InvalidKey, r"given \('v',\) in the list"),
        ([("u", 1), ("v", 1, None, 2)], InvalidKey, "in the list"),
        ([("u", 1), ("v", 2), ("u", 1)], InvalidKey, "key 'u' stands for a subject that is named"),
        ([("u", 1), ("", 1)], InvalidKey, "key is ''"),
        (
            [("u", 1), ("v", 0)],
            InvalidCost,
            r"^items\[1\].cost is 0: expected a whole number from 1 to 4",
        ),
        ([("u", 1), ("v", True)], InvalidCost, "cost is True"),
        (
            [("u", 1), ("v", (1, 0))],
            InvalidCost,
            r"cost\[1\] is 0: expected a whole number from 1",
        ),
        (
            [("u", 1), ("v", (1, 2, 3))],
            InvalidCost,
            r"cost is \(1, 2, 3\): expected a whole number",
        ),
        ([("u", 1), ("v", (1, 1_001))], InvalidCost, r"^items\[1\].cost\[1\] is 1001"),
        ([("u", 1), ("v", 1, "5/hour")], InvalidPolicy, "limits are '5/hour'"),
    ],
)
def test_wrong_items(items: Any, error: type[Exception], message: str) -> None:
    """The message names the value, before anything is entered or charged."""
    limiter = Limiter(BUDGET, store="memory://")
    with pytest.raises(error, match=message):
        limiter.reserve_all(items)
    assert lefts(limiter, "u", "v") == [[4, 1_000]] * 2


def test_leases_cannot_be_reserved() -> None:
    """The message names the call that takes them."""
    with pytest.raises(InvalidPolicy, match="use hold"):
        Limiter(PLACES, store="memory://").reserve_all([("u", 1)])


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (5, r"actual is 5: expected a list of 2 costs, one for each item"),
        ([(1, 5)], r"actual is \[\(1, 5\)\]: expected a list of 2"),
        ([(1, 5), 1, 1], "expected a list of 2"),
        (
            [5, 1],
            r"actual\[0\] is 5: expected a tuple of 2 numbers, as the reserved cost is \(1, 9\)",
        ),
        ([(1, 5, 5), 1], r"actual\[0\] is \(1, 5, 5\)"),
        ([(1, -5), 1], r"actual\[0\]\[1\] is -5: expected a whole number from 0"),
        ([(True, 5), 1], r"actual\[0\]\[0\] is True"),
        ([(1, 5), (1, 5)], r"actual\[1\] is \(1, 5\): expected a whole number from 0"),
        (None, "actual is None"),
    ],
)
def test_wrong_actual_costs(make: Make, new_subject: Any, actual: Any, message: str) -> None:
    """Nothing is settled, and a right settlement can follow."""
    limiter = make(BUDGET)
    set_time(limiter, NOW_US)
    a, b = new_subject(), new_subject()
    with limiter.reserve_all([(a, (1, 9)), (b, 2)]) as reserved:
        with pytest.raises(InvalidCost, match=message):
            reserved.settle(actual)
        assert not reserved.settled
        reserved.settle([(2, 5), 1])
    assert lefts(limiter, a, b) == [[2, 995], [3, 999]]


def test_one_subject_is_settled_in_its_form() -> None:
    """``reserve`` takes no list; nothing is reserved before the body."""
    limiter = Limiter(BUDGET, store="memory://")
    for cost, actual in ((1, (1, 1)), (1, [1]), ((1, 1), 1), ((1, 1), [(1, 1)])):
        with limiter.reserve("u", cost) as reserved:
            with pytest.raises(InvalidCost, match="actual is"):
                reserved.settle(actual)
            reserved.settle(0 if cost == 1 else (0, 0))
    assert lefts(limiter, "u") == [[4, 1_000]]
    with pytest.raises(InvalidSetting, match="nothing is reserved yet"):
        limiter.reserve_all([("u", 1)]).settle([1])
    with pytest.raises(TypeError, match=r"with limiter.reserve\(\.\.\.\)"):
        bool(limiter.reserve_all([("u", 1)]))


def calls_of(client: Any, work: Callable[[], object]) -> int:
    """How many scripts the server ran for ``work``."""
    before = scripts_run(client)
    work()
    return scripts_run(client) - before


@pytest.mark.parametrize("on", ["own", "cluster"])
def test_one_call_for_one_slot(
    make_on: Make, request: pytest.FixtureRequest, on: str, new_subject: Any
) -> None:
    """One to reserve; one for all refunds, and one for all excess."""
    server: Server | Cluster = request.getfixturevalue(on)
    tag = new_subject()
    node = server.primary_of(tag) if isinstance(server, Cluster) else server
    limiter, client = make_on(server.url, BUDGET), node.client()
    items = [(new_subject(), (1, 100)) for _ in range(3)]
    limiter.hit_all(items, tag=tag)

    def reserve(*actual: tuple[int, int]) -> None:
        with limiter.reserve_all(items, tag=tag) as reserved:
            if actual:
                reserved.settle(list(actual))

    assert calls_of(client, reserve) == 1
    assert calls_of(client, lambda: reserve((1, 100), (1, 100), (1, 100))) == 1
    assert calls_of(client, lambda: reserve((0, 0), (0, 100), (0, 100))) == 2
    assert calls_of(client, lambda: reserve((0, 200), (1, 200), (0, 0))) == 3
    client.close()


@given(
    limits=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    rounds=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.tuples(st.integers(1, 12), st.integers(1, 12)),
                st.none() | st.tuples(st.integers(0, 30), st.integers(0, 30)),
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda item: item[0],
        ),
        max_size=6,
    ),
    cap=st.booleans(),
)
def test_any_reservations(limits: tuple[int, int], rounds: Any, cap: bool) -> None:
    """The units used are the sums of the true costs: at least 0, and at most a debt of one limit."""
    limiter = Limiter(
        [FixedWindow(limits[0], 60), SlidingLog(limits[1], 60)], store="memory://", cap=cap
    )
    set_time(limiter, NOW_US)
    used = {key: [0, 0] for key in "abc"}
    for items in rounds:
        granted = [
            [min(cost, limit) if cap else cost for cost, limit in zip(costs, limits, strict=True)]
            for _, costs, _ in items
        ]
        if any(cost > limit for each in granted for cost, limit in zip(each, limits, strict=True)):
            with pytest.raises(InvalidCost):
                limiter.reserve_all([(key, cost) for key, cost, _ in items])
            continue
        fits = all(
            used[key][at] + each[at] <= limits[at]
            for (key, _, _), each in zip(items, granted, strict=True)
            for at in (0, 1)
        )
        actuals = [actual if actual is not None else costs for _, costs, actual in items]
        try:
            with limiter.reserve_all([(key, cost) for key, cost, _ in items]) as reserved:
                assert fits
                reserved.settle(actuals)
        except RateLimited:
            assert not fits
            continue
        for (key, _, _), actual in zip(items, actuals, strict=True):
            for at in (0, 1):
                used[key][at] = min(used[key][at] + actual[at], 2 * limits[at])
        for key, numbers in used.items():
            expected = [
                max(0, limit - number) for limit, number in zip(limits, numbers, strict=True)
            ]
            assert lefts(limiter, key) == [expected]


def by_one(limiter: Any) -> Any:
    """Let the limiter call the store for each subject alone, as for those of several slots."""
    inner = getattr(limiter, "inner", limiter)
    inner._core.transport.one_slot = lambda tags: len(tags) == 1
    return inner


def test_a_settlement_of_which_a_part_does_not_arrive(
    make_on: Make, store: str, new_subject: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged and counted, and the others are settled; nothing is raised or sent again."""
    limiter = make_on(store, BUDGET)
    inner = by_one(limiter)
    keys = [new_subject() for _ in range(3)]
    sent = []

    def lose(call: StoreCall, ahead: Any) -> Any:
        sent.append(call.mode)
        if call.mode in ("refund", "settle") and keys[1].encode() in call.keys[0]:
            raise StoreUnavailable("the answer was lost")
        return ahead()

    with limiter.reserve_all([(key, (2, 500)) for key in keys]) as reserved:
        intercept(inner, lose)
        for _ in range(2):
            reserved.settle([(1, 501)] * 3)
    intercept(inner, None)
    assert sent == ["refund"] * 3 + ["settle"] * 3
    assert [numbers[0] for numbers in lefts(limiter, *keys)] == [3, 2, 3]
    assert [500 - numbers[1] // 2 for numbers in lefts(limiter, *keys)] == pytest.approx(
        [251, 250, 251], abs=5
    )
    assert limiter.unsettled == 2
    assert "a settlement of limiter default did not reach the store" in caplog.text


@pytest.mark.parametrize("mode", ["refund", "settle"])
def test_an_interrupted_settlement(store: str, new_subject: Any, mode: str) -> None:
    """The call under way is counted; the others are sent in the background, once."""
    limiter = Limiter(
        [FixedWindow(10, "day"), SlidingLog(10, "day")], store=store, timeout=PATIENCE
    )
    by_one(limiter)
    keys = [new_subject() for _ in range(3)]
    with limiter.reserve_all([(key, (5, 5)) for key in keys]) as reserved:
        interrupt_once(limiter, mode)
        with pytest.raises(NotAnException):
            reserved.settle([(3, 6)] * 3)
    first = [5, 4] if mode == "refund" else [7, 5]
    until(lambda: lefts(limiter, *keys) == [first, [7, 4], [7, 4]])
    assert limiter.unsettled == 1
    limiter.close()


def test_interrupted_while_it_is_entered(store: str, new_subject: Any) -> None:
    """The charges that are known are refunded, and the body does not begin."""
    limiter = Limiter(BUDGET, store=store, timeout=PATIENCE)
    by_one(limiter)
    keys = [new_subject() for _ in range(3)]

    def interrupt(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "hit" and keys[2].encode() in call.keys[0]:
            raise NotAnException
        return ahead()

    intercept(limiter, interrupt)
    with pytest.raises(NotAnException), limiter.reserve_all([(key, (2, 100)) for key in keys]):
        raise AssertionError
    intercept(limiter, None)
    until(lambda: [numbers[0] for numbers in lefts(limiter, *keys)] == [4, 4, 4])
    assert limiter.unsettled == 0
    limiter.close()


async def test_cancelled_while_it_is_settled(store: str, new_subject: Any) -> None:
    """All of it is settled, by ``settle`` and by the end of a body that failed."""
    keys = [new_subject() for _ in range(2)]
    limiter = AsyncLimiter(FixedWindow(10, "day"), store=store, timeout=PATIENCE)
    by_one(limiter)

    async def cancel(call: StoreCall, ahead: Any) -> Any:
        if call.mode != "hit":
            task.cancel()
        return await ahead()

    async def body(actual: list[int] | None) -> None:
        async with limiter.reserve_all([(key, 5) for key in keys]) as reserved:
            if actual is None:
                raise OwnError
            await reserved.settle(actual)

    for actual, expected in (([2, 6], [8, 4]), (None, [10, 10])):
        intercept(limiter, cancel)
        task = asyncio.create_task(body(actual))
        with pytest.raises(asyncio.CancelledError):
            await task
        intercept(limiter, None)

        async def settled(expected: list[int] = expected) -> bool:
            return [(await limiter.peek(key)).remaining for key in keys] == expected

        await soon(settled)
        for key in keys:
            await limiter.reset(key)
    assert limiter.unsettled == 0
    await limiter.close()


def test_without_the_store(make_on: Make, proxy: Proxy, new_subject: Any) -> None:
    """``local`` settles in the process what it granted; what ``allow`` admits is not counted."""
    proxy.requests = cut
    items = [(new_subject(), (2, 400)), (new_subject(), 1)]
    keys = [key for key, _ in items]
    limiter = make_on(proxy.url, BUDGET, on_error="local", local_share=2)
    set_time(limiter, NOW_US)
    with limiter.reserve_all(items) as reserved:
        assert all(one.degraded for one in reserved.decisions)
        assert lefts(limiter, *keys) == [[0, 100], [1, 499]]
        reserved.settle([(1, 450), 10**9])
    assert lefts(limiter, *keys) == [[1, 50], [0, 0]]
    with pytest.raises(RateLimited) as denied, limiter.reserve_all([(keys[0], 1), (keys[1], 1)]):
        raise AssertionError
    assert denied.value.decision == denied.value.decisions[1]
    limiter = make_on(proxy.url, BUDGET, on_error="deny")
    with pytest.raises(RateLimited) as denied, limiter.reserve_all(items):
        raise AssertionError
    assert [one.degraded for one in denied.value.decisions] == [True, True]
    limiter = make_on(proxy.url, BUDGET, on_error="allow")
    with limiter.reserve_all(items) as reserved:
        reserved.settle([(1, 450), 10**9])
    assert limiter.unsettled == 0
    proxy.mend()
    sure = make_on(proxy.url, BUDGET)
    assert lefts(sure, *keys) == [[4, 1_000]] * 2


def test_a_settlement_ends_cached_denials(make_on: Make, store: str, new_subject: Any) -> None:
    """Of each subject that it refunds, for calls of one and of several."""
    limiter = make_on(store, FixedWindow(5, "day"), denial_cache=3_600.0)
    a, b = new_subject(), new_subject()
    with limiter.reserve_all([(a, 5), (b, 5)]) as reserved:
        for _ in range(2):
            denied = [limiter.hit(a), limiter.hit(b), *limiter.hit_all([(a, 1), (b, 1)])]
        assert [one.cached for one in denied] == [True] * 4
        reserved.settle([1, 6])
        assert limiter.hit(a).allowed
        assert limiter.hit(b).retry_after
        reserved.settle([1, 1])
    assert not limiter.hit_all([(a, 1), (b, 1)])
    limiter.refund(b, 5)
    assert limiter.hit_all([(a, 1), (b, 1)])
