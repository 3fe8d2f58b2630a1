"""The model of reservations: what several policies were charged under an id, until it is settled once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tests.model.base import Answer, Rate

NONE, NOW, OPEN, SETTLED = range(4)


class Outcome(NamedTuple):
    """The answers of all policies, and what is recorded of the reservation."""

    each: list[Answer]
    state: int


class Reservations:
    """The reservations of the same policies, by their ids."""

    def __init__(self, models: Sequence[Rate]) -> None:
        self.models = list(models)
        #: What each policy was charged, None for one in shadow mode that had no room.
        self.open: dict[str, list[int | None]] = {}
        self.settled: set[str] = set()
        #: Those that a later call has found.
        self.found: set[str] = set()

    def record(self, name: str) -> str | None:
        """The text of the record."""
        if name in self.settled:
            return "-1"
        if name in self.open:
            words = ["-" if units is None else str(units) for units in self.open[name]]
            return " ".join([*words, "+"] if name in self.found else words)
        return None

    def reserve(
        self, clock_us: int, name: str, costs: Sequence[int], shadows: Collection[int] = ()
    ) -> Outcome:
        """Charge every policy, or none, and remember it; ``shadows`` are the places in shadow mode."""
        pairs = list(zip(self.models, costs, strict=True))
        if name in self.settled:
            return Outcome([model.ask(clock_us, cost) for model, cost in pairs], SETTLED)
        if name in self.open:
            self.found.add(name)
            answers = [model.ask(clock_us, cost) for model, cost in pairs]
            return Outcome(list(map(as_charged, answers, self.open[name])), OPEN)
        for model, cost in pairs:
            if cost:
                model.heal(clock_us)
        answers = [model.ask(clock_us, cost) for model, cost in pairs]
        if any(not answer.allowed and n not in shadows for n, answer in enumerate(answers)):
            return Outcome(answers, NONE)
        each = [
            model.charge(clock_us, cost, answer) if answer.allowed else answer
            for (model, cost), answer in zip(pairs, answers, strict=True)
        ]
        self.open[name] = [answer.granted if answer.allowed else None for answer in each]
        return Outcome(each, NOW)

    def settle(self, clock_us: int, name: str, costs: Sequence[int], marks: bool) -> Outcome:
        """Move each policy by the difference to its true cost; ``marks``: remember that it is settled.

        Without a mark, nothing moves if a later call has found the reservation.
        """
        charged = None
        if marks or name not in self.found:
            charged = self.open.pop(name, None)
            self.found.discard(name)
        state = NOW if charged is not None else SETTLED if name in self.settled else NONE
        if marks:
            self.settled.add(name)
        each = [
            move(model, clock_us, cost, units)
            for model, cost, units in zip(
                self.models, costs, charged or [None] * len(costs), strict=True
            )
        ]
        return Outcome(each, state)


def as_charged(answer: Answer, units: int | None) -> Answer:
    """The answer to a call that was charged before."""
    if units is None:
        return answer
    return answer._replace(allowed=True, granted=units, retry_after_us=0, delay_us=0)


def move(model: Rate, clock_us: int, cost: int, units: int | None) -> Answer:
    """Refund or charge one policy that was charged ``units``."""
    if units is not None and cost < units:
        return model.refund(clock_us, units - cost)
    return model.settle(clock_us, 0 if units is None else cost - units)
