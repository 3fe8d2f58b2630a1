"""Our algorithms and those of other libraries behind one interface; each as its own users call it.

Only this module imports the other libraries, and only if they are installed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import redis

from bench.accuracy.bounds import BOUNDS
from bench.accuracy.simulated import TIMEOUT, policies
from limiter import Limiter

#: Other libraries: the name of the distribution, and of its package.
PEERS = {"limits": "limits", "throttled-py": "throttled", "pyrate-limiter": "pyrate_limiter"}


class Answer(NamedTuple):
    """A contender's answer to a call for one unit."""

    allowed: bool
    retry_us: float
    """Time after which to call again, in microseconds from now, if the call was denied."""
    decided_us: int | None = None
    """Time of the decision, if the contender reports it."""


#: One client of a contender: a call asks for one unit.
Client = Callable[[], Answer]


class Contender(NamedTuple):
    """One algorithm of one library, under one limit."""

    library: str
    name: str
    bound: int
    """The most that an algorithm of this kind admits in a period."""
    words: str
    """The bound in words."""
    clock: str
    """The clock that decides."""
    client: Callable[[], Client]
    """Makes another client of the same subject, with its own connections."""
    package: str

    @property
    def ours(self) -> bool:
        """Whether it is an algorithm of this library."""
        return self.package == "limiter"


def contenders(url: str, key: str, limit: int, period_us: int) -> list[Contender]:
    """Make all contenders on one server, on unused subjects."""
    every = list(_ours(url, key, limit, period_us))
    for make in (_limits, _throttled, _pyrate):
        try:
            every += make(url, key, limit, period_us)
        except ModuleNotFoundError:
            continue
    return every


def missing() -> list[str]:
    """List the other libraries that are not installed."""
    return [name for name, package in PEERS.items() if importlib.util.find_spec(package) is None]


def _ours(url: str, key: str, limit: int, period_us: int) -> Iterator[Contender]:
    for name, policy in policies(limit, period_us):

        def client(policy: Any = policy) -> Client:
            limiter = Limiter(policy, store=url, name="accuracy", timeout=TIMEOUT).open()

            def ask() -> Answer:
                decision = limiter.hit(key)
                # The store's own time of the decision, the last number of every reply.
                at_us = int(decision._reply[-1])
                return Answer(decision.allowed, decision.retry_after * 1e6, at_us)

            return ask

        bound = BOUNDS[policy.algorithm]
        most = bound.most(policy, period_us)
        yield Contender("slotgate", name, most, bound.words, "server", client, "limiter")


