"""The rules of prepaid units in simulated time: how many are taken, how long they live, what they admit.

The adversaries hold units back and spend them at the worst moment. Three wrong rules are kept as mutants:
each exceeds a bound, so these tests would find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import (
    GCRA,
    Concurrency,
    FixedWindow,
    InvalidSetting,
    LeakyBucket,
    Limiter,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.call import Reply
from limiter.keys import KeySpeller
from limiter.memory import MemoryStore
from limiter.plan import Plan
from limiter.policies import Policy
from limiter.prepaid import PrepaidUnits, Terms

SECOND = 1_000_000
#: A multiple of every period here, so that aligned windows begin at it.
BEGIN_US = 1_790_000_000 * SECOND
HOLD = 0.2
TIMEOUT = 0.01


def terms_of(*policies: Policy, most: int = 100, hold: float = HOLD, local_share: int = 1) -> Terms:
    """The terms of a limiter with these policies."""
    return Terms(policies, most, hold, local_share, TIMEOUT)


# --- how many ---


def last(total: int, left: int = 0, began: float = 0.0, room: int = 1_000_000) -> PrepaidUnits:
    """Units that were taken at ``began``."""
    reply = (total, room, 0, 60 * SECOND, 0, BEGIN_US)
    return PrepaidUnits("u", reply, began, began, began + HOLD, inf, total, left)


@pytest.mark.parametrize(
    ("units", "now", "size"),
    [
        (PrepaidUnits("u"), 0.0, 1),  # the first call asks how much room there is
        (last(1), 0.001, 2),
        (last(10), 0.001, 20),
        (last(80), 0.001, 100),  # no more than ``prepaid``
        (last(100), 0.1, 100),
        (last(40), 0.1, 40),  # used up in half a hold: as many again
        (last(40), 0.16, 25),
        (last(40, left=30), 0.2, 10),  # expired: what was used
        (last(40, left=40), 0.2, 1),
        (last(40, left=30), 20.0, 1),  # what was used long ago says nothing about now
        (last(1), 60.0, 1),
        (last(0), 0.001, 1),  # denied
        (last(80, room=60), 0.001, 30),  # half of the room
        (last(80, room=0), 0.001, 1),
    ],
)
def test_the_size_of_the_next_call(units: PrepaidUnits, now: float, size: int) -> None:
    """It follows the use: so units seldom expire, and a call lasts for half a hold."""
    assert terms_of(FixedWindow(1_000_000, 60)).size(units, 1, now) == size


def test_each_process_takes_its_part_of_the_room() -> None:
    """Of 60 units, half of the share of one of three processes."""
    assert terms_of(FixedWindow(1_000, 60), local_share=3).size(last(80, room=60), 1, 0.01) == 10


def test_never_more_than_a_call_may_cost() -> None:
    """The smallest of the policies' limits."""
    terms = terms_of(FixedWindow(1_000, 60), TokenBucket(1_000, 60, burst=7))
    assert terms.size(last(80), 1, 0.01) == 7


