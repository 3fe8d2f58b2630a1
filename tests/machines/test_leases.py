"""Leases, step by step: script and model answer the same, and hold the same units."""

from __future__ import annotations

import copy

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.machines.support import (
    LEASE_POLICIES,
    Machine,
    costs,
    draw_call,
    holders,
    new_key,
    run_on,
)
from tests.model.base import Answer, Model
from tests.model.concurrency import Concurrency
from tests.scripts import single

pytestmark = pytest.mark.usefixtures("unmeasured")

#: Frequent modes stand more than once: leases are renewed and released about as often as taken.
MODES = ["acquire", "acquire", "acquire", "renew", "renew", "release", "peek"]


class LeaseMachine(Machine):
    """A subject whose leases a few holders take, renew and release, early and late."""

    policies: st.SearchStrategy[Concurrency]
    model: Concurrency

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Draw the policy."""
        self.model = data.draw(self.policies)
        self.keys = [f"{new_key()}:{self.model.field}"]

    def models(self) -> list[Model]:
        """Return the only policy."""
        return [self.model]

    def ask(
        self,
        mode: str,
        cost: int,
        holder: str = "",
        at_least: int | None = None,
        packed: bool = False,
    ) -> Answer:
        """Run the script, and convert its reply to an answer."""
        call = single(
            *(self.model, self.clock_us, mode, cost, at_least), holder=holder, packed=packed
        )
        *numbers, now_us = self.caller.run(self.keys, *call)
        assert now_us == self.clock_us
        return Answer(numbers[2] == 0, *numbers)

    def live(self) -> dict[bytes, float]:
        """Return the units on the server that have not expired."""
        entries = self.caller.client.zrange(self.keys[0], 0, -1, withscores=True)
        believed_us = self.clock_us + self.model.believed_us
        return {member: end for member, end in entries if self.clock_us < end <= believed_us}

    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def call(self, data: st.DataObject, mode: str) -> None:
        """Call for a holder that may hold units, or be late, or hold none."""
        self.move_the_clock(data)
        room = self.model.room(self.clock_us)
        cost, at_least, _ = draw_call(data, self.model.most_cost, self.model, room)
        holder, packed = data.draw(holders), data.draw(st.booleans())
        (end_us,) = self.ends()
        before, history = self.caller.dumps(self.keys), copy.deepcopy(vars(self.model))
        if mode == "peek":
            expected = self.model.peek(self.clock_us, cost)
            answer = self.ask("peek", cost, holder, packed=packed)
        elif mode == "acquire":
            expected = self.model.acquire(self.clock_us, cost, holder, at_least)
            answer = self.ask("acquire", cost, holder, at_least, packed)
        else:
            # Most calls have the cost that the holder has.
            held = len(self.model.held_by(self.clock_us, holder, self.model.most))
            cost = data.draw(st.sampled_from([min(held, self.model.most) or cost, cost]))
            expected = getattr(self.model, mode)(self.clock_us, cost, holder)
            answer = self.ask(mode, cost, holder, packed=packed)

        assert answer == expected
        self.remember([expected])
        live = self.model.live(self.clock_us)
        assert self.live() == {f"{unit.holder}:{unit.unit}".encode(): unit.ends_us for unit in live}
        if vars(self.model) == history:
            assert self.caller.dumps(self.keys) == before
        else:
            self.lives_long_enough(self.keys[0], end_us, self.model)

    @rule(data=st.data())
    def let_all_leases_expire(self, data: st.DataObject) -> None:
        """When the last lease has expired, all units are free, and not before."""
        # This includes a lease that seems impossible since the clock stepped back by a year.
        ends_us = max([self.clock_us, *(unit.ends_us for unit in self.model.leases)])
        if ends_us > self.clock_us:
            self.clock_us = ends_us - 1
            assert self.ask("peek", self.model.most_cost).remaining < self.model.limit
        self.clock_us = ends_us
        whole = Answer(True, 0, self.model.limit, 0, 0, 0)
        assert self.ask("peek", data.draw(costs(self.model))) == whole

    @precondition(lambda self: self.keys and self.model.live(self.clock_us))
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Reset: the answer is that of a peek, and no key remains."""
        cost = data.draw(costs(self.model))

        assert self.ask("reset", cost) == self.model.reset(self.clock_us, cost)
        assert self.caller.dumps(self.keys) == [None]

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """Change the limit or the length of leases while some are held."""
        self.model.change(**data.draw(self.model.changes()))


@pytest.mark.parametrize("algorithm", LEASE_POLICIES)
def test_script_and_model_agree(any_store, store, algorithm):
    """They agree in random histories, with late and repeated calls, other limits, and clock steps."""
    policies = LEASE_POLICIES[algorithm]
    machine = type(f"{algorithm}_machine", (LeaseMachine,), {"policies": policies})

    run_on(machine, any_store, examples=60 if any_store == store else 20)
