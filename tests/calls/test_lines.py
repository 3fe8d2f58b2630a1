"""Callers of one process that wait for one subject: they pass in the order of their arrival."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from limiter import Concurrency, Decision, InvalidSetting, Limiter, RateLimited, SlidingLog, lines
from limiter.aio import AsyncLimiter
from limiter.testing import StoreCall, intercept, store_away
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, PATIENCE, set_time
from tests.parallel import in_child
from tests.waiting import soon, until

#: A limit of which nothing returns by itself while a test runs: only refunds make room.
LIMIT = SlidingLog(4, "day")


class Interrupted(BaseException):
    """Raised by a signal handler."""


def standing(limiter: Any) -> int:
    """How many callers stand in the lines of a limiter with one policy."""
    core = getattr(limiter, "inner", limiter)._core
    own = list(core._lines.values()) if hasattr(core, "_lines") else [core.lines]
    return sum(len(line) for each in own for line in list(each._by_key.values()))


class Crowd:
    """Callers that wait, each in a thread of its own, and arrive one after the other."""

    def __init__(self, limiter: Any) -> None:
        self.limiter = limiter
        self._decisions: dict[str, Decision] = {}
        #: What the others raised.
        self.errors: dict[str, BaseException] = {}
        self._threads: list[threading.Thread] = []

    @property
    def passed(self) -> list[str]:
        """The callers that passed, in the order in which the store admitted them."""
        return sorted(self._decisions, key=lambda name: self._decisions[name].decided_at)

    def arrive(self, name: str, call: Callable[[], Decision]) -> None:
        """Start a caller, and wait until it stands in line or has ended."""
        before = standing(self.limiter)
        thread = self.start(name, call)
        until(lambda: standing(self.limiter) > before or not thread.is_alive())

    def start(self, name: str, call: Callable[[], Decision]) -> threading.Thread:
        """Start a caller."""

        def run() -> None:
            try:
                self._decisions[name] = call()
            except Exception as error:
                self.errors[name] = error

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        return thread

    def wait(self, name: str, subject: str, *args: Any, **more: Any) -> None:
        """A caller of ``limiter.wait``."""
        self.arrive(name, lambda: self.limiter.wait(subject, *args, **more))

    def until_passed(self, *names: str) -> None:
        """Wait until callers have passed, in this order."""
        until(lambda: len(self._decisions) >= len(names))
        assert self.passed == list(names)

    def end(self) -> None:
        """Wait until all have ended."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert standing(self.limiter) == 0


def test_many_with_different_costs(make: Make, subject: str) -> None:
    """A caller of a high cost is not overtaken by later ones of a low cost."""
    limiter = make(LIMIT)
    limiter.hit(subject, 4)
    crowd = Crowd(limiter)
    for name, cost in (("a", 1), ("b", 3), ("c", 1), ("d", 1), ("e", 2), ("f", 1)):
        crowd.wait(name, subject, cost)
    limiter.refund(subject, 3)
    crowd.until_passed("a")
    assert limiter.peek(subject).remaining == 2  # enough for c, behind b
    limiter.refund(subject, 1)
    crowd.until_passed("a", "b")
    limiter.reset(subject)
    crowd.until_passed("a", "b", "c", "d", "e")
    limiter.refund(subject, 4)
    crowd.until_passed("a", "b", "c", "d", "e", "f")
    crowd.end()


def test_a_crowd_passes_in_order(make: Make, subject: str) -> None:
    """Two thirds of twelve callers at a time, as the window allows; none of them asks more than needed."""
    limiter = make(SlidingLog(4, 0.4))
    limiter.hit(subject, 4)
    crowd = Crowd(limiter)
    modes: list[str] = []

    def count(call: StoreCall, ahead: Any) -> Any:
        modes.append(call.mode)
        return ahead()

    intercept(getattr(limiter, "inner", limiter), count)
    names = [str(number) for number in range(12)]
    for name in names:
        crowd.wait(name, subject)
    crowd.until_passed(*names)
    crowd.end()
    # Each asks when it arrives, and when it is first; and the first again, when its wait is over.
    assert len(modes) <= 12 * 3 + 12


def test_limits_and_tags(make: Make, subject: str) -> None:
    """Other limits of a subject are the same line; its counts under a tag are others."""
    limiter = make(SlidingLog(2, "day"))
    limiter.hit(subject, 2)
    limiter.hit(subject, 2, tag="t")
    crowd = Crowd(limiter)
    crowd.wait("a", subject)
    crowd.wait("b", subject, limits="4/day")  # it alone has room
    crowd.wait("c", subject, tag="t")
    assert standing(limiter) == 3
    limiter.refund(subject, tag="t")
    crowd.until_passed("c")
    limiter.refund(subject)
    crowd.until_passed("c", "a", "b")
    crowd.end()


