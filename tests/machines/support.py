"""The base of the state machines: times, policies of every size, and checks."""

from __future__ import annotations

import itertools
import math
import os
import secrets
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model import LEASES, MODELS
from tests.model.base import Answer, Model
from tests.scripts import GIVEN_TIME_MS, SLACK_MS, Caller

#: A time in 2026, so that all numbers have a realistic size.
NOW_US = 1_790_000_000_123_457
HOUR_US = 3_600_000_000
#: A charge that moves the end of a bucket or a log by less than this may set no expiry.
HALF_SECOND_US = 500_000

#: Factor for the number of examples; `make repeat` searches twice as long.
DEPTH = int(os.environ.get("TEST_DEPTH", "1"))

_run = secrets.token_hex(4)
_numbers = itertools.count()


def new_key(subject: str = "machine") -> str:
    """Make a key that no other example uses."""
    return f"rl:{{{subject}-{_run}-{next(_numbers)}}}:test:v1"


#: Periods of a few microseconds, in which every case is near; of a second; primes; an hour; a year.
periods = st.one_of(
    st.integers(1, 40),
    st.sampled_from([1_000, 1_000_000, 999_983, 60_000_000, HOUR_US, 8766 * HOUR_US]),
)


#: Policies of every size, by algorithm.
POLICIES = {name: model.of_every_size(periods) for name, model in MODELS.items()}
#: Leases of every length, by algorithm.
LEASE_POLICIES = {name: model.of_every_size(periods) for name, model in LEASES.items()}

#: Holders of leases: few, so that their calls meet.
holders = st.sampled_from(["a", "b", "c", "a:1", "1"])


class Machine(RuleBasedStateMachine):
    """Calls a subject at changing times; a subclass defines the calls and the model.

    ``run_on`` makes a subclass for one server, and sets its ``url``.
    """

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self.url)
        self.keys: list[str] = []
        self.clock_us = NOW_US
        self.longest_us = 0
        #: Keys whose expiry a test removed, until a call sets a new one.
        self.endless: set[str] = set()

    def teardown(self) -> None:
        """Delete the keys."""
        if self.keys:
            self.caller.client.delete(*self.keys)
        self.caller.close()

    def models(self) -> list[Model]:
        """Return every policy of the subject."""
        raise NotImplementedError

    def move_the_clock(self, data: st.DataObject) -> None:
        """Move the clock forward or back, often to a time at which an answer changes."""
        model = data.draw(st.sampled_from(self.models()))
        period_us, move = model.period_us, data.draw(moves)
        if move == "to an edge":
            # Forward or back, to a time at which the answer may change, or a microsecond beside it.
            edge_us = data.draw(st.sampled_from([self.clock_us, *model.edges(NOW_US)]))
            self.clock_us = edge_us + data.draw(st.integers(-1, 1))
        elif move == "to retry_after":
            # To retry_after of a call, or a microsecond before.
            answer = model.peek(self.clock_us, data.draw(costs(model)))
            self.clock_us += max(0, answer.retry_after_us - data.draw(st.integers(0, 1)))
        elif move == "on":
            steps_us = st.one_of(
                st.integers(0, 3), st.integers(0, period_us), st.just(9 * period_us)
            )
            self.clock_us += data.draw(steps_us)
        elif move == "back":
            # Within a period, or so far that stored times cannot be true.
            steps_us = st.one_of(st.integers(0, period_us), st.just(3 * period_us))
            self.clock_us -= data.draw(steps_us)
        self.clock_us = max(1, self.clock_us)

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def disturb(self, data: st.DataObject) -> None:
        """Delete every script from the server, as a restart does; or remove the expiry of a key."""
        if data.draw(st.booleans()):
            self.caller.client.script_flush()
        else:
            key = data.draw(st.sampled_from(self.keys))
            if self.caller.client.persist(key):
                self.endless.add(key)

    def remember(self, answers: list[Answer]) -> None:
        """Record the longest life of a key that any decision sets, or would set by taking all."""
        lives_us = [answer.reset_after_us for answer in answers]
        lives_us += [model.full_us for model in self.models()]
        self.longest_us = max([self.longest_us, *lives_us])

    def ends(self) -> list[int]:
        """Return when each policy counts as unused; the present time if it does now."""
        return [model.rests_at(self.clock_us) for model in self.models()]

    def lives_long_enough(self, key: str, before_us: int, model: Model) -> None:
        """Check that a call which moved the end of a state set an expiry that is late enough.

        ``before_us`` is the end before the call. A move of less than half a second may set no expiry.
        """
        end_us = model.rests_at(self.clock_us)
        if end_us > before_us and (
            before_us == self.clock_us or end_us - before_us > HALF_SECOND_US
        ):
            # The given time stands still while a test runs, the server's clock does not: allow a minute.
            least_ms = (end_us - self.clock_us) // 1000 + GIVEN_TIME_MS - 60_000
            assert self.caller.lives_ms([key])[0] >= least_ms
            self.endless.discard(key)

    @invariant()
    def every_key_expires(self) -> None:
        """Check that every key has an expiry, and none later than a decision needs."""
        if not self.caller.ran:  # no call since the last check, only the given time has changed
            return
        self.caller.ran = False
        for key, life_ms in zip(self.keys, self.caller.lives_ms(self.keys), strict=True):
            most_ms = self.longest_us // 1000 + 1 + GIVEN_TIME_MS + SLACK_MS
            assert life_ms == -2 or 0 < life_ms <= most_ms or key in self.endless


def costs(model: Model) -> st.SearchStrategy[int]:
    """Draw costs of 0, of a few units, of any number, and of all."""
    most = min(model.most, 4_000)
    return st.one_of(
        st.integers(0, min(3, most)),
        st.integers(0, most),
        st.just(model.most_cost),
    )


#: Moves of the clock before a call; frequent ones stand more than once.
moves = st.sampled_from(["not", "not", "to an edge", "to an edge", "to retry_after", "on", "back"])


#: Modes of calls of rates; frequent ones stand more than once.
modes = st.sampled_from(["hit", "hit", "hit", "hit", "peek", "refund", "settle"])


class Wanted(NamedTuple):
    """What a call wants: its cost, the fewest units that are enough, and what divides its part."""

    cost: int
    at_least: int | None = None
    step: int = 1


def draw_call(data: st.DataObject, most: int, model: Model, room: int) -> Wanted:
    """Draw a cost up to ``most``, often near ``room``, and sometimes ``at_least`` and ``step``."""
    kind = data.draw(st.sampled_from(["some", "about all", "part", "part"]))
    if kind == "some":
        return Wanted(min(most, data.draw(costs(model))))
    if kind == "about all":
        return Wanted(min(most, data.draw(st.integers(max(0, room - 1), room + 1))))
    cost = min(most, room + data.draw(st.integers(1, 3)))
    step = data.draw(divisors(cost))
    at_least = data.draw(st.integers(0, min(cost, room + 1)))
    return Wanted(cost, at_least - at_least % step, step)


def divisors(*numbers: int) -> st.SearchStrategy[int]:
    """Draw a number that divides all of these, often the largest."""
    common = math.gcd(*numbers) or 1
    dividing = [number for number in range(1, min(common, 100) + 1) if common % number == 0]
    return st.sampled_from([1, common, *dividing])


def run_on(machine: type[Machine], url: str, examples: int, steps: int = 40) -> None:
    """Let hypothesis search for a difference between model and script on this server."""
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"url": url}),
        settings=settings(max_examples=examples * DEPTH, stateful_step_count=steps, deadline=None),
    )
