"""Recorded reservations: charged once and settled once, also if answers are lost and calls repeated."""

from __future__ import annotations

import asyncio
import inspect
import random
from time import monotonic
from typing import Any

import pytest

from limiter import (
    Concurrency,
    FixedWindow,
    InvalidPolicy,
    Limiter,
    LimiterError,
    SlidingLog,
    StoreRefused,
    StoreUnavailable,
    TokenBucket,
)
from limiter.aio import AsyncLimiter
from limiter.flows import Ask, Flow
from limiter.plan import Part, Plan
from limiter.recorded import OtherRecord, Recorded, State, reserve_flow, settle_flow
from limiter.testing import StoreCall, intercept
from service.demo.servers import Cluster
from tests.calls.conftest import Make
from tests.calls.support import PATIENCE
from tests.proxy import Proxy, cut, swallow
from tests.waiting import soon

#: Requests and tokens.
BUDGET = [SlidingLog(4, 600), TokenBucket(1_000, 600)]
NONE, NOW, OPEN, SETTLED = State


def run(limiter: Any, flow: Flow[Any]) -> Any:
    """Run a flow in the way of the limiter."""
    inner = getattr(limiter, "inner", limiter)
    driven = inner._core.drive(flow)
    return limiter.loop.run(driven) if inspect.iscoroutine(driven) else driven


class Reservation:
    """One reservation of some subjects, by its id."""

    def __init__(self, limiter: Any, name: str, *subjects: str, tag: str | None = None) -> None:
        self.limiter, self.name, self.subjects, self.tag = limiter, name, subjects, tag
        self.core = getattr(limiter, "inner", limiter)._core

    def parts(self, costs: Any, shadow: bool = False) -> list[Part]:
        """The parts with these costs."""
        pairs = zip(self.subjects, costs, strict=True)
        return [Part(self.core.plan, subject, cost, shadow) for subject, cost in pairs]

    def reserve(self, *costs: Any, shadow: bool = False) -> list[Recorded]:
        """Reserve, for ten minutes."""
        parts = self.parts(costs, shadow)
        results = run(self.limiter, reserve_flow(self.core, parts, self.name, 600, self.tag))
        assert len(results) == len(parts)
        return list(results)

    def states(self, *costs: Any, shadow: bool = False) -> list[State]:
        """Reserve, and return the states alone."""
        return [result.state for result in self.reserve(*costs, shadow=shadow)]

    def settle(self, *costs: Any) -> list[State]:
        """Settle."""
        flow = settle_flow(self.core, self.parts(costs), self.name, self.tag)
        states: list[State] = run(self.limiter, flow)
        return states

    def lefts(self) -> list[list[int]]:
        """The units that each policy of each subject has left."""
        peeks = [self.limiter.peek(subject, tag=self.tag) for subject in self.subjects]
        return [[one.remaining for one in peek.each] for peek in peeks]


@pytest.mark.parametrize("tagged", [True, False], ids=["tag", "no tag"])
def test_each_call_twice(make: Make, new_subject: Any, tagged: bool) -> None:
    """The second one changes nothing, in any order of the subjects; nor does one that comes too late."""
    limiter = make(BUDGET)
    tag = new_subject() if tagged else None
    a, b = new_subject(), new_subject()
    there, back = (Reservation(limiter, "r1", *pair, tag=tag) for pair in ((b, a), (a, b)))
    first = there.reserve((1, 400), (2, 100))
    assert [result.state for result in first] == [NOW, NOW]
    assert [[one.granted for one in result.decision.each] for result in first] == [
        [1, 400],
        [2, 100],
    ]
    again = back.reserve((2, 999), (1, 400))
    assert [result.state for result in again] == [OPEN, OPEN]
    assert [[one.granted for one in result.decision.each] for result in again] == [
        [2, 100],
        [1, 400],
    ]
    assert back.lefts() == [[2, 900], [3, 600]]

    assert there.settle((0, 700), (1, 50)) == [NOW, NOW]
    for other in (there, back):
        assert other.settle((4, 4), (4, 4)) == [SETTLED, SETTLED]
    assert back.lefts() == [[3, 950], [4, 300]]
    assert SETTLED in there.states((1, 400), (2, 100))
    assert back.lefts() == [[3, 950], [4, 300]]
    assert Reservation(limiter, "r2", a, b, tag=tag).states(1, 1) == [NOW, NOW]


