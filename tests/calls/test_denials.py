"""The denial cache never denies what the store would admit, and ``retry_after`` is never too short.

``World`` passes the time in: to the store's scripts, to the cache, and for the way of a call to the
store and back. Wrong caches, made by a change of the source, must each be found by a check.
"""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from limiter import (
    GCRA,
    AsyncLimiter,
    Concurrency,
    FixedWindow,
    Limiter,
    RateLimited,
    SlidingLog,
    StoreUnavailable,
    base,
    core,
    denials,
    several,
)
from limiter.call import Block, Call, CallTemplate
from limiter.plan import Part
from limiter.policyfile import Policies
from limiter.testing import StoreCall, intercept, set_time, store_away
from limiter.web import limiter_calls
from limiter.web.request import Request
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, PATIENCE, RATES
from tests.parallel import in_child, in_threads

#: In microseconds, a sum of powers of two in seconds: then the clock's floats are exact.
MOMENT = 15_625

#: Seconds; longer than any test.
LONG = 1_000.0


def names_of(subject: str) -> list[dict[str, Any]]:
    """Three subjects: the calls of the first are kept, those of the others are not."""
    return [{"key": subject}, {"key": (subject, 1)}, {"key": subject, "tag": f"{subject}-tag"}]


class World:
    """The time of one or several limiters, of their store and of their denial caches.

    A call takes ``there_us`` to the store and ``back_us`` from it.
    """

    def __init__(self, there_us: int = 0, back_us: int = 0) -> None:
        self.now_us = NOW_US
        self.there_us = there_us
        self.back_us = back_us
        #: When the store decided last.
        self.decided_us = 0
        #: The modes of the calls that reached the store.
        self.calls: list[str] = []
        #: Runs once after the next decision, while the reply is under way.
        self.meanwhile: Callable[[], Any] | None = None
        #: Whether replies to these modes are lost.
        self.loses: set[str] = set()

    def clock(self) -> float:
        """The clock of a process."""
        return (self.now_us - NOW_US) / 1e6 + 4096.0

    def add(self, limiter: Any) -> None:
        """Give the time to a limiter."""
        transport = limiter._core.transport
        if limiter._core.denials is not None:
            limiter._core.denials.clock = self.clock
        if "run" in vars(transport):  # it is shared, and has its time already
            return
        run = transport.run

        def arrive(call: Call) -> Call:
            self.now_us += self.there_us
            self.decided_us = self.now_us
            template = call.template
            self.calls.append(template.mode)
            timed = CallTemplate(
                template.mode, template.at_least, self.now_us, template.blocks, template.step
            )
            return Call(timed, call.keys, call.tag)

        def leave(call: Call) -> None:
            self.now_us += self.back_us
            if call.template.mode in self.loses:
                raise StoreUnavailable("the reply was lost")

        def sync(call: Call, deadline: float | None = None) -> Any:
            reply = run(arrive(call), deadline)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                in_threads(1, lambda _: meanwhile())
            leave(call)
            return reply

        async def awaited(call: Call, deadline: float | None = None) -> Any:
            reply = await run(arrive(call), deadline)
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await asyncio.to_thread(meanwhile)
            leave(call)
            return reply

        transport.run = awaited if inspect.iscoroutinefunction(run) else sync
        transport.begin = lambda *_: None


#: Makes a limiter in a world.
Timed = Callable[..., Any]


@pytest.fixture
def timed(make_on: Make, store: str) -> Timed:
    """Make a limiter with a denial cache, in the time of a world."""

    def made(world: World, limits: Any, **settings: Any) -> Any:
        limiter = make_on(
            settings.pop("store", store), limits, **{"denial_cache": LONG, **settings}
        )
        world.add(limiter)
        return limiter

    return made


def deny(limiter: Any, name: dict[str, Any]) -> Any:
    """Use a subject up, and return the first denial."""
    while (decision := limiter.hit(**name)).allowed:
        pass
    assert not decision.cached
    return decision


def known(decision: Any) -> dict[str, Any]:
    """All fields of a decision, except whether it was cached."""
    fields: dict[str, Any] = decision.to_dict()
    for part in [fields, *fields["each"]]:
        del part["cached"]
    return {**fields, "at": decision.decided_at}


