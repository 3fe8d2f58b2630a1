"""The limiter for threads: plan a call, run it, decode the reply."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from time import sleep
from types import TracebackType
from typing import Any, TypeVar

from limiter.base import Base, Item, Limits
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Flow, Pause
from limiter.held import Held, Reserved
from limiter.keys import Key
from limiter.memory.transport import MemoryTransport
from limiter.renewal_threads import RenewalThreads
from limiter.scripts import Script
from limiter.several import Decisions
from limiter.transport import Transport, connect, script_of
from limiter.transport.forks import remember

_Own = TypeVar("_Own", bound="Limiter")
_Result = TypeVar("_Result")


class Limiter(Base["Transport | MemoryTransport"]):
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
        plan = self._plan if limits is None else self._plan_for(limits)
        call = plan.call("hit", key, cost, at_least, tag, self._now_us)
        try:
            reply = self._transport.run(call)
        except StoreUnavailable as error:
            self._note(error)
            return self._fallback(error, plan, "hit", key, cost=cost, at_least=at_least, tag=tag)
        if self._outage.since is not None:
            self._outage.answered()
        return Decision(plan.policies, reply)

    def peek(
        self, key: Key, cost: int = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decision:
        """Say what ``hit`` (or ``hold``) would, at this instant; take nothing, write nothing.

        Raises: As ``hit``.
        """
        return self.drive(self._asking(self._plan_for(limits), "peek", key, cost=cost, tag=tag))

    def reset(self, key: Key, *, limits: Limits | None = None, tag: Key | None = None) -> Decision:
        """Forget the subject in this limiter; return what a peek would have said just before.

        Raises: As ``hit``; StoreUnavailable whatever ``on_error`` is, since nothing was forgotten.
        """
        return self.drive(self._resetting(key, limits, tag))

    def refund(
        self, key: Key, cost: int = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> None:
        """Give ``cost`` back to ``key``, but no more than it has used.

        A log gives back its oldest units, so that no window admits too much: what was admitted in
        any window, less what was refunded in it, keeps the algorithm's bound.

        Raises: As ``hit``; StoreUnavailable whatever ``on_error`` is, since it may not have happened.
        """
        self.drive(self._refunding(key, cost, limits, tag))

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
        return self.drive(self._waiting(key, cost, timeout, limits, tag))

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
        return self.drive(self._hitting_all(items, limits, tag))

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
        return Lease(self, **self._held(key, cost, timeout, on_lost, limits, tag))

    def reserve(
        self, key: Key, cost: int, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Reservation:
        """Take ``cost`` for the body of a ``with`` whose true cost is known at its end.

        ``settle(actual)`` gives back the rest, or charges what was used beyond without asking. An
        exception gives all of it back; a normal exit without ``settle`` keeps the charge.

        Raises: As ``hit``, and RateLimited where it was denied, when the body is entered.
        """
        return Reservation(self, **self._reserved(key, cost, limits, tag))

    def open(self: _Own) -> _Own:
        """Connect and load the scripts beforehand, within ``connect_timeout``. Optional.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a later call tries again by itself.

        """
        self._transport.load(script_of(self.policies))
        return self

    def close(self) -> None:
        """Close the idle connections. A later call makes new ones, as does one that is under way."""
        self._transport.close()

    def __enter__(self: _Own) -> _Own:
        try:
            self.open()
        except StoreUnavailable as error:
            self._entered(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(
        self, store: object, in_memory: bool, timeout: float, connect_timeout: float
    ) -> Transport | MemoryTransport:
        return MemoryTransport() if in_memory else connect(store, timeout, connect_timeout)

    def _where(self) -> str:
        return self._transport.where

    def _one_slot(self, tags: list[bytes]) -> bool:
        return self._transport.one_slot(tags)

    @cached_property
    def _renewal_threads(self) -> RenewalThreads:
        renewal_threads = RenewalThreads(self._advance)
        remember(renewal_threads)
        return renewal_threads

    def _beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        renewal_threads = self._renewal_threads
        renewal_threads.add(flow)
        return partial(renewal_threads.drop, flow)

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
                reply = self._transport.run(step.call, step.deadline)
            except LimiterError as error:
                self._note(error)
                step = flow.throw(error)
            else:
                self._outage.answered()
                step = flow.send(reply)
        return step.seconds


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


class Lease(Held):
    """A lease, held for the body of a ``with``; see ``Limiter.hold``."""

    written = "with limiter.hold(...)"

    def __init__(self, limiter: Limiter, **more: Any) -> None:
        super().__init__(**more)
        self._limiter = limiter

    def release(self) -> None:
        """Give it back now; the end of the body then does nothing more."""
        self._limiter.drive(self._limiter._releasing(self))

    def _tell(self, on_lost: Callable[[], Any]) -> None:
        """In a thread of its own: the one that renews leases has others to renew."""
        try:
            threading.Thread(target=super()._tell, args=(on_lost,), daemon=True).start()
        except RuntimeError:  # this process gets no more threads
            super()._tell(on_lost)

    def __enter__(self) -> Lease:
        try:
            self._limiter.drive(self._limiter._holding(self))
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


class Reservation(Reserved):
    """A cost taken in advance, for the body of a ``with``; see ``Limiter.reserve``."""

    written = "with limiter.reserve(...)"

    def __init__(self, limiter: Limiter, **more: Any) -> None:
        super().__init__(**more)
        self._limiter = limiter

    def settle(self, actual: int) -> None:
        """Say what it cost in truth; only the first time counts.

        A settlement that cannot reach the store is logged and counted, never raised.

        Raises:
            InvalidCost: ``actual`` is no whole number from 0.

        """
        self._limiter.drive(self._limiter._settling(self, actual))

    def __enter__(self) -> Reservation:
        self._limiter.drive(self._limiter._reserving(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not self.is_inherited:
            self.settle(0)