def test_a_denied_one(make: Make, new_subject: Any) -> None:
    """Nothing stays charged or recorded: the same id may be used again."""
    limiter = make(BUDGET)
    reservation = Reservation(limiter, "r1", new_subject(), new_subject(), new_subject())
    for place in range(3):
        costs = [(2, 10)] * 3
        costs[place] = (1, 1_000)
        limiter.hit(reservation.subjects[place], (1, 1))
        denied = reservation.reserve(*costs)
        assert [result.state for result in denied] == [NONE] * 3
        assert [result.decision.allowed for result in denied] == [n != place for n in range(3)]
        assert {one.granted for result in denied for one in result.decision.each} == {0}
        assert [one.remaining for one in denied[place].decision.each] == [3, 999]
        limiter.refund(reservation.subjects[place], (1, 1))
    assert reservation.lefts() == [[4, 1_000]] * 3
    assert reservation.states(1, 1, 1) == [NOW] * 3
    assert limiter.unsettled == 0


def test_settled_without_a_reservation(make: Make, new_subject: Any) -> None:
    """Nothing is moved, and a reservation that comes later is not charged."""
    reservation = Reservation(make(BUDGET), "r1", new_subject())
    assert reservation.settle((0, 5)) == [NONE]
    assert reservation.settle((0, 5)) == [SETTLED]
    assert reservation.states((1, 400)) == [SETTLED]
    assert reservation.lefts() == [[4, 1_000]]


def test_shadow_mode(make: Make, new_subject: Any) -> None:
    """A subject without room is not charged, neither now nor when it is settled."""
    reservation = Reservation(make(BUDGET), "r1", new_subject())
    assert reservation.states((4, 1_000), shadow=True) == [NOW]
    full = Reservation(reservation.limiter, "r2", *reservation.subjects)
    assert full.states((1, 0), shadow=True) == [NOW]
    assert full.states((1, 0), shadow=True) == [OPEN]
    assert full.settle((1, 7)) == [NOW]
    assert reservation.settle((1, 20)) == [NOW]
    assert full.lefts() == [[3, 973]]


def test_a_log_s_large_costs(make: Make, new_subject: Any) -> None:
    """A settlement beyond what one call may write takes several, up to the debt of a limit."""
    limiter = make(SlidingLog(9_000, 600))
    reservation = Reservation(limiter, "r1", new_subject())
    assert reservation.states(4_000) == [NOW]
    assert reservation.settle(17_500) == [NOW]
    assert limiter.peek(reservation.subjects[0]).retry_after > 500
    limiter.refund(reservation.subjects[0], 4_000)
    limiter.refund(reservation.subjects[0], 4_000)
    limiter.refund(reservation.subjects[0], 4_000)
    assert reservation.lefts() == [[3_500]]


def test_other_limits(make: Make, new_subject: Any) -> None:
    """An id is for one list of policies; leases are refused."""
    limiter, subject = make(BUDGET), new_subject()
    one = Reservation(limiter, "r1", subject)
    assert one.states(1) == [NOW]
    fewer = [Part(Plan((BUDGET[0],), one.core.plan.keys), subject, 1)]
    with pytest.raises(OtherRecord, match="id r1 was used for other limits: draw another id"):
        run(limiter, reserve_flow(one.core, fewer, "r1", 60))
    with pytest.raises(OtherRecord):
        run(limiter, settle_flow(one.core, fewer, "r1"))
    assert one.settle(0) == [NOW]
    with pytest.raises(InvalidPolicy, match="use hold"):
        Reservation(make([BUDGET[0], Concurrency(2)]), "r2", subject).states(1)


def test_a_settlement_ends_denials(make_on: Make, store: str, subject: str) -> None:
    """Of the denial cache of the same process."""
    limiter = make_on(store, BUDGET[1], denial_cache=600)
    reservation = Reservation(limiter, "r1", subject)
    assert reservation.states(1_000) == [NOW]
    assert not limiter.hit(subject, 900)
    assert limiter.hit(subject, 900).cached
    assert reservation.settle(1) == [NOW]
    assert limiter.hit(subject, 900)


