"""A lease, from the call that takes it over its renewals to its release or loss."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from math import inf
from time import monotonic
from typing import Any, TypeVar

from limiter import settings
from limiter.core import Core
from limiter.decision import Decision, RateLimited
from limiter.entered import Entered
from limiter.errors import InvalidSetting, LimiterError, StoreUnavailable
from limiter.flows import Flow, Pause
from limiter.grammar import Limits
from limiter.keys import Key
from limiter.lines import line_flow
from limiter.log_throttle import log_seldom
from limiter.plan import Cost, Part, Plan
from limiter.policies import Concurrency

#: Stop renewing this many seconds before the lease expires.
_AT_ITS_END = 0.001
#: At most this many leases that may have been taken are released at a time; more expire by themselves.
_MOST_FORGOTTEN = 16

_Own = TypeVar("_Own", bound="HeldLease")

log = logging.getLogger("limiter")


class HeldLease(Entered):
    """A lease: the call that takes it, the decision, and whether it is still held.

    Attributes:
        decision: The decision of the call that took the lease.
        lost: Whether the lease expired before it was renewed: another client may hold its place.
        released: Whether the lease was released.
        degraded: Whether ``on_error`` granted the lease, not the store.

    """

    decision: Decision

    def __init__(
        self,
        core: Core[Any],
        plan: Plan,
        key: Key,
        cost: Cost,
        tag: Key | None = None,
        timeout: float | None = 0,
        on_lost: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self.lost = self.released = self.degraded = False
        self._core = core
        self._plan = plan
        self._key = key
        self._cost = cost
        self._tag = tag
        self._timeout = timeout
        self._on_lost = on_lost
        self._lease = ""
        """The lease's id, drawn when it is taken."""
        self._busy = False
        self._tried_at = 0.0
        self._stop: Callable[[], None] = _nothing
        """Ends the wait in line, or the renewal."""

    @classmethod
    def for_call(
        cls: type[_Own],
        core: Core[Any],
        key: Key,
        cost: int,
        timeout: float | None,
        on_lost: Callable[[], Any] | None,
        limits: Limits | None,
        tag: Key | None,
    ) -> _Own:
        """Check the arguments of ``Limiter.hold``, and make its lease; nothing is taken yet."""
        plan = core.plan_for(limits)
        plan.check_mode("acquire")
        cost = plan.checked_whole(cost, least=1)
        plan.state(key, tag)
        if on_lost is not None and (not callable(on_lost) or iscoroutinefunction(on_lost)):
            raise InvalidSetting.of(
                "on_lost",
                repr(on_lost),
                "expected a function without arguments that is no coroutine",
            )
        return cls(core, plan, key, cost, tag, settings.check_wait(timeout), on_lost)

    @classmethod
    def of_part(cls: type[_Own], core: Core[Any], part: Part, lease: str) -> _Own:
        """Make the object for the lease of this id, which a joint call took for one of its parts."""
        held = cls(core, part.plan, part.key, part.cost)
        held._lease = lease
        return held

    # --- taking ---

    def hold_flow(self) -> Flow[None]:
        """Take the lease, unless it is in use already."""
        if self._busy:
            raise InvalidSetting(
                "this lease is held already: expected one body at a time; call hold for each"
            )
        self._busy = True
        try:
            yield from self._take_flow()
        except LimiterError:
            self._busy = False
            raise

    def _take_flow(self) -> Flow[None]:
        """Take the lease, and start its renewal."""
        core = self._core
        waiter = core.new_waiter(inf if self._timeout is None else monotonic() + self._timeout)
        self._lease = secrets.token_hex(16)
        self._process = os.getpid()
        self.lost = self.released = self.degraded = False
        self._stop = waiter.withdraw
        try:
            decision = yield from line_flow(
                core, waiter, self._plan, self._key, self._cost, self._tag, self._acquire_flow
            )
        except RateLimited:
            if not self.released:
                raise
        finally:
            self._stop = _nothing
        if self.released:  # during the call, perhaps before the lease was taken: release it again
            self.released = False
            yield from self.release_flow()
            raise InvalidSetting("this lease was released while it was requested: it is not held")
        try:
            self.keep(decision, self._tried_at)
        except StoreUnavailable:  # it cannot be renewed
            yield from self.release_flow()
            raise
        if decision.delay:
            yield Pause(decision.delay)

    def _acquire_flow(self) -> Flow[Decision]:
        """Try once to take the lease; if the reply is lost, the lease may be held and is released later."""
        self._tried_at = monotonic()
        acquire = self._core.ask_flow(
            self._plan, "acquire", self._key, self._cost, self._tag, self._lease
        )
        try:
            decision = yield from acquire
        except StoreUnavailable as error:
            self.forget(error)
            raise
        if decision.degraded:
            self.forget(StoreUnavailable("the store did not decide"))
        return decision

    def keep(self, decision: Decision, taken_at: float) -> None:
        """Start the renewal of the lease, which a call that began at ``taken_at`` took.

        Raises:
            StoreUnavailable: The lease cannot be renewed.

        """
        self.decision = decision
        self.degraded = decision.degraded
        if not self.degraded or self._core.share is not None:
            lease = self._lease
            renewing = self._renew_flow(lease, taken_at)
            self._stop = self._core.run_beside(renewing, partial(self._unrenewed, lease))

    # --- renewing ---

    def _renew_flow(self, lease: str, taken_at: float) -> Flow[None]:
        """Renew a lease at a third of its length, until it is released, lost, or held for too long."""
        lasts = min(policy.period_us for policy in self._plan.leases) / 1e6
        longest = self._longest()
        must_end = taken_at + longest
        ends, pause, again = taken_at + lasts, lasts / 3, lasts / 10
        while True:
            yield Pause(max(0.0, min(pause, must_end - monotonic())))
            if not self._holds(lease):
                return
            now = monotonic()
            if now >= must_end:
                # Report the loss before the release: after it another client may have the place.
                self._lose(f"it was held for {longest:g} s, the longest that its policy allows")
                with suppress(LimiterError):  # if the release fails, the lease expires
                    yield from self._change_flow("release", lease)
                return
            # If the loss is reported late, the holder uses a place that another client has by now.
            if now >= ends:
                self._lose("it expired before it could be renewed")
                return
            try:
                deadline = min(now + self._core.store.timeout, ends)
                renewed = yield from self._change_flow("renew", lease, deadline)
            except StoreUnavailable as error:
                # The lease has not expired yet. Try again: a second renewal does no harm.
                left = ends - monotonic()
                if left > _AT_ITS_END:
                    pause, again = min(again, left / 2), 2 * again
                    continue
                why: object = error
            except LimiterError as error:
                why = error
            else:
                if renewed:
                    ends, pause, again = now + lasts, lasts / 3, lasts / 10
                    continue
                why = "it had expired"
            if self._holds(lease):
                self._lose(why)
            return

    def _change_flow(self, mode: str, lease: str, deadline: float | None = None) -> Flow[bool]:
        """Renew or release the lease where it was granted; return whether it was still held there."""
        plan, key, cost, tag = self._plan.of_leases, self._key, self._cost, self._tag
        return self._core.change_flow(plan, mode, key, cost, tag, lease, self.degraded, deadline)

    def _holds(self, lease: str) -> bool:
        """Whether this object still holds the lease of this id: not released, nor of an earlier use."""
        return not self.released and self._lease == lease

    def _longest(self) -> float:
        """The shortest ``max_hold`` in seconds; infinite if no policy has one."""
        bounds = (
            policy.max_hold for policy in self._plan.leases if isinstance(policy, Concurrency)
        )
        return min((float(bound) for bound in bounds if bound is not None), default=inf)

    def _unrenewed(self, lease: str, why: str) -> None:
        """Report the loss if something else ended the renewal of this id: the lease will expire."""
        if self._holds(lease) and not self.lost:
            self._lose(why)

    def _lose(self, why: object) -> None:
        """Report that the lease is lost, by ``lost``, ``on_lost`` and the log; the body goes on."""
        self.lost = True
        if self._on_lost is not None:
            self._call_on_lost(self._on_lost)
        kind = why if isinstance(why, str) else type(why)
        log_seldom(log, logging.WARNING, "a lease was lost: %s", why, kind=kind)

    def _call_on_lost(self, on_lost: Callable[[], Any]) -> None:
        try:
            on_lost()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: it would end the renewal of other leases
            log_seldom(log, logging.ERROR, "on_lost failed", kind=type(error), exc_info=True)

    # --- releasing ---

    def release_flow(self) -> Flow[None]:
        """Release the lease, once; if the store does not answer, the lease expires."""
        if self.released or self.is_inherited or not self._lease:
            return
        self.released = True
        try:
            self._stop()
            yield from self._change_flow("release", self._lease)
        except LimiterError as error:
            self._core.not_settled("a release", error)
        except BaseException:  # interrupted; a second release does no harm
            self.forget(StoreUnavailable("it was interrupted"), 0.0)
            raise
        finally:
            self._busy = False

    def forget(self, why: StoreUnavailable, after: float | None = None) -> None:
        """Release the lease later, by its id: the store may have granted it although no reply came."""
        core = self._core
        if core.forgetting >= _MOST_FORGOTTEN:
            core.not_settled("a release", why)
            return
        core.forgetting += 1
        after = core.timeout if after is None else after
        try:
            core.run_beside(self._forget_flow(self._lease, after))
        except StoreUnavailable as error:
            core.not_settled("a release", error)

    def _forget_flow(self, lease: str, after: float) -> Flow[None]:
        """Release a lease that may have been taken, when the store answers again."""
        core, plan, process = self._core, self._plan.of_leases, os.getpid()
        try:
            yield Pause(after)
            yield from core.change_flow(plan, "release", self._key, self._cost, self._tag, lease)
        except LimiterError as error:
            core.not_settled("a release", error)
        except GeneratorExit:
            core.cut_off("a release", process)
            raise
        finally:
            core.forgetting -= 1


def _nothing() -> None:
    """Do nothing: no wait and no renewal is under way."""
