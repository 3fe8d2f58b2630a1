"""What every model has in common: the answer, and the way from a definition to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import NamedTuple


class Answer(NamedTuple):
    """What a call is told; every time is relative to the clock of that call."""

    allowed: bool
    granted: int
    remaining: int
    retry_after_us: int
    reset_after_us: int
    delay_us: int


class Model(ABC):
    """One policy of one subject.

    A subclass keeps every admitted hit, and defines five things of a moment: how many units would
    pass (``room``), when a number of units will pass (``passes_at``), when nothing of the past
    counts any more (``rests_at``), how long the debt is (``debt``), and what being charged means
    (``admit``). What cannot have happened is made good by ``heal``, which only a hit does.
    """

    limit: int
    period_us: int

    def __repr__(self) -> str:
        """The policy, and how much of a history there is."""
        return f"<{type(self).__name__} {vars(self)}>"

    @abstractmethod
    def room(self, clock_us: int) -> int:
        """Whole units that would pass right now."""

    @abstractmethod
    def passes_at(self, clock_us: int, units: int) -> int:
        """The first reading of the clock at which ``units`` would pass, if nobody else spends."""

    @abstractmethod
    def rests_at(self, clock_us: int) -> int:
        """The first reading of the clock at which all is as if unused; not before now."""

    @abstractmethod
    def admit(self, clock_us: int, units: int) -> None:
        """Keep an admitted hit."""

    @abstractmethod
    def forget(self) -> None:
        """Drop the whole history."""

    def debt(self, clock_us: int) -> Fraction | int:
        """Time that what was taken before needs to drip away; only buckets drip."""
        return 0

    def heal(self, clock_us: int) -> None:  # noqa: B027 (a policy need not have anything to heal)
        """Rewrite a history that lies too far ahead of the clock to be true."""

    @property
    def most(self) -> int:
        """The most that can ever pass at once."""
        return self.limit

    def ask(self, clock_us: int, least: int) -> Answer:
        """Say whether ``least`` units would pass."""
        allowed = self.room(clock_us) >= least
        return Answer(
            allowed=allowed,
            granted=0,
            remaining=self.room(clock_us),
            retry_after_us=0 if allowed else self.passes_at(clock_us, least) - clock_us,
            reset_after_us=self.rests_at(clock_us) - clock_us,
            delay_us=ceil(self.debt(clock_us)) if allowed else 0,
        )

    def peek(self, clock_us: int, cost: int = 1) -> Answer:
        """Say what a hit would say, and take nothing."""
        return self.ask(clock_us, cost)

    def hit(self, clock_us: int, cost: int = 1, at_least: int | None = None) -> Answer:
        """Take ``cost``; or, with ``at_least``, as much of it as there is from that on."""
        if cost == 0:
            return self.peek(clock_us, 0)
        self.heal(clock_us)
        before = self.ask(clock_us, cost if at_least is None else at_least)
        if not before.allowed:
            return before
        granted = min(cost, before.remaining)
        return self.charge(clock_us, granted, before)

    def charge(self, clock_us: int, granted: int, before: Answer) -> Answer:
        """Take ``granted`` after ``before`` allowed it, and say how things stand then."""
        if granted:
            self.admit(clock_us, granted)
        return self.ask(clock_us, 0)._replace(granted=granted, delay_us=before.delay_us)

    def reset(self, clock_us: int, cost: int = 1) -> Answer:
        """Forget everything; the answer is what a peek would have said just before."""
        before = self.peek(clock_us, cost)
        self.forget()
        return before

    def change(self, limit: int) -> None:
        """Give the policy another number; what happened stays."""
        self.limit = limit


def ceil(number: Fraction | int) -> int:
    """The smallest whole number that is not less."""
    return -(-number // 1)
