"""Several policies of one call: all are charged, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.model.base import Answer, Model, Rate
from tests.model.concurrency import Concurrency


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

    @property
    def rates(self) -> list[Rate]:
        """Those that count what passes."""
        return [model for model in self.models if isinstance(model, Rate)]

    @property
    def leases(self) -> list[Concurrency]:
        """Those that count what is held."""
        return [model for model in self.models if isinstance(model, Concurrency)]

    def verdict(self, each: Sequence[Answer], models: Sequence[Model] | None = None) -> Verdict:
        """Put together what each policy says; they are all of them where no others are named."""
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
            limit=(models or self.models)[decided].most,
            each=tuple(each),
        )

    def peek(self, clock_us: int, cost: int = 1) -> Verdict:
        """Say what a hit would say, and take nothing."""
        return self.verdict([model.peek(clock_us, cost) for model in self.models])

    def hit(self, clock_us: int, cost: int = 1, at_least: int | None = None) -> Verdict:
        """Take ``cost`` from every policy, or what all of them have, or nothing from any."""
        return self.acquire(clock_us, cost, "", at_least)

    def acquire(
        self, clock_us: int, cost: int, holder: str, at_least: int | None = None
    ) -> Verdict:
        """Hit every rate and take every lease, or none; nothing where all leases are held already.

        A lease that is held while another is not is the same lease: it has room, and stays.
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
        asked = [model.ask(clock_us, 0 if held.get(id(model)) else least) for model in self.models]
        if not all(one.allowed for one in asked):
            return self.verdict(asked)
        granted = min(
            cost,
            *(
                one.remaining
                for model, one in zip(self.models, asked, strict=True)
                if not held.get(id(model))
            ),
        )
        each = []
        for model, before in zip(self.models, asked, strict=True):
            if isinstance(model, Rate):
                each.append(model.charge(clock_us, granted, before))
            elif held[id(model)]:
                each.append(before._replace(granted=held[id(model)]))
            else:
                each.append(model.take(clock_us, granted, holder))
        return self.verdict(each)

    def refund(self, clock_us: int, cost: int) -> Verdict:
        """Give back to every rate what it counts, each by itself."""
        return self.verdict([model.refund(clock_us, cost) for model in self.rates], self.rates)

    def settle(self, clock_us: int, cost: int) -> Verdict:
        """Charge every rate without asking, each by itself."""
        return self.verdict([model.settle(clock_us, cost) for model in self.rates], self.rates)

    def renew(self, clock_us: int, cost: int, holder: str) -> Verdict:
        """Renew every lease that is live, each by itself."""
        each = [model.renew(clock_us, cost, holder) for model in self.leases]
        return self.verdict(each, self.leases)

    def release(self, clock_us: int, cost: int, holder: str) -> Verdict:
        """Give every lease back, each by itself."""
        each = [model.release(clock_us, cost, holder) for model in self.leases]
        return self.verdict(each, self.leases)

    def reset(self, clock_us: int, cost: int = 1) -> Verdict:
        """Forget everything under every policy."""
        return self.verdict([model.reset(clock_us, cost) for model in self.models])
