"""The store in the process and a real server, step by step: same calls, same replies, same state."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from limiter import StoreRefused
from limiter.call import Block
from limiter.memory import MemoryStore
from limiter.policies import ALGORITHMS, Concurrency, Policy
from tests.machines.support import divisors
from tests.memory.support import call_of, leases, look, plant
from tests.scripts import GIVEN_TIME_MS, SLACK_MS, Caller

pytestmark = pytest.mark.usefixtures("unmeasured")

#: Multiplies the number of examples, for a longer search.
DEPTH = int(os.environ.get("TEST_DEPTH", "1"))
NOW_US = 1_790_000_000_123_457
YEAR_US = 366 * 86_400_000_000
LONG_MS = 90_000_000_000

periods = st.one_of(
    st.integers(1, 40),
    st.sampled_from([1_000, 999_983, 1_000_000, 60_000_000, 3_600_000_000, YEAR_US]),
)
#: Mostly small ones; large ones, for which a product would not be exact in doubles.
limits = st.one_of(st.integers(1, 6), st.integers(1, 30), st.sampled_from([99_991, 10**5]))
large = st.sampled_from([10**9, 999_999_999_989, 10**12])
KINDS = [*ALGORITHMS.values(), Concurrency]


@st.composite
def policies(draw: st.DrawFn, name: str) -> Policy:
    """A policy of any kind, also with a period below the library's shortest."""
    kind: Any = draw(st.sampled_from(KINDS))
    numbers: dict[str, int] = {"limit": draw(limits), "period_us": draw(periods)}
    if kind.most_limit > 10**6 and not kind.has_burst and draw(st.integers(0, 3)) == 0:
        numbers["limit"] = draw(large)
    if kind.has_burst:
        numbers["burst"] = min(draw(limits), 9 * numbers["limit"])
    more = {"align": draw(st.booleans())} if kind.algorithm == "fixed_window" else {}
    policy: Policy = kind(1, 1, **more, name=name)._with(**numbers)
    return policy


def outcome(call: Callable[[], list[int]]) -> object:
    """The reply to a call, or that it was refused."""
    try:
        return call()
    except (redis.ResponseError, StoreRefused):
        return "refused"


