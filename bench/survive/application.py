"""A process that calls limiters all the time, by threads and by coroutines, as an application does.

It knows nothing of events. It reports each call, and when the machine did not run it.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Literal, NamedTuple

from bench import processes
from bench.sections import Failed
from limiter import (
    GCRA,
    AsyncLimiter,
    Concurrency,
    Decision,
    FixedWindow,
    LeakyBucket,
    Limiter,
    LimiterError,
    RateLimited,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.policies import Policy

#: The classes that are called; the second one in an event loop.
KINDS = ("Limiter", "AsyncLimiter")
#: Threads, and tasks of the event loop.
CALLERS = 4
#: Seconds between two calls of one caller.
PAUSE = 0.01
#: Seconds for a whole decision, by default.
TIMEOUT = 0.1

_MONTH = 30 * 86_400
#: A subject of these is called once. No call comes near them, so they show what was charged.
ONCE: tuple[Policy, ...] = (
    FixedWindow(1000, per=_MONTH),
    SlidingLog(1000, per=_MONTH),
    TokenBucket(1000, per=_MONTH),
)
LIMIT = 10
#: One subject of each is called more often than its limit permits.
HOT: dict[str, Policy] = {
    policy.algorithm: policy
    for policy in (
        FixedWindow(LIMIT, per="second"),
        SlidingLog(LIMIT, per="second"),
        SlidingWindow(LIMIT, per="second"),
        TokenBucket(LIMIT, per="second"),
        GCRA(LIMIT, per="second"),
        LeakyBucket(LIMIT, per="second"),
    )
}
#: Counts what is charged together with each hot policy.
COUNTER = FixedWindow(10**9, per="365 days")
#: A hot subject whose calls are decided in the process while the store does not decide.
LOCAL = SlidingLog(LIMIT, per="second")
LOCAL_NAME = "local"
#: Places that callers hold for some time.
HELD = Concurrency(3, lease=1)
HELD_NAME = HELD.algorithm
#: Seconds for which a place is held.
HOLD = 0.02

#: Seconds between two looks at the reports.
_LOOK_AGAIN = 0.02
#: Seconds after which an attempt to connect has ended, which began before the limiters were closed.
_ATTEMPT = 3.0
#: Seconds to wait for the application.
_PATIENCE = 30.0
#: Seconds between two readings of the reports, so that they take no memory of the application.
_READ_EVERY = 0.5
#: The thread that watches the machine sleeps as long, and may wake up later by as much.
_NAP, _LATE = 0.005, 0.002

Result = Literal["allowed", "denied", "undecided"]


class Call(NamedTuple):
    """One call: who made it, for which subject, when it began and ended, and its result."""

    kind: str
    limiter: str
    """``once``, ``local``, or the name of another limit's algorithm."""
    subject: str
    began: float
    ended: float
    result: Result
    degraded: bool = False
    """Whether ``on_error`` decided."""
    error: str = ""
    held_until: float = 0.0
    """When its place was about to be released, if it held one."""


class Stall(NamedTuple):
    """A time in which the machine did not run the application's threads."""

    began: float
    ended: float


@dataclass
class Settings:
    """The store, who calls it, and how."""

    store: str
    kinds: tuple[str, ...] = KINDS
    timeout: float = TIMEOUT
    """Seconds for a whole decision."""
    tag: str | None = None
    """Puts all subjects in one slot of a cluster."""
    names: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """The addresses of names that the application may look up; None of a port keeps the asked one."""


class Usage(NamedTuple):
    """What the application's process has: open descriptors, bytes, and processor time used so far."""

    descriptors: int
    memory: int
    worked: float


