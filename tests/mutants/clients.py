"""Broken clients: each is a limiter that does one thing otherwise, and the check that catches it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from redis.crc import key_slot

from limiter import (
    Concurrency,
    FixedWindow,
    Limiter,
    LimiterError,
    SlidingLog,
    StoreRefused,
    StoreUnavailable,
    keys,
)
from limiter.aio import AsyncLimiter
from limiter.decision import Decision
from limiter.flows import Pause
from limiter.testing import set_time
from limiter.transport import async_connection
from tests.machines.support import new_key
from tests.proxy import Proxy, cut, forward

Make = Callable[..., Limiter]
#: Raises where the limiter is broken; told how to make one, and the address of a server.
Check = Callable[[Make, str], None]


class Mutant(NamedTuple):
    """What is broken, and by which check that must be seen."""

    name: str
    hazard: str
    make: Make
    check: Check


def new_name() -> str:
    """A subject that no other check has."""
    return new_key("mutant")[4:].partition("}")[0]


def check_exact(make: Make, url: str) -> None:
    """Eight threads begin at once, and exactly the limit is admitted; again and again."""
    with make("5/hour", store=url, name="mutants", timeout=5.0) as limiter:
        for _ in range(5):
            subject, start, admitted = new_name(), threading.Barrier(8), []

            def work(subject: str = subject, start: Any = start, admitted: Any = admitted) -> None:
                start.wait()
                admitted.extend(bool(limiter.hit(subject)) for _ in range(2))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(admitted) == 5, f"{sum(admitted)} of 5 were admitted"


def check_one_clock(make: Make, url: str) -> None:
    """A caller whose own clock is ahead is admitted no earlier."""
    subject, policy = new_name(), FixedWindow(5, per=60)
    with make(policy, store=url, name="mutants", timeout=5.0) as limiter:
        early = sum(bool(limiter.hit(subject)) for _ in range(5))
        limiter.ahead_us = 120_000_000  # type: ignore[attr-defined]
        late = sum(bool(limiter.hit(subject)) for _ in range(5))
    assert (early, late) == (5, 0)


def check_charged_once(make: Make, url: str) -> None:
    """A call whose reply is lost is an error, and was charged once."""
    subject = new_name()
    with redis.Redis.from_url(url) as client:
        address = client.connection_pool.connection_kwargs
    with (
        Proxy((address["host"], address["port"])) as proxy,
        make(FixedWindow(9, per=60), store=proxy.url, name="mutants", timeout=5.0) as limiter,
    ):

        def cut_once(data: bytes) -> bytes:
            proxy.replies = forward
            return cut(data)

        limiter.hit(subject)
        proxy.replies = cut_once
        with suppress(StoreUnavailable):
            limiter.hit(subject)
    with make(FixedWindow(9, per=60), store=url, name="mutants", timeout=5.0) as limiter:
        assert limiter.peek(subject).remaining == 7


def check_commands(make: Make, url: str) -> None:
    """One command decides; after the server has lost its scripts, one more, which brings the text."""

    def ran() -> dict[str, int]:
        stats = client.info("commandstats")
        return {name[8:]: one["calls"] for name, one in stats.items()}

    with (
        redis.Redis.from_url(url) as client,
        make("5/hour", store=url, name="mutants", timeout=5.0) as limiter,
    ):
        limiter.hit(new_name())
        for flush, expected in [(False, {"evalsha": 1}), (True, {"evalsha": 1, "eval": 1})]:
            if flush:
                client.script_flush()
            before = ran()
            limiter.hit(new_name())
            after = ran()
            counted = {
                name: after.get(name, 0) - before.get(name, 0)
                for name in ("evalsha", "eval", "script|load", "get", "set", "incr")
            }
            # Redis does not count a call of a script that it does not have as rejected.
            assert {name: n for name, n in counted.items() if n} == expected


def check_refusal_is_no_decision(make: Make, url: str) -> None:
    """What a caller may provoke never admits: a key that something else has taken is an error."""
    subject = new_name()
    with (
        redis.Redis.from_url(url) as client,
        make(
            FixedWindow(5, per=60), store=url, name="mutants", on_error="allow", timeout=5.0
        ) as limiter,
    ):
        client.set(f"rl:{{{subject}}}:mutants:v1", "something else", ex=60)
        try:
            decision = limiter.hit(subject)
        except StoreRefused:
            return
        raise AssertionError(f"{decision!r} is a decision of nobody")


def check_subjects_are_apart(make: Make, url: str) -> None:
    """No two subjects share a key, and the slot is that of the whole subject."""
    subjects = ["a", "}a", "a}", "{a}", "a}{b", "a,b", ("a", "b"), ("a,b",), "a:b", ("a:b",), "a\n"]
    with make("5/hour", store=url, name="mutants", timeout=5.0) as limiter:
        calls = [limiter._plan.call("peek", subject, 1) for subject in subjects]
        tagged = limiter._plan.call("peek", "a", 1, tag="}")
    assert len({call.keys for call in calls}) == len(subjects)
    for call in [*calls, tagged]:
        (key,) = call.keys
        assert key_slot(key) == key_slot(call.tag), key


class LocalClock(Limiter):
    """Tells the script the time of the client's clock."""

    ahead_us = 0

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """As a client that trusts its own clock."""
        set_time(self, time.time_ns() // 1000 + self.ahead_us)
        return super().hit(key, cost, **more)


class Persistent(Limiter):
    """Sends a call again when its reply did not come."""

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """As redis-py does by default."""
        try:
            return super().hit(key, cost, **more)
        except StoreUnavailable:
            return super().hit(key, cost, **more)


class LooksFirst(Limiter):
    """Checks, then acts."""

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """In two round trips, between which others come."""
        seen = self.peek(key, cost)
        if seen:
            time.sleep(0.001)  # what the network takes between two machines
            super().hit(key, cost, **more)
        return seen


class Loads(Limiter):
    """Loads the script before every call, so as never to see NOSCRIPT."""

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """In two round trips, the second of which fails when one node of a cluster is away."""
        self.open()
        return super().hit(key, cost, **more)


class AllowsOnAnyError(Limiter):
    """Fails open, whatever failed."""

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """As middleware does that catches everything."""
        try:
            return super().hit(key, cost, **more)
        except LimiterError:
            return Decision.without_store(self.policies, allowed=True)


class Verbatim(keys.KeySpeller):
    """Puts subjects into keys as they are."""

    def _subject(self, key: keys.Key) -> bytes:
        parts = key if isinstance(key, tuple) else (key,)
        return b",".join(str(part).encode() for part in parts)

    def state(self, key: keys.Key, tag: keys.Key | None = None) -> tuple[bytes, bytes]:
        """Without looking at what the subject is made of."""
        subject = self._subject(key)
        if tag is None:
            return self._before + subject + self._after, subject
        shared = self._subject(tag)
        return self._before + shared + b"}:" + subject + self._after_tagged, shared


class SpellsVerbatim(Limiter):
    """Lets a subject's braces and commas into the key."""

    def __init__(self, *limits: Any, **settings: Any) -> None:
        super().__init__(*limits, **settings)
        self._plan.keys = Verbatim("rl", self.name)


class ForgetsCost(Limiter):
    """Charges one, whatever a call costs."""

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """As a wrapper that does not pass its argument on."""
        return super().hit(key, min(cost, 1), **more)


def check_cost(make: Make, url: str) -> None:
    """What a call costs is gone."""
    with make("5/hour", store=url, name="mutants", timeout=5.0) as limiter:
        subject = new_name()
        assert limiter.hit(subject, cost=4).granted == 4
        assert not limiter.hit(subject, cost=2)


def check_settled_once(make: Make, url: str) -> None:
    """What a reservation gives back is given back once, and what it charges beyond is charged once."""
    with make("20/hour", store=url, name="mutants", timeout=5.0) as limiter:
        for actual, left in ((4, 16), (9, 11)):
            subject = new_name()
            limiter.hit(subject, 9)  # what is used by others cannot hide what is given back twice
            with limiter.reserve(subject, 6) as reserved:
                reserved.settle(actual)
            assert limiter.peek(subject).remaining == left - 9


class SettlesTwice(Limiter):
    """Sends a settlement again, as if the first had not arrived."""

    def _settling(self, reserved: Any, actual: int) -> Any:
        yield from super()._settling(reserved, actual)
        reserved.settled = False
        yield from super()._settling(reserved, actual)


def check_exceptions_give_back(make: Make, url: str) -> None:
    """A body that fails has used nothing."""
    with make("20/hour", store=url, name="mutants", timeout=5.0) as limiter:
        subject = new_name()
        with suppress(ZeroDivisionError), limiter.reserve(subject, 6):
            raise ZeroDivisionError
        assert limiter.peek(subject).remaining == 20


class KeepsTheCharge(Limiter):
    """Does not look at how the body of a reservation ended."""

    def _settling(self, reserved: Any, actual: int) -> Any:
        if actual:
            yield from super()._settling(reserved, actual)


def check_renewed(make: Make, url: str) -> None:
    """A lease outlives its length for as long as its holder holds it."""
    policy = Concurrency(1, lease=0.4)
    with make(policy, store=url, name="mutants", timeout=5.0) as limiter:
        subject = new_name()
        with limiter.hold(subject):
            time.sleep(0.6)  # it has to outlive its length
            assert not limiter.peek(subject), "somebody else may hold it"


class NeverRenews(Limiter):
    """Takes a lease, and trusts that its body is quick."""

    def _renewing(self, held: Any, lease: str, asked: float) -> Any:
        yield Pause(3_600)


def check_lost(make: Make, url: str) -> None:
    """A holder whose lease is gone is told."""
    with make(Concurrency(1, lease=0.4), store=url, name="mutants", timeout=5.0) as limiter:
        subject, lost = new_name(), threading.Event()
        with limiter.hold(subject, on_lost=lost.set):
            limiter.reset(subject)
            assert lost.wait(1.0), "nobody said so"


class TakesForGranted(Limiter):
    """Renews, and does not look at the answer."""

    def _changing_lease(self, held: Any, mode: str) -> Any:
        yield from super()._changing_lease(held, mode)
        return True


def check_no_ghost(make: Make, url: str) -> None:
    """A lease that was taken, but whose reply was lost, does not stay until it ends."""
    subject = new_name()
    with redis.Redis.from_url(url) as client:
        address = client.connection_pool.connection_kwargs
    with (
        Proxy((address["host"], address["port"])) as proxy,
        make(Concurrency(1, lease=60), store=proxy.url, name="mutants", timeout=0.2) as limiter,
        make(Concurrency(1, lease=60), store=url, name="mutants", timeout=5.0) as sure,
    ):
        limiter.peek(subject)
        proxy.replies = cut
        with suppress(StoreUnavailable), limiter.hold(subject):
            raise AssertionError("the reply was lost")
        proxy.replies = forward
        assert not sure.peek(subject)
        end = time.monotonic() + 2.0
        while not sure.peek(subject):
            assert time.monotonic() < end, "the ghost stays"
            time.sleep(0.02)  # nothing tells us


class LeavesGhosts(Limiter):
    """Has no lease where it has no reply."""

    def _forget(self, *what: Any) -> None:
        """As a client that draws no id beforehand."""


def check_given_back(make: Make, url: str) -> None:
    """Of subjects that are charged in turn, none keeps the charge of a call that another denied."""
    with make("5/hour", store=url, name="mutants", timeout=5.0) as limiter:
        limiter._one_slot = lambda _: False  # type: ignore[method-assign]
        first, last = new_name(), new_name()
        limiter.hit(last, 5)
        assert not all(limiter.hit_all([(first, 2), (last, 1)]))
        assert limiter.peek(first).remaining == 5


class KeepsWhatItTook(Limiter):
    """Gives nothing back."""

    def _undoing(self, *what: Any) -> Any:
        """Without a word to the store."""
        yield from ()


def check_share(make: Make, url: str) -> None:
    """While the store is away, each of four limiters gives out a quarter."""
    nowhere = "redis://127.0.0.1:1/0"
    limiter = make(
        "20/hour", store=nowhere, name="mutants", on_error="local", local_share=4, timeout=0.05
    )
    admitted = sum(bool(limiter.hit("somebody")) for _ in range(20))
    limiter.close()
    assert admitted == 5, f"{admitted} of 5"


class TakesAll(Limiter):
    """Believes that it is alone."""

    def __init__(self, *limits: Any, **settings: Any) -> None:
        settings.pop("local_share", None)
        super().__init__(*limits, **settings)


def check_waits_as_told(make: Make, url: str) -> None:
    """Whoever waits asks again when it would pass, and not all the time."""
    with (
        redis.Redis.from_url(url) as client,
        make(SlidingLog(1, per=0.3), store=url, name="mutants", timeout=5.0) as limiter,
    ):
        subject = new_name()
        limiter.hit(subject)
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert limiter.wait(subject)
        asked = client.info("commandstats")["cmdstat_evalsha"]["calls"] - before
        assert asked == 2, f"it asked {asked} times"


class AsksAllTheTime(Limiter):
    """Waits by trying."""

    def wait(self, key: keys.Key, cost: int = 1, *more: Any, **rest: Any) -> Decision:
        """As a loop around hit."""
        while not (decision := self.hit(key, cost)):
            time.sleep(0.01)
        return decision


def check_replies_are_ones_own(make: Make, url: str) -> None:
    """After a call of a coroutine was cancelled, the next one is told what it asked, not the other."""

    async def main() -> None:
        first, second = new_name(), new_name()
        async with AsyncLimiter("9/hour", store=url, name="mutants", timeout=5.0) as limiter:
            await limiter.hit(second)
            call = asyncio.ensure_future(limiter.hit(first, 5))
            while not call.done() and not _under_way(limiter):
                await asyncio.sleep(0)
            call.cancel()
            assert (await limiter.hit(second)).remaining == 7

    there = async_connection.AsyncConnection
    async_connection.AsyncConnection = getattr(make, "connection", there)  # type: ignore[misc]
    try:
        asyncio.run(main())
    finally:
        async_connection.AsyncConnection = there  # type: ignore[misc]


def _under_way(limiter: AsyncLimiter) -> bool:
    (loop_transport,) = limiter._transport._by_loop.values()  # type: ignore[union-attr]
    return any(connection.sent for connection in loop_transport.closer.connections)


class ForgetsTheCancelled(async_connection.AsyncConnection):
    """Takes whoever gave up out of the queue, whose reply comes all the same."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """As a client that forgets a cancelled call."""
        for entry in [entry for entry in self.waiting if entry[1].cancelled()]:
            self.waiting.remove(entry)
        super().data_received(data)


class SwapsReplies(Limiter):
    """Of whom the connections of coroutines are broken."""

    connection = ForgetsTheCancelled


MUTANTS = [
    Mutant("the client's own clock", "H24", LocalClock, check_one_clock),
    Mutant("a second try after a lost reply", "H53", Persistent, check_charged_once),
    Mutant("check, then act", "H05", LooksFirst, check_exact),
    Mutant("the script is loaded before every call", "H32", Loads, check_commands),
    Mutant("any error admits", "H69", AllowsOnAnyError, check_refusal_is_no_decision),
    Mutant("subjects stand in keys as they are", "H37", SpellsVerbatim, check_subjects_are_apart),
    Mutant("the cost is lost", "H21", ForgetsCost, check_cost),
    Mutant("a settlement is sent twice", "H53", SettlesTwice, check_settled_once),
    Mutant("an exception keeps the charge", "H21", KeepsTheCharge, check_exceptions_give_back),
    Mutant("a renewal is never sent", "H105", NeverRenews, check_renewed),
    Mutant("a renewal is always believed", "H105", TakesForGranted, check_lost),
    Mutant("a lost reply leaves a ghost", "H106", LeavesGhosts, check_no_ghost),
    Mutant("nothing is given back", "H09", KeepsWhatItTook, check_given_back),
    Mutant("the local share is all of it", "H67", TakesAll, check_share),
    Mutant("whoever waits asks all the time", "H93", AsksAllTheTime, check_waits_as_told),
    Mutant(
        "a cancelled call's reply is the next one's",
        "H55",
        SwapsReplies,
        check_replies_are_ones_own,
    ),
]
