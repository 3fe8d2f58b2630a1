"""A bound on the new subjects of one client address, if clients choose keys: each takes memory.

Each process counts in its own memory, so N processes admit up to N times as many. This module knows
nothing of the store: its users say which subjects the store had already.
"""

from __future__ import annotations

from time import monotonic

from limiter.errors import InvalidSetting, LimiterError, shown
from limiter.grammar import read_limits
from limiter.keys import Key

_ACCEPTED = "expected one limit of 1 to 1,000 new subjects, as in '20/hour'"
_MOST = 1_000
#: Subjects that are remembered for all addresses; beyond that, the oldest address is forgotten.
_MOST_REMEMBERED = 200_000


class TooManyNewSubjects(LimiterError):
    """A client address has reached a policy's bound on new subjects; ``retry_after`` is in seconds."""

    def __init__(self, policy: str, limit: NewSubjects, retry_after: float) -> None:
        super().__init__(f"policy {policy} allows {limit} for one address")
        self.policy = policy
        self.retry_after = retry_after


class NewSubjects:
    """The new subjects of each address within a period.

    A subject counts once in a period, also if the store has removed it meanwhile. Threads may share
    this object. It has no lock, since a fork could copy one that is held.

    Raises:
        InvalidSetting: ``text`` is not one limit without a burst, of 1 to 1,000.

    """

    def __init__(self, text: str) -> None:
        try:
            (limit,) = read_limits(text)
        except ValueError:  # no limit string, or several limits
            raise InvalidSetting.of("new_subjects", shown(text), _ACCEPTED) from None
        if limit.burst is not None or limit.limit > _MOST:
            raise InvalidSetting.of("new_subjects", shown(text), _ACCEPTED)
        self.text = text
        self._limit = limit.limit
        self._period = limit.period_us / 1e6
        self._most_addresses = max(100, _MOST_REMEMBERED // limit.limit)
        #: By address: the time at which each subject was begun, by its hash in this process.
        self._begun: dict[Key, dict[int, float]] = {}

    def __str__(self) -> str:
        return f"{self._limit} new subjects per {self._period:g} s"

    def go_on(self, before: NewSubjects) -> None:
        """Take over the counts of the object that this one replaces."""
        self._begun = before._begun

    def begins(self, address: Key, subject: Key) -> bool | None:
        """Count a new subject of an address; return whether the address may begin it.

        None: the address had begun this subject before, within the period.
        """
        begun = self._begun.get(address)
        if begun is None:
            while len(self._begun) >= self._most_addresses:
                self._begun.pop(next(iter(self._begun), address), None)
            begun = self._begun.setdefault(address, {})
        now, known = monotonic(), hash(subject)
        since = begun.get(known)
        if since is not None and now - since < self._period:
            return None
        if since is None and len(begun) >= self._limit:
            self._forget_old(begun, now)
        # First add, then count: else two threads could both take the last place.
        begun[known] = now
        if len(begun) > self._limit:
            begun.pop(known, None)
            return False
        return True

    def take_back(self, address: Key, subject: Key) -> None:
        """Stop counting a subject: the store had it already, or nothing was written."""
        begun = self._begun.get(address)
        if begun is not None:
            begun.pop(hash(subject), None)
            if not begun:
                self._begun.pop(address, None)

    def retry_after(self, address: Key) -> float:
        """Seconds until the address may begin another one."""
        times = list(self._begun.get(address, {}).values())
        return max(0.0, min(times, default=0.0) + self._period - monotonic()) if times else 0.0

    def _forget_old(self, begun: dict[int, float], now: float) -> None:
        for known, since in list(begun.items()):
            if now - since >= self._period:
                begun.pop(known, None)