@pytest.mark.parametrize("away", ["reserve", "settle"])
def test_a_lost_answer(make_on: Make, proxy: Proxy, new_subject: Any, away: str) -> None:
    """The error says that the store did not decide; the same call again has no second effect."""
    limiter = make_on(proxy.url, BUDGET, timeout=5.0)
    reservation = Reservation(limiter, "r1", new_subject(), new_subject())
    costs = {"reserve": [(1, 400), (1, 300)], "settle": [(1, 900), (0, 100)]}
    assert limiter.peek(reservation.subjects[0])
    for mode, again in (("reserve", OPEN), ("settle", SETTLED)):
        call: Any = reservation.states if mode == "reserve" else reservation.settle
        if mode == away:
            proxy.replies = cut
            with pytest.raises(StoreUnavailable):
                call(*costs[mode])
            proxy.mend()
        assert call(*costs[mode]) == [again if mode == away else NOW] * 2
    assert reservation.lefts() == [[3, 100], [4, 900]]


def test_its_own_timeout(make_on: Make, proxy: Proxy, subject: str) -> None:
    """A limiter waits no longer than its own timeout, also if its store's is longer."""
    owner = make_on(proxy.url, BUDGET)
    store = getattr(owner, "inner", owner)
    reservation = Reservation(make_on(store, BUDGET, timeout=0.2, on_error="raise"), "r1", subject)
    assert owner.peek(subject)
    proxy.replies = swallow
    began = monotonic()
    with pytest.raises(StoreUnavailable):
        reservation.reserve(1)
    assert monotonic() - began < PATIENCE / 2


class Slots:
    """Subjects in slots of their own, and a store that fails at a certain call."""

    def __init__(self, limiter: Any, new_subject: Any) -> None:
        self.limiter = limiter
        self.reservation = Reservation(limiter, "r1", *(new_subject() for _ in range(3)))
        self.fails = ""
        self.mode = "reserve"
        self.error: type[LimiterError] = StoreUnavailable

    def around(self, call: StoreCall, ahead: Any) -> Any:
        """Make the call, unless its subject and mode are those that fail."""
        if self.fails and self.fails.encode() in call.keys[0] and call.mode == self.mode:
            raise self.error("the test's store fails")
        return ahead()


@pytest.fixture
def slots(make_on: Make, cluster: Cluster, new_subject: Any) -> Slots:
    """A cluster's store that may fail."""
    slots = Slots(make_on(cluster.url, BUDGET), new_subject)
    intercept(getattr(slots.limiter, "inner", slots.limiter), slots.around)
    return slots


def test_a_node_that_fails(slots: Slots) -> None:
    """What is reserved stays, for the same call again; what can be settled is settled."""
    reservation = slots.reservation
    slots.fails = max(reservation.subjects)
    with pytest.raises(StoreUnavailable):
        reservation.reserve(1, 1, 1)
    slots.fails = ""
    assert sorted(reservation.states(1, 1, 1)) == [NOW, OPEN, OPEN]
    slots.fails, slots.mode = min(reservation.subjects), "settle"
    with pytest.raises(StoreUnavailable):
        reservation.settle(0, 0, 0)
    slots.fails = ""
    assert sorted(reservation.settle(0, 0, 0)) == [NOW, SETTLED, SETTLED]
    assert reservation.lefts() == [[4, 1_000]] * 3


def test_what_an_earlier_call_reserved(slots: Slots) -> None:
    """It stays charged if a later subject has no room, or is settled; a settlement at 0 refunds it."""
    reservation = slots.reservation
    first, second, third = sorted(reservation.subjects)
    reservation.subjects = (first, second, third)
    slots.fails = second
    with pytest.raises(StoreUnavailable):
        reservation.reserve(1, 1, 1)
    assert reservation.limiter.peek(first).remaining == 3
    slots.fails = ""
    assert reservation.states(1, 1, (1, 1_000)) == [OPEN, NOW, NOW]
    assert Reservation(reservation.limiter, "r2", first, third).states(1, 1) == [NONE, NONE]
    assert reservation.settle(1, 1, 1) == [NOW] * 3

    again = Reservation(reservation.limiter, "r3", first)
    assert again.states(1) == [NOW]
    assert Reservation(again.limiter, "r3", second).settle(0) == [NONE]
    assert Reservation(again.limiter, "r3", first, second, third).states(1, 1, 1) == [
        *(OPEN, SETTLED, NONE)
    ]
    both = Reservation(again.limiter, "r3", first, third)
    assert both.states(1, (1, 1_000)) == [OPEN, NONE]
    assert again.limiter.peek(first).remaining == 2
    assert both.settle(0, 0) == [NOW, NONE]
    assert reservation.lefts() == [[3, 999]] * 3
    assert again.limiter.unsettled == 0


