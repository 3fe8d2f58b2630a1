"""One policy, step by step: script and model answer the same, and only a charge writes."""

from __future__ import annotations

import copy

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.machines.support import POLICIES, Machine, Wanted, draw_call, modes, new_key, run_on
from tests.model.base import Answer, Model, Rate
from tests.scripts import single

pytestmark = pytest.mark.usefixtures("unmeasured")


class SingleMachine(Machine):
    """A subject under one policy, called through the algorithm's own script."""

    policies: st.SearchStrategy[Rate]
    model: Rate

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Draw the policy."""
        self.model = data.draw(self.policies)
        self.keys = [new_key()]

    def models(self) -> list[Model]:
        """Return the only policy."""
        return [self.model]

    def draw(self, data: st.DataObject) -> Wanted:
        """Draw a cost, ``at_least`` and ``step``."""
        room = self.model.room(self.clock_us)
        return draw_call(data, self.model.most_cost, self.model, room)

    def ask(self, data: st.DataObject, mode: str, wanted: Wanted) -> Answer:
        """Run the script in one of its two forms, and convert its reply to an answer."""
        cost, at_least, step = wanted
        least = cost if at_least is None else at_least
        script, words = single(
            *(self.model, self.clock_us, mode, cost, at_least),
            step=step,
            packed=data.draw(st.booleans()),
        )
        granted, remaining, retry_us, reset_us, delay_us, now_us = self.caller.run(
            self.keys, script, words
        )
        assert now_us == self.clock_us
        allowed = granted >= least if mode == "hit" and cost else retry_us == 0
        return Answer(allowed, granted, remaining, retry_us, reset_us, delay_us)

    @rule(data=st.data(), mode=modes)
    def call(self, data: st.DataObject, mode: str) -> None:
        """Call in any mode, most often hit; separate rules would run equally often."""
        self.move_the_clock(data)
        if mode == "peek":
            self.peek(data)
        else:
            self.change_state(data, mode)

    def change_state(self, data: st.DataObject, mode: str) -> None:
        """Hit, refund or settle: compare script and model; a denied hit changes no state."""
        wanted = self.draw(data)
        before, history = self.caller.dumps(self.keys), copy.deepcopy(vars(self.model))
        (end_us,) = self.ends()
        if mode == "hit":
            expected = self.model.hit(self.clock_us, *wanted)
        else:  # at_least and step have no effect on these
            expected = getattr(self.model, mode)(self.clock_us, wanted.cost)

        assert self.ask(data, mode, wanted) == expected
        self.remember([expected])
        if vars(self.model) == history:
            assert self.caller.dumps(self.keys) == before
        else:
            self.lives_long_enough(self.keys[0], end_us, self.model)

    def peek(self, data: st.DataObject) -> None:
        """Peek: the answer is the model's, and no state changes."""
        wanted = Wanted(self.draw(data).cost)
        before = self.caller.dumps(self.keys)

        assert self.ask(data, "peek", wanted) == self.model.peek(self.clock_us, wanted.cost)
        assert self.caller.dumps(self.keys) == before

    @precondition(lambda self: self.keys and self.model.room(self.clock_us) < self.model.most)
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Reset: the answer is that of a peek, and no key remains."""
        wanted = Wanted(self.draw(data).cost)

        assert self.ask(data, "reset", wanted) == self.model.reset(self.clock_us, wanted.cost)
        assert self.caller.dumps(self.keys) == [None]

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """Change the policy's numbers over existing state."""
        self.model.change(**data.draw(self.model.changes()))


@pytest.mark.parametrize("algorithm", POLICIES)
def test_script_and_model_agree(any_store, store, algorithm):
    """They agree in random histories, with clock steps, other limits, lost scripts and lost expiries."""
    machine = type(f"{algorithm}_machine", (SingleMachine,), {"policies": POLICIES[algorithm]})

    run_on(machine, any_store, examples=40 if any_store == store else 15)
