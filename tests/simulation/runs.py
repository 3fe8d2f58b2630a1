"""Run the schedule of a seed, and return what happened."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

from limiter import Decision, Limiter, LimiterError
from limiter.aio import AsyncLimiter
from tests.simulation import plans
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.plans import Plan, PlannedCall
from tests.simulation.seams import simulated
from tests.simulation.servers import Execution
from tests.simulation.stores import KINDS, SimulatedStore
from tests.simulation.threads import Scheduler
from tests.simulation.world import BEGIN, Stuck, World

#: After the last fault, a new call must be decided by the store within this many seconds.
RECOVERS_WITHIN = 5.0
#: The last mishap is over this many seconds after the plan's last call, at the latest.
_SETTLING = 2.5
#: One subject in each part of a cluster.
_PROBES = ["r13", "r1", "r12", "r4", "r11", "r3", "r10", "r2"]
#: The end of the name of a pair's second subject.
TWIN = "-twin"


class Outcome:
    """What became of one call."""

    def __init__(self, planned: PlannedCall, keys: list[tuple[bytes, ...]], world: World) -> None:
        self.planned = planned
        self.each_keys = keys
        """The keys of each subject."""
        self.keys = keys[0]
        self.began, self._stalled = world.now, world.stalled
        self.took: float | None = None
        """Seconds until it was answered, without those in which the process stood still; None: never."""
        self.result: Decision | BaseException | None = None

    def end(self, result: Any, world: World) -> None:
        """Note the end."""
        self.took = world.now - self.began - (world.stalled - self._stalled)
        self.result = result
        world.note("%s of %s for %d ends: %.100r", *self.planned[1:4], result)


class Record(NamedTuple):
    """What happened in a schedule."""

    seed: int
    plan: Plan
    world: World
    outcomes: list[Outcome]
    ledger: list[Execution]
    logged: list[str]
    """Errors that the library logged, and what reached the loop's exception handler or ended a thread."""
    left: list[str]
    """What was open after the end."""
    redirected: Counter[tuple[bytes, ...]]
    """How many MOVED and ASK were sent, by keys."""
    recovered: bool
    """Whether the store decided about each of some subjects after the last fault."""


def run(seed: int, plan: Plan | None = None) -> Record:
    """Run one schedule."""
    collects = gc.isenabled()
    gc.disable()  # a connection that only the collector closes was left open
    try:
        return _run(seed, plan or plans.draw(seed))
    finally:
        if collects:
            gc.enable()


def _run(seed: int, plan: Plan) -> Record:
    world = World(seed)
    network = Network(world)
    ledger: list[Execution] = []
    scheduler = None if plan.in_loop else Scheduler(world, plan.gives_way)
    world.note(
        "seed %d: %s, %s, %s",
        seed,
        plan.store,
        "a loop" if plan.in_loop else "threads",
        plan.policies,
    )
    with simulated(world, network, scheduler) as logged:
        store = KINDS[plan.store](network, ledger)
        schedule = _Schedule(seed, plan, world, network, ledger, logged)
        schedule.begin_faults(store)
        if scheduler is None:
            schedule.run_in_loop(store.url)
        else:
            schedule.run_in_threads(store.url, scheduler)
    redirected = sum((server.redirected for server in store.servers), Counter())
    return Record(
        seed,
        plan,
        world,
        schedule.outcomes,
        ledger,
        logged,
        schedule.left,
        redirected,
        schedule.recovered,
    )


