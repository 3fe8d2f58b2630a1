"""The limiter for threads: plan a call, run it, decode the reply."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from time import sleep
from types import TracebackType
from typing import Any, TypeVar

from limiter.base import Base
from limiter.core import Core
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Flow, Pause
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.leases import HeldLease
from limiter.memory.transport import MEMORY, MemoryTransport
from limiter.renewal_threads import RenewalThreads
from limiter.reservations import ReservedCost
from limiter.scripts import Script
from limiter.several import Decisions, Item, hit_all_flow
from limiter.transport import Transport, connect, script_of
from limiter.transport.forks import remember

_Own = TypeVar("_Own", bound="Limiter")
_Result = TypeVar("_Result")


class ThreadCore(Core["Transport | MemoryTransport"]):
    """A limiter's core, whose flows run in the thread that calls, or in threads beside it."""

    @classmethod
    def connect(
        cls, store: object, timeout: float, connect_timeout: float
    ) -> Transport | MemoryTransport:
        """As ``Core.connect``."""
        return MemoryTransport() if store == MEMORY else connect(store, timeout, connect_timeout)

    @cached_property
    def renewal_threads(self) -> RenewalThreads:
        """They run what no caller waits for."""
        threads = RenewalThreads(self._advance)
        remember(threads)
        return threads

    def run_beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """As ``Core.run_beside``."""
        threads = self.renewal_threads
        threads.add(flow)
        return partial(threads.drop, flow)

    def drive(self, flow: Flow[_Result]) -> _Result:
        """Run every step of a flow, and return what it returns."""
        try:
            while True:
                sleep(self._advance(flow))
        except StopIteration as done:
            result: _Result = done.value
            return result
        finally:
            flow.close()  # where it was interrupted, it gives back what it has taken

    def _advance(self, flow: Flow[Any]) -> float:
        """Run a flow up to its next pause, and return how long that is; StopIteration at its end."""
        step = next(flow)
        while not isinstance(step, Pause):
            try:
                reply = self.transport.run(step.call, step.deadline)
            except LimiterError as error:
                self.note(error)
                step = flow.throw(error)
            else:
                self.outage.answered()
                step = flow.send(reply)
        return step.seconds