# --- rules 1 to 4: what is kept, until when, and what is answered ---


def check_it_ends_before_the_store_admits(timed: Timed, subject: str) -> None:
    """However long the reply takes: the time to the next unit counts from sending."""
    for place, policy in enumerate(RATES):
        world = World(back_us=MOMENT)
        limiter = timed(world, policy, name=f"ends{place}")
        for name in names_of(subject):
            denied = deny(limiter, name)
            world.now_us = world.decided_us + round(denied.retry_after * 1e6) + 1
            decision = limiter.hit(**name)
            assert decision.allowed
            assert not decision.cached


def check_retry_after_is_never_too_short(timed: Timed, subject: str) -> None:
    """However long the call takes to the store: the times of an answer count from receipt."""
    for place, policy in enumerate(RATES):
        world = World(there_us=MOMENT)
        limiter = timed(world, policy, name=f"short{place}")
        for name in names_of(subject):
            denied = deny(limiter, name)
            world.now_us += 5 * MOMENT
            cached = limiter.hit(**name)
            assert cached.cached
            for after in ("retry_after", "reset_after"):
                promised = world.now_us + round(getattr(cached, after) * 1e6)
                assert promised >= world.decided_us + round(getattr(denied, after) * 1e6)


def check_the_answer_is_the_stores(timed: Timed, subject: str) -> None:
    """Without room, every field is as the store says at that moment, and the store is not called."""
    alone: list[Any] = list(RATES)
    for place, limits in enumerate([*alone, *[[rate, FixedWindow(99, "day")] for rate in RATES]]):
        world = World()
        limiter = timed(world, limits, name=f"exact{place}")
        for name in names_of(subject):
            assert deny(limiter, name).remaining == 0
            for _ in range(3):
                world.now_us += MOMENT
                calls = len(world.calls)
                cached = limiter.hit(**name)
                assert len(world.calls) == calls
                assert cached.cached
                assert not cached.degraded
                assert not cached
                assert cached.granted == 0
                assert known(cached) == known(limiter.peek(**name))


def check_an_answer_is_rounded_up(timed: Timed, subject: str) -> None:
    """A wait in whole microseconds is not shorter than the exact one."""
    world = types.SimpleNamespace(now=0.0)
    cache = denials.DenialCache(LONG, denials.Marks(), 8, lambda: world.now)
    call = Call(CallTemplate("hit", 0, 0, (Block(SlidingLog(1, 1), 0, 1),)), (b"key",))
    cache.received(call, cache.clock(), cache.marks.last, (0, 0, 100, 200, 0, 7))
    world.now = 1.75e-6
    assert cache.answer(call) == (0, 0, 99, 199, 0, 8)


def check_no_longer_than_the_setting(timed: Timed, subject: str) -> None:
    """After ``denial_cache`` seconds the store is asked again; until then a reset elsewhere is not seen."""
    world = World()
    limiter = timed(world, FixedWindow(2, 60), denial_cache=0.25)
    elsewhere = timed(world, FixedWindow(2, 60), denial_cache=0.0)
    deny(limiter, {"key": subject})
    elsewhere.reset(subject)
    world.now_us += 250_000 - 1
    assert limiter.hit(subject).cached
    world.now_us += 1
    assert limiter.hit(subject).allowed


def check_the_shortest_wait_counts(timed: Timed, subject: str) -> None:
    """Three policies deny for different times: after the first, ``each`` would be wrong."""
    world = World()
    limiter = timed(world, [GCRA(1, 1), FixedWindow(1, 4), SlidingLog(1, 16)])
    assert deny(limiter, {"key": subject}).retry_after == 16
    for later_us in (MOMENT, 500_000, 2_000_000, 5_000_000, 15_000_000):
        world.now_us = NOW_US + later_us
        assert known(limiter.hit(subject)) == known(limiter.peek(subject))


# --- rules 5 and 6: other calls, other costs ---