class _Schedule:
    def __init__(
        self,
        seed: int,
        plan: Plan,
        world: World,
        network: Network,
        ledger: list[Execution],
        logged: list[str],
    ) -> None:
        self.plan = plan
        self.world = world
        self.network = network
        self.logged = logged
        self.outcomes: list[Outcome] = []
        self.left: list[str] = []
        self.recovered = False
        #: Whether no call may begin any more.
        self._is_over = False

    def begin_faults(self, store: SimulatedStore) -> None:
        """Let the weather begin, and plan each mishap."""
        self.network.weather = self.plan.weather
        mishaps = store.mishaps()

        def happen(name: str, seconds: float) -> None:
            self.world.note("* %s (%.3f s)", name, seconds)
            mishaps[name](seconds)

        for at, name, seconds in self.plan.mishaps:
            self.world.at(BEGIN + at, partial(happen, name, seconds))

    def _settings(self, url: str) -> dict[str, Any]:
        plan = self.plan
        return {
            "store": url,
            "on_error": plan.on_error,
            "timeout": plan.timeout,
            "connect_timeout": plan.connect_timeout,
        }

    def _outcome(self, planned: PlannedCall, limiter: Any) -> Outcome:
        plan = limiter._core.plan
        subjects = [planned.subject, *([planned.subject + TWIN] if planned.kind == "pair" else [])]
        keys = [plan.keys_of(plan.state(subject, None)[0]) for subject in subjects]
        outcome = Outcome(planned, keys, self.world)
        self.world.note("%s of %s for %d begins", *planned[1:4])
        self.outcomes.append(outcome)
        return outcome

    def _clear_up(self) -> None:
        self.network.weather = self.plan.weather._replace(
            spike=0, reset=0, finish=0, silence=0, refusal=0, no_answer=0, full=0
        )
        self.world.note("no more faults")

    # --- with an event loop ---

    def run_in_loop(self, url: str) -> None:
        """Run it with an AsyncLimiter."""
        loop = SimulatedLoop(self.network)
        loop.set_exception_handler(lambda _, context: self.logged.append(_complaint(context)))
        try:
            loop.run_until_complete(
                self._main(loop, AsyncLimiter(self.plan.policies, **self._settings(url)))
            )
        except Stuck as error:
            self.left.append(str(error))
        self.left += [f"task {task.get_coro()}" for task in asyncio.all_tasks(loop)]
        self.left += [f"connection {link}" for link in self.network.links.values()]
        self.left += [f"timer {timer!r}" for timer in loop._scheduled if not timer.cancelled()]
        for task in asyncio.all_tasks(loop):
            task.cancel()
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    async def _main(self, loop: SimulatedLoop, limiter: AsyncLimiter) -> None:
        plan, world = self.plan, self.world
        for at, seconds in plan.stalls:
            loop.call_at(BEGIN + at, world.stall, seconds)
        tasks: list[asyncio.Task[None]] = []
        if plan.opens:
            try:
                await limiter.open()
            except LimiterError as error:
                world.note("open: %r", error)
        turns = sorted(
            {call.at for call in plan.calls} | ({plan.closes_at} if plan.closes_at else set())
        )
        for at in turns:
            await asyncio.sleep(max(BEGIN + at - world.now, 0))
            if at == plan.closes_at:
                tasks.append(loop.create_task(self._close(limiter)))
            for planned in [call for call in plan.calls if call.at == at]:
                for _ in range(planned.count):
                    task = loop.create_task(self._call(limiter, planned))
                    tasks.append(task)
                    if planned.cancelled_after is not None:
                        loop.call_later(planned.cancelled_after, task.cancel)
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(_SETTLING)
        self._clear_up()
        if not self._is_over:
            await self._recover(limiter)
            await limiter.close()
        await asyncio.sleep(0)

    def _begin_close(self) -> None:
        self._is_over = self.plan.stays_closed
        self.recovered = self._is_over
        self.world.note("the limiter is closed")

    async def _close(self, limiter: AsyncLimiter) -> None:
        self._begin_close()
        await limiter.close()
        self.world.note("close ends")

    async def _call(self, limiter: AsyncLimiter, planned: PlannedCall) -> None:
        if self._is_over:
            return
        outcome = self._outcome(planned, limiter)
        try:
            result = await _invoke(limiter, planned)
        except BaseException as error:
            outcome.end(error, self.world)
        else:
            outcome.end(result, self.world)

    async def _recover(self, limiter: AsyncLimiter) -> None:
        deadline, left = self.world.now + RECOVERS_WITHIN, [*_PROBES]
        while left and self.world.now < deadline:
            try:
                if not (await limiter.hit(left[0])).degraded:
                    del left[0]
                    continue
            except LimiterError:
                pass
            await asyncio.sleep(0.05)
        self.recovered = not left

    # --- with threads ---

    def run_in_threads(self, url: str, scheduler: Scheduler) -> None:
        """Run it with a Limiter."""
        plan, world = self.plan, self.world
        limiter = Limiter(plan.policies, **self._settings(url))
        if plan.opens:
            scheduler.start(partial(self._open, limiter))
        for number in range(plan.threads):
            own = plan.calls[number :: plan.threads]
            scheduler.start(partial(self._caller, limiter, own, scheduler))
        if plan.closes_at is not None:
            world.at(
                BEGIN + plan.closes_at,
                partial(scheduler.start, partial(self._end, limiter, scheduler)),
            )
        for at, seconds in plan.stalls:
            world.at(BEGIN + at, partial(world.stall, seconds))
        try:
            scheduler.run()
            scheduler.run(until=world.now + _SETTLING)
            self._clear_up()
            if not self._is_over:
                scheduler.start(partial(self._recover_and_end, limiter, scheduler))
                scheduler.run()
        except Stuck as error:
            self.left.append(str(error))
        self.logged += [f"a thread ended with {error!r}" for error in scheduler.errors]
        world.run_until(world.now + 1)
        self.left += [f"connection {link}" for link in self.network.links.values()]

    def _open(self, limiter: Limiter) -> None:
        try:
            limiter.open()
        except LimiterError as error:
            self.world.note("open: %r", error)

    def _caller(self, limiter: Limiter, calls: list[PlannedCall], scheduler: Scheduler) -> None:
        for planned in calls:
            scheduler.wait(lambda: False, max(BEGIN + planned.at - self.world.now, 0))
            if self._is_over:
                return
            outcome = self._outcome(planned, limiter)
            try:
                result = _invoke(limiter, planned)
            except BaseException as error:
                outcome.end(error, self.world)
            else:
                outcome.end(result, self.world)

    def _end(self, limiter: Limiter, scheduler: Scheduler) -> None:
        self._begin_close()
        # A call that has begun, and has not looked whether the limiter is closed, would be a later one.
        scheduler.wait(lambda: False, 0.000_001)
        limiter.close()

    def _recover_and_end(self, limiter: Limiter, scheduler: Scheduler) -> None:
        deadline, left = self.world.now + RECOVERS_WITHIN, [*_PROBES]
        while left and self.world.now < deadline:
            try:
                if not limiter.hit(left[0]).degraded:
                    del left[0]
                    continue
            except LimiterError:
                pass
            scheduler.wait(lambda: False, 0.05)
        self.recovered = not left
        self.world.note("the limiter is closed")
        limiter.close()


def _invoke(limiter: Any, planned: PlannedCall) -> Any:
    """Make the call."""
    _, kind, subject, cost, *_ = planned
    if kind == "pair":
        return limiter.hit_all([(subject, cost), (subject + TWIN, cost)])
    return getattr(limiter, kind if kind in ("peek", "refund") else "hit")(subject, cost)


def _complaint(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"