class Limiter(Base):
    """Limits that hold across all processes that share a store.

    Args:
        limits: A limit string (``"100/minute"``, ``"20/second; 1000/hour"``), a policy, or several;
            a call passes when all of them have room, and is charged to all or none, in one round
            trip.
        store: Where the state is: a URL (``redis://127.0.0.1:6379/0``, ``rediss://``, ``unix://``,
            ``valkey://``, ``redis+cluster://h1:p1,h2:p2``), a client of redis-py, of which only
            the connection settings are used, or ``memory://``: in this process, for this limiter
            alone; or another ``Limiter``, whose store and connections (and their time-outs) are
            shared.
        name: Part of every key; limiters with one name share their state.
        prefix: Begins every key.
        algorithm: Which one the limit string means; without it a sliding log, or a token bucket
            where the string gives a burst.
        on_error: What happens while the store does not decide: ``"raise"`` StoreUnavailable,
            ``"allow"``, ``"deny"``, or ``"local"``: a limiter in this process decides.
        local_share: How many limiters share the quota where each decides for itself: each limit
            and burst is divided by it.
        timeout: Seconds within which a call is decided, or its fallback is.
        connect_timeout: Seconds that a connection, made beside the calls, may take.
        key_secret: Hashes every subject with a secret key: keys show no subject, and no client can
            predict one.

    Every call that takes a key takes ``tag=``: subjects with one tag lie in one slot of a cluster; a
    tagged subject's state is its own. And it takes ``limits=``: this subject's own numbers, for the
    same algorithms, periods and names.

    Threads may share a limiter, and a process may fork with it. It is also a context manager:
    entering opens it, leaving closes it. If the store is away when it is entered, and ``on_error`` is
    not ``"raise"``, a warning is logged, and the calls follow ``on_error``. An exception
    that a signal handler raises during a call is raised unchanged (but its OSError counts as the
    store's), and the call's connection is closed: no other call gets the reply.

    Raises:
        InvalidPolicy: A limit makes no sense.
        InvalidSetting: Another argument is of no use; the message says what is accepted.

    """

    _core_class = ThreadCore
    _core: ThreadCore

    def hit(
        self,
        key: Key,
        cost: int = 1,
        *,
        at_least: int | None = None,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Decision:
        """Take ``cost`` from what ``key`` has left, if every policy has room; else take nothing.

        With ``at_least``, take as many units as there are, from that up to ``cost``; the decision's
        ``granted`` says how many. Cost 0 is the same as peeking.

        Raises:
            InvalidKey, InvalidCost: The call makes no sense; the store was not asked.
            InvalidPolicy: ``limits`` are others than ours in more than their numbers, or one of ours
                counts leases: use ``hold``.
            StoreUnavailable: The store did not decide, and ``on_error`` is ``"raise"``.
            StoreRefused: The store answered, but not with a decision.

        """
        core = self._core
        plan = core.plan if limits is None else core.plan_for(limits)
        call = plan.call("hit", key, cost, at_least, tag, core.now_us)
        try:
            reply = core.transport.run(call)
        except StoreUnavailable as error:
            core.note(error)
            return core.fallback(error, plan, "hit", key, cost, at_least, tag)
        if core.outage.since is not None:
            core.outage.answered()
        return Decision(plan.policies, reply)

    def peek(
        self, key: Key, cost: int = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decision:
        """Say what ``hit`` (or ``hold``) would, at this instant; take nothing, write nothing.

        Raises: As ``hit``.
        """
        core = self._core
        return core.drive(core.ask_flow(core.plan_for(limits), "peek", key, cost, tag))

    def reset(self, key: Key, *, limits: Limits | None = None, tag: Key | None = None) -> Decision:
        """Forget the subject in this limiter; return what a peek would have said just before.

        Raises: As ``hit``; StoreUnavailable whatever ``on_error`` is, since nothing was forgotten.
        """
        return self._core.drive(self._core.reset_flow(key, limits, tag))

    def refund(
        self, key: Key, cost: int = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> None:
        """Give ``cost`` back to ``key``, but no more than it has used.

        A log gives back its oldest units, so that no window admits too much: what was admitted in
        any window, less what was refunded in it, keeps the algorithm's bound.

        Raises: As ``hit``; StoreUnavailable whatever ``on_error`` is, since it may not have happened.
        """
        self._core.drive(self._core.refund_flow(key, cost, limits, tag))

    def wait(
        self,
        key: Key,
        cost: int = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Decision:
        """Hit, and where that is denied sleep until it would pass and hit again.

        ``timeout`` is in seconds; 0 is one try, None as long as it takes. There is no order among
        those who wait. A leaky bucket's ``delay`` is slept as well, on top of ``timeout``.

        Raises: As ``hit``, and RateLimited where it would take longer than ``timeout``, which is
        said at once, with nothing taken; or where the store did not decide and its fallback denied.
        """
        return self._core.drive(self._core.wait_flow(key, cost, timeout, limits, tag))

    def hit_all(
        self, items: Iterable[Item], *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decisions:
        """Hit several subjects: all of them are charged, or none.

        Each item is a key and its cost, and perhaps limits of its own. The decisions are a list in the
        order of the items, which is true when all are allowed. When one subject has no room, those
        that had some are allowed in theirs, with nothing granted.

        Subjects in one slot (with one ``tag``; at one address all are) are decided in one script
        call. Others are charged in turn, and given back when a later one has no room: that never
        admits too much, but takes away too much for as long as a round trip, or until it expires by
        itself where the give-back does not reach the store. A log gives back its oldest units: until
        the newer ones that stay in their place have aged, it may deny too much.

        Raises: As ``hit``; InvalidKey also where a subject is named twice.
        """
        return self._core.drive(hit_all_flow(self._core, items, limits, tag))

    def hold(
        self,
        key: Key,
        cost: int = 1,
        timeout: float | None = 0,
        on_lost: Callable[[], Any] | None = None,
        *,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Lease:
        """Hold ``cost`` leases for the body of a ``with``, and charge the rates beside them.

        All policies are asked, and all or none are charged, in one script call. The lease is renewed
        at a third of its length, and given back at the end of the body. When it cannot be renewed until
        it ends, ``lost`` is set and ``on_lost`` is called, in a thread of its own; so it is when the
        lease was held for ``max_hold`` seconds, and is given back.

        ``timeout`` is in seconds, as in ``wait``; leases may come back early, so that it asks at
        least every second.

        Raises: As ``wait``, when the body is entered; InvalidPolicy where no policy counts leases.
        """
        return Lease.for_call(self._core, key, cost, timeout, on_lost, limits, tag)

    def reserve(
        self, key: Key, cost: int, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Reservation:
        """Take ``cost`` for the body of a ``with`` whose true cost is known at its end.

        ``settle(actual)`` gives back the rest, or charges what was used beyond without asking. An
        exception gives all of it back; a normal exit without ``settle`` keeps the charge.

        Raises: As ``hit``, and RateLimited where it was denied, when the body is entered.
        """
        return Reservation.for_call(self._core, key, cost, limits, tag)

    def open(self: _Own) -> _Own:
        """Connect and load the scripts beforehand, within ``connect_timeout``. Optional.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a later call tries again by itself.

        """
        self._core.transport.load(script_of(self.policies))
        return self

    def close(self) -> None:
        """Close the idle connections. A later call makes new ones, as does one that is under way."""
        self._core.transport.close()

    def __enter__(self: _Own) -> _Own:
        try:
            self.open()
        except StoreUnavailable as error:
            self._core.not_opened(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def install(scripts: Iterable[Script], store: str, connect_timeout: float = 2.0) -> None:
    """Make a store know these scripts: one server, or every primary of a cluster.

    Raises:
        InvalidSetting: ``store`` is no URL of a server.
        StoreUnavailable, StoreRefused: It failed; some may be known already.

    """
    transport = connect(store, connect_timeout, connect_timeout)
    try:
        for script in scripts:
            transport.load(script)
    finally:
        transport.close()


class Lease(HeldLease):
    """A lease, held for the body of a ``with``; see ``Limiter.hold``."""

    written = "with limiter.hold(...)"

    _core: ThreadCore

    def release(self) -> None:
        """Give it back now; the end of the body then does nothing more."""
        self._core.drive(self.release_flow())

    def _tell(self, on_lost: Callable[[], Any]) -> None:
        """In a thread of its own: the one that renews leases has others to renew."""
        try:
            threading.Thread(target=super()._tell, args=(on_lost,), daemon=True).start()
        except RuntimeError:  # this process gets no more threads
            super()._tell(on_lost)

    def __enter__(self) -> Lease:
        try:
            self._core.drive(self.hold_flow())
        except LimiterError:
            raise
        except BaseException:  # interrupted, perhaps with the lease in hand
            self.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except LimiterError:
            raise
        except BaseException:  # interrupted, perhaps before it was given back
            self.release()
            raise


class Reservation(ReservedCost):
    """A cost taken in advance, for the body of a ``with``; see ``Limiter.reserve``."""

    written = "with limiter.reserve(...)"

    _core: ThreadCore

    def settle(self, actual: int) -> None:
        """Say what it cost in truth; only the first time counts.

        A settlement that cannot reach the store is logged and counted, never raised.

        Raises:
            InvalidCost: ``actual`` is no whole number from 0.

        """
        self._core.drive(self.settle_flow(actual))

    def __enter__(self) -> Reservation:
        self._core.drive(self.reserve_flow())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self.is_inherited:
            self.settle(0)