class Subjects(RuleBasedStateMachine):
    """Two subjects under up to four policies, in a store of each kind."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.caller = Caller(self.url)
        self.store = MemoryStore()
        self.clock_us = NOW_US
        self.edges: list[int] = [NOW_US]
        #: The last ``remaining`` of each policy of each subject, by key and field.
        self.rooms: dict[tuple[int, str], int] = {}
        #: The longest remaining life that a key may have by now.
        self.longest_ms = 0
        self.keys: list[str] = []
        #: Each policy of each subject, and the place of its key.
        self.places: list[tuple[Policy, int]] = []

    def teardown(self) -> None:
        """Delete the keys."""
        if self.keys:
            records = [f"{self.keys[0]}:reservation:{name}" for name in "ab"]
            self.caller.client.delete(*self.keys, *records)
        self.caller.close()

    @initialize(data=st.data(), count=st.integers(1, 4))
    def begin(self, data: st.DataObject, count: int) -> None:
        """Draw the policies, and lay out the keys."""
        tag = f"rl:{{memory-{os.getpid()}-{id(self)}}}"
        drawn = [data.draw(policies(f"p{number}")) for number in range(count)]
        for subject in ("a", "b"):
            shared = f"{tag}:{subject}:test:v1"
            for policy in drawn:
                own = shared if policy.key_type == "hash" else f"{shared}:{policy.field}"
                if own not in self.keys:
                    self.keys.append(own)
                self.places.append((policy, self.keys.index(own)))

    def move(self, data: st.DataObject) -> None:
        """Move the time forward or back, often to where a reply changes."""
        kind = data.draw(st.sampled_from(["not", "not", "edge", "edge", "edge", "on", "back"]))
        period_us = data.draw(st.sampled_from(self.places))[0].period_us
        if kind == "edge":
            self.clock_us = data.draw(st.sampled_from(self.edges)) + data.draw(st.integers(-1, 1))
        elif kind == "on":
            some = st.one_of(
                st.integers(0, 3),
                st.integers(0, period_us),
                st.integers(period_us, 2 * period_us),
                st.just(3 * period_us),
            )
            self.clock_us += data.draw(some)
        elif kind == "back":
            some = st.one_of(st.integers(0, period_us), st.integers(0, 9 * period_us))
            self.clock_us -= data.draw(some)
        # A server's keys expire by its own clock: a time too far ahead would let them expire too early.
        self.clock_us = min(max(1, self.clock_us), NOW_US + 50 * YEAR_US)

    @rule(data=st.data(), kind=st.sampled_from(["call"] * 7 + ["reserve", "renumber", "plant"]))
    def step(self, data: st.DataObject, kind: str) -> None:
        """Most steps are calls; of rules, hypothesis takes each as often as any other."""
        if kind == "call":
            self.call(data)
        elif kind == "reserve":
            self.reserve(data)
        elif kind == "renumber":
            self.renumber(data)
        else:
            self.plant(data)

    def call(self, data: st.DataObject) -> None:
        """Any list of the policies, in any mode that suits them."""
        self.move(data)
        wanted = data.draw(st.sampled_from(["hit"] * 6 + ["peek", "refund", "settle", "reset"]))
        some = data.draw(
            st.lists(st.sampled_from(self.places), min_size=1, max_size=5, unique=True)
        )
        held = [policy.leases for policy, _ in some]
        mode = wanted
        if any(held) and wanted not in ("peek", "reset"):
            lone = {"hit": "acquire", "refund": "release", "settle": "renew"}
            mode = lone[wanted] if all(held) else "acquire"
        same = data.draw(st.booleans())
        lease = data.draw(st.sampled_from(["x", "y", "z"]))
        cost = 1
        blocks: list[Block] = []
        for policy, place in some:
            if not blocks or not same:
                most = min(policy.most_cost, 4_000)
                room = self.rooms.get((place, policy.field), most)
                about = min(max(0, room + data.draw(st.integers(-1, 3))), most)
                some_units = st.one_of(st.integers(0, min(3, most)), st.integers(0, most))
                cost = data.draw(st.one_of(st.just(about), some_units))
            fits = min(cost, policy.most_cost)
            shadow = data.draw(st.sampled_from([False, False, False, True]))
            blocks.append(Block(policy, place, fits, shadow, lease if policy.leases else ""))
        least, step = 0, 1
        if data.draw(st.integers(0, 2)) == 0:
            most = max(block.cost for block in blocks)
            least = data.draw(st.one_of(st.integers(0, min(3, most)), st.integers(0, most)))
            step = data.draw(divisors(least, *(block.cost for block in blocks)))
        alone = len(blocks) == 1 and data.draw(st.booleans())
        self.ask(mode, least, step, blocks, alone)

    def ask(self, mode: str, least: int, step: int, blocks: list[Block], alone: bool) -> None:
        """Call both stores; compare replies and states."""
        said: list[Any] = []
        for block in blocks:
            policy = block.policy
            own = [block.cost, policy.field, *policy.arguments, *[block.lease] * policy.leases]
            if alone:
                step = 1 if policy.leases else step  # the script of leases knows no step
                block = block._replace(shadow=False)
                blocks = [block]
                least = min(least, block.cost)
                keys = [self.keys[block.key]]
                words = [self.clock_us, mode, *own]
                if least:
                    words += [least, step][: 1 if policy.leases else 2]
            else:
                said += [policy.script, block.key + 1, int(block.shadow), *own]
        if not alone:
            keys, words = self.keys, [self.clock_us, mode, least, step, *said]
        script = blocks[0].policy.script if alone else "several"
        names = tuple(key.encode() for key in self.keys)
        if mode == "reset" and alone:
            names, blocks = (keys[0].encode(),), [blocks[0]._replace(key=0)]

        expected = self.caller.run(keys, script, words)
        asked_of = call_of(mode, least, self.clock_us, names, tuple(blocks), step)
        reply = self.store.run(asked_of)

        asked = (self.clock_us, mode, least, step, blocks)
        assert reply == expected, (reply, expected, asked)
        for block, room in zip(blocks, reply[1::5], strict=False):
            self.rooms[block.key, block.policy.field] = room
        for at in (2, 3):
            self.edges += [self.clock_us + wait_us for wait_us in reply[at:-1:5] if wait_us]
        del self.edges[:-30]
        self.check_lives(mode, blocks, reply)
        self.compare(asked)

    def reserve(self, data: st.DataObject) -> None:
        """Reserve or settle some of the rates, under one of two ids."""
        self.move(data)
        rates = [(policy, place) for policy, place in self.places if not policy.leases]
        if not rates:
            return
        mode = data.draw(st.sampled_from(["reserve", "settle"]))
        record = f"{self.keys[0]}:reservation:{data.draw(st.sampled_from('ab'))}"
        most_policies = data.draw(st.integers(1, 2))
        blocks, words = [], []
        for policy, place in rates[:most_policies]:
            most = min(policy.most_cost, 4_000) if mode == "reserve" else 9_999
            cost = data.draw(st.one_of(st.integers(0, min(6, most)), st.integers(0, most)))
            blocks.append(Block(policy, place, cost, data.draw(st.booleans())))
            words += [policy.script, place + 1, int(blocks[-1].shadow), cost]
            words += [policy.field, *policy.arguments]
        life_ms = data.draw(st.sampled_from([1, 60_000] if mode == "reserve" else [0, 60_000]))

        keys = [*self.keys, record]
        asked = call_of(
            mode,
            0,
            self.clock_us,
            tuple(key.encode() for key in keys),
            tuple(blocks),
            record_ms=life_ms,
        )
        expected = outcome(
            lambda: self.caller.run(keys, "reservation", [self.clock_us, mode, life_ms, *words])
        )
        assert outcome(lambda: self.store.run(asked)) == expected, (asked, blocks)
        ours, theirs = look(self.store, [record]), self.caller.client.get(record)
        assert [value for _, value, _ in ours.values()] == ([theirs.decode()] if theirs else [])
        if isinstance(expected, list):
            # Other calls may report units that they did not charge.
            charged = mode == "reserve" and expected[-2] == 1
            self.check_lives("hit" if charged else "peek", blocks, expected[:-1])
        self.compare((mode, life_ms, blocks))

    def check_lives(self, mode: str, blocks: list[Block], reply: list[int]) -> None:
        """A charged key lives for as long as its state counts, and little longer."""
        found = look(self.store, self.keys)
        for block, at in zip(blocks, range(0, len(reply), 5), strict=False):
            granted, reset_ms = reply[at], reply[at + 3] // 1_000 + GIVEN_TIME_MS
            self.longest_ms = max(self.longest_ms, reset_ms + SLACK_MS + 1)
            if granted and mode in ("hit", "settle", "renew"):
                # The call's time stands still while the test runs, the server's does not: allow a minute.
                assert found[self.keys[block.key]][2] >= reset_ms - 60_000

    def compare(self, asked: object = None) -> None:
        """Compare the values of all keys, and check their remaining lives."""
        ours, theirs = look(self.store, self.keys), {}
        kinds = {self.keys[place]: policy.key_type for policy, place in self.places}
        with self.caller.client.pipeline(transaction=False) as pipeline:
            for key, kind in kinds.items():
                if kind == "hash":
                    pipeline.hgetall(key)
                elif kind == "list":
                    pipeline.lrange(key, 0, -1)
                else:
                    pipeline.zrange(key, 0, -1, withscores=True)
            replies = pipeline.execute()
        for (key, kind), held in zip(kinds.items(), replies, strict=True):
            value: Any
            if kind == "hash":
                value = {name.decode(): numbers for name, numbers in held.items()}
            elif kind == "list":
                value = list(map(int, held))
            else:
                value = {member.decode(): int(score) for member, score in held}
            if value:
                theirs[key] = (kind, value)
        assert {key: held[:2] for key, held in ours.items()} == theirs, (ours, theirs, asked)
        for _, _, life_ms in ours.values():
            assert 0 < life_ms <= self.longest_ms, asked

    def renumber(self, data: st.DataObject) -> None:
        """Give a policy other numbers over live state."""
        policy, _ = data.draw(st.sampled_from(self.places))
        numbers = {"limit": data.draw(limits)}
        if policy.has_burst:
            numbers["burst"] = min(data.draw(limits), 9 * numbers["limit"])
        other = policy._with(**numbers)
        self.places = [(other if old is policy else old, place) for old, place in self.places]

    def plant(self, data: st.DataObject) -> None:
        """Write state that no script wrote: far ahead, of another policy, or broken."""
        policy, place = data.draw(st.sampled_from(self.places))
        key, period_us = self.keys[place], policy.period_us
        times = st.one_of(
            st.integers(-2 * period_us, 2 * period_us),
            st.sampled_from([10 * period_us, YEAR_US, YEAR_US + 1, 3 * YEAR_US]),
        ).map(lambda off: max(1, self.clock_us + off))
        value: Any
        if policy.key_type == "hash":
            counts = data.draw(st.lists(st.integers(0, 40), max_size=3))
            raw = struct.pack(f"<{1 + len(counts)}d", data.draw(times), *counts)
            if data.draw(st.integers(0, 9)) == 0:
                raw = raw[:-1]
            value = look(self.store, self.keys).get(key, ("", {}, 0))[1] | {policy.field: raw}
            self.caller.client.hset(key, mapping=value)
        else:
            found = data.draw(st.lists(times, min_size=1, max_size=6))
            self.caller.client.delete(key)
            if policy.key_type == "list":
                value = sorted(found)
                self.caller.client.rpush(key, *value)
            else:
                value = {f"{'xyzw'[n % 4]}:{1 + n // 4}": end for n, end in enumerate(found)}
                self.caller.client.zadd(key, value)
                value = leases(value)
        self.caller.client.pexpire(key, LONG_MS)
        self.longest_ms = max(self.longest_ms, LONG_MS)
        plant(self.store, key, policy.key_type, value, LONG_MS)
        self.compare()


@pytest.mark.slow(10)
def test_memory_and_redis_agree(any_store: str, store: str) -> None:
    """Mixes of algorithms and sizes, in joint calls and one by one, in every mode."""
    machine = type("Subjects", (Subjects,), {"url": any_store})
    examples = (40 if any_store == store else 10) * DEPTH
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
