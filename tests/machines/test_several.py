"""Several policies in one call, step by step: all are charged, or none."""

from __future__ import annotations

import copy

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.machines.support import (
    LEASE_POLICIES,
    POLICIES,
    Machine,
    draw_call,
    holders,
    modes,
    new_key,
    run_on,
)
from tests.model.base import Answer, Model, Rate
from tests.model.concurrency import Concurrency
from tests.model.several import Several, Verdict
from tests.scripts import field_of, several, single

pytestmark = pytest.mark.usefixtures("unmeasured")


class SeveralMachine(Machine):
    """A subject under one to four policies: one hash, and a key for each policy without a field in it."""

    kinds: list[st.SearchStrategy[Model]]
    policies: Several
    #: model, index of its key, field
    blocks: list[tuple[Model, int, str]]

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Draw the policies, and make their keys."""
        models = data.draw(st.lists(st.one_of(*self.kinds), min_size=1, max_size=4))
        self.policies = Several(models)
        self.keys = [new_key()]
        self.blocks = []
        for number, model in enumerate(models):
            field = field_of(model, name=f"p{number}")
            if model.key_type != "hash":
                self.keys.append(f"{self.keys[0]}:{field}")
            on = len(self.keys) if model.key_type != "hash" else 1
            self.blocks.append((model, on, field))

    def models(self) -> list[Model]:
        """Return every policy."""
        return self.policies.models

    def draw(self, data: st.DataObject) -> tuple[int, int | None]:
        """Draw a cost that the library would send, and ``at_least``."""
        model = data.draw(st.sampled_from(self.models()))
        most = min(model.most for model in self.models())
        return draw_call(data, most, model, model.room(self.clock_us))

    def ask(
        self,
        mode: str,
        cost: int,
        at_least: int | None = None,
        holder: str = "",
        kind: type[Model] = Model,
    ) -> Verdict:
        """Run the script for policies of ``kind``, and convert its reply to a verdict."""
        blocks = [block for block in self.blocks if isinstance(block[0], kind)]
        script, words = several(blocks, self.clock_us, mode, cost, at_least, holder)
        *numbers, now_us = self.caller.run(self.keys, script, words)
        assert now_us == self.clock_us
        rows = [numbers[at : at + 5] for at in range(0, len(numbers), 5)]
        each = [Answer(row[2] == 0, *row) for row in rows]
        return self.policies.verdict(each, [model for model, _, _ in blocks])

    @rule(data=st.data(), mode=modes)
    def call(self, data: st.DataObject, mode: str) -> None:
        """Call in any mode, most often hit; separate rules would run equally often."""
        self.move_the_clock(data)
        if mode == "hit":
            self.hit(data)
        elif mode == "peek":
            self.peek(data)
        else:
            self.correct(data, mode)

    def hit(self, data: st.DataObject) -> None:
        """Compare every policy's answer with its model; a denied call changes no state."""
        cost, at_least = self.draw(data)
        holder = data.draw(holders)
        before, history = self.caller.dumps(self.keys), self.histories()
        leases = self.policies.leases
        held = [len(model.held_by(self.clock_us, holder, cost)) for model in leases]
        expected = self.policies.acquire(self.clock_us, cost, holder, at_least)

        assert self.take(data, cost, holder, at_least) == expected
        self.remember(list(expected.each))
        changed = [now != then for now, then in zip(self.histories(), history, strict=True)]
        for (_, on, _), answer, charged in zip(self.blocks, expected.each, changed, strict=True):
            # If all leases are held already, no rate is charged, but impossible state is repaired.
            if charged and expected.granted and not (held and all(held)):
                self.lives_long_enough(self.keys[on - 1], answer)
        if not any(changed):
            assert self.caller.dumps(self.keys) == before

    def take(
        self, data: st.DataObject, cost: int, holder: str, at_least: int | None = None
    ) -> Verdict:
        """Call ``acquire`` if there are leases, else ``hit`` or ``acquire``, which are then the same."""
        mode = "acquire" if self.policies.leases else data.draw(st.sampled_from(["hit", "acquire"]))
        return self.ask(mode, cost, at_least, holder)

    def correct(self, data: st.DataObject, mode: str) -> None:
        """Refund or settle the rates, or release or renew the leases."""
        cost, at_least = self.draw(data)
        before, history = self.caller.dumps(self.keys), self.histories()
        if self.policies.leases and (not self.policies.rates or data.draw(st.booleans())):
            mode, holder = "release" if mode == "refund" else "renew", data.draw(holders)
            expected = getattr(self.policies, mode)(self.clock_us, cost, holder)
            verdict = self.ask(mode, cost, at_least, holder, kind=Concurrency)
        else:
            expected = getattr(self.policies, mode)(self.clock_us, cost)
            verdict = self.ask(mode, cost, at_least, kind=Rate)

        assert verdict == expected
        self.remember(list(expected.each))
        if self.histories() == history:
            assert self.caller.dumps(self.keys) == before

    @rule(data=st.data())
    def hit_one(self, data: st.DataObject) -> None:
        """Hit one of the policies alone by its own script, on the same state."""
        self.move_the_clock(data)
        model, on, field = data.draw(st.sampled_from(self.blocks))
        room = model.room(self.clock_us)
        cost, at_least = draw_call(data, model.most, model, room)
        if isinstance(model, Concurrency):
            holder = data.draw(holders)
            script, words = single(model, self.clock_us, "acquire", cost, at_least, field, holder)
            expected = model.acquire(self.clock_us, cost, holder, at_least)
        else:
            script, words = single(model, self.clock_us, "hit", cost, at_least, field)
            expected = model.hit(self.clock_us, cost, at_least)

        reply = self.caller.run([self.keys[on - 1]], script, words)

        assert tuple(reply[:-1]) == expected[1:]
        self.remember([expected])

    def peek(self, data: st.DataObject) -> None:
        """Peek: the answer is the model's, and no state changes."""
        cost, _ = self.draw(data)
        before = self.caller.dumps(self.keys)

        assert self.ask("peek", cost) == self.policies.peek(self.clock_us, cost)
        assert self.caller.dumps(self.keys) == before

    @precondition(
        lambda self: self.keys and any(m.room(self.clock_us) < m.most for m in self.models())
    )
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Reset: the answer is that of a peek, and no key remains."""
        cost, _ = self.draw(data)

        assert self.ask("reset", cost) == self.policies.reset(self.clock_us, cost)
        assert self.caller.dumps(self.keys) == [None] * len(self.keys)

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """Change the numbers of one policy over existing state."""
        model = data.draw(st.sampled_from(self.models()))
        model.change(**data.draw(model.changes()))

    def hit_now(self) -> None:
        """Take a unit from every policy, if all have one."""
        # A holder of all leases would get only a report, and the call would repair nothing.
        expected = self.policies.acquire(self.clock_us, 1, "another holder")
        assert self.ask("acquire", 1, holder="another holder") == expected
        self.remember(list(expected.each))
        if self.policies.leases:
            expected = self.policies.release(self.clock_us, 1, "another holder")
            assert self.ask("release", 1, holder="another holder", kind=Concurrency) == expected

    def histories(self) -> list[dict[str, object]]:
        """Copy the state of every model."""
        return copy.deepcopy([vars(model) for model in self.models()])


def run(kinds: list[st.SearchStrategy[Model]], url: str, examples: int) -> None:
    """Run the machine on mixes of these policies."""
    run_on(type("mixes", (SeveralMachine,), {"kinds": kinds}), url, examples)


def test_script_and_models_agree(any_store, store):
    """They agree on mixes of algorithms and sizes, in joint and in single calls."""
    run(list(POLICIES.values()), any_store, examples=40 if any_store == store else 15)


def test_script_and_models_agree_where_leases_are_held(any_store, store):
    """They also agree on mixes with leases, of which held ones are not charged again."""
    rates = st.one_of(*POLICIES.values())
    kinds = [rates, *LEASE_POLICIES.values()]
    run(kinds, any_store, examples=40 if any_store == store else 15)