def check_others_only_postpone(timed: Timed, subject: str) -> None:
    """While other calls take units, a cached denial holds, and its wait is a lower bound."""
    draw = Random(7)
    for place, policy in enumerate(RATES):
        world = World()
        own = timed(world, policy, name=f"others{place}")
        other = timed(world, policy, name=f"others{place}", denial_cache=0.0)
        answered = 0
        for _ in range(150):
            world.now_us += draw.choice((0, MOMENT, 1_000_000, 7_000_000))
            cost = draw.choice((1, 1, 2, 5))
            if draw.random() < 0.4:
                other.hit(subject, cost)
                continue
            if draw.random() < 0.1:
                with suppress(RateLimited), other.reserve(subject, 1) as reservation:
                    reservation.settle(3)
                continue
            decision = own.hit(subject, cost)
            if decision.cached:
                answered += 1
                truth = other.peek(subject, cost)
                assert not truth.allowed
                assert decision.retry_after <= truth.retry_after
        assert answered > 5, policy


def check_another_cost_is_another_call(timed: Timed, subject: str) -> None:
    """Cost 5 is denied with 3 left: cost 1 passes, and cost 6 is asked, since its wait is not known."""
    for place, name in enumerate((subject, (subject, 1))):
        world = World()
        limiter = timed(world, SlidingLog(10, 60), name=f"cost{place}")
        assert limiter.hit(name, 7).allowed
        assert not limiter.hit(name, 5)
        assert limiter.hit(name, 5).cached
        assert limiter.hit(name, 1).allowed
        assert not limiter.hit(name, 6).cached
        assert limiter.hit(name, 5).cached
        assert limiter.hit(name, 5, at_least=1).granted == 2
        assert not limiter.hit(name, limits="9/minute").cached
        assert limiter.hit(name, limits="9/minute").cached


# --- rule 7: refunds and resets of this process ---


def check_a_reset_while_the_denial_is_under_way(timed: Timed, subject: str) -> None:
    """The denial was decided before the reset, and comes after it."""
    world = World()
    limiter = timed(world, FixedWindow(2, 60))
    for name in names_of(subject):
        limiter.hit(**name)
        limiter.hit(**name)
        world.meanwhile = partial(limiter.reset, **name)
        assert not limiter.hit(**name)
        assert limiter.hit(**name).allowed


def check_what_gives_units_back(timed: Timed, subject: str) -> None:
    """Each ends the denial: also through another limiter that shares the connections."""
    world = World()
    limiter = timed(world, FixedWindow(2, 60))
    twin = timed(world, FixedWindow(2, 60), store=inner(limiter), denial_cache=0.0)

    def settle(cost: int) -> Callable[[], None]:
        def settled() -> None:
            limiter.reset(subject)
            with limiter.reserve(subject, 2) as reservation:
                deny(limiter, {"key": subject})
                reservation.settle(cost)

        return settled

    for refund in (
        lambda: limiter.reset(subject),
        lambda: limiter.refund(subject),
        lambda: twin.reset(subject),
        lambda: twin.refund(subject),
        settle(1),
        settle(0),
    ):
        with suppress(AssertionError):  # cached since the last round
            deny(limiter, {"key": subject})
        assert limiter.hit(subject).cached
        refund()
        assert limiter.hit(subject).allowed


def check_what_may_have_refunded(timed: Timed, subject: str) -> None:
    """A refund or a reset whose reply is lost may have run: the store is asked."""
    world = World()
    limiter = timed(world, FixedWindow(2, 60))
    for mode, refund in (("refund", limiter.refund), ("reset", limiter.reset)):
        with suppress(AssertionError):
            deny(limiter, {"key": subject})
        assert limiter.hit(subject).cached
        world.loses = {mode}
        with pytest.raises(StoreUnavailable):
            refund(subject)
        assert limiter.hit(subject).allowed


# --- joint calls ---