class Application:
    """The process; its calls begin with the context, and end with ``stop``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.calls: list[Call] = []
        """Each call that was reported, in the order of their ends."""
        self.stalls: list[Stall] = []
        self._descriptors = 0
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._reading = threading.Thread(target=self._read, daemon=True)
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(self._theirs, settings), name="application", daemon=True
        )

    def __enter__(self) -> Application:
        self._process.start()
        self._theirs.close()
        try:
            self._ask("report")
            self._descriptors = self.usage().descriptors
            self._ask("begin")
            self._reading.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._reading.join()
        self._end()

    def stop(self) -> int:
        """End the calls, close the limiters, and return how many descriptors remain that they opened."""
        self._ask("end")
        self.look()
        deadline = time.monotonic() + _ATTEMPT
        while (left := self.usage().descriptors - self._descriptors) > 0:
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_AGAIN)  # a thread may still try to connect
        return left

    def look(self) -> None:
        """Read the reports of calls that ended meanwhile."""
        with self._lock:  # reports stay in their order
            calls, stalls = self._ask("report")
            self.calls += calls
            self.stalls += stalls

    def usage(self) -> Usage:
        """Return what the process has now."""
        pid = self._process.pid or 0
        return Usage(
            len(os.listdir(f"/proc/{pid}/fd")), processes.own_memory(pid), processes.worked(pid)
        )

    def name(self, host: str, addresses: list[tuple[str, int]] | None) -> None:
        """Change what a look-up of this host returns; None: look-ups hang."""
        self._ask("name", host, addresses)

    def until(self, condition: Callable[[], Any], what: str, patience: float = _PATIENCE) -> None:
        """Look at the reports until a condition is true.

        Raises:
            Failed: It did not become true in time.

        """
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                errors = [call.error for call in self.calls if call.error]
                raise Failed(
                    f"{what} within {patience:.0f} s: {errors[-1] if errors else 'no error'}"
                )
            time.sleep(_LOOK_AGAIN)  # no event signals a call of another process
            self.look()

    def until_decided(self, patience: float = _PATIENCE) -> None:
        """Wait until each kind of limiter has been decided by each of its limiters from now on."""
        event = time.monotonic()
        wanted = {(kind, name) for kind in self.settings.kinds for name in ("once", *HOT)}

        def is_decided() -> bool:
            recent = {
                (call.kind, call.limiter)
                for call in self.calls[-4000:]
                if call.began >= event and call.result != "undecided" and not call.degraded
            }
            return wanted <= recent

        self.until(is_decided, "no call was decided", patience)

    def _read(self) -> None:
        with suppress(Failed):  # the next question raises it again
            while not self._ended.wait(_READ_EVERY):
                self.look()

    def _ask(self, *words: Any) -> Any:
        with self._lock:
            self._pipe.send(words)
            if not self._pipe.poll(_PATIENCE):
                raise Failed(f"the application did not answer for {_PATIENCE:.0f} s")
            try:
                return self._pipe.recv()
            except EOFError:
                raise Failed("the application's process ended") from None

    def _end(self) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _run(pipe: Connection, settings: Settings) -> None:
    """Be the application: obey the other side of the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C, the other side closes the pipe
    logging.getLogger("limiter").setLevel(logging.ERROR)  # warnings of outages are expected
    work = _Work(settings)
    with suppress(EOFError, OSError), _names(work.names):
        while True:
            word, *rest = pipe.recv()
            pipe.send(getattr(work, word)(*rest))
    os._exit(0)  # look-ups that hang would keep the process