def test_other_subjects_do_not_wait(make: Make, new_subject: Callable[[], str]) -> None:
    """One subject has room, and another one waits."""
    first, second = new_subject(), new_subject()
    limiter = make(LIMIT)
    limiter.hit(first, 4)
    crowd = Crowd(limiter)
    crowd.wait("a", first)
    for _ in range(4):
        assert limiter.wait(second)
    assert limiter.wait(second, 0)
    with pytest.raises(RateLimited):
        limiter.wait(second, timeout=60)
    assert standing(limiter) == 1
    limiter.refund(first)
    crowd.end()


def test_without_a_line_callers_try_side_by_side(make: Make, subject: str) -> None:
    """None waits for the first try of another one, and none asks twice."""
    limiter = make(LIMIT)
    together, modes = threading.Barrier(4), []

    def meet(call: StoreCall, ahead: Any) -> Any:
        modes.append(call.mode)
        together.wait(PATIENCE)
        return ahead()

    async def ameet(call: StoreCall, ahead: Any) -> Any:
        modes.append(call.mode)
        await soon(lambda: asyncio.sleep(0, len(modes) == 4))
        return await ahead()

    inner = getattr(limiter, "inner", limiter)
    intercept(inner, ameet if isinstance(inner, AsyncLimiter) else meet)
    crowd = Crowd(limiter)
    threads = [threading.Thread(target=limiter.wait, args=(subject,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert modes == ["hit"] * 4
    crowd.end()


def test_refused_at_once(make: Make, subject: str) -> None:
    """A caller that cannot pass in time stands in no line; the decision is that of its own cost."""
    limiter = make(LIMIT)
    limiter.hit(subject, 3)
    crowd = Crowd(limiter)
    crowd.wait("a", subject, 3)
    with pytest.raises(RateLimited) as denied:
        limiter.wait(subject, 2, timeout=3600)
    assert denied.value.decision.retry_after > 80_000
    assert denied.value.decision.remaining == 1
    assert limiter.wait(subject, 1, timeout=0)  # it does not wait: it is a hit
    assert standing(limiter) == 1
    limiter.reset(subject)
    crowd.end()


def test_a_timeout_in_the_line(make: Make, subject: str) -> None:
    """A lower cost that would have room does not overtake; when its time is over, it is denied."""
    limiter = make(LIMIT)
    limiter.hit(subject, 3)
    crowd = Crowd(limiter)
    crowd.wait("a", subject, 2)
    began = time.monotonic()
    crowd.wait("b", subject, timeout=0.3)
    crowd.wait("c", subject)
    until(lambda: "b" in crowd.errors)
    assert 0.3 <= time.monotonic() - began < 5
    denied = crowd.errors["b"]
    assert isinstance(denied, RateLimited)
    assert not denied.decision.allowed
    assert denied.decision.retry_after > 80_000
    assert limiter.peek(subject).remaining == 1
    limiter.refund(subject, 2)
    crowd.end()
    assert crowd.passed == ["a", "c"]


def test_those_behind_a_denial_are_refused_with_it(make: Make, subject: str) -> None:
    """The first in line learns that it must wait longer than a later caller can."""
    limiter = make(SlidingLog(2, 60))
    set_time(limiter, NOW_US)
    limiter.hit(subject, 2)
    peeked = threading.Event()  # set after the reply, since the time goes on then

    def watch(call: StoreCall, ahead: Any) -> Any:
        reply = ahead()
        if call.mode == "peek":
            peeked.set()
        return reply

    async def awatch(call: StoreCall, ahead: Any) -> Any:
        reply = await ahead()
        if call.mode == "peek":
            peeked.set()
        return reply

    inner = getattr(limiter, "inner", limiter)
    intercept(inner, awatch if isinstance(inner, AsyncLimiter) else watch)
    crowd = Crowd(limiter)
    crowd.wait("a", subject, 2)
    set_time(limiter, NOW_US + 40_000_000)
    began = time.monotonic()
    crowd.wait("b", subject, 2, 30)
    assert peeked.wait(PATIENCE)
    set_time(limiter, NOW_US + 61_000_000)
    limiter.hit(subject)
    crowd.start("c", lambda: limiter.wait(subject))  # it has room: the first tries, and must wait
    until(lambda: "b" in crowd.errors)
    assert time.monotonic() - began < 20
    denied = crowd.errors["b"]
    assert isinstance(denied, RateLimited)
    assert denied.decision.retry_after == 60.0
    until(lambda: standing(limiter) == 2)
    limiter.reset(subject)
    crowd.until_passed("a")
    limiter.reset(subject)
    crowd.end()


def test_leases_pass_from_one_to_the_next(
    make: Make, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release in this process wakes the first in line: it does not wait for its next try."""
    monkeypatch.setattr(lines, "_ASK_EVERY", 600.0)
    limiter = make(Concurrency(2, lease=600))
    crowd = Crowd(limiter)
    costs = {"a": 1, "b": 2, "c": 1, "d": 1, "e": 2}

    def hold(name: str) -> Decision:
        with limiter.hold(subject, costs[name], timeout=300) as lease:
            return lease.decision  # type: ignore[no-any-return]

    with limiter.hold(subject):
        with limiter.hold(subject):
            for name in costs:
                crowd.arrive(name, lambda name=name: hold(name))  # type: ignore[misc]
            with pytest.raises(RateLimited), limiter.hold(subject, timeout=0):
                raise AssertionError
            assert standing(limiter) == 5
        until(lambda: crowd.passed == ["a"])
    crowd.end()
    assert crowd.passed == ["a", "b", "c", "d", "e"]
    assert limiter.peek(subject).remaining == 2


def test_a_lease_released_while_it_stands_in_line(make: Make, subject: str) -> None:
    """Its caller leaves the line at once."""
    limiter = make(Concurrency(1, lease=600))
    crowd = Crowd(limiter)
    leases = [limiter.hold(subject, timeout=300) for _ in range(3)]
    with limiter.hold(subject):
        for name, lease in zip("abc", leases, strict=True):
            crowd.arrive(name, lambda lease=lease: lease.__enter__().decision)  # type: ignore[misc]
        leases[1].release()
        until(lambda: "b" in crowd.errors)
        assert isinstance(crowd.errors["b"], InvalidSetting)
        assert standing(limiter) == 2
    until(lambda: crowd.passed == ["a"])
    leases[0].release()
    until(lambda: crowd.passed == ["a", "c"])
    leases[2].release()
    crowd.end()
    assert limiter.peek(subject).remaining == 1


@pytest.mark.parametrize("on_error", ["raise", "deny", "local", "allow"])
def test_the_store_goes_away(make: Make, subject: str, on_error: str) -> None:
    """No caller stays in the line: each follows ``on_error``."""
    limiter = make(SlidingLog(2, "day"), on_error=on_error)
    limiter.hit(subject, 2)
    crowd = Crowd(limiter)
    for name in "abc":
        crowd.wait(name, subject)
    assert standing(limiter) == 3
    with store_away(getattr(limiter, "inner", limiter)):
        crowd.wait("d", subject)
        crowd.end()
    passed = {"raise": 0, "deny": 0, "local": 2, "allow": 4}[on_error]
    assert (len(crowd.passed), len(crowd.errors)) == (passed, 4 - passed)


async def test_cancelled(place: str, subject: str) -> None:
    """The first, one in the middle and the last leave the line; the others pass in their order."""
    limiter = AsyncLimiter(LIMIT, store=place, timeout=PATIENCE)
    await limiter.hit(subject, 4)
    passed: list[int] = []

    async def wait(number: int) -> None:
        await limiter.wait(subject)
        passed.append(number)

    async def stand(count: int) -> None:
        await soon(lambda: asyncio.sleep(0, standing(limiter) == count))

    tasks = []
    for number in range(6):
        tasks.append(asyncio.ensure_future(wait(number)))
        await stand(number + 1)
    for number in (0, 3, 5):
        tasks[number].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[number]
    await stand(3)
    await limiter.refund(subject, 4)
    await asyncio.gather(*(tasks[number] for number in (1, 2, 4)))
    assert passed == [1, 2, 4]
    assert not limiter._core.lines
    await limiter.close()


async def test_cancelled_when_its_turn_comes(place: str, subject: str) -> None:
    """A task is cancelled after it was woken: the next one is woken in its place."""
    limiter = AsyncLimiter(Concurrency(1, lease=600), store=place, timeout=PATIENCE)
    entered: list[int] = []

    async def hold(number: int) -> None:
        async with limiter.hold(subject, timeout=300):
            entered.append(number)

    for turns in range(6):
        async with limiter.hold(subject):
            tasks = []
            for number in range(3):
                tasks.append(asyncio.ensure_future(hold(number)))
                await soon(lambda count=number + 1: asyncio.sleep(0, standing(limiter) == count))  # type: ignore[misc]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert entered[-2:] == [1, 2]
    assert not limiter._core.lines
    await limiter.close()


def test_two_event_loops(place: str, subject: str) -> None:
    """They may share a limiter: a task waits for tasks of its own loop alone."""
    limiter = AsyncLimiter(LIMIT, store=place, timeout=PATIENCE)
    stands, ends = threading.Event(), threading.Event()

    async def first() -> None:
        await limiter.hit(subject, 2)
        task = asyncio.ensure_future(limiter.wait(subject, 4))
        await soon(lambda: asyncio.sleep(0, standing(limiter) == 1))
        stands.set()
        await soon(lambda: asyncio.sleep(0, ends.is_set()))
        await limiter.reset(subject)
        assert await task
        await limiter.close()

    async def second() -> Decision:
        decision = await limiter.wait(subject)
        await limiter.close()
        return decision

    thread = threading.Thread(target=asyncio.run, args=(first(),))
    thread.start()
    assert stands.wait(PATIENCE)
    assert asyncio.run(second()).remaining == 1
    ends.set()
    thread.join()


@pytest.fixture(params=["standalone", "memory"])
def place(request: pytest.FixtureRequest) -> str:
    """The address of a store."""
    return "memory://" if request.param == "memory" else request.getfixturevalue("store")


def in_handler(handle: Callable[[], None], when: Callable[[], bool]) -> threading.Thread:
    """Run ``handle`` in a signal handler of this thread, when ``when`` is true."""
    main = threading.get_ident()
    signal.signal(signal.SIGUSR1, lambda *_: handle())

    def send() -> None:
        until(when)
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_interrupted(place: str, subject: str) -> None:
    """A signal handler raises while its thread stands in line: first, and then behind another one."""
    limiter = Limiter(LIMIT, store=place, timeout=PATIENCE)
    limiter.hit(subject, 4)
    crowd = Crowd(limiter)

    def interrupt() -> None:
        raise Interrupted

    def next_stands() -> bool:
        if standing(limiter) == 1:
            crowd.wait("a", subject)
        return standing(limiter) == 2

    sender = in_handler(interrupt, next_stands)
    with pytest.raises(Interrupted):
        limiter.wait(subject)
    sender.join()
    assert standing(limiter) == 1

    sender = in_handler(interrupt, lambda: standing(limiter) == 2)
    with pytest.raises(Interrupted):
        limiter.wait(subject)
    sender.join()

    limiter.refund(subject)
    crowd.until_passed("a")
    crowd.end()
    limiter.close()


def test_a_signal_handler_that_waits(place: str, subject: str) -> None:
    """It stands before the call of its thread that it interrupted: that one cannot go on before it."""
    limiter = Limiter(LIMIT, store=place, timeout=PATIENCE)
    limiter.hit(subject, 4)
    passed = []

    def handle() -> None:
        threading.Thread(target=limiter.refund, args=(subject, 2)).start()
        passed.append(limiter.wait(subject, 2).remaining)
        limiter.refund(subject)

    sender = in_handler(handle, lambda: standing(limiter) == 1)
    passed.append(limiter.wait(subject).remaining)
    sender.join()
    assert passed == [0, 0]
    limiter.close()


def test_interrupted_while_it_leaves(
    place: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves all the same."""
    limiter = Limiter(LIMIT, store=place, timeout=PATIENCE)
    limiter.hit(subject, 4)
    crowd = Crowd(limiter)
    leave, times = lines.Lines.leave, iter(range(9))

    def interrupted(own: lines.Lines, waiter: lines.Waiter) -> None:
        if next(times) == 0:
            raise Interrupted
        leave(own, waiter)

    def refund() -> bool:
        if standing(limiter) == 1:
            crowd.wait("a", subject)
            monkeypatch.setattr(lines.Lines, "leave", interrupted)
            limiter.refund(subject, 2)
        return True

    thread = threading.Thread(target=lambda: until(lambda: standing(limiter) == 1 and refund()))
    thread.start()
    with pytest.raises(Interrupted):
        limiter.wait(subject)
    thread.join()
    crowd.until_passed("a")
    crowd.end()
    limiter.close()


def test_a_fork_has_no_lines(place: str, subject: str) -> None:
    """The child does not wait for the parent's threads."""
    limiter = Limiter(LIMIT, store=place, timeout=PATIENCE)
    limiter.hit(subject, 4)
    crowd = Crowd(limiter)
    crowd.wait("a", subject, 2)

    def wait_in_the_child() -> None:
        limiter.refund(subject)
        assert standing(limiter) == 0
        assert limiter.wait(subject)

    assert in_child(wait_in_the_child) == 0
    assert standing(limiter) == 1
    limiter.reset(subject)
    crowd.until_passed("a")
    crowd.end()
    limiter.close()