def check_joint_calls(timed: Timed, subject: str) -> None:
    """A denial of several subjects holds for the same ones; a reset of any of them ends it."""
    world = World()
    limiter = timed(world, FixedWindow(2, 60))
    # Two free subjects, since one may by chance have the same mark as the full one.
    full, free, other = f"{subject}-full", f"{subject}-free", f"{subject}-other"
    limiter.hit(full, 2)
    for items in ([(full, 1)], [(free, 1), (full, 1)], [(other, 1), (full, 1)]):
        assert not limiter.hit_all(items)
        again = limiter.hit_all(items)
        assert [decision.cached for decision in again] == [True] * len(items)
        assert [decision.granted for decision in again] == [0] * len(items)
        assert [bool(decision) for decision in again] == [key != full for key, _ in items]
        assert not limiter.hit_all([*items, (f"{free}-2", 1)])[0].cached
        limiter.reset(full)
        assert limiter.hit_all(items)
        assert limiter.hit(full, 1).allowed


def check_the_shortest_setting_counts(timed: Timed, subject: str) -> None:
    """Of several limiters in one call; if one of them has no cache, the store is asked each time."""
    world = World()
    settings = {"first": 0.5, "second": 0.25, "off": 0.0}
    limiters: list[Any] = []
    for name, seconds in settings.items():
        shared = {"store": inner(limiters[0])} if limiters else {}
        limits = FixedWindow(1, "day")
        limiters.append(timed(world, limits, name=name, denial_cache=seconds, **shared))

    def cached(*deciding: Any) -> bool:
        parts = [Part(limiter_calls.plan(inner(each)), subject, 1) for each in deciding]
        flow = limiter_calls.decide_flow([inner(each) for each in deciding], parts, "hit", "")
        decisions = driven(limiters[0], flow)
        assert not all(decisions)
        return bool(decisions[0].cached)

    first, second, off = limiters
    deny(first, {"key": subject})
    for deciding, from_cache in (((first, second), True), ((first, off), False)):
        assert not cached(*deciding)
        assert cached(*deciding) == from_cache
        world.now_us += 250_000
        assert not cached(*deciding)


def check_shadow_mode_denies_nothing(timed: Timed, subject: str) -> None:
    """A joint call in which only a part in shadow mode has no room is charged each time."""
    world = World()
    limiter = timed(world, FixedWindow(100, "day"), name="charged")
    shadow = timed(world, FixedWindow(1, "day"), name="shadow", store=inner(limiter))
    shadow.hit(subject)
    plans = [limiter_calls.plan(inner(each)) for each in (limiter, shadow)]
    parts = [Part(plans[0], subject, 1), Part(plans[1], subject, 1, shadow=True)]
    for _ in range(3):
        flow = limiter_calls.decide_flow([inner(limiter), inner(shadow)], parts, "hit", "")
        charged, shadowed = driven(limiter, flow)
        assert charged.granted == 1
        assert not shadowed.allowed
        assert not shadowed.cached


def driven(limiter: Any, flow: Any) -> Any:
    """The result of a flow of a limiter's core."""
    result = limiter._core.drive(flow)
    return limiter.loop.run(result) if inspect.iscoroutine(result) else result


def inner(limiter: Any) -> Any:
    """The limiter itself."""
    return getattr(limiter, "inner", limiter)


# --- the checks, with the cache and with wrong ones ---

CHECKS = [
    check_it_ends_before_the_store_admits,
    check_retry_after_is_never_too_short,
    check_the_answer_is_the_stores,
    check_an_answer_is_rounded_up,
    check_no_longer_than_the_setting,
    check_the_shortest_wait_counts,
    check_others_only_postpone,
    check_another_cost_is_another_call,
    check_a_reset_while_the_denial_is_under_way,
    check_what_gives_units_back,
    check_what_may_have_refunded,
    check_joint_calls,
    check_the_shortest_setting_counts,
    check_shadow_mode_denies_nothing,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__[6:])
@pytest.mark.usefixtures("way")
def test_the_denial_cache(check: Callable[[Timed, str], None], timed: Timed, subject: str) -> None:
    check(timed, subject)


class Mutant(NamedTuple):
    """A change that breaks ``limiter/denials.py``, and the check that must find it."""

    name: str
    old: str
    new: str
    check: Callable[..., None]


