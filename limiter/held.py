"""What a caller has in hand: a lease, or a reservation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

from limiter.decision import Decision
from limiter.keys import Key
from limiter.log_throttle import log_seldom
from limiter.plan import Plan
from limiter.policies import Concurrency

log = logging.getLogger("limiter")


class Entered:
    """What asks the store when the body of its ``with`` is entered, and until then has decided nothing.

    Any object is true: ``if jobs.hold("u"):`` would let everybody in. Once it has been entered it is
    true, too.
    """

    written: ClassVar[str] = "with"
    """How it is entered, for a message."""

    def __bool__(self) -> bool:
        if hasattr(self, "decision"):
            return True
        raise TypeError(
            f"a {type(self).__name__} is neither true nor false, nothing is asked until it is entered: "
            f"write `{self.written}:`, which raises RateLimited where it is denied"
        )


class Held(Entered):
    """A lease under way: what was asked, what was decided, and whether it is still ours.

    Attributes:
        decision: What was decided when the lease was taken.
        lost: Whether it ended, since it could not be renewed: others may hold what we believe to.

    """

    decision: Decision

    def __init__(
        self,
        plan: Plan,
        leases_plan: Plan,
        key: Key,
        more: dict[str, Any],
        timeout: float | None,
        on_lost: Callable[[], Any] | None,
    ) -> None:
        self.plan = plan
        self.leases_plan = leases_plan
        self.key = key
        self.more = more
        self.timeout = timeout
        self.lost = False
        self.released = False
        self.degraded = False
        self.busy = False
        self.stop_renewing: Callable[[], None] = _nothing
        self._on_lost = on_lost
        self._process = os.getpid()

    def anew(self, lease: str) -> None:
        """Be another lease than whatever was held before."""
        self.more = {**self.more, "lease": lease}
        self.lost = self.released = self.degraded = False
        self._process = os.getpid()

    def begin(self, decision: Decision) -> None:
        """Note what was decided when the lease was taken."""
        self.decision = decision
        self.degraded = decision.degraded

    def holds(self, lease: str) -> bool:
        """Whether the lease of this id was not given back, and is not one of an earlier use."""
        return not self.released and self.more["lease"] == lease

    @property
    def longest(self) -> float:
        """Seconds after which the lease is given back although it is held; infinite without one."""
        leases = self.leases_plan.policies
        found = (policy.max_hold for policy in leases if isinstance(policy, Concurrency))
        return min((float(seconds) for seconds in found if seconds is not None), default=inf)

    @property
    def is_inherited(self) -> bool:
        """Whether this is a fork's copy of its parent's lease, which is the parent's to give back."""
        return self._process != os.getpid()

    def lose(self, why: object) -> None:
        """Say that the lease is no longer ours; nothing is raised into whoever holds it."""
        self.lost = True
        if self._on_lost is not None:
            self._tell(self._on_lost)
        kind = why if isinstance(why, str) else type(why)
        log_seldom(log, logging.WARNING, "a lease was lost: %s", why, kind=kind)

    def unrenewed(self, lease: str, why: str) -> None:
        """The renewal of this id was ended by something else: in the store it will end."""
        if self.holds(lease) and not self.lost:
            self.lose(why)

    def _tell(self, on_lost: Callable[[], Any]) -> None:
        try:
            on_lost()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit, or what a test library raises, would end others
            log_seldom(log, logging.ERROR, "on_lost failed", kind=type(error), exc_info=True)


class Reserved(Entered):
    """A cost that was taken before it is known.

    Attributes:
        decision: What was decided when it was taken.
        settled: Whether the true cost has been told.

    """

    decision: Decision

    def __init__(self, plan: Plan, key: Key, cost: int, tag: Key | None) -> None:
        self.plan = plan
        self.key = key
        self.cost = cost
        self.tag = tag
        self.settled = False
        self.begun = False
        self._process = os.getpid()

    def begin(self, decision: Decision) -> None:
        """Note what was decided when it was taken."""
        self.decision = decision
        self.settled, self.begun = False, True
        self._process = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether this is a fork's copy, whose body's end says nothing about what the parent used."""
        return self._process != os.getpid()


def _nothing() -> None:
    """Nothing is being renewed."""
