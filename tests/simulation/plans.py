"""One schedule, drawn from a seed: a store, a limiter, its calls, and what goes wrong."""

from __future__ import annotations

import random
from typing import NamedTuple

from limiter import FixedWindow, SlidingLog, TokenBucket
from limiter.policies import Policy
from tests.simulation.network import Weather
from tests.simulation.stores import mishaps_of

#: So slow that nothing is refilled during a schedule, so large that nothing is denied by chance.
PLENTY = FixedWindow(1_000_000, "day")
LIMITS: list[list[Policy]] = [
    [PLENTY],
    [SlidingLog(50_000, "day")],
    [TokenBucket(100_000, "year")],
    [PLENTY, SlidingLog(50_000, "day")],
    [PLENTY, TokenBucket(100_000, "year")],
    [FixedWindow(40, "day")],
]

#: Mishaps after which each call is decided all the same, if the network does nothing but split data.
CALM = frozenset({"scripts are flushed", "slots move", "slots have moved"})

#: The parts of the weather, and how bad each may be.
_WEATHER = {
    "spike": 0.15,
    "split": 0.5,
    "reset": 0.04,
    "finish": 0.03,
    "silence": 0.03,
    "refusal": 0.3,
    "no_answer": 0.3,
    "full": 0.2,
}


class PlannedCall(NamedTuple):
    """A call of the limiter."""

    at: float
    """Seconds after the beginning."""
    kind: str
    subject: str
    cost: int
    count: int = 1
    """How many equal calls are made in one turn."""
    cancelled_after: float | None = None


class Plan(NamedTuple):
    """What happens in one schedule, besides what the network does to each piece of data."""

    is_calm: bool
    """Whether nothing happens that may keep the store from deciding a call in time."""
    store: str
    in_loop: bool
    """Whether the limiter is an AsyncLimiter; else a Limiter with several threads."""
    policies: list[Policy]
    on_error: str
    timeout: float
    connect_timeout: float
    opens: bool
    weather: Weather
    calls: list[PlannedCall]
    threads: int
    mishaps: list[tuple[float, str, float]]
    """When each begins, what it is, and how long it takes."""
    stalls: list[tuple[float, float]]
    closes_at: float | None
    """When the limiter is closed in the middle, with calls under way."""
    stays_closed: bool
    """Whether no later call uses it again."""
    seconds: float
    gives_way: float
    """How likely a thread lets others go first where it need not wait."""


def draw(seed: int) -> Plan:
    """Draw the plan of a seed."""
    choose = random.Random(seed)
    is_calm = choose.random() < 0.2
    seconds = choose.uniform(0.05, 0.4 if is_calm else 1.5)
    timeout = 0.3 if is_calm else choose.choice([0.05, 0.1, 0.1, 0.25])
    in_loop = choose.random() < 0.6
    store = choose.choice(["one server", "a cluster", "a cluster", "sentinels"])
    kinds = [[name for name in names if not is_calm or name in CALM] for names in mishaps_of(store)]
    kinds = [names for names in kinds if names]
    closes = choose.random() < 0.4
    stays_closed = closes and choose.random() < 0.5
    longest = [0.1] if is_calm else [0.05, 0.3, 1.0]
    return Plan(
        is_calm=is_calm,
        store=store,
        in_loop=in_loop,
        policies=choose.choice(LIMITS),
        on_error=choose.choice(["raise", "raise", "allow", "deny", "local"]),
        timeout=timeout,
        connect_timeout=choose.choice([0.2, 0.5, 1.0]),
        opens=choose.random() < 0.4,
        weather=Weather(split=choose.random()) if is_calm else _weather(choose),
        calls=_calls(choose, seconds, timeout, in_loop, not stays_closed),
        threads=choose.randint(1, 4),
        mishaps=[
            (
                choose.random() * seconds,
                choose.choice(choose.choice(kinds)),
                choose.choice(longest) * choose.random(),
            )
            for _ in range(choose.choice([0, 1, 1, 2, 3]))
        ],
        stalls=[
            (choose.random() * seconds, choose.random() * choose.choice([0.01, 0.3]))
            for _ in range(0 if is_calm else choose.choice([0, 0, 0, 1, 2]))
        ],
        closes_at=choose.random() * seconds if closes else None,
        stays_closed=stays_closed,
        seconds=seconds,
        gives_way=choose.choice([0.0, 0.02, 0.2]),
    )


def _weather(choose: random.Random) -> Weather:
    worst = choose.sample(sorted(_WEATHER), choose.choice([0, 0, 1, 2, 3]))
    parts = {name: _WEATHER[name] * choose.random() for name in worst}
    return Weather(
        delay=choose.choice([0.0001, 0.001]), longest=choose.choice([0.02, 0.2]), **parts
    )


def _calls(
    choose: random.Random, seconds: float, timeout: float, in_loop: bool, has_pairs: bool
) -> list[PlannedCall]:
    """Draw the calls; a pair may be two calls and a refund, of which the last may follow ``close``."""
    kinds = {"hit": 5, "shared": 5, "burst": 3, "pair": 2 * has_pairs, "peek": 1, "refund": 1}
    calls = []
    at = 0.0
    count = choose.randint(4, 20)
    for number in range(1, count + 1):
        if choose.random() < 0.7:  # else in the same turn as the call before
            at += choose.expovariate(count / seconds)
        (kind,) = choose.choices([*kinds], [*kinds.values()])
        cancelled = None
        if in_loop and choose.random() < 0.1:
            cancelled = choose.random() * choose.choice([0.001, timeout])
        if kind == "burst" and not in_loop:
            kind = "hit"
        subject = f"own{number}" if kind != "shared" else f"shared{choose.randint(0, 1)}"
        # Costs are unique, so that each charge of a shared subject belongs to one call.
        cost = number if kind != "burst" else choose.randint(1, 3)
        equal = choose.choice([2, 3, 6, 20]) if kind == "burst" else 1
        calls.append(PlannedCall(at, kind, subject, cost, equal, cancelled))
    return calls
