"""Several policies of one call: all are charged, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.model.base import Answer, Model


class Verdict(NamedTuple):
    """What a call under several policies is told; ``policy`` numbers the one that decided."""

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
    """The product of some models."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = list(models)

    def verdict(self, each: Sequence[Answer]) -> Verdict:
        """Put together what each policy says."""
        numbers = range(len(each))
        denying = [n for n in numbers if not each[n].allowed]
        # max and min give the first of several that are alike.
        if denying:
            decided = max(denying, key=lambda n: each[n].retry_after_us)
        else:
            decided = min(numbers, key=lambda n: each[n].remaining)
        return Verdict(
            allowed=not denying,
            granted=min(one.granted for one in each),
            remaining=min(one.remaining for one in each),
            retry_after_us=max(one.retry_after_us for one in each),
            reset_after_us=max(one.reset_after_us for one in each),
            delay_us=0 if denying else max(one.delay_us for one in each),
            policy=decided,
            limit=self.models[decided].most,
            each=tuple(each),
        )

    def peek(self, clock_us: int, cost: int = 1) -> Verdict:
        """Say what a hit would say, and take nothing."""
        return self.verdict([model.peek(clock_us, cost) for model in self.models])

    def hit(self, clock_us: int, cost: int = 1, at_least: int | None = None) -> Verdict:
        """Take ``cost`` from every policy, or what all of them have, or nothing from any."""
        if cost == 0:
            return self.peek(clock_us, 0)
        for model in self.models:
            model.heal(clock_us)
        least = cost if at_least is None else at_least
        asked = [model.ask(clock_us, least) for model in self.models]
        if not all(one.allowed for one in asked):
            return self.verdict(asked)
        granted = min(cost, *(one.remaining for one in asked))
        return self.verdict(
            [
                model.charge(clock_us, granted, before)
                for model, before in zip(self.models, asked, strict=True)
            ]
        )

    def reset(self, clock_us: int, cost: int = 1) -> Verdict:
        """Forget everything under every policy."""
        return self.verdict([model.reset(clock_us, cost) for model in self.models])
