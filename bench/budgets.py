"""Token budgets: the proxy of docs/token-budgets.md under 200 callers whose estimates are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, NamedTuple

from bench.budget_proxy import KEYS, MODEL, Numbers
from bench.effort import Effort, progress
from bench.sections import Failed, Section, Table
from bench.services import Served, served
from bench.stores import Program
from bench.streams import post, tokens_of
from service.demo.servers import HOST, Server, free_port

CALLERS = 200
#: The shortest and the longest answer, and the tokens of a prompt.
_ANSWER = (20, 180)
_PROMPT = 4
#: Seconds between a denial and the caller's next call, at random.
_AGAIN = (0.5, 1.0)

_RUN = Numbers(minute=2.0, tokens=10_000, streams=CALLERS, pause=0.1, each=20)
#: A budget that lets all callers stream, and slow streams, so that a crash leaves as much as possible.
_CRASH = Numbers(minute=2.0, tokens=1_000_000, streams=CALLERS, pause=0.5, each=20)
#: The crash comes when this number of callers stream: on a busy machine some are always between two calls.
_STREAMING = CALLERS * 9 // 10
#: Seconds within which they stream, and the most that the traces of the crash may last.
_LONGEST = 30.0


class Case(NamedTuple):
    """How calls are estimated: the true cost times one of the factors, at random."""

    name: str
    factors: tuple[float, ...]
    streams: int = CALLERS
    """The model's requests in flight."""


_CASES = (
    Case("right", (1.0,)),
    Case("10 times too high", (10.0,)),
    Case("10 times too low", (0.1,)),
    Case("half too high, half too low", (10.0, 0.1)),
    Case("the same, at most 50 in flight", (10.0, 0.1), 50),
)


class Call(NamedTuple):
    """A call, when its status arrived, and its true cost."""

    at: float
    key: str
    tokens: int

    @property
    def subjects(self) -> tuple[tuple[str, str], ...]:
        """The subjects that pay for it."""
        return ("key", self.key), ("team", KEYS[self.key]), ("model", MODEL)


