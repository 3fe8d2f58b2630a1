"""The base of all models: answers, and how they follow from an algorithm's definition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st

from tests.histories import Admitted


class Answer(NamedTuple):
    """The answer to a call; every time is relative to the clock of that call."""

    allowed: bool
    granted: int
    remaining: int
    retry_after_us: int
    reset_after_us: int
    delay_us: int


class Model(ABC):
    """One policy of one subject.

    A subclass keeps every admitted hit, and defines for a time: how many units are left (``left``), when
    a number of units will pass (``passes_at``), when no hit counts any more (``rests_at``), and the debt
    (``debt``). ``heal`` replaces a history that cannot be true; only calls that may take or refund use it.

    A model also defines how to call its script, how to draw its policies, and what must be true of its
    admitted hits. The defaults here are right for an algorithm with a hash, a limit and a period.
    """

    #: The algorithm's name in settings, with which its fields begin; and its script.
    algorithm: ClassVar[str]
    script: ClassVar[str]
    #: hash: the state is a field of the subject's hash; list, zset: a key of its own.
    key_type: ClassVar[str] = "hash"
    #: Whether an admitted call must wait for the debt before it.
    queues: ClassVar[bool] = False

    limit: int
    period_us: int

    def __init__(self, limit: int, period_us: int) -> None:
        self.limit, self.period_us = limit, period_us

    def __repr__(self) -> str:
        """Show the policy and its history."""
        return f"<{type(self).__name__} {vars(self)}>"

    @abstractmethod
    def left(self, clock_us: int) -> int:
        """Return the units that are left; negative in debt."""

    def room(self, clock_us: int) -> int:
        """Return the whole units that would pass right now."""
        return max(0, self.left(clock_us))

    @abstractmethod
    def passes_at(self, clock_us: int, units: int) -> int:
        """Return the first time at which ``units`` would pass, if no other call spends."""

    @abstractmethod
    def rests_at(self, clock_us: int) -> int:
        """Return the first time, from now on, at which the policy counts as unused."""

    @abstractmethod
    def forget(self) -> None:
        """Drop the whole history."""

    def debt(self, clock_us: int) -> Fraction | int:
        """Return the time in which a bucket regains the units taken before; 0 for other algorithms."""
        return 0

    def heal(self, clock_us: int) -> None:  # noqa: B027 (some policies have nothing to repair)
        """Replace a history that is too far ahead of the clock to be true."""

    @property
    def most(self) -> int:
        """The most units that can pass at once."""
        return self.limit

    @property
    def most_cost(self) -> int:
        """The largest cost of one call."""
        return self.most

    @property
    def full_us(self) -> int:
        """The time for which the most units that can pass at once will count."""
        return self.period_us

    @property
    def believed_us(self) -> int:
        """The longest time for which wrong state may count."""
        return 2 * self.period_us

    @abstractmethod
    def edges(self, now_us: int) -> list[int]:
        """Return times, after a history, at which the answer may change."""

    @property
    def identity(self) -> str:
        """The beginning of the policy's field."""
        return self.algorithm

    @property
    def field(self) -> str:
        """The field of the policy without a name."""
        return f"{self.identity}:{self.period_us}"

    def numbers(self) -> dict[str, int]:
        """Return the policy's numbers by their names in the script's header."""
        return {"limit": self.most, "period_us": self.period_us}

    @classmethod
    def options(cls, most: int) -> dict[str, st.SearchStrategy[Any]]:  # noqa: ARG003 (a count needs it)
        """Return the arguments besides limit and period; counts are up to ``most``."""
        return {}

    @classmethod
    def of_policy(cls, policy: Any) -> Model:
        """Make the model of a policy of the library."""
        options = {name: getattr(policy, name) for name in cls.options(1)}
        return cls(policy.limit, policy.period_us, **options)

    @classmethod
    def samples(cls, most: int, period_us: int) -> list[Model]:
        """Return a policy of every kind; each admits ``most`` units at once."""
        return [cls(most, period_us)]

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Return policies so small that short histories reach every case."""
        return cls.samples(3, 4)

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Draw policies that the library would accept, most of them small."""
        return st.builds(cls, st.integers(1, 12), periods, **cls.options(12))

    def changes(self) -> st.SearchStrategy[dict[str, int]]:
        """Draw other numbers for ``change``."""
        return st.fixed_dictionaries({"limit": st.integers(1, 12)})

    def ask(self, clock_us: int, least: int) -> Answer:
        """Answer whether ``least`` units would pass."""
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
        """Answer what a hit would, and take nothing."""
        return self.ask(clock_us, cost)

    def reset(self, clock_us: int, cost: int = 1) -> Answer:
        """Delete the history; the answer is that of a peek just before."""
        before = self.peek(clock_us, cost)
        self.forget()
        return before

    def change(self, limit: int) -> None:
        """Change the limit; the history stays."""
        self.limit = limit


