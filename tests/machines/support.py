"""What the state machines share: times that matter, policies of every size, and the checks."""

from __future__ import annotations

import itertools
import os
import secrets

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

#: A moment of 2026, so that every number is as large as in life.
NOW_US = 1_790_000_000_123_457
HOUR_US = 3_600_000_000

#: A longer search: so many times the examples; `make soak` searches twice as long.
DEPTH = int(os.environ.get("TEST_DEPTH", "1"))

_run = secrets.token_hex(4)
_numbers = itertools.count()


def new_key(subject: str = "machine") -> str:
    """A key that no other example uses."""
    return f"rl:{{{subject}-{_run}-{next(_numbers)}}}:test:v1"


#: Tiny ones, where everything happens at once; ones of a second; primes; an hour; a year.
periods = st.one_of(
    st.integers(1, 40),
    st.sampled_from([1_000, 1_000_000, 999_983, 60_000_000, HOUR_US, 8766 * HOUR_US]),
)


#: By algorithm, policies of every size.
POLICIES = {name: model.of_every_size(periods) for name, model in MODELS.items()}
#: And leases of every length.
LEASE_POLICIES = {name: model.of_every_size(periods) for name, model in LEASES.items()}

#: Whoever may hold a lease: few, so that they meet.
holders = st.sampled_from(["a", "b", "c", "a:1", "1"])


class Machine(RuleBasedStateMachine):
    """Drives a subject through time; a subclass says how it is asked, and by which model.

    ``url`` is set on a subclass made for one server by ``run_on``.
    """

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self.url)
        self.keys: list[str] = []
        self.clock_us = NOW_US
        self.longest_us = 0

    def teardown(self) -> None:
        """Leave nothing behind."""
        if self.keys:
            self.caller.client.delete(*self.keys)
        self.caller.close()

    def models(self) -> list[Model]:
        """Every policy of the subject."""
        raise NotImplementedError

    def move_the_clock(self, data: st.DataObject) -> None:
        """Before most calls, time passes or steps back; often to where an answer changes."""
        model = data.draw(st.sampled_from(self.models()))
        period_us, move = model.period_us, data.draw(moves)
        if move == "to an edge":
            # Forward or back, to where what the model says may change, or right beside it.
            edge_us = data.draw(st.sampled_from([self.clock_us, *model.edges(NOW_US)]))
            self.clock_us = edge_us + data.draw(st.integers(-1, 1))
        elif move == "as told":
            # A denied caller comes again when it may, or a microsecond before.
            answer = model.peek(self.clock_us, data.draw(costs(model)))
            self.clock_us += max(0, answer.retry_after_us - data.draw(st.integers(0, 1)))
        elif move == "on":
            some_us = st.one_of(
                st.integers(0, 3), st.integers(0, period_us), st.just(9 * period_us)
            )
            self.clock_us += data.draw(some_us)
        elif move == "back":
            # Within a period, or far beyond what is believed.
            some_us = st.one_of(st.integers(0, period_us), st.just(3 * period_us))
            self.clock_us -= data.draw(some_us)
        self.clock_us = max(1, self.clock_us)

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def disturb(self, data: st.DataObject) -> None:
        """The server forgets every script, as after a restart; or a key is found without expiry."""
        if data.draw(st.booleans()):
            self.caller.client.script_flush()
        else:
            self.caller.client.persist(data.draw(st.sampled_from(self.keys)))
            self.hit_now()

    def hit_now(self) -> None:
        """Make the hit that mends a key without expiry."""
        raise NotImplementedError

    def remember(self, answers: list[Answer]) -> None:
        """Keep the longest life that any decision asked for, or would have by taking all."""
        lives_us = [one.reset_after_us for one in answers]
        lives_us += [model.full_us for model in self.models()]
        self.longest_us = max([self.longest_us, *lives_us])

    def lives_long_enough(self, key: str, answer: Answer) -> None:
        """No charge leaves a key that could expire before it has stopped to count."""
        if not answer.reset_after_us:  # nor need there be a key any more
            return
        # The given time stands still while the machine works, the server's does not: a minute.
        least_ms = answer.reset_after_us // 1000 + GIVEN_TIME_MS - 60_000
        assert self.caller.lives_ms([key])[0] >= least_ms

    @invariant()
    def every_key_expires(self) -> None:
        """No key lives for ever, or longer than some decision needed, or less than the clock's."""
        if not self.caller.ran:  # since the last look, nothing has changed but the given time
            return
        self.caller.ran = False
        for life_ms in self.caller.lives_ms(self.keys):
            most_ms = self.longest_us // 1000 + 1 + GIVEN_TIME_MS + SLACK_MS
            assert life_ms == -2 or 0 < life_ms <= most_ms


def costs(model: Model) -> st.SearchStrategy[int]:
    """Nothing, one, a few, about all that is there, everything."""
    most = min(model.most, 4_000)
    return st.one_of(
        st.integers(0, min(3, most)),
        st.integers(0, most),
        st.just(model.most_cost),
    )


#: How the clock moves before a call, the frequent ones more than once.
moves = st.sampled_from(["not", "not", "to an edge", "to an edge", "as told", "on", "back"])


#: What a policy that counts what passes is asked, the frequent ones more than once.
modes = st.sampled_from(["hit", "hit", "hit", "hit", "peek", "refund", "settle"])


def draw_call(data: st.DataObject, most: int, model: Model, room: int) -> tuple[int, int | None]:
    """A cost up to ``most``, often about the ``room`` there is, and perhaps how little would do."""
    kind = data.draw(st.sampled_from(["some", "about all", "part", "part"]))
    if kind == "some":
        return min(most, data.draw(costs(model))), None
    if kind == "about all":
        return min(most, data.draw(st.integers(max(0, room - 1), room + 1))), None
    cost = min(most, room + data.draw(st.integers(1, 3)))
    return cost, data.draw(st.integers(1, min(cost, room + 1)))


def run_on(machine: type[Machine], url: str, examples: int, steps: int = 40) -> None:
    """Let hypothesis look for a disagreement on this server."""
    run_state_machine_as_test(
        type(machine.__name__, (machine,), {"url": url}),
        settings=settings(max_examples=examples * DEPTH, stateful_step_count=steps, deadline=None),
    )
