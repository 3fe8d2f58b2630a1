"""Reservations of several policies, step by step: charged once, and settled once."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.machines.support import POLICIES, Machine, draw_call, run_on
from tests.machines.test_several import SeveralMachine
from tests.model.base import Answer
from tests.model.reservations import NOW, Outcome, Reservations
from tests.scripts import GIVEN_TIME_MS, reservation

pytestmark = pytest.mark.usefixtures("unmeasured")


class Asked(NamedTuple):
    """The arguments of one call."""

    name: str
    costs: list[int]
    shadows: list[int]
    life_ms: int


class ReservationMachine(SeveralMachine):
    """A subject whose units are also reserved, under three ids; other calls come in between."""

    kinds = [*POLICIES.values()]  # noqa: RUF012 (as in the base)
    reservations: Reservations

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Draw the policies."""
        super().begin(data)
        self.reservations = Reservations(self.policies.rates)

    def teardown(self) -> None:
        """Delete the records, too."""
        if self.keys:
            self.caller.client.delete(*map(self.record_key, "abc"))
        super().teardown()

    def record_key(self, name: str) -> str:
        """The key of a reservation's record."""
        return f"{self.keys[0]}:reservation:{name}"

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), mode=st.sampled_from(["reserve", "reserve", "settle"]))
    def reserve_or_settle(self, data: st.DataObject, mode: str) -> None:
        """Compare the answers, the record and the state with the model."""
        self.move_the_clock(data)
        asked = self.draw_reservation(data, mode)
        name, costs, shadows, life_ms = asked
        before, history, ends = self.caller.dumps(self.keys), self.histories(), self.ends()
        if mode == "reserve":
            expected = self.reservations.reserve(self.clock_us, name, costs, shadows)
        else:
            expected = self.reservations.settle(self.clock_us, name, costs, life_ms > 0)

        assert self.run_reservation(mode, asked) == expected
        self.compare_state(before, history, ends, self.policies.verdict(expected.each))
        record, key = self.reservations.record(name), self.record_key(name)
        assert self.caller.client.get(key) == (record and record.encode())
        if expected.state == NOW and record:
            left_ms = self.caller.client.pttl(key)
            assert left_ms <= life_ms + GIVEN_TIME_MS <= left_ms + 60_000  # a slow machine's minute

    def draw_reservation(self, data: st.DataObject, mode: str) -> Asked:
        """Draw an id, costs near the room, shadow mode, and a life."""
        costs = []
        for model in self.models():
            most = model.most_cost if mode == "reserve" else 3 * model.most + 9
            costs.append(draw_call(data, most, model, model.room(self.clock_us)).cost)
        shadows = [place for place in range(len(costs)) if data.draw(st.integers(0, 5)) == 0]
        lives = [1, 60_000] if mode == "reserve" else [0, 1, 60_000]
        return Asked(
            data.draw(st.sampled_from("abc")), costs, shadows, data.draw(st.sampled_from(lives))
        )

    def run_reservation(self, mode: str, asked: Asked) -> Outcome:
        """Run the script, and read its reply."""
        keys = [*self.keys, self.record_key(asked.name)]
        call = reservation(
            self.blocks, self.clock_us, mode, asked.costs, asked.life_ms, shadows=asked.shadows
        )
        *numbers, state, now_us = self.caller.run(keys, *call)
        assert now_us == self.clock_us
        rows = [numbers[at : at + 5] for at in range(0, len(numbers), 5)]
        return Outcome([Answer(row[2] == 0, *row) for row in rows], state)


def test_script_and_models_agree(any_store: str, store: str) -> None:
    """They agree on mixes of algorithms and sizes, with calls of other scripts in between."""
    machine: type[Machine] = ReservationMachine
    run_on(machine, any_store, examples=15 if any_store == store else 5)
