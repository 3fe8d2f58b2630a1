"""Python's side of ``lua/v1/concurrency.lua``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from limiter import units
from limiter.policies.base import Policy


@dataclass(frozen=True, init=False, repr=False)
class Concurrency(Policy):
    """At most ``limit`` leases held at any instant.

    A lease ends when its holder gives it back, or ``lease`` seconds after it was taken or last
    renewed: a holder that dies blocks its place no longer than that. ``lease`` is what ``per`` is to
    the other policies. A call may cost at most 4,000, since each unit is an entry. Source: the
    semaphore with timeouts of Redis in Action (J. Carlson, 2013), on the server's clock.

    Bound: ``limit`` held at every instant, but for holders that outlive their lease.

    Raises:
        InvalidPolicy: ``limit`` is not in 1 to 100,000, or ``lease`` not in 1 ms to 366 days.

    """

    algorithm: ClassVar[str] = "concurrency"
    script: ClassVar[str] = "concurrency"
    key_type: ClassVar[str] = "zset"
    leases: ClassVar[bool] = True
    most_limit: ClassVar[int] = 100_000
    most_entries: ClassVar[int] = 4_000
    _period_name: ClassVar[str] = "lease"

    def __init__(self, limit: int, lease: units.Period = 30, *, name: str | None = None) -> None:
        super().__init__(limit, lease, name)

    @property
    def lease(self) -> int | float:
        """Seconds for which a lease is good that nobody renews."""
        return self.per

    @property
    def most_cost(self) -> int:
        """The limit, and no more than one call may write."""
        return min(self.limit, self.most_entries)

    @property
    def field(self) -> str:
        """How the key of its own ends; other leases on the same subject are the same places."""
        return self.identity if self.name is None else f"{self.identity}:{self.name}"