MUTANTS = [
    Mutant(
        "valid from receipt",
        "until = sent + ",
        "until = received + ",
        check_it_ends_before_the_store_admits,
    ),
    Mutant(
        "waits from sending",
        "Denial(until, received, ",
        "Denial(until, sent, ",
        check_retry_after_is_never_too_short,
    ),
    Mutant(
        "valid for the setting alone",
        "min(shortest_us / 1e6, self.seconds)",
        "self.seconds",
        check_others_only_postpone,
    ),
    Mutant(
        "valid for the wait alone",
        "min(shortest_us / 1e6, self.seconds)",
        "shortest_us / 1e6",
        check_no_longer_than_the_setting,
    ),
    Mutant("the longest wait", "= min(filter(", "= max(filter(", check_the_shortest_wait_counts),
    Mutant(
        "waits as then",
        "retry_us - elapsed, reset_us - elapsed, 0, at",
        "retry_us, reset_us, 0, at",
        check_the_answer_is_the_stores,
    ),
    Mutant("rounded", "elapsed = int(", "elapsed = round(", check_an_answer_is_rounded_up),
    Mutant(
        "found by the keys alone",
        "(call.template, call.keys)",
        "call.keys",
        check_another_cost_is_another_call,
    ),
    Mutant(
        "marked at receipt",
        "self.marks.last is not last",
        "self.marks.last is None",
        check_a_reset_while_the_denial_is_under_way,
    ),
    Mutant(
        "without marks",
        " or denial.mark != self.marks.of(call.keys)",
        "",
        check_what_gives_units_back,
    ),
    Mutant("no resets", '{"refund", "reset"}', '{"refund"}', check_what_gives_units_back),
    Mutant("no refunds", '{"refund", "reset"}', '{"reset"}', check_what_gives_units_back),
    Mutant(
        "the first key's mark alone",
        "if len(keys) == 1:",
        "if keys:",
        check_joint_calls,
    ),
    Mutant("shadow mode denies", " and not block.shadow", "", check_shadow_mode_denies_nothing),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
@pytest.mark.usefixtures("way")
def test_a_wrong_cache_is_found(
    mutant: Mutant, timed: Timed, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(denials.__file__).read_text()
    assert mutant.old in source
    wrong: dict[str, Any] = {"__name__": "limiter.wrong_denials"}
    exec(source.replace(mutant.old, mutant.new), wrong)  # noqa: S102 (our own source)
    for module in (base, core, several, denials):
        for name in ("DenialCache", "GIVING_BACK", "Marks", "hit_flow"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, wrong[name])
    with pytest.raises(AssertionError):
        mutant.check(timed, subject)


# --- rule 8: reload, memory ---


def test_a_reload_of_the_policies_drops_the_denials(store: str, tmp_path: Path) -> None:
    """A raised limit admits at once; an unchanged file keeps them."""
    file = tmp_path / "policies.toml"
    text = "[policies.p]\nkey = 'global'\nlimits = '{limit}/day'\n"
    file.write_text(text.format(limit=1))
    with closing(Policies(file, store=store, prefix=tmp_path.name, timeout=PATIENCE)) as policies:
        get = Request("GET", "localhost", "/", {}, "203.0.113.9")
        assert policies.guard.enter(get)
        assert not policies.guard.enter(get)
        assert policies.guard.enter(get).results[0].decision.cached
        assert policies.reload()
        assert policies.guard.enter(get).results[0].decision.cached
        file.write_text(text.format(limit=2))
        assert policies.reload()
        assert policies.guard.enter(get)


@pytest.mark.parametrize("size", [0, 8])
def test_a_flood_of_subjects_takes_a_bounded_memory(
    make_on: Make, store: str, subject: str, size: int
) -> None:
    """In both kinds of calls, at most twice the size is kept; with 0, nothing is."""
    limiter = make_on(store, FixedWindow(1, "day"), denial_cache=LONG, denial_cache_size=size)
    for number in range(40):
        for key in (f"{subject}-{number}", (subject, number)):
            limiter.hit(key)
            assert not limiter.hit(key)
            assert limiter.hit(key).cached == bool(size)
    for kept in (limiter._core.calls, limiter._core.denials._of_others):
        assert len(kept) <= size
        assert len(kept._older) <= size
    many = [(f"{subject}-{number}", 1) for number in range(40)]
    assert not limiter.hit_all(many)
    assert not limiter.hit_all(many)[0].cached


# --- rule 9: which calls are answered ---


def counted(limiter: Any) -> list[str]:
    """The modes of the limiter's calls to its store, from now on."""
    modes: list[str] = []

    def count(call: StoreCall, ahead: Callable[[], Any]) -> Any:
        modes.append(call.mode)
        return ahead()

    intercept(inner(limiter), count)
    return modes


@pytest.mark.parametrize("setting", [0.05, LONG])
@pytest.mark.parametrize("key", ["plain", ("a", "tuple")])
def test_wait_sleeps_until_the_store_admits(
    make_on: Make, store: str, subject: str, setting: float, key: Any
) -> None:
    """It may begin with a cached denial; its next try asks the store."""
    limiter = make_on(store, SlidingLog(1, 0.2), name=subject, denial_cache=setting)
    limiter.hit(key)
    assert not limiter.hit(key)
    modes = counted(limiter)
    decision = limiter.wait(key, timeout=PATIENCE)
    assert decision.allowed
    assert not decision.cached
    # A slow machine may begin the wait when the short setting has ended.
    assert len(modes) in ((1, 2) if setting < LONG else (1,))


def test_a_reservation_may_be_denied_from_the_cache(
    make_on: Make, store: str, subject: str
) -> None:
    """As a hit of the same cost, with the same call."""
    limiter = make_on(store, FixedWindow(1, "day"), denial_cache=LONG)
    deny(limiter, {"key": subject})
    modes = counted(limiter)
    with pytest.raises(RateLimited) as raised, limiter.reserve(subject, 1):
        pass
    assert raised.value.decision.cached
    with pytest.raises(RateLimited) as raised:
        limiter.wait(subject, timeout=0)
    assert raised.value.decision.cached
    assert not modes


def test_a_peek_asks_the_store(make_on: Make, store: str, subject: str) -> None:
    """It is the way to learn the state now."""
    limiter = make_on(store, FixedWindow(1, "day"), denial_cache=LONG)
    deny(limiter, {"key": subject})
    modes = counted(limiter)
    assert not limiter.peek(subject).cached
    assert modes == ["peek"]


@pytest.mark.parametrize(
    "limits",
    [Concurrency(1, lease=60), [Concurrency(1, lease=60), FixedWindow(9, "day")]],
    ids=["alone", "with a rate"],
)
def test_a_hold_asks_the_store(make_on: Make, store: str, subject: str, limits: Any) -> None:
    """Another process may release its lease at any time."""
    limiter = make_on(store, limits, denial_cache=LONG)
    elsewhere = make_on(store, limits)
    with elsewhere.hold(subject):
        for _ in range(2):
            with pytest.raises(RateLimited) as raised, limiter.hold(subject):
                pass
            assert not raised.value.decision.cached
    with limiter.hold(subject):
        pass


def test_a_time_that_was_set_asks_the_store(make_on: Make, store: str, subject: str) -> None:
    """A simulation moves its time as it likes."""
    limiter = make_on(store, FixedWindow(1, "day"), denial_cache=LONG)
    deny(limiter, {"key": subject})
    set_time(inner(limiter), NOW_US)
    for key in (subject, (subject, 1)):
        for _ in range(3):
            assert not limiter.hit(key).cached
    set_time(inner(limiter), NOW_US + 86_400_000_000)
    assert limiter.hit(subject).allowed
    set_time(inner(limiter), None)
    assert limiter.hit(subject).cached


def test_memory_has_no_cache(make_on: Make, subject: str) -> None:
    """The store itself is as fast, and exact."""
    limiter = make_on("memory://", FixedWindow(1, "day"), denial_cache=LONG)
    deny(limiter, {"key": subject})
    assert not limiter.hit(subject).cached


@pytest.mark.parametrize("on_error", ["raise", "allow", "deny", "local"])
def test_a_cached_denial_precedes_the_fallback(
    make_on: Make, store: str, subject: str, on_error: str
) -> None:
    """While the store is away, too, it holds: the store would deny."""
    limiter = make_on(store, FixedWindow(1, "day"), denial_cache=LONG, on_error=on_error)
    deny(limiter, {"key": subject})
    with store_away(inner(limiter)):
        decision = limiter.hit(subject)
    assert decision.cached
    assert not decision.degraded
    assert not decision


# --- rule 7, where a charge is refunded because another subject denies ---


def test_the_refund_of_a_sequential_hit(make_on: Make, cluster: Any, subject: str) -> None:
    """A hit in between is denied; after the refund the subject has room again."""
    limiter = make_on(cluster.url, FixedWindow(1, "day"), denial_cache=LONG)
    first, second = f"{subject}-1", f"{subject}-2"
    own = inner(limiter)
    own._core.transport.one_slot = lambda _: False
    limiter.hit(second)
    between: list[Any] = []

    async def ahit_between(call: StoreCall, ahead: Callable[[], Any]) -> Any:
        if call.mode == "refund":
            between.append(await own.hit(first))
        return await ahead()

    def hit_first(call: StoreCall, ahead: Callable[[], Any]) -> Any:
        if call.mode == "refund":
            between.append(own.hit(first))
        return ahead()

    intercept(own, ahit_between if isinstance(own, AsyncLimiter) else hit_first)
    assert not limiter.hit_all([(first, 1), (second, 1)])
    assert [decision.allowed for decision in between] == [False]
    assert limiter.hit(first).allowed


# --- rule 10: threads, forks, event loops ---


def test_a_forked_child(store: str, subject: str) -> None:
    """It knows the parent's denials, and its own refunds end them."""
    limiter = Limiter(FixedWindow(1, "day"), store=store, timeout=PATIENCE, denial_cache=LONG)
    deny(limiter, {"key": subject})

    def refund_in_the_child() -> None:
        assert limiter.hit(subject).cached
        limiter.refund(subject)
        assert limiter.hit(subject).allowed

    assert in_child(refund_in_the_child) == 0
    assert limiter.hit(subject).cached
    limiter.close()


@pytest.mark.parametrize("call", ["hit", "tuple", "reserve", "hit_all"])
def test_tasks_that_poll_leave_others_their_turn(store: str, subject: str, call: str) -> None:
    """A cached denial does not wait for the store: 64 tasks that repeat it would never suspend."""

    async def poll(limiter: AsyncLimiter) -> None:
        if call == "reserve":
            with suppress(RateLimited):
                async with limiter.reserve(subject, 1):
                    pass
        elif call == "hit_all":
            await limiter.hit_all([(subject, 1)])
        else:
            await limiter.hit(subject if call == "hit" else (subject, 1))

    async def main() -> None:
        limits = FixedWindow(1, "day")
        async with AsyncLimiter(
            limits, store=store, timeout=PATIENCE, denial_cache=LONG
        ) as limiter:
            await poll(limiter)
            await poll(limiter)
            polls, most = 0, 100_000
            done = False

            async def poller() -> None:
                nonlocal polls
                while not done and polls < most:
                    polls += 1
                    await poll(limiter)

            pollers = [asyncio.create_task(poller()) for _ in range(64)]
            turns = 0
            while turns < 3:
                await asyncio.sleep(0)
                turns += 1
            done = True
            await asyncio.gather(*pollers)
            assert polls < most, "the ticker got no turn"

    asyncio.run(main())


@pytest.mark.parametrize("join", [True, False])
async def test_calls_at_once(store: str, subject: str, join: bool) -> None:
    """Joined or not, as many pass as there are units; a reset then admits as many again."""
    settings: dict[str, Any] = {"timeout": PATIENCE, "denial_cache": LONG, "join": join}
    async with AsyncLimiter(FixedWindow(10, "day"), store=store, **settings) as limiter:
        for _ in range(2):
            decisions = await asyncio.gather(*[limiter.hit(subject) for _ in range(64)])
            assert sum(map(bool, decisions)) == 10
            assert (await limiter.hit(subject)).cached
            await limiter.reset(subject)
