"""The model of several policies in one call: all are charged, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.model.base import Answer, Model, Rate, part_of
from tests.model.concurrency import Concurrency


class Verdict(NamedTuple):
    """The answer to a call under several policies; ``policy`` is the index of the one that decided."""

    allowed: bool
    granted: int
    remaining: int
    retry_after_us: int
    reset_after_us: int
    delay_us: int
    policy: int
    limit: int
    each: tuple[Answer, ...]


class Several:
    """Several models with one decision."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = list(models)

    @property
    def rates(self) -> list[Rate]:
        """The models that count what passes."""
        return [model for model in self.models if isinstance(model, Rate)]

    @property
    def leases(self) -> list[Concurrency]:
        """The models that count what is held."""
        return [model for model in self.models if isinstance(model, Concurrency)]

    def verdict(self, each: Sequence[Answer], models: Sequence[Model] | None = None) -> Verdict:
        """Combine the answers of ``models``, which are all policies if not given."""
        numbers = range(len(each))
        denying = [n for n in numbers if not each[n].allowed]
        # max and min return the first of several equal ones.
        if denying:
            decided = max(denying, key=lambda n: each[n].retry_after_us)
        else:
            decided = min(numbers, key=lambda n: each[n].remaining)
        return Verdict(
            allowed=not denying,
            granted=min(answer.granted for answer in each),
            remaining=min(answer.remaining for answer in each),
            retry_after_us=max(answer.retry_after_us for answer in each),
            reset_after_us=max(answer.reset_after_us for answer in each),
            delay_us=0 if denying else max(answer.delay_us for answer in each),
            policy=decided,
            limit=(models or self.models)[decided].most,
            each=tuple(each),
        )

    def peek(self, clock_us: int, cost: int = 1) -> Verdict:
        """Answer what a hit would, and take nothing."""
        return self.verdict([model.peek(clock_us, cost) for model in self.models])

    def hit(
        self, clock_us: int, cost: int = 1, at_least: int | None = None, step: int = 1
    ) -> Verdict:
        """Take ``cost`` from every policy, or with ``at_least`` what all of them have, or nothing."""
        return self.acquire(clock_us, cost, "", at_least, step)

    def acquire(
        self, clock_us: int, cost: int, holder: str, at_least: int | None = None, step: int = 1
    ) -> Verdict:
        """Hit every rate and take every lease, or none; take nothing if all leases are held already.

        If only some leases are held already, those stay, and do not deny.
        """
        if cost == 0:
            return self.peek(clock_us, 0)
        for model in self.models:
            model.heal(clock_us)
        held = {id(model): len(model.held_by(clock_us, holder, cost)) for model in self.leases}
        if held and all(held.values()):
            return self.verdict(
                [
                    model.ask(clock_us, 0)._replace(granted=held.get(id(model), cost), delay_us=0)
                    for model in self.models
                ]
            )
        least = cost if at_least is None else at_least
        answers = [
            model.ask(clock_us, 0 if held.get(id(model)) else least) for model in self.models
        ]
        if not all(answer.allowed for answer in answers):
            return self.verdict(answers)
        room = min(
            answer.remaining
            for model, answer in zip(self.models, answers, strict=True)
            if not held.get(id(model))
        )
        granted = part_of(cost, room, step)
        each = []
        for model, before in zip(self.models, answers, strict=True):
            if isinstance(model, Rate):
                each.append(model.charge(clock_us, granted, before))
            elif held[id(model)]:
                each.append(before._replace(granted=held[id(model)]))
            else:
                each.append(model.take(clock_us, granted, holder))
        return self.verdict(each)

    def refund(self, clock_us: int, cost: int) -> Verdict:
        """Refund every rate by itself, up to what it counts."""
        return self.verdict([model.refund(clock_us, cost) for model in self.rates], self.rates)

    def settle(self, clock_us: int, cost: int) -> Verdict:
        """Charge every rate by itself, without a check."""
        return self.verdict([model.settle(clock_us, cost) for model in self.rates], self.rates)

    def renew(self, clock_us: int, cost: int, holder: str) -> Verdict:
        """Renew every lease by itself."""
        each = [model.renew(clock_us, cost, holder) for model in self.leases]
        return self.verdict(each, self.leases)

    def release(self, clock_us: int, cost: int, holder: str) -> Verdict:
        """Release every lease by itself."""
        each = [model.release(clock_us, cost, holder) for model in self.leases]
        return self.verdict(each, self.leases)

    def reset(self, clock_us: int, cost: int = 1) -> Verdict:
        """Delete the history of every policy."""
        return self.verdict([model.reset(clock_us, cost) for model in self.models])
