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
    Wanted,
    draw_call,
    holders,
    modes,
    new_key,
    run_on,
)
from tests.model.base import Answer, Model, Rate
from tests.model.concurrency import Concurrency
from tests.model.several import Several, Verdict
from tests.scripts import Block, Call, few, field_of, fit_few, several, single

pytestmark = pytest.mark.usefixtures("unmeasured")


class SeveralMachine(Machine):
    """A subject under one to four policies: one hash, and a key for each policy without a field in it."""

    kinds: list[st.SearchStrategy[Model]]
    policies: Several
    blocks: list[Block]

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

    def draw(self, data: st.DataObject) -> Wanted:
        """Draw a cost that the library would send, ``at_least`` and ``step``."""
        model = data.draw(st.sampled_from(self.models()))
        most = min(model.most_cost for model in self.models())
        return draw_call(data, most, model, model.room(self.clock_us))

    def ask(
        self, mode: str, wanted: Wanted, holder: str = "", kind: type[Model] = Model
    ) -> Verdict:
        """Run ``several`` for policies of ``kind``, and convert its reply to a verdict."""
        blocks = [block for block in self.blocks if isinstance(block[0], kind)]
        cost, at_least, step = wanted
        call = several(blocks, self.clock_us, mode, cost, at_least, holder, step=step)
        return self.verdict(call, blocks)

    def ask_few(self, wanted: Wanted) -> Verdict:
        """Run ``few``, and convert its reply to a verdict."""
        cost, at_least, step = wanted
        call = few(self.blocks, self.clock_us, cost, at_least, step=step)
        return self.verdict(call, self.blocks)

    def verdict(self, call: Call, blocks: list[Block]) -> Verdict:
        """Run a script, and convert its reply to a verdict."""
        *numbers, now_us = self.caller.run(self.keys, *call)
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
        wanted, holder = self.draw(data), data.draw(holders)
        calls = ["acquire"]
        if not self.policies.leases:
            calls += ["hit", "few", "few"] if fit_few(self.blocks) else ["hit"]
        mode = data.draw(st.sampled_from(calls))
        if mode != "few" and wanted.at_least == 0:
            wanted = wanted._replace(at_least=None)  # so says a 0 to ``several``
        before, history, ends = self.caller.dumps(self.keys), self.histories(), self.ends()
        cost, at_least, step = wanted
        expected = self.policies.acquire(self.clock_us, cost, holder, at_least, step)

        verdict = self.ask_few(wanted) if mode == "few" else self.ask(mode, wanted, holder)
        assert verdict == expected
        self.compare_state(before, history, ends, expected)

    def compare_state(
        self,
        before: list[bytes | None],
        history: list[dict[str, object]],
        ends: list[int],
        expected: Verdict,
    ) -> None:
        """Check that state changed only where a model did, and that its keys live long enough."""
        self.remember(list(expected.each))
        changed = [now != then for now, then in zip(self.histories(), history, strict=True)]
        for (model, on, _), end_us, charged in zip(self.blocks, ends, changed, strict=True):
            if charged:
                self.lives_long_enough(self.keys[on - 1], end_us, model)
        if not any(changed):
            assert self.caller.dumps(self.keys) == before

    def correct(self, data: st.DataObject, mode: str) -> None:
        """Refund or settle the rates, or release or renew the leases."""
        wanted = self.draw(data)
        before, history, ends = self.caller.dumps(self.keys), self.histories(), self.ends()
        if self.policies.leases and (not self.policies.rates or data.draw(st.booleans())):
            mode, holder = "release" if mode == "refund" else "renew", data.draw(holders)
            expected = getattr(self.policies, mode)(self.clock_us, wanted.cost, holder)
            verdict = self.ask(mode, wanted, holder, kind=Concurrency)
        else:
            expected = getattr(self.policies, mode)(self.clock_us, wanted.cost)
            verdict = self.ask(mode, wanted, kind=Rate)

        assert verdict == expected
        self.compare_state(before, history, ends, expected)

    @rule(data=st.data())
    def hit_one(self, data: st.DataObject) -> None:
        """Hit one of the policies alone by its own script, on the same state."""
        self.move_the_clock(data)
        model, on, field = data.draw(st.sampled_from(self.blocks))
        room = model.room(self.clock_us)
        cost, at_least, step = draw_call(data, model.most_cost, model, room)
        packed = data.draw(st.booleans())
        if isinstance(model, Concurrency):
            holder, words = data.draw(holders), (cost, at_least, field)
            call = single(model, self.clock_us, "acquire", *words, holder, packed=packed)
            expected = model.acquire(self.clock_us, cost, holder, at_least)
        else:
            words = (cost, at_least, field)
            call = single(model, self.clock_us, "hit", *words, step=step, packed=packed)
            expected = model.hit(self.clock_us, cost, at_least, step)

        reply = self.caller.run([self.keys[on - 1]], *call)

        assert tuple(reply[:-1]) == expected[1:]
        self.remember([expected])

    def peek(self, data: st.DataObject) -> None:
        """Peek: the answer is the model's, and no state changes."""
        wanted = Wanted(self.draw(data).cost)
        before = self.caller.dumps(self.keys)

        assert self.ask("peek", wanted) == self.policies.peek(self.clock_us, wanted.cost)
        assert self.caller.dumps(self.keys) == before

    @precondition(
        lambda self: self.keys and any(m.room(self.clock_us) < m.most for m in self.models())
    )
    @rule(data=st.data())
    def reset(self, data: st.DataObject) -> None:
        """Reset: the answer is that of a peek, and no key remains."""
        wanted = Wanted(self.draw(data).cost)

        assert self.ask("reset", wanted) == self.policies.reset(self.clock_us, wanted.cost)
        assert self.caller.dumps(self.keys) == [None] * len(self.keys)

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """Change the numbers of one policy over existing state."""
        model = data.draw(st.sampled_from(self.models()))
        model.change(**data.draw(model.changes()))

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
