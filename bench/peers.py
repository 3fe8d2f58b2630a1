"""Other libraries on one server, each called as its own users call it; ample limits, so all calls pass.

Of each library this is the algorithm that needs least time. ``bench.accuracy`` compares all of them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import redis
import redis.asyncio

from bench.accuracy.contenders import missing
from bench.stores import FLOOR, load, plain_client
from service.demo.servers import Server

BARE = "redis-py: `evalsha` of `return 1`"
LIMITS, THROTTLED, PYRATE = NAMES = (
    "limits: fixed window",
    "throttled-py: fixed window",
    "pyrate-limiter: sliding window log",
)
#: More than any run of calls.
_LIMIT = 10**9
_HOUR = 3600
#: Connections that a client of ``redis.asyncio`` may open; its own default of 100 raises an error.
_CONNECTIONS = 2_000

#: Decides for a key; its result is true if the call passed.
Hit = Callable[[str], object]
AsyncHit = Callable[[str], Awaitable[object]]


def notes() -> list[str]:
    """Name the libraries that are not installed."""
    return [f"{name} is not installed (`pip install {name}`)." for name in missing()]


def peers(server: Server, stack: ExitStack) -> dict[str, Hit]:
    """Make the calls of the installed libraries, and redis-py's floor."""
    client: Any = stack.enter_context(plain_client(server))
    sha = load(client, FLOOR)
    made: dict[str, Hit] = {BARE: lambda _: client.evalsha(sha, 0)}
    makers = {"limits": _limits, "throttled": _throttled, "pyrate_limiter": _pyrate}
    for package, make in makers.items():
        if importlib.util.find_spec(package) is not None:
            made |= make(server.url, stack)
    return made


async def async_peers(server: Server, stack: AsyncExitStack) -> dict[str, AsyncHit]:
    """Make the same calls of the libraries for coroutines."""
    client: Any = _async_client(server.url, stack)
    with plain_client(server) as plain:
        sha = load(plain, FLOOR)
    made: dict[str, AsyncHit] = {BARE: lambda _: client.evalsha(sha, 0)}
    makers = {
        "limits": _async_limits,
        "throttled": _async_throttled,
        "pyrate_limiter": _async_pyrate,
    }
    for package, make in makers.items():
        if importlib.util.find_spec(package) is not None:
            made |= await make(server.url, stack)
    return made


def _async_client(url: str, stack: AsyncExitStack) -> Any:
    client: Any = redis.asyncio.Redis.from_url(url, max_connections=_CONNECTIONS)
    stack.push_async_callback(client.aclose)
    return client


def _limits(url: str, _: ExitStack) -> dict[str, Hit]:
    limits: Any = importlib.import_module("limits")
    strategies: Any = importlib.import_module("limits.strategies")
    storage: Any = importlib.import_module("limits.storage")
    strategy = strategies.FixedWindowRateLimiter(storage.RedisStorage(url))
    return {LIMITS: partial(strategy.hit, limits.RateLimitItemPerHour(_LIMIT))}


async def _async_limits(url: str, stack: AsyncExitStack) -> dict[str, AsyncHit]:
    limits: Any = importlib.import_module("limits")
    strategies: Any = importlib.import_module("limits.aio.strategies")
    storage: Any = importlib.import_module("limits.aio.storage")
    settings = {"implementation": "redispy", "max_connections": _CONNECTIONS}
    store = storage.RedisStorage(f"async+{url}", **settings)
    stack.push_async_callback(store.bridge.storage.aclose)
    strategy = strategies.FixedWindowRateLimiter(store)
    return {LIMITS: partial(strategy.hit, limits.RateLimitItemPerHour(_LIMIT))}


def _throttled(url: str, _: ExitStack) -> dict[str, Hit]:
    throttled: Any = importlib.import_module("throttled")
    quota = throttled.per_duration(timedelta(seconds=_HOUR), _LIMIT, burst=_LIMIT)
    store = throttled.RedisStore(server=url)
    limiter = throttled.Throttled(using="fixed_window", quota=quota, store=store)
    return {THROTTLED: lambda key: not limiter.limit(key).limited}


async def _async_throttled(url: str, stack: AsyncExitStack) -> dict[str, AsyncHit]:
    throttled: Any = importlib.import_module("throttled.asyncio")
    quota = throttled.per_duration(timedelta(seconds=_HOUR), _LIMIT, burst=_LIMIT)
    options = {"CONNECTION_POOL_KWARGS": {"max_connections": _CONNECTIONS}}
    store = throttled.RedisStore(server=url, options=options)
    stack.push_async_callback(store._backend.get_client().aclose)
    limiter = throttled.Throttled(using="fixed_window", quota=quota, store=store)

    async def hit(key: str) -> bool:
        return not (await limiter.limit(key)).limited

    return {THROTTLED: hit}


def _pyrate(url: str, stack: ExitStack) -> dict[str, Hit]:
    """Make a bucket for each key, as the library's users do."""
    pyrate: Any = importlib.import_module("pyrate_limiter")
    client = stack.enter_context(redis.Redis.from_url(url))
    rates = [pyrate.Rate(_LIMIT, _HOUR * 1000)]
    buckets: dict[str, Any] = {}

    def hit(key: str) -> bool:
        bucket = buckets.get(key)
        if bucket is None:
            log = pyrate.SlidingWindowLog()
            bucket = buckets[key] = pyrate.RedisBucket.init(rates, client, f"pyrate-{key}", log)
        return bool(bucket.put(pyrate.RateItem(key, bucket.now(), 1)))

    return {PYRATE: hit}


async def _async_pyrate(url: str, stack: AsyncExitStack) -> dict[str, AsyncHit]:
    pyrate: Any = importlib.import_module("pyrate_limiter")
    client = _async_client(url, stack)
    rates = [pyrate.Rate(_LIMIT, _HOUR * 1000)]
    buckets: dict[str, Any] = {}

    async def hit(key: str) -> bool:
        bucket = buckets.get(key)
        if bucket is None:
            log = pyrate.SlidingWindowLog()
            bucket = await pyrate.RedisBucket.init(rates, client, f"pyrate-{key}", log)
            buckets[key] = bucket
        return bool(await bucket.put(pyrate.RateItem(key, bucket.now(), 1)))

    return {PYRATE: hit}