class _Work:
    """The callers, and what they report."""

    def __init__(self, settings: Settings) -> None:
        self.names: dict[str, list[tuple[str, int]] | None] = dict(settings.names)
        self._settings = settings
        self._calls: list[Call] = []
        self._stalls: list[Stall] = []
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stack = ExitStack()

    def begin(self) -> None:
        works: list[Callable[[], None]] = [self._watch]
        if "Limiter" in self._settings.kinds:
            limiters = self._limiters(Limiter)
            for limiter in reversed(limiters.values()):
                self._stack.callback(limiter.close)
            works += [partial(self._in_thread, limiters, number) for number in range(CALLERS)]
        if "AsyncLimiter" in self._settings.kinds:
            works.append(lambda: asyncio.run(self._in_loop()))
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(10)
        self._stack.close()

    def report(self) -> tuple[list[Call], list[Stall]]:
        calls, self._calls = self._calls, []
        stalls, self._stalls = self._stalls, []
        return calls, stalls

    def name(self, host: str, addresses: list[tuple[str, int]] | None) -> None:
        self.names[host] = addresses

    def _limiters(self, limiter_class: Any) -> dict[str, Any]:
        timeout = self._settings.timeout
        once = limiter_class(ONCE, store=self._settings.store, name="once", timeout=timeout)
        share = len(self._settings.kinds)
        arguments = {"store": once, "timeout": timeout}
        return {
            "once": once,
            **{
                name: limiter_class((policy, COUNTER), name=name, **arguments)
                for name, policy in HOT.items()
            },
            LOCAL_NAME: limiter_class(
                LOCAL, name=LOCAL_NAME, on_error="local", local_share=share, **arguments
            ),
            HELD_NAME: limiter_class(HELD, name=HELD_NAME, **arguments),
        }

    def _turns(self, kind: str, number: int) -> Iterator[tuple[str, str]]:
        """Yield the name of a limiter and a subject for each call: every other one has a new subject."""
        hot = [*HOT, LOCAL_NAME, HELD_NAME]
        for turn in range(10**9):
            yield "once", f"{kind}-{number}-{turn}"
            name = hot[(turn + number) % len(hot)]
            yield name, f"{name}-subject"

    def _in_thread(self, limiters: dict[str, Limiter], number: int) -> None:
        tag = self._settings.tag
        for name, subject in self._turns("Limiter", number):
            if self._ended.is_set():
                return
            call = _Call("Limiter", name, subject)
            with call:
                if name == HELD_NAME:
                    with limiters[name].hold(subject, tag=tag):
                        call.holds()
                        time.sleep(HOLD)
                        call.held_until = time.monotonic()
                else:
                    call.decided(limiters[name].hit(subject, tag=tag))
            self._calls.append(call.report())
            self._ended.wait(PAUSE)

    async def _in_loop(self) -> None:
        limiters, tag = self._limiters(AsyncLimiter), self._settings.tag

        async def caller(number: int) -> None:
            for name, subject in self._turns("AsyncLimiter", number):
                if self._ended.is_set():
                    return
                call = _Call("AsyncLimiter", name, subject)
                with call:
                    if name == HELD_NAME:
                        async with limiters[name].hold(subject, tag=tag):
                            call.holds()
                            await asyncio.sleep(HOLD)
                            call.held_until = time.monotonic()
                    else:
                        call.decided(await limiters[name].hit(subject, tag=tag))
                self._calls.append(call.report())
                await asyncio.sleep(PAUSE)

        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        for limiter in reversed(limiters.values()):
            await limiter.close()

    def _watch(self) -> None:
        """Note when a thread that only sleeps is woken up late."""
        while not self._ended.is_set():
            began = time.monotonic()
            time.sleep(_NAP)
            ended = time.monotonic()
            if ended - began > _NAP + _LATE:
                self._stalls.append(Stall(began + _NAP, ended))


class _Call:
    """A call under way; the body of its ``with`` makes it, and may raise an error of the limiter."""

    def __init__(self, kind: str, limiter: str, subject: str) -> None:
        self._whose = kind, limiter, subject
        self._began = time.monotonic()
        self._ended = 0.0
        self._result: Result = "undecided"
        self._degraded = False
        self._error = ""
        self.held_until = 0.0

    def decided(self, decision: Decision) -> None:
        """Take the decision."""
        self._result = "allowed" if decision.allowed else "denied"
        self._degraded = decision.degraded

    def holds(self) -> None:
        """Note that the call got its place."""
        self._ended = time.monotonic()
        self._result = "allowed"

    def report(self) -> Call:
        """Return the call, which has ended."""
        whose, error = self._whose, self._error
        times = self._began, self._ended
        return Call(*whose, *times, self._result, self._degraded, error, self.held_until)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._ended = self._ended or time.monotonic()
        if isinstance(error, RateLimited):
            self._result = "denied"
        elif error is not None:
            self._error = f"{type(error).__name__}: {error}"
        return error is None or isinstance(error, LimiterError)


@contextmanager
def _names(names: dict[str, list[tuple[str, int]] | None]) -> Iterator[None]:
    """Look up the hosts in ``names`` there, and all others as usual."""
    really, never = socket.getaddrinfo, threading.Event()

    def look_up(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host not in names:
            return really(host, port, *rest, **more)
        addresses = names[host]
        if addresses is None:
            never.wait()
        return [
            found
            for address, its_port in addresses or []
            for found in really(address, its_port or port, *rest, **more)
        ]

    socket.getaddrinfo = look_up
    try:
        yield
    finally:
        socket.getaddrinfo = really
