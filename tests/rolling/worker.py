"""A worker of a deployment: it calls limiters by a thread and by coroutines until its input ends.

It runs with the library of any revision, so it uses no more than the calls that all of them have, and no
other module of the tests. Its first line of output is ``ready``; the second one is its record, as JSON.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import limiter

#: A deadline for tests that measure no time.
PATIENCE = 30.0
#: Seconds between two rounds of calls.
PAUSE = 0.02
#: Costs, so that calls of several units are there, too.
COSTS = (1, 2, 1, 3)


def policies_of(case: dict[str, Any]) -> list[Any]:
    """Make the policies of a case."""
    return [getattr(limiter, name)(*numbers) for name, *numbers in case["policies"]]


def make(kind: Any, case: dict[str, Any], store: str) -> Any:
    """Make the limiter of a case; an argument that it does not know is left out."""
    known = set(inspect.signature(kind).parameters) - (
        {"join"} if kind is limiter.Limiter else set()
    )
    options = {name: value for name, value in case.get("options", {}).items() if name in known}
    return kind(policies_of(case), store=store, name="roll", timeout=PATIENCE, **options)


class Worker:
    """What one worker did: decisions, held leases, changes by refunds and settlements, and errors."""

    def __init__(self, store: str, cases: dict[str, dict[str, Any]]) -> None:
        self.cases = cases
        self.limiters = {name: make(limiter.Limiter, case, store) for name, case in cases.items()}
        self.coroutines = {
            name: make(limiter.AsyncLimiter, case, store) for name, case in cases.items()
        }
        self.over = threading.Event()
        #: Case, cost, reply (which ends with the store's time), and monotonic nanoseconds around each hit.
        self.hits: list[tuple[str, int, list[int], int, int]] = []
        #: [begin, end] of each held lease, by the machine's monotonic clock in nanoseconds.
        self.held: list[tuple[int, int]] = []
        #: Units that refunds and settlements left charged.
        self.charged = 0
        self.errors: list[str] = []

    def thread(self) -> None:
        """Call in turn, as a worker of a threaded server does."""
        number = 0
        try:
            while not self.over.wait(PAUSE):
                number += 1
                for name, case in self.cases.items():
                    self._call(name, case, number)
        except limiter.LimiterError as error:
            self.errors.append(repr(error))

    def _call(self, name: str, case: dict[str, Any], number: int) -> None:
        ours, cost = self.limiters[name], COSTS[number % 4]
        if case["kind"] == "hits":
            sent = time.monotonic_ns()
            self._note(name, cost, ours.hit(case["key"], cost, tag=case.get("tag")), sent)
        elif case["kind"] == "leases":
            with suppress(limiter.RateLimited), ours.hold(case["key"]):
                begin = time.monotonic_ns()
                time.sleep(PAUSE / 2)  # other workers must meet a held lease
                self.held.append((begin, time.monotonic_ns()))
        else:
            assert ours.hit(case["key"], 3)
            ours.refund(case["key"], 1)
            with ours.reserve(case["key"], 5) as reservation:
                reservation.settle(2 * cost)
            self.charged += 2 + 2 * cost

    async def loop(self) -> None:
        """Call several times at once, as a worker of an asynchronous server does."""
        number = 0
        try:
            while not self.over.is_set():
                await asyncio.sleep(PAUSE)
                number += 1
                await asyncio.gather(*(self._calls(name, number) for name in self.cases))
        except limiter.LimiterError as error:
            self.errors.append(repr(error))
        for ours in self.coroutines.values():
            await ours.close()

    async def _calls(self, name: str, number: int) -> None:
        case, ours, cost = self.cases[name], self.coroutines[name], COSTS[number % 4]
        if case["kind"] == "hits":
            calls = [ours.hit(case["key"], cost, tag=case.get("tag")) for _ in range(2)]
            sent = time.monotonic_ns()
            for decision in await asyncio.gather(*calls):
                self._note(name, cost, decision, sent)
        elif case["kind"] == "leases":
            with suppress(limiter.RateLimited):
                async with ours.hold(case["key"]):
                    begin = time.monotonic_ns()
                    await asyncio.sleep(PAUSE / 2)  # as above
                    self.held.append((begin, time.monotonic_ns()))

    def _note(self, name: str, cost: int, decision: Any, sent: int) -> None:
        reply = [int(number) for number in decision._reply]
        self.hits.append((name, cost, reply, sent, time.monotonic_ns()))

    def run(self) -> None:
        """Call until the input ends, and print the record."""
        for ours in self.limiters.values():
            ours.open()
        calling = [
            threading.Thread(target=self.thread),
            threading.Thread(target=lambda: asyncio.run(self.loop())),
        ]
        for thread in calling:
            thread.start()
        print("ready", flush=True)
        sys.stdin.read()
        self.over.set()
        for thread in calling:
            thread.join()
        for ours in self.limiters.values():
            ours.close()
        names = ("hits", "held", "charged", "errors")
        print(json.dumps({name: getattr(self, name) for name in names}))


if __name__ == "__main__":
    Worker(sys.argv[1], json.loads(sys.argv[2])).run()