def _limits(url: str, key: str, limit: int, period_us: int) -> Iterator[Contender]:
    """Call ``hit``; after a denial ``get_window_stats().reset_time``, which Flask-Limiter reports."""
    limits: Any = importlib.import_module("limits")
    strategies: Any = importlib.import_module("limits.strategies")
    storage: Any = importlib.import_module("limits.storage")
    item = limits.RateLimitItemPerSecond(limit, period_us // 1_000_000)
    for name, strategy, bound, words, clock in [
        ("fixed window", "FixedWindowRateLimiter", 2 * limit, "2 limit", "server (expiry)"),
        ("moving window", "MovingWindowRateLimiter", limit, "limit", "client"),
        (
            "sliding window counter",
            "SlidingWindowCounterRateLimiter",
            2 * limit,
            "2 limit",
            "server (expiry)",
        ),
    ]:

        def client(strategy: str = strategy) -> Client:
            limiter = getattr(strategies, strategy)(storage.RedisStorage(url))

            def ask() -> Answer:
                if limiter.hit(item, strategy, key):
                    return Answer(True, 0)
                reset = limiter.get_window_stats(item, strategy, key).reset_time
                return Answer(False, (reset - time.time()) * 1e6)

            return ask

        yield Contender("limits", name, bound, words, clock, client, "limits")


def _throttled(url: str, key: str, limit: int, period_us: int) -> Iterator[Contender]:
    """Call ``Throttled.limit``, whose result has ``limited`` and ``state.retry_after``."""
    throttled: Any = importlib.import_module("throttled")
    quota = throttled.per_duration(timedelta(microseconds=period_us), limit, burst=limit)
    for name, using, words, clock in [
        ("fixed window", "fixed_window", "2 limit", "client"),
        ("sliding window", "sliding_window", "2 limit", "client"),
        ("token bucket", "token_bucket", "burst + limit", "server, whole seconds"),
        ("leaky bucket", "leaking_bucket", "burst + limit", "server, whole seconds"),
        ("GCRA", "gcra", "burst + limit", "server"),
    ]:

        def client(using: str = using) -> Client:
            store = throttled.RedisStore(server=url)
            limiter = throttled.Throttled(using=using, quota=quota, store=store)

            def ask() -> Answer:
                result = limiter.limit(key)
                return Answer(not result.limited, float(result.state.retry_after) * 1e6)

            return ask

        yield Contender("throttled-py", name, 2 * limit, words, clock, client, "throttled")


def _pyrate(url: str, key: str, limit: int, period_us: int) -> Iterator[Contender]:
    """Call a bucket's ``put``, and after a denial its ``waiting``, as the library's Limiter does."""
    pyrate: Any = importlib.import_module("pyrate_limiter")
    rates = [pyrate.Rate(limit, period_us // 1_000)]

    def log(algorithm: str, connection: Any) -> Any:
        own = f"pyrate-{algorithm}-{key}"
        return pyrate.RedisBucket.init(rates, connection, own, getattr(pyrate, algorithm)())

    def state(algorithm: str, connection: Any) -> Any:
        store = pyrate.RedisStateStore(connection, f"pyrate-{algorithm}-{key}")
        return pyrate.StateBucket(rates, getattr(pyrate, algorithm)(), store)

    for name, algorithm, make, bound, words in [
        ("sliding window log", "SlidingWindowLog", log, limit, "limit"),
        ("fixed window", "FixedWindow", log, 2 * limit, "2 limit"),
        ("GCRA", "GCRA", state, 2 * limit, "burst + limit"),
    ]:

        def client(algorithm: str = algorithm, make: Callable[[str, Any], Any] = make) -> Client:
            bucket = make(algorithm, redis.Redis.from_url(url))

            def ask() -> Answer:
                item = pyrate.RateItem(key, bucket.now(), 1)
                if bucket.put(item):
                    return Answer(True, 0)
                return Answer(False, bucket.waiting(item) * 1e3)

            return ask

        yield Contender("pyrate-limiter", name, bound, words, "client", client, "pyrate_limiter")


class _Ahead(types.ModuleType):
    """The module ``time`` of a process whose wall clock is ahead."""

    def __init__(self, seconds: float) -> None:
        super().__init__("time")
        ahead_ns = round(seconds * 1e9)
        self.__dict__.update(vars(time))
        self.time = lambda: time.time() + seconds
        self.time_ns = lambda: time.time_ns() + ahead_ns


def clock_ahead(package: str, seconds: float) -> Callable[[], Any]:
    """Make a context in which an imported package sees a wall clock that is ``seconds`` ahead.

    Only the wall clock changes, and only for this package. Algorithms that use the store's time are not
    affected.
    """
    ahead = _Ahead(seconds)
    instead = {time: ahead, time.time: ahead.time, time.time_ns: ahead.time_ns}
    patches = [
        (module, name, value, instead[value])
        for module in [
            module
            for name, module in sys.modules.items()
            if name == package or name.startswith(f"{package}.")
        ]
        for name, value in list(vars(module).items())
        if isinstance(value, types.ModuleType | types.BuiltinFunctionType) and value in instead
    ]

    @contextmanager
    def shifted() -> Iterator[None]:
        for module, name, _, value in patches:
            setattr(module, name, value)
        try:
            yield
        finally:
            for module, name, value, _ in patches:
                setattr(module, name, value)

    return shifted


def versions() -> dict[str, str]:
    """Return the installed versions of the other libraries."""
    return {
        name: importlib.metadata.version(name)
        for name, package in PEERS.items()
        if importlib.util.find_spec(package) is not None
    }
