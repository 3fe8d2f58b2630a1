"""What every model has in common: the answer, and the way from a definition to one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st

from tests.histories import Admitted


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

    A subclass keeps every admitted hit, and defines four things of a moment: how many units the past
    leaves (``left``), when a number of units will pass (``passes_at``), when nothing of the past
    counts any more (``rests_at``), and how long the debt is (``debt``). What cannot have happened is
    made good by ``heal``, which only a call does that may take or give back.

    All else that a test has to know of an algorithm stands here too: how its script is called, how
    its policies are drawn, and what is true of all that it ever admitted. What is given here will do
    for an algorithm that counts in a hash and has no numbers but limit and period.
    """

    #: What a user chooses it by, which its fields begin with, and the script that decides it.
    algorithm: ClassVar[str]
    script: ClassVar[str]
    #: hash: the state is a field of the subject's hash; list, zset: a key of its own.
    key_type: ClassVar[str] = "hash"
    #: Whether its users have to wait while the debt before them drips away.
    queues: ClassVar[bool] = False

    limit: int
    period_us: int

    def __init__(self, limit: int, period_us: int) -> None:
        self.limit, self.period_us = limit, period_us

    def __repr__(self) -> str:
        """The policy, and how much of a history there is."""
        return f"<{type(self).__name__} {vars(self)}>"

    @abstractmethod
    def left(self, clock_us: int) -> int:
        """Whole units that the past leaves of the most; below zero where it took more than that."""

    def room(self, clock_us: int) -> int:
        """Whole units that would pass right now."""
        return max(0, self.left(clock_us))

    @abstractmethod
    def passes_at(self, clock_us: int, units: int) -> int:
        """The first reading of the clock at which ``units`` would pass, if nobody else spends."""

    @abstractmethod
    def rests_at(self, clock_us: int) -> int:
        """The first reading of the clock at which all is as if unused; not before now."""

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

    @property
    def most_cost(self) -> int:
        """The most that one call may ask for."""
        return self.most

    @property
    def full_us(self) -> int:
        """How long the most that can be taken at once will count."""
        return self.period_us

    @property
    def believed_us(self) -> int:
        """The longest time for which anything wrong can be believed."""
        return 2 * self.period_us

    @abstractmethod
    def edges(self, now_us: int) -> list[int]:
        """Readings of the clock, after some history, at which what the model says may change."""

    @property
    def identity(self) -> str:
        """What the policy's field begins with."""
        return self.algorithm

    @property
    def field(self) -> str:
        """The policy's field, but for a name of its own."""
        return f"{self.identity}:{self.period_us}"

    def numbers(self) -> dict[str, int]:
        """What the script's header calls the numbers of the policy."""
        return {"limit": self.most, "period_us": self.period_us}

    @classmethod
    def options(cls, most: int) -> dict[str, st.SearchStrategy[Any]]:  # noqa: ARG003 (a count needs it)
        """What model and policy take besides limit and period; counts are up to ``most``."""
        return {}

    @classmethod
    def of_policy(cls, policy: Any) -> Model:
        """The slow, exact meaning of a policy of the library."""
        more = {name: getattr(policy, name) for name in cls.options(1)}
        return cls(policy.limit, policy.period_us, **more)

    @classmethod
    def samples(cls, most: int, period_us: int) -> list[Model]:
        """One policy of every kind, each of which lets ``most`` pass at once."""
        return [cls(most, period_us)]

    @classmethod
    def small_worlds(cls) -> list[Model]:
        """Policies so small that short histories meet everything: three units, four microseconds."""
        return cls.samples(3, 4)

    @classmethod
    def of_every_size(cls, periods: st.SearchStrategy[int]) -> st.SearchStrategy[Model]:
        """Every policy that the library would accept, small ones for the most part."""
        return st.builds(cls, st.integers(1, 12), periods, **cls.options(12))

    def changes(self) -> st.SearchStrategy[dict[str, int]]:
        """Other numbers for ``change``."""
        return st.fixed_dictionaries({"limit": st.integers(1, 12)})

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

    def reset(self, clock_us: int, cost: int = 1) -> Answer:
        """Forget everything; the answer is what a peek would have said just before."""
        before = self.peek(clock_us, cost)
        self.forget()
        return before

    def change(self, limit: int) -> None:
        """Give the policy another number; what happened stays."""
        self.limit = limit


class Rate(Model):
    """A policy that counts what passes.

    Two more things say what it is: what being charged means (``admit``), and which of the past is
    taken back when units are (``give_back``).
    """

    @property
    @abstractmethod
    def bound(self) -> int:
        """The most that any window of one period may hold (design: the table of algorithms)."""

    def check(self, history: Sequence[Admitted]) -> None:
        """Fail unless what else is promised was kept in all that was admitted."""

    @abstractmethod
    def admit(self, clock_us: int, units: int) -> None:
        """Keep an admitted hit."""

    @abstractmethod
    def give_back(self, clock_us: int, units: int) -> int:
        """Take up to ``units`` out of what counts now; say how many those were."""

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

    def refund(self, clock_us: int, cost: int) -> Answer:
        """Give ``cost`` back, or as much as is counted of it."""
        granted = 0
        if cost:
            self.heal(clock_us)
            granted = self.give_back(clock_us, cost)
        return self.ask(clock_us, 0)._replace(granted=granted, delay_us=0)

    def settle(self, clock_us: int, cost: int) -> Answer:
        """Charge ``cost`` without asking, as long as that leaves no more than one most of debt."""
        granted = 0
        if cost:
            self.heal(clock_us)
            granted = max(0, min(cost, self.left(clock_us) + self.most))
        if granted:
            self.admit(clock_us, granted)
        return self.ask(clock_us, 0)._replace(granted=granted, delay_us=0)


def ceil(number: Fraction | int) -> int:
    """The smallest whole number that is not less."""
    return -(-number // 1)


def taken_from(hits: list[tuple[int, int]], units: int) -> int:
    """Take up to ``units`` from these hits, the oldest first; say how many those were."""
    wanted = units
    while hits and wanted:
        at, cost = hits.pop(0)
        if cost > wanted:
            hits.insert(0, (at, cost - wanted))
        wanted -= min(cost, wanted)
    return units - wanted