def test_equal_ones_at_once(cluster: Cluster, new_subject: Any) -> None:
    """In slots of their own: if one is denied, what the other one has reserved stays charged."""
    first, second = sorted([new_subject(), new_subject()])
    with (
        Limiter(BUDGET, store=cluster.url, timeout=PATIENCE) as limiter,
        Limiter(BUDGET, store=cluster.url, timeout=PATIENCE) as other,
    ):
        assert limiter.hit(second, (1, 1_000))

        def around(call: StoreCall, ahead: Any) -> Any:
            if call.mode == "reserve" and second.encode() in call.keys[0]:
                assert Reservation(other, "r1", first, second).states(1, 1) == [OPEN, NONE]
                limiter.refund(second, (1, 1_000))
            return ahead()

        intercept(limiter, around)
        reservation = Reservation(limiter, "r1", first, second)
        assert reservation.states(1, 1) == [NOW, NOW]
        assert reservation.lefts() == [[3, 999]] * 2


def test_equal_ones_in_any_order(cluster: Cluster, new_subject: Any) -> None:
    """In slots of their own: none passes with a charge that another one, which is denied, has refunded."""
    seen, passes = random.Random(16), 0
    with Limiter(FixedWindow(3, "day"), store=cluster.url, timeout=PATIENCE) as limiter:
        core = limiter._core
        for _ in range(40):
            subjects = [new_subject() for _ in range(3)]
            full = seen.choice(subjects)
            limiter.hit(full, 3)
            parts = [Part(core.plan, subject, 1) for subject in subjects]
            replies: dict[Flow[list[Recorded]], Any] = {
                reserve_flow(core, parts, "r1", 600): None for _ in range(3)
            }
            has_passed = False
            while replies:
                if full and seen.random() < 0.15:
                    limiter.refund(full, 3)
                    full = ""
                flow = seen.choice(list(replies))
                try:
                    step = flow.send(replies[flow])
                    assert isinstance(step, Ask)
                    replies[flow] = core.transport.run(step.call, step.deadline)
                except StopIteration as done:
                    has_passed |= {result.state for result in done.value} <= {NOW, OPEN}
                    del replies[flow]
            passes += has_passed
            if has_passed:
                assert [limiter.peek(subject).remaining for subject in subjects] == [2, 2, 2]
    assert 5 < passes < 35


def test_a_refusal_and_a_failed_refund(slots: Slots) -> None:
    """A store that refuses ends the call, which is refunded; a denial stands without its peeks."""
    reservation, limiter = slots.reservation, slots.limiter
    reservation.subjects = first, second, third = tuple(sorted(reservation.subjects))
    slots.fails, slots.error = third, StoreRefused
    with pytest.raises(StoreRefused, match="the test's store fails"):
        reservation.reserve(1, 1, 1)
    assert limiter.unsettled == 0
    slots.mode = "peek"
    limiter.hit(second, 4)
    results = reservation.reserve(1, 1, 1)
    assert [result.state for result in results] == [NONE] * 3
    assert results[2].decision.degraded
    slots.fails, slots.mode = first, "settle"
    assert reservation.states(1, 1, 1) == [NOW, NONE, NONE]
    assert limiter.unsettled == 1
    slots.fails = ""
    assert reservation.lefts() == [[3, 999], [0, 996], [4, 1_000]]


async def test_a_cancelled_one(cluster: Cluster, new_subject: Any) -> None:
    """In slots of their own: earlier charges are refunded, and their records deleted."""
    limiter = AsyncLimiter(FixedWindow(1_000, "day"), store=cluster.url, timeout=PATIENCE)
    core, subjects = limiter._core, [new_subject() for _ in range(3)]
    reached = asyncio.Event()

    async def around(call: StoreCall, ahead: Any) -> Any:
        if call.mode == "reserve" and max(subjects).encode() in call.keys[0]:
            reached.set()
            await asyncio.Event().wait()
        return await ahead()

    intercept(limiter, around)
    parts = [Part(core.plan, subject, 10) for subject in subjects]
    task = asyncio.ensure_future(core.drive(reserve_flow(core, parts, "r1", 60)))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def refunded() -> bool:
        return min([(await limiter.peek(subject)).remaining for subject in subjects]) == 1_000

    await soon(refunded)
    intercept(limiter, None)
    assert await core.drive(settle_flow(core, parts, "r1")) == [NONE] * 3
    assert limiter.unsettled == 0
    await limiter.close()
