"""Leases, step by step: the script says what the model says, and holds what the model holds."""

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

#: The frequent ones more than once: leases are renewed and given back about as often as taken.
MODES = ["acquire", "acquire", "acquire", "renew", "renew", "release", "peek"]


class LeaseMachine(Machine):
    """A subject whose leases are taken, renewed and given back by a few who come early and late."""

    policies: st.SearchStrategy[Concurrency]
    model: Concurrency

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Draw the policy."""
        self.model = data.draw(self.policies)
        self.keys = [f"{new_key()}:{self.model.field}"]

    def models(self) -> list[Model]:
        """The one policy."""
        return [self.model]

    def ask(self, mode: str, cost: int, holder: str = "", at_least: int | None = None) -> Answer:
        """Run the script, and read its reply as the answer that it stands for."""
        script, words = single(self.model, self.clock_us, mode, cost, at_least, holder=holder)
        *numbers, now_us = self.caller.run(self.keys, script, words)
        assert now_us == self.clock_us
        return Answer(numbers[2] == 0, *numbers)

    def live(self) -> dict[bytes, float]:
        """What the server holds that has not ended, as the model would."""
        entries = self.caller.client.zrange(self.keys[0], 0, -1, withscores=True)
        believed_us = self.clock_us + self.model.believed_us
        return {member: end for member, end in entries if self.clock_us < end <= believed_us}

    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def call(self, data: st.DataObject, mode: str) -> None:
        """Somebody calls, who may hold something, be late, or be nobody."""
        self.move_the_clock(data)
        room = self.model.room(self.clock_us)
        cost, at_least = draw_call(data, self.model.most, self.model, room)
        holder = data.draw(holders)
        before, history = self.caller.dumps(self.keys), copy.deepcopy(vars(self.model))
        if mode == "peek":
            expected = self.model.peek(self.clock_us, cost)
            answer = self.ask("peek", cost, holder)
        elif mode == "acquire":
            expected = self.model.acquire(self.clock_us, cost, holder, at_least)
            answer = self.ask("acquire", cost, holder, at_least)
        else:
            # Most come with what they have.
            held = len(self.model.held_by(self.clock_us, holder, self.model.most))
            cost = data.draw(st.sampled_from([min(held, self.model.most) or cost, cost]))
            expected = getattr(self.model, mode)(self.clock_us, cost, holder)
            answer = self.ask(mode, cost, holder)

        assert answer == expected
        self.remember([expected])
        live = self.model.live(self.clock_us)
        assert self.live() == {f"{one.holder}:{one.unit}".encode(): one.ends_us for one in live}
        if vars(self.model) == history:
            assert self.caller.dumps(self.keys) == before
        elif expected.granted and live:
            self.lives_long_enough(self.keys[0], expected)

    @rule(data=st.data())
    def everybody_dies(self, data: st.DataObject) -> None:
        """Once the last lease has ended all of it is there again, and not before."""
        # Also one that a clock which stepped back by a year holds to be impossible.
        ends_us = max([self.clock_us, *(one.ends_us for one in self.model.leases)])
        if ends_us > self.clock_us:
            self.clock_us = ends_us - 1
            assert self.ask("peek", self.model.most_cost).remaining < self.model.limit
        self.clock_us = ends_us
        whole = Answer(True, 0, self.model.limit, 0, 0, 0)
        assert self.ask("peek", data.draw(costs(self.model))) == whole

    @precondition(lambda self: self.keys and self.model.live(self.clock_us))
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Resetting says what stood there, and leaves no key."""
        cost = data.draw(costs(self.model))

        assert self.ask("reset", cost) == self.model.reset(self.clock_us, cost)
        assert self.caller.dumps(self.keys) == [None]

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """The policy gets another limit or length of lease, over live ones."""
        self.model.change(**data.draw(self.model.changes()))

    def hit_now(self) -> None:
        """Take one, if there is one, and give it back."""
        expected = self.model.acquire(self.clock_us, 1, "nobody else")
        assert self.ask("acquire", 1, "nobody else") == expected
        self.remember([expected])
        expected = self.model.release(self.clock_us, 1, "nobody else")
        assert self.ask("release", 1, "nobody else") == expected


@pytest.mark.parametrize("algorithm", LEASE_POLICIES)
def test_script_and_model_agree(any_store, store, algorithm):
    """Repeated, late, foreign and doubled calls, other limits and lengths, jumps and steps back."""
    policies = LEASE_POLICIES[algorithm]
    machine = type(f"{algorithm}_machine", (LeaseMachine,), {"policies": policies})

    run_on(machine, any_store, examples=60 if any_store == store else 20)