@dataclass
class Calls:
    """The calls of a run, by what became of them."""

    admitted: list[Call] = field(default_factory=list)
    denied: list[Call] = field(default_factory=list)
    """Those that the limit of tokens denied."""
    crowded: int = 0
    """The number that the limit of requests in flight denied."""
    streaming: int = 0
    """The number of streams that are not complete."""
    streamed: int = 0
    """Tokens that have arrived, and those of the prompts."""

    async def make(self, port: int, key: str, factors: tuple[float, ...]) -> bool:
        """Make one call; return whether it was admitted."""
        tokens = random.randint(*_ANSWER)
        true = _PROMPT + tokens
        body = {
            "model": MODEL,
            "messages": [{"content": f"write {tokens} tokens"}],
            "estimate": max(1, round(true * random.choice(factors))),
        }
        async with post(port, key, body) as stream:
            call = Call(monotonic(), key, true)
            if stream.status == 200:
                self.admitted.append(call)
                self.streaming += 1
                self.streamed += _PROMPT
                async for event in stream.events():
                    self.streamed += tokens_of(event)
                self.streaming -= 1
                return True
            if stream.status != 429:
                raise Failed(f"the proxy answered {stream.status}")
            if await stream.text() == "too many tokens":
                self.denied.append(call)
            else:
                self.crowded += 1
            return False

    async def make_many(
        self, port: int, key: str, factors: tuple[float, ...], seconds: float
    ) -> None:
        """Make one call after the other."""
        end = monotonic() + seconds
        await asyncio.sleep(
            random.uniform(0, 0.2)
        )  # connections of all callers at once may be refused
        while monotonic() < end:
            if not await self.make(port, key, factors):
                await asyncio.sleep(random.uniform(*_AGAIN))

    def start(
        self, port: int, factors: tuple[float, ...], seconds: float
    ) -> list[asyncio.Task[None]]:
        """Start all callers; each API key has as many."""
        keys = [key for key in KEYS for _ in range(CALLERS // len(KEYS))]
        return [asyncio.create_task(self.make_many(port, key, factors, seconds)) for key in keys]

    def by_subject(self) -> dict[tuple[str, str], list[Call]]:
        """Return the admitted calls of each subject, by their time."""
        subjects: dict[tuple[str, str], list[Call]] = defaultdict(list)
        for call in sorted(self.admitted):
            for subject in call.subjects:
                subjects[subject].append(call)
        return subjects


def most_in_a_window(calls: Iterable[Call], seconds: float) -> int:
    """Return the most tokens of the calls admitted in any window; the calls are in order."""
    window: deque[Call] = deque()
    total = most = 0
    for call in calls:
        window.append(call)
        total += call.tokens
        while window[0].at <= call.at - seconds:
            total -= window.popleft().tokens
        most = max(most, total)
    return most


def needless(calls: Calls, numbers: Numbers) -> int:
    """Count the calls that the limit of tokens denied, but not for the true costs of the last minute."""
    subjects = calls.by_subject()

    def has_room(call: Call, subject: tuple[str, str]) -> bool:
        began = call.at - numbers.minute
        used = sum(other.tokens for other in subjects[subject] if began < other.at <= call.at)
        return used + call.tokens <= numbers.limit(subject[0])

    return sum(all(has_room(call, subject) for subject in call.subjects) for call in calls.denied)


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure each case, and then a crash, on each server."""
    seconds = effort.budget_minutes * _RUN.minute
    section = Section("budgets", "Token budgets", _text(seconds))
    for program in programs:
        with (
            Server(program.path) as server,
            progress(f"token budgets on {program.name}", len(_CASES) + 1) as step,
        ):
            records = []
            for case in _CASES:
                numbers = _RUN._replace(streams=case.streams)
                with _proxy(server, numbers) as proxy:
                    calls = asyncio.run(_run(proxy.port, case.factors, seconds))
                records.append(_record(program.name, case, numbers, calls, seconds))
                step()
            with _proxy(server, _CRASH) as proxy:
                crash = asyncio.run(_crash(proxy, server))
            step()
            section.records += [
                *records,
                {"server": program.name, "case": "crash", **asdict(crash)},
            ]
            section.tables.append(_table(program.name, records))
            section.tables.append(crash.table(program.name))
    return section


@contextmanager
def _proxy(server: Server, numbers: Numbers) -> Iterator[Served]:
    """Run the proxy on an empty store."""
    with server.client() as client:
        client.flushall()
    port = free_port()
    command = ["uvicorn", "--factory", "bench.budget_proxy:create_app", "--host", HOST]
    command += ["--port", str(port), "--log-level", "error"]
    environ = {"LIMITER_STORE": server.url, "BUDGET": json.dumps(numbers)}
    with served("the proxy", command, port, environ=environ) as proxy:
        yield proxy


async def _run(port: int, factors: tuple[float, ...], seconds: float) -> Calls:
    calls = Calls()
    await asyncio.gather(*calls.start(port, factors, seconds))
    return calls


def _record(
    server: str, case: Case, numbers: Numbers, calls: Calls, seconds: float
) -> dict[str, Any]:
    """Return the figures of one case."""
    most: dict[str, float] = dict.fromkeys(("model", "team", "key"), 0.0)
    for (kind, _), own in calls.by_subject().items():
        share = most_in_a_window(own, numbers.minute) / numbers.limit(kind)
        most[kind] = max(most[kind], share)
    total = sum(call.tokens for call in calls.admitted)
    return {
        "server": server,
        "case": case.name,
        "admitted": len(calls.admitted),
        "most_in_a_minute": most,
        "mean_in_a_minute": total / seconds * numbers.minute / numbers.tokens,
        "denied": len(calls.denied),
        "denied_without_need": needless(calls, numbers),
        "denied_in_flight": calls.crowded,
    }


def _table(server: str, records: list[dict[str, Any]]) -> Table:
    columns = ["estimates", "admitted", "model: most in a minute / limit", "team", "key"]
    columns += ["model: mean / limit", "denied by tokens", "without need", "denied in flight"]
    rows = [
        [
            record["case"],
            f"{record['admitted']:,}",
            *(f"{share:.2f}" for share in record["most_in_a_minute"].values()),
            f"{record['mean_in_a_minute']:.2f}",
            f"{record['denied']:,}",
            f"{record['denied_without_need']:,}",
            f"{record['denied_in_flight']:,}",
        ]
        for record in records
    ]
    return Table(f"{CALLERS} callers, by their estimates: {server}", columns, rows)


@dataclass
class Crash:
    """What a killed proxy leaves in the store."""

    streams: int
    """Streams that it cut off."""
    tokens: int
    """Tokens charged to the model."""
    streamed: int
    """Tokens that had been streamed, and those of the prompts."""
    leases: int
    """Places of the model that are held."""
    seconds_of_leases: float = 0.0
    """Seconds after the kill until no place was held."""
    seconds_of_tokens: float = 0.0
    """Seconds after the kill until no token was charged."""
    seconds_of_keys: float = 0.0
    """Seconds after the kill until the store had no key."""

    def table(self, server: str) -> Table:
        """Build the table, with one row."""
        columns = ["streams cut off", "tokens charged", "of these never used"]
        columns += ["gone after, s", "leases held", "gone after, s", "no key left after, s"]
        row = [f"{self.streams:,}", f"{self.tokens:,}", f"{self.tokens - self.streamed:,}"]
        row += [f"{self.seconds_of_tokens:.1f}", f"{self.leases:,}"]
        row += [f"{self.seconds_of_leases:.1f}", f"{self.seconds_of_keys:.1f}"]
        return Table(f"After SIGKILL of the proxy: {server}", columns, [row])


async def _crash(served_proxy: Served, server: Server) -> Crash:
    """Kill the proxy while all callers stream, and watch the store until nothing is left."""
    calls = Calls()
    callers = calls.start(served_proxy.port, (1.0,), 60)
    began = monotonic()
    while calls.streaming < _STREAMING:
        if monotonic() - began > _LONGEST:
            raise Failed(f"of {CALLERS} callers, {calls.streaming} stream at a time")
        await asyncio.sleep(0.01)  # no event reports the number: look again
    os.kill(served_proxy.worker, signal.SIGKILL)
    killed = monotonic()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    watch = _CRASH.proxy(server.url)
    limits, places = watch.rates["model"], watch.streams["model"]

    async def charged() -> int:
        decision = await watch.budget.peek(("model", MODEL), limits=limits)
        return _CRASH.tokens - decision.each[1].remaining

    async def held() -> int:
        decision = await watch.in_flight.peek(("model", MODEL), limits=places)
        return _CRASH.streams - decision.remaining

    with server.client() as client:
        async with watch.budget, watch.in_flight:
            crash = Crash(calls.streaming, await charged(), calls.streamed, await held())
            crash.seconds_of_leases = await _gone(held, killed)
            crash.seconds_of_tokens = await _gone(charged, killed)

            async def keys() -> int:
                return int(client.dbsize())

            crash.seconds_of_keys = await _gone(keys, killed)
    return crash


async def _gone(count: Callable[[], Any], since: float) -> float:
    """Wait until nothing is counted; return the seconds since then."""
    while await count():
        if monotonic() - since > _LONGEST:
            raise Failed(f"a crash of the proxy has left traces for {_LONGEST:g} seconds")
        await asyncio.sleep(0.02)  # no event reports an expiry: look again
    return monotonic() - since


def _text(seconds: float) -> str:
    low, high = _ANSWER
    return (
        f"The proxy of docs/token-budgets.md under uvicorn, and {CALLERS} callers, which make one call "
        f"after the other for {seconds:g} s; ten share a key, and five keys a team. A minute is scaled "
        f"down to {_RUN.minute:g} s. In it the model has {_RUN.tokens:,} tokens, a team half of that, and "
        f"a key a tenth. An answer has {low} to {high} tokens, {_RUN.each} each {_RUN.pause:g} s. After a "
        f"denial the caller waits {_AGAIN[0]:g} to {_AGAIN[1]:g} s. *Most in a minute*: the true tokens of "
        "the calls admitted in any window of a minute; of keys and teams, the one with most. *Without "
        "need*: the true tokens of the calls admitted in the minute before would have left room, for key, "
        f"team and model. At the crash a minute is {_CRASH.minute:g} s, a lease {_CRASH.minute / 2:g} s, "
        f"at least {_STREAMING} callers stream, and their estimates are right."
    )