@given(
    st.integers(0, 200), st.integers(0, 200), st.floats(0, 100), st.integers(0, 10**6),
    st.integers(1, 50),
)  # fmt: skip
def test_the_bounds_of_a_size(total: int, left: int, now: float, room: int, lacking: int) -> None:
    """At least what is lacking; beyond it never more than allowed, doubled, or half of the room."""
    units = last(total, min(left, total), room=room)
    size = terms_of(FixedWindow(1_000_000, 60)).size(units, lacking, now)
    assert lacking <= size <= max(lacking, min(100, 2 * total, room // 2))


# --- how long ---


def reply_of(*resets_us: int, granted: int = 10) -> Reply:
    """A reply of policies that count as unused after these times."""
    blocks: list[float] = []
    for reset_us in resets_us:
        blocks += [granted, 50, 0, reset_us, 0]
    return [*blocks, BEGIN_US]


@pytest.mark.parametrize(
    ("policies", "resets", "until", "return_by"),
    [
        ([FixedWindow(100, 60)], [30.0], HOLD, 30.0 - TIMEOUT),
        ([FixedWindow(100, 60)], [0.05], 0.05, 0.05 - TIMEOUT),
        ([SlidingWindow(100, 60)], [60.05], 0.05, 0.05 - TIMEOUT),
        ([SlidingLog(100, 60)], [60.2], HOLD, 60 - TIMEOUT),
        ([TokenBucket(100, 60)], [30.0], HOLD, 1.5 * HOLD),
        ([GCRA(100, 60)], [0.01], HOLD, 1.5 * HOLD),
        ([FixedWindow(100, 60), SlidingWindow(100, 1), GCRA(9, 1)], [30, 1.1, 1], 0.1, 0.09),
        ([SlidingLog(100, 60), GCRA(9, 1)], [60.2, 1], HOLD, 1.5 * HOLD),
    ],
)
def test_how_long_units_live(
    policies: list[Policy], resets: list[float], until: float, return_by: float
) -> None:
    """No longer than the hold, nor beyond the end of any window that they were charged to."""
    reply = reply_of(*[round(reset * 1e6) for reset in resets])
    units = terms_of(*policies).received("u", reply, 100.0, 100.3, 9)
    assert (units.until, units.return_by) == pytest.approx((100 + until, 100 + return_by))
    assert (units.total, units.room, len(units.unspent)) == (10, 50, 9)


def test_a_reply_for_a_spent_unit() -> None:
    """What the store left and what is left here; times count from the reply, rounded up."""
    units = terms_of(SlidingLog(100, 60)).received("u", reply_of(60_200_000), 5.0, 5.1, 9)
    assert list(units.reply_of(2, 7, 5.1000019)) == [2, 57, 0, 60_199_999, 0, BEGIN_US + 1]
    several = terms_of(FixedWindow(100, 60), GCRA(9, 1))
    units = several.received("u", reply_of(30_000_000, 20_000), 5.0, 5.0, 9)
    assert list(units.reply_of(1, 8, 5.125)) == [
        *(1, 58, 0, 29_875_000, 0), *(1, 58, 0, 0, 0), BEGIN_US + 125_000,
    ]  # fmt: skip


def test_a_peek_sees_the_units_that_are_here() -> None:
    """A hit would pass; a bucket shows no more than it holds, though it was refilled meanwhile."""
    terms = terms_of(GCRA(10, 1), FixedWindow(10, 60))
    reply = [0, 9, 0, 100_000, 0, 0, 1, 40_000_000, 40_000_000, 0, BEGIN_US]
    assert terms.with_own(reply, 4, 5)[1:8] == [10, 0, 100_000, 0, 0, 5, 0]
    assert terms.with_own(reply, 4, 6)[6:8] == [5, 40_000_000]


@given(st.lists(st.integers(1, 6)), st.integers(0, 20))
def test_spending_gives_no_unit_twice(costs: list[int], left: int) -> None:
    """A cost is spent as a whole or not at all; what is taken out may be put back."""
    units = last(left, left)
    for cost in costs:
        expected = left - cost if cost <= left else -1
        assert units.spend(cost) == expected
        left = expected if expected >= 0 else left
        units.put_back(units.take_out(2))
        assert units.unspent == list(range(left))
    assert units.take_out() == list(reversed(range(left)))


# --- wrong settings ---


@pytest.mark.parametrize(
    ("limits", "settings", "message"),
    [
        (LeakyBucket(5, 1), {}, "prepaid is 100: expected 0 for LeakyBucket(5, per=1), since each"),
        (
            [FixedWindow(5, 1), Concurrency(5, lease=1)],
            {},
            "prepaid is 100: expected 0 for Concurrency(5, lease=1), since its units are leases",
        ),
        (
            SlidingLog(5, 0.2),
            {},
            "prepaid_hold is 0.2: expected seconds below the period of SlidingLog(5, per=0.2)",
        ),
        ("5/s", {"prepaid": -1}, "prepaid is -1: expected a whole number from 0 to 10,000"),
        ("5/s", {"prepaid": True}, "prepaid is True: expected a whole number from 0 to 10,000"),
        ("5/s", {"prepaid": 1.0}, "prepaid is 1.0: expected a whole number from 0 to 10,000"),
        ("5/s", {"prepaid": 10_001}, "prepaid is 10001: expected a whole number from 0 to"),
        ("5/s", {"prepaid_hold": 0}, "prepaid_hold is 0: expected seconds from 0.001"),
    ],
)  # fmt: skip
def test_a_wrong_setting(limits: Any, settings: dict[str, Any], message: str) -> None:
    """The message names the policy, and what is accepted; on every store."""
    with pytest.raises(InvalidSetting) as caught:
        Limiter(limits, store="memory://", **{"prepaid": 100, **settings})
    assert str(caught.value).startswith(message)


def test_a_short_log_may_have_a_shorter_hold() -> None:
    """As the message advises."""
    Limiter(SlidingLog(5, 0.2), store="memory://", prepaid=100, prepaid_hold=0.1)


def test_the_environment() -> None:
    """Both settings, and an error that names the variable."""
    environ = {"LIMITER_STORE": "redis://127.0.0.1:1", "LIMITER_LIMITS": "5/s"}
    given_both = {**environ, "LIMITER_PREPAID": "50", "LIMITER_PREPAID_HOLD": "0.1"}
    terms = Limiter.from_env(given_both)._core.prepaid._terms  # type: ignore[union-attr]
    assert (terms.most, terms.hold, terms.hold_us) == (5, 0.1, 100_000)
    assert Limiter.from_env(environ)._core.prepaid is None
    for variable, value, accepted in [
        ("LIMITER_PREPAID", "5.5", "expected a whole number"),
        ("LIMITER_PREPAID", "-5", "expected a whole number from 0"),
        ("LIMITER_PREPAID_HOLD", "2h", "expected seconds"),
    ]:
        with pytest.raises(InvalidSetting, match=f"^{variable}.*{accepted}"):
            Limiter.from_env({**given_both, variable: value})


def test_memory_has_none() -> None:
    """``memory://`` saves no round trip: the setting has no effect."""
    limiter = Limiter("10/day", store="memory://", prepaid=100)
    assert limiter._core.prepaid is None
    assert [limiter.hit("u").cached for _ in range(3)] == [False] * 3


# --- adversaries ---


class World:
    """One store and the units that processes hold, in simulated time."""

    def __init__(self, policy: Policy, terms: Terms) -> None:
        self.policy, self.terms = policy, terms
        self.now_us = BEGIN_US
        self.held: list[PrepaidUnits] = []
        #: When each unit was used, and how many at once.
        self.used: list[tuple[int, int]] = []
        self._store = MemoryStore()
        self._plan = Plan((policy,), KeySpeller("rl", "t"))

    @property
    def now(self) -> float:
        """The time of the processes' clock."""
        return (self.now_us - BEGIN_US) / SECOND

    def _ask(self, mode: str, cost: int, at_least: int | None = None, hold_us: int = 0) -> Reply:
        call = self._plan.call(mode, "u", cost, at_least, None, self.now_us, hold_us=hold_us)
        return self._store.run(call)

    def take(self, units: int) -> None:
        """A process takes units in advance."""
        reply = self._ask("hit", units, 1, self.terms.hold_us)
        if reply[0]:
            taken = self.terms.received("u", reply, self.now, self.now, int(reply[0]))
            self.held.append(taken)

    def spend(self) -> None:
        """Every process uses what it may."""
        for units in self.held:
            if units.unspent and self.now < units.until:
                self.used.append((self.now_us, len(units.take_out())))

    def return_units(self) -> None:
        """Every process returns what it may."""
        for units in self.held:
            if self.now <= units.return_by and (left := len(units.take_out())):
                self._ask("refund", left)

    def flood(self, until_us: int) -> None:
        """Other processes use all that the store admits, at the first moment."""
        while self.now_us < until_us:
            most = self.policy.most_cost
            reply = self._ask("hit", most, 1)
            if reply[0]:
                self.used.append((self.now_us, int(reply[0])))
            else:
                self.now_us += max(1, int(reply[2]))

    def most(self, window_us: int) -> int:
        """The most used in any window."""
        most = inside = oldest = 0
        for used_us, units in self.used:
            inside += units
            while self.used[oldest][0] + window_us <= used_us:
                inside -= self.used[oldest][1]
                oldest += 1
            most = max(most, inside)
        return most

    def most_of_own(self) -> int:
        """The most used in one aligned window of a second."""
        return max(
            sum(units for at_us, units in self.used if at_us // SECOND == second)
            for second in {at_us // SECOND for at_us, _ in self.used}
        )


def adversary(policy: Policy, held: int, terms: Terms, take_us: int, spend_us: int) -> World:
    """Open a window, hold units, use them at the last moment, and flood the store from before it on."""
    world = World(policy, terms)
    world.used.append((world.now_us, int(world._ask("hit", 1)[0])))
    world.now_us += take_us
    for _ in range(held // 100):
        world.take(100)
    world.now_us = BEGIN_US + spend_us
    world.flood(world.now_us + 1)
    world.now_us = BEGIN_US + spend_us
    world.spend()
    world.return_units()
    world.flood(BEGIN_US + spend_us + SECOND)
    return world


#: When units are taken and when they are used: at once, at the last moment of their hold, around the end of
#: the window that the first hit opened, and when they have just expired.
MOMENTS = [
    (0, 0), (0, 199_999), (0, 200_000), (500_000, 699_999), (799_999, 999_998), (800_000, 999_999),
    (900_000, 999_999), (900_000, 1_000_000), (900_000, 1_099_999), (999_999, 1_000_000),
    (999_999, 1_199_998), (700_000, 1_000_000),
]  # fmt: skip

LIMIT, RATE_BURST = 1_000, 300
FIXED, SLIDING = FixedWindow(LIMIT, 1, align=True), SlidingWindow(LIMIT, 1)
LOG, BUCKET = SlidingLog(LIMIT, 1), TokenBucket(LIMIT, 1, burst=RATE_BURST)


def most_of(policy: Policy, held: int, kind: type[Terms] = Terms) -> tuple[int, int]:
    """The most that an adversary gets in any window of one period, and in an own one."""
    worlds = [
        adversary(policy, held, kind([policy], 100, HOLD, 1, TIMEOUT), *moments)
        for moments in MOMENTS
    ]
    return max(world.most(SECOND) for world in worlds), max(world.most_of_own() for world in worlds)


class NeverReturned(Terms):
    """Units that expire always lapse."""

    def received(self, *args: Any) -> PrepaidUnits:
        """As the right rule, but for the return."""
        units = super().received(*args)
        units.return_by = -inf
        return units


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("held", [0, 100, 400])
@pytest.mark.parametrize(
    ("policy", "bound", "most_loosened"),
    [(FIXED, 2 * LIMIT, 0), (SLIDING, 2 * LIMIT - 2, 0), (LOG, LIMIT, 0), (BUCKET, 1_300, 300)],
    ids=["fixed window", "sliding window", "log", "bucket"],
)
def test_the_bound_with_units_held_back(
    policy: Policy, bound: int, most_loosened: int, held: int
) -> None:
    """Units held back loosen the bound of a bucket alone: by what it refills until they are returned."""
    any_window, own = most_of(policy, held)
    loosened = min(held, most_loosened)
    assert bound + loosened - 3 <= any_window <= bound + loosened
    if policy is FIXED:
        assert own == LIMIT


@pytest.mark.parametrize("held", [0, 100, 400])
def test_the_bound_of_a_bucket_without_returns(held: int) -> None:
    """Then it is loosened by what the bucket refills in a hold, less the unit of the last moment."""
    most = RATE_BURST + LIMIT + min(held, 200)
    assert most_of(BUCKET, held, NeverReturned)[0] in (most - 1, most)


class KeptBeyondTheWindow(Terms):
    """Wrong: units live for the whole hold, also when their window has ended."""

    def received(self, *args: Any) -> PrepaidUnits:
        """As the right rule, but for the end."""
        units = super().received(*args)
        units.until = units.began + self.hold
        return units


class ReturnedTooLate(Terms):
    """Wrong: units are returned whenever they have expired, also into the next window."""

    def received(self, *args: Any) -> PrepaidUnits:
        """As the right rule, but for the return."""
        units = super().received(*args)
        units.return_by = inf
        return units


class Unstamped(Terms):
    """Wrong: a log counts units from when they were taken, not from when they were last used."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.hold_us = 0


@pytest.mark.parametrize("held", [100, 400])
@pytest.mark.parametrize(
    ("policy", "kind", "own"),
    [
        (FIXED, KeptBeyondTheWindow, True),
        (FIXED, ReturnedTooLate, True),
        (LOG, Unstamped, False),
    ],
)
def test_wrong_rules_exceed_a_bound(
    policy: Policy, kind: type[Terms], own: bool, held: int
) -> None:
    """By all the units that are held: so the adversaries above would find such a rule."""
    assert most_of(policy, held, kind)[own] == LIMIT + held


_STEP_US = 50_000
_MOVES = st.sampled_from(["take", "spend", "return", "hit", "wait"])


@given(
    st.lists(st.tuples(_MOVES, st.integers(1, 8)), max_size=60),
    st.sampled_from(
        [FixedWindow(4, 1, align=True), SlidingWindow(4, 1), SlidingLog(4, 1), GCRA(4, 1)]
    ),
)
def test_the_bounds_in_any_history(moves: Sequence[tuple[str, int]], policy: Policy) -> None:
    """Takes, uses and returns in any order, at moments that lie on the ends of windows and of holds."""
    world = World(policy, Terms([policy], 100, HOLD, 1, TIMEOUT))
    held = 0
    for move, number in moves:
        if move == "wait":
            world.now_us += number * _STEP_US
        elif move == "take":
            world.take(min(number, 4))
        elif move == "spend":
            world.spend()
        elif move == "return":
            world.return_units()
        else:
            reply = world._ask("hit", min(number, 4), 1)
            if reply[0]:
                world.used.append((world.now_us, int(reply[0])))
        held = max(held, sum(len(units.unspent) for units in world.held))
    if not world.used:
        return
    most = world.most(SECOND)
    if policy.algorithm == "fixed_window":
        assert world.most_of_own() <= 4
        assert most <= 8
    elif policy.algorithm == "sliding_window":
        assert most <= 6
    elif policy.algorithm == "sliding_log":
        assert most <= 4
    else:
        assert most <= 4 + 4 + min(
            held, 2
        )  # returned up to 1.5 holds after the take: 1.2 units refill
