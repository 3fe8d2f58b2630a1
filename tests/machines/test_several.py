"""Several policies in one call, step by step: all are charged, or none."""

from __future__ import annotations

import copy

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.machines.support import POLICIES, Machine, draw_call, new_key, run_on
from tests.model.base import Answer, Model
from tests.model.several import Several, Verdict
from tests.scripts import field_of, several, single


class SeveralMachine(Machine):
    """A subject under one to four policies: a hash for all of them, and a list for each log."""

    policies: Several
    #: model, number of its key, field
    blocks: list[tuple[Model, int, str]]

    @initialize(models=st.lists(st.one_of(*POLICIES.values()), min_size=1, max_size=4))
    def begin(self, models: list[Model]) -> None:
        """Draw the policies, and lay out their keys."""
        self.policies = Several(models)
        self.keys = [new_key()]
        self.blocks = []
        for number, model in enumerate(models):
            field = field_of(model, name=f"p{number}")
            if model.key_type == "list":
                self.keys.append(f"{self.keys[0]}:{field}")
            on = len(self.keys) if model.key_type == "list" else 1
            self.blocks.append((model, on, field))

    def models(self) -> list[Model]:
        """Every policy."""
        return self.policies.models

    def draw(self, data: st.DataObject) -> tuple[int, int | None]:
        """A cost that the library would send, and how little of it would do."""
        model = data.draw(st.sampled_from(self.models()))
        most = min(model.most for model in self.models())
        return draw_call(data, most, model, model.room(self.clock_us))

    def ask(self, mode: str, cost: int, at_least: int | None = None) -> Verdict:
        """Run the script, and read its reply as the verdict that it stands for."""
        script, words = several(self.blocks, self.clock_us, mode, cost, at_least)
        *numbers, now_us = self.caller.run(self.keys, script, words)
        assert now_us == self.clock_us
        rows = [numbers[at : at + 5] for at in range(0, len(numbers), 5)]
        return self.policies.verdict([Answer(row[2] == 0, *row) for row in rows])

    @rule(data=st.data(), mode=st.sampled_from(["hit", "hit", "hit", "hit", "peek"]))
    def call(self, data: st.DataObject, mode: str) -> None:
        """Most calls are hits; of rules, hypothesis takes each as often as any other."""
        self.move_the_clock(data)
        if mode == "hit":
            self.hit(data)
        else:
            self.peek(data)

    def hit(self, data: st.DataObject) -> None:
        """Every policy says what its model says; a denied call changes nothing anywhere."""
        cost, at_least = self.draw(data)
        before, history = self.caller.dumps(self.keys), self.histories()
        expected = self.policies.hit(self.clock_us, cost, at_least)

        assert self.ask("hit", cost, at_least) == expected
        self.remember(list(expected.each))
        if expected.granted:
            for (_, on, _), one in zip(self.blocks, expected.each, strict=True):
                self.lives_long_enough(self.keys[on - 1], one)
        if self.histories() == history:
            assert self.caller.dumps(self.keys) == before

    @rule(data=st.data())
    def hit_one(self, data: st.DataObject) -> None:
        """One of the policies is asked alone, by its own script, about the same state."""
        self.move_the_clock(data)
        model, on, field = data.draw(st.sampled_from(self.blocks))
        room = model.room(self.clock_us)
        cost, at_least = draw_call(data, model.most, model, room)
        script, words = single(model, self.clock_us, "hit", cost, at_least, field)
        expected = model.hit(self.clock_us, cost, at_least)

        reply = self.caller.run([self.keys[on - 1]], script, words)

        assert tuple(reply[:-1]) == expected[1:]
        self.remember([expected])

    def peek(self, data: st.DataObject) -> None:
        """Looking says what a hit would say, and writes nothing."""
        cost, _ = self.draw(data)
        before = self.caller.dumps(self.keys)

        assert self.ask("peek", cost) == self.policies.peek(self.clock_us, cost)
        assert self.caller.dumps(self.keys) == before

    @precondition(
        lambda self: self.keys and any(m.room(self.clock_us) < m.most for m in self.models())
    )
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Resetting says what stood there, and leaves no key."""
        cost, _ = self.draw(data)

        assert self.ask("reset", cost) == self.policies.reset(self.clock_us, cost)
        assert self.caller.dumps(self.keys) == [None] * len(self.keys)

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """One policy gets other numbers, over live state."""
        model = data.draw(st.sampled_from(self.models()))
        model.change(**data.draw(model.changes()))

    def hit_now(self) -> None:
        """Take one from everybody, if everybody has one."""
        expected = self.policies.hit(self.clock_us, 1)
        assert self.ask("hit", 1) == expected
        self.remember(list(expected.each))

    def histories(self) -> list[dict[str, object]]:
        """What every model remembers."""
        return copy.deepcopy([vars(model) for model in self.models()])


def test_script_and_models_agree(any_store, store):
    """Mixes of algorithms and sizes, asked together and one by one."""
    run_on(SeveralMachine, any_store, examples=80 if any_store == store else 20)
