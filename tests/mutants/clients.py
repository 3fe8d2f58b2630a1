"""Broken clients: each is a limiter that does one thing otherwise, and the check that catches it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from redis.crc import key_slot

from limiter import FixedWindow, Limiter, LimiterError, StoreRefused, StoreUnavailable, keys
from limiter.decision import Decision
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
    assert len({call.rest for call in calls}) == len(subjects)
    for call in [*calls, tagged]:
        key = call.rest.split(b"\r\n")[1]
        assert key_slot(key) == key_slot(call.tag), key


class LocalClock(Limiter):
    """Tells the script the time of the client's clock."""

    ahead_us = 0

    def hit(self, key: keys.Key, cost: int = 1, **more: Any) -> Decision:
        """As a client that trusts its own clock."""
        self._now_us = time.time_ns() // 1000 + self.ahead_us
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
        self._plan._keys = Verbatim("rl", self.name)


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


MUTANTS = [
    Mutant("the client's own clock", "H24", LocalClock, check_one_clock),
    Mutant("a second try after a lost reply", "H53", Persistent, check_charged_once),
    Mutant("check, then act", "H05", LooksFirst, check_exact),
    Mutant("the script is loaded before every call", "H32", Loads, check_commands),
    Mutant("any error admits", "H69", AllowsOnAnyError, check_refusal_is_no_decision),
    Mutant("subjects stand in keys as they are", "H37", SpellsVerbatim, check_subjects_are_apart),
    Mutant("the cost is lost", "H21", ForgetsCost, check_cost),
]