class Rate(Model):
    """A policy that counts what passes.

    A subclass also defines what a charge does (``admit``), and which hits a refund removes
    (``return_units``).
    """

    @property
    @abstractmethod
    def bound(self) -> int:
        """The bound: the most that any window of one period may admit."""

    def check(self, history: Sequence[Admitted]) -> None:
        """Fail unless the admitted hits keep the algorithm's further promises."""

    @abstractmethod
    def admit(self, clock_us: int, units: int) -> None:
        """Keep an admitted hit."""

    @abstractmethod
    def return_units(self, clock_us: int, units: int) -> int:
        """Remove up to ``units`` from the hits that count now; return their number."""

    def hit(
        self, clock_us: int, cost: int = 1, at_least: int | None = None, step: int = 1
    ) -> Answer:
        """Take ``cost``; or with ``at_least`` as many units as are free, but at least that number.

        A part of the cost is a multiple of ``step``.
        """
        if cost == 0:
            return self.peek(clock_us, 0)
        self.heal(clock_us)
        before = self.ask(clock_us, cost if at_least is None else at_least)
        if not before.allowed:
            return before
        granted = part_of(cost, before.remaining, step)
        return self.charge(clock_us, granted, before)

    def charge(self, clock_us: int, granted: int, before: Answer) -> Answer:
        """Take ``granted`` after ``before`` allowed it, and answer with the new state."""
        if granted:
            self.admit(clock_us, granted)
        return self.ask(clock_us, 0)._replace(granted=granted, delay_us=before.delay_us)

    def refund(self, clock_us: int, cost: int) -> Answer:
        """Refund ``cost``, or as many units as count."""
        granted = 0
        if cost:
            self.heal(clock_us)
            granted = self.return_units(clock_us, cost)
        return self.ask(clock_us, 0)._replace(granted=granted, delay_us=0)

    def settle(self, clock_us: int, cost: int) -> Answer:
        """Charge ``cost`` without a check, or as much as leaves a debt of at most ``most``."""
        granted = 0
        if cost:
            self.heal(clock_us)
            granted = max(0, min(cost, self.left(clock_us) + self.most))
        if granted:
            self.admit(clock_us, granted)
        return self.ask(clock_us, 0)._replace(granted=granted, delay_us=0)


def part_of(cost: int, room: int, step: int) -> int:
    """Return the cost, or the largest multiple of ``step`` that fits into the room."""
    return cost if cost <= room else room // step * step


def ceil(number: Fraction | int) -> int:
    """Round up to a whole number."""
    return -(-number // 1)


def taken_from(hits: list[tuple[int, int]], units: int) -> int:
    """Remove up to ``units`` from these hits, the oldest first; return their number."""
    wanted = units
    while hits and wanted:
        at, cost = hits.pop(0)
        if cost > wanted:
            hits.insert(0, (at, cost - wanted))
        wanted -= min(cost, wanted)
    return units - wanted
