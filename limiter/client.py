"""The limiter for threads: its public calls, and how it runs their flows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from limiter.base import Base
from limiter.call import STRIDE
from limiter.decision import CachedDecision, Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.leases import HeldLease
from limiter.plan import Cost
from limiter.reservations import ReservedCosts
from limiter.scripts import Script
from limiter.several import Decisions, Item, hit_all_flow
from limiter.thread_core import ThreadCore
from limiter.transport import connect, scripts_of

_Own = TypeVar("_Own", bound="Limiter")


class Limiter(Base):
    """Limits that hold across all processes that share a store.

    Args:
        limits: A limit string (``"100/minute"``, ``"20/second; 1000/hour"``), a policy, or several.
            A call passes if all of them have room. It is charged to all or none, in one round trip.
        store: Where the counts are: a URL (``redis://127.0.0.1:6379/0``, ``rediss://``, ``unix://``,
            ``valkey://``, ``redis+cluster://h1:p1,h2:p2``, ``redis+sentinel://h1:p1,h2:p2/service``) or a
            client of redis-py, of which only the connection settings are used. ``memory://`` keeps them in
            this process, for this limiter alone, whatever its name. Another ``Limiter``: its store,
            connections and timeouts are shared.
        name: Part of every key. Limiters with the same name share their counts.
        prefix: The beginning of every key.
        algorithm: The algorithm of a limit string. By default it is a sliding log, or a token bucket
            if the string has a burst.
        on_error: What a call does if the store does not decide: ``"raise"`` StoreUnavailable,
            ``"allow"``, ``"deny"``, or ``"local"``, which decides in this process.
        local_share: The number of processes that share each limit while ``on_error="local"`` decides:
            each limit and burst is divided by it.
        timeout: Seconds within which a call is decided, by the store or by ``on_error``.
        connect_timeout: Seconds within which a connection is made, in the background.
        key_secret: A secret for a keyed hash of every subject: keys reveal no subject, and no client
            can predict one.
        denial_cache: How many seconds, at most, a denial is repeated without a call to the store; 0, the
            default, always asks it. This never admits more. After a refund, a reset or a raised limit in
            another process it may deny for up to that long.
        denial_cache_size: How many calls of ``hit`` stay encoded for the subjects hit last, in each of two
            generations, at about 1 kB each with a cached denial. That is for keys that are plain ``str``.
            As many denials of other calls are kept. 0 keeps none.
        prepaid: How many units of a subject are taken in advance, at most, and then spent without a call to
            the store, by hits of a plain ``str`` key without ``at_least``, ``limits`` and ``tag``. 0, the
            default, takes none. The page on algorithms has the bound of each.
        prepaid_hold: Seconds after which units that were taken in advance expire, and are returned.
        cap: If true, a cost above a limit takes all of that limit, or the most that one call may take of
            it. By default that is an InvalidCost. ``hold`` always takes its whole cost.
        join: Only for ``AsyncLimiter``, which describes it.

    ``cost`` is the number of units to take from every limit, or a tuple with a number for each limit, in
    their order. A lease has one number.

    Each call that takes ``key`` also takes ``limits=`` and ``tag=``. ``limits`` are other numbers for
    this subject, with the same algorithms, periods and names. Subjects with the same ``tag`` lie in one
    slot of a cluster; a subject has separate counts for each tag.

    Threads may share a limiter, and a process may fork with it. A ``with`` opens the limiter and closes
    it at the end. If the store does not answer when it opens, and ``on_error`` is not ``"raise"``, a
    warning is logged and the calls follow ``on_error``.

    If a signal handler raises an exception during a call, the call raises it unchanged and closes its
    connection, so that no other call gets the reply. But an OSError of the handler counts as the store's.

    Raises:
        InvalidPolicy: A limit makes no sense.
        InvalidSetting: Another argument is wrong; the message says what is accepted.

    """

    _core_class = ThreadCore
    _core: ThreadCore

    def hit(
        self,
        key: Key,
        cost: Cost = 1,
        *,
        at_least: int | None = None,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Decision:
        """Take ``cost`` units from every limit of ``key`` if all have room; otherwise take nothing.

        ``key`` is the subject: a string, a number, or a tuple of these. With ``at_least``, take as many
        units as there are, from ``at_least`` to ``cost``; the decision's ``granted`` is their number.
        Cost 0 takes nothing, like ``peek``.

        Raises:
            InvalidKey, InvalidCost: The key or the cost is wrong; the store was not called.
            InvalidPolicy: ``limits`` differs from the limiter's own in more than numbers, or one of
                them counts leases: use ``hold``.
            StoreUnavailable: The store did not decide, and ``on_error`` is ``"raise"``.
            StoreRefused: The store answered with something other than a decision.

        """
        core = self._core
        if (
            at_least is None
            and limits is None
            and tag is None
            and type(key) is str
            and type(cost) is int
        ):
            prepaid = core.prepaid
            if prepaid is not None:
                decision = prepaid.spend(key, cost) or core.take(prepaid, key, cost)
                if decision is not None:
                    return decision
            plan, call = core.plan, core.calls[key, cost, core.now_us]
        else:
            prepaid = None
            plan = core.plan_for(limits)
            call = plan.call("hit", key, cost, at_least, tag, core.now_us)
            if core.denials is not None:
                core.denials.recall(call)
        denials = core.denials
        if denials is not None:
            if call.denial is not None and (cached := denials.answer(call)) is not None:
                return CachedDecision(plan.policies, cached)
            sent, last = denials.clock(), denials.marks.last
        try:
            reply = core.transport.run(call)
        except StoreUnavailable as error:
            core.note(error)
            return core.fallback(error, plan, "hit", key, cost, at_least, tag)
        if core.outage.since is not None:
            core.outage.answered()
        if denials is not None and (reply[2] or len(reply) > STRIDE + 1):
            denials.received(call, sent, last, reply)
        if prepaid is not None:
            prepaid.note(key, reply)
        return Decision(plan.policies, reply)

    def peek(
        self, key: Key, cost: Cost = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decision:
        """Return what ``hit`` or ``hold`` would decide now; take nothing and write nothing.

        It raises the errors of ``hit``.
        """
        core = self._core
        return core.drive(core.ask_flow(core.plan_for(limits), "peek", key, cost, tag))

    def reset(self, key: Key, *, limits: Limits | None = None, tag: Key | None = None) -> Decision:
        """Forget the counts of ``key`` in this limiter; return what ``peek`` would have decided before.

        It raises the errors of ``hit``; StoreUnavailable for every ``on_error``, since nothing was
        forgotten.
        """
        return self._core.drive(self._core.reset_flow(key, limits, tag))

    def refund(
        self, key: Key, cost: Cost = 1, *, limits: Limits | None = None, tag: Key | None = None
    ) -> None:
        """Refund ``cost`` units to ``key``, but no more than it has used.

        A log refunds its oldest units, so that no window admits too much: the units admitted in any
        window, less those refunded in it, keep the algorithm's bound.

        It raises the errors of ``hit``; StoreUnavailable for every ``on_error``, since the refund may
        not have happened.
        """
        self._core.drive(self._core.refund_flow(key, cost, limits, tag))

    def wait(
        self,
        key: Key,
        cost: Cost = 1,
        timeout: float | None = None,
        *,
        limits: Limits | None = None,
        tag: Key | None = None,
    ) -> Decision:
        """Hit; if that is denied, sleep until it would pass, and hit again.

        ``timeout`` is in seconds: 0 tries once, None waits without a bound. The ``delay`` of a leaky
        bucket is slept, too, in addition to ``timeout``.

        Callers that wait for the same subject of this limiter pass in the order of their arrival: the
        threads of this process, or the tasks of one event loop of an ``AsyncLimiter``. A caller of a
        high cost is not overtaken by later ones of a low cost. Calls that do not wait, and other
        processes, stand in no line.

        It raises the errors of ``hit``. If the wait would be longer than ``timeout``, it raises
        RateLimited at once and takes nothing; also if the store did not decide and ``on_error`` denies.
        """
        return self._core.drive(self._core.wait_flow(key, cost, timeout, limits, tag))

    def hit_all(
        self, items: Iterable[Item], *, limits: Limits | None = None, tag: Key | None = None
    ) -> Decisions:
        """Hit several subjects: all of them are charged, or none.

        Each item is a tuple of a key, its cost and, if needed, its own limits. The result is a list of
        decisions in the order of the items; it is true if all are allowed. If one subject has no room,
        the decisions of the others that have room are allowed, but nothing is granted.

        One script call decides about subjects in one slot: all subjects of a store at one address, and
        in a cluster those with the same ``tag``. Other subjects are charged one after the other, and
        refunded if a later one has no room. That never admits too much, but it may deny too much for a
        round trip, or until the charge expires if the refund does not reach the store. A log refunds its
        oldest units, so it may deny too much until its newer units expire.

        It raises the errors of ``hit``; InvalidKey also if a subject is named twice.
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
        """Hold a lease of ``cost`` places for the body of a ``with``, and charge the other limits.

        One script call decides about all limits: all are charged, or none. The lease is renewed at a
        third of its length, and released at the end of the body. If it expires because it could not be
        renewed, ``lost`` becomes true and ``on_lost`` is called in a thread of its own. The same happens
        when the lease was held for ``max_hold`` seconds and is therefore released.

        ``timeout`` is in seconds, as in ``wait``, and the order is that of ``wait``. A release in this
        process wakes the first caller that waits. That one tries at least once a second, since a holder
        in another process may release its lease at any time.

        Entering the body raises the errors of ``wait``; InvalidPolicy if no policy counts leases.
        """
        return Lease.for_call(self._core, key, cost, timeout, on_lost, limits, tag)

    def reserve(
        self, key: Key, cost: Cost, *, limits: Limits | None = None, tag: Key | None = None
    ) -> Reservation:
        """Take ``cost`` in advance for the body of a ``with``, whose true cost is known later.

        In the body, ``settle(actual)`` refunds the rest, or charges the excess even if there is no room.
        If the body raises an exception before, all of the cost is refunded. If the body ends without
        ``settle``, the charge stays.

        Entering the body raises the errors of ``hit``, and RateLimited if it is denied.
        """
        return Reservation(self._core, [(key, cost)], limits, tag, is_list=False)

    def reserve_all(
        self, items: Iterable[Item], *, limits: Limits | None = None, tag: Key | None = None
    ) -> Reservation:
        """Take the costs of several subjects in advance, as ``reserve``: all of them, or none.

        The items, and how the calls are sent, are those of ``hit_all``. In the body,
        ``settle([actual, ...])`` takes the true costs, in the order and in the form of the items' costs.

        Entering the body raises the errors of ``hit_all``, and RateLimited if a subject has no room:
        ``decision`` is the one that denied, with the longest ``retry_after``, and ``decisions`` are all.
        """
        return Reservation.of_all(self._core, items, limits, tag)

    def open(self: _Own) -> _Own:
        """Connect and load the scripts before the first call, within ``connect_timeout``. Optional.

        It also checks that the store's user has the rights that `limiter acl` prints.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a later call tries again by itself. StoreRefused
                names the rights that the user lacks.

        """
        self._core.transport.load(scripts_of(self.policies), self._core.plan.example_key)
        return self

    def close(self) -> None:
        """Return the prepaid units, and close the idle connections. A later call makes new ones."""
        if self._core.prepaid is not None:
            self._core.drive(self._core.prepaid.return_flow())
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
    """Load these scripts into a store: into one server, or into every primary of a cluster.

    Raises:
        InvalidSetting: ``store`` is no URL of a server.
        StoreUnavailable, StoreRefused: It failed; some of the scripts may be loaded.

    """
    transport = connect(store, connect_timeout, connect_timeout)
    try:
        for script in scripts:
            transport.load([script])
    finally:
        transport.close()


class Lease(HeldLease):
    """A lease, held for the body of a ``with``; see ``Limiter.hold``."""

    written = "with limiter.hold(...)"

    _core: ThreadCore

    def release(self) -> None:
        """Release the lease now; the end of the body then does nothing."""
        self._core.drive(self.release_flow())

    def _call_on_lost(self, on_lost: Callable[[], Any]) -> None:
        """Call ``on_lost`` in a thread of its own: the renewal thread has other leases to renew."""
        try:
            threading.Thread(target=super()._call_on_lost, args=(on_lost,), daemon=True).start()
        except RuntimeError:  # this process can start no more threads
            super()._call_on_lost(on_lost)

    def __enter__(self) -> Lease:
        try:
            self._core.drive(self.hold_flow())
        except LimiterError:
            raise
        except BaseException:  # interrupted, perhaps after the lease was taken
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
        except BaseException:  # interrupted, perhaps before the lease was released
            self.release()
            raise


class Reservation(ReservedCosts):
    """Costs taken in advance, for the body of a ``with``; see ``Limiter.reserve`` and ``reserve_all``.

    Attributes:
        decisions: The decision about each subject, in the order of the items.
        decision: The only one of them, or the one with the smallest ``remaining``.
        settled: Whether the true costs were settled.

    """

    written = "with limiter.reserve(...)"

    _core: ThreadCore

    def settle(self, actual: Cost | Sequence[Cost]) -> None:
        """Settle the true cost, in the body; only the first call counts.

        ``actual`` has the form of the reserved cost: a number, or a tuple with one for each policy; and for
        ``reserve_all`` a list of these. It may be more than any limit, and counts from what was granted. If
        the settlement does not reach the store, that is logged and counted in ``unsettled``, and raises
        nothing.

        Raises:
            InvalidCost: ``actual`` has another form, or a number in it is no whole number from 0.
                Nothing was settled.

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
            self._core.drive(self.refund_flow())
