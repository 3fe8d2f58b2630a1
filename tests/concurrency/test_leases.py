"""Leases of many processes and threads: never one too many, and none outlives its holder for long."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import NamedTuple

import pytest

from tests.concurrency.hammer import begin_together, explain, in_processes
from tests.machines.support import new_key
from tests.model.base import Answer
from tests.model.concurrency import Concurrency
from tests.parallel import child
from tests.scripts import Caller, single

PROCESSES = THREADS = 8
LIMIT, ROUNDS = 10, 12
#: So long that nothing expires while all of them call; and short enough to wait for.
LONG_US, SHORT_US = 60_000_000, 3_000_000


class DecidedCall(NamedTuple):
    """One call that was decided: the script's reply but for the time, which stands in front."""

    decided_us: int
    mode: str
    holder: str
    cost: int
    reply: tuple[int, ...]


def ask(
    caller: Caller, key: str, lease_us: int, mode: str, holder: str = "", cost: int = 1
) -> DecidedCall:
    """Call the script by the server's own clock."""
    script, words = single(Concurrency(LIMIT, lease_us), 0, mode, cost, holder=holder)
    *reply, now_us = caller.run([key], script, words)
    return DecidedCall(now_us, mode, holder, cost, tuple(reply))


def _take_and_release(url: str, key: str, name: str, decided: list[DecidedCall]) -> None:
    """Take, hold for a moment, renew or not, release once or twice; if denied, try again."""
    caller = Caller(url)
    for number in range(ROUNDS):
        holder, cost = f"{name}-{number}", 1 + number % 3
        calls = ["acquire", *["acquire"] * (number % 4 == 0), *["renew"] * (number % 2)]
        calls += ["release"] * (1 + (number % 5 == 0))
        for mode in calls:
            call = ask(caller, key, LONG_US, mode, holder, cost)
            decided.append(call)
            if mode == "acquire" and not call.reply[0]:
                break
    caller.close()


def _work(url: str, key: str, name: str, pipe: Connection) -> None:
    """Start the threads of one process together, at a signal."""
    begin_together(
        pipe, [partial(_take_and_release, url, key, f"{name}-{n}") for n in range(THREADS)]
    )


def most_held(decided: list[DecidedCall]) -> int:
    """The most units that were held at any instant, by the times of taking and releasing."""
    moves = []
    for call in decided:
        if call.mode == "release":
            moves.append((call.decided_us, -call.reply[0]))
        elif call.mode == "acquire":
            moves.append((call.decided_us, call.reply[0]))
    held = most = 0
    for _, units in sorted(moves):  # at one instant, releases come first
        held += units
        most = max(most, held)
    return most


def say(model: Concurrency, now_us: int, call: DecidedCall) -> Answer:
    """The model's answer to a call."""
    answer: Answer = getattr(model, call.mode)(now_us, call.cost, call.holder)
    return answer


@pytest.mark.slow
def test_no_instant_has_more_than_the_limit(any_store):
    """Eight processes of eight threads; and every reply is one that a single caller could have had."""
    key = new_key("leases")
    decided = in_processes(_work, [(any_store, key, f"p{number}") for number in range(PROCESSES)])

    # The same lease taken twice is one: count the first reply only.
    first = {}
    for call in sorted(decided):
        if call.mode == "acquire" and call.reply[0]:
            first.setdefault(call.holder, call)
    moves = [call for call in decided if call.mode == "release"] + list(first.values())
    assert most_held(moves) <= LIMIT
    assert {call.mode for call in decided if call.reply[0]} == {"acquire", "renew", "release"}
    assert any(call.mode == "acquire" and not call.reply[0] for call in decided)
    explain(Concurrency(LIMIT, LONG_US), decided, say)
    caller = Caller(any_store)
    assert caller.dumps([key]) == [None]  # all of it was released
    caller.close()


def _hold_on(url: str, key: str, name: str, pipe: Connection) -> None:
    """Take two leases and renew them, on and on, until killed."""
    caller = Caller(url)
    holders = [f"{name}-{n}" for n in range(2)]
    pipe.send([ask(caller, key, SHORT_US, "acquire", holder).reply[0] for holder in holders])
    while True:
        time.sleep(SHORT_US / 3e6)  # as a holder of a lease does
        for holder in holders:
            ask(caller, key, SHORT_US, "renew", holder)


@pytest.fixture
def holders(store: str) -> Iterator[tuple[str, list[int]]]:
    """Processes that hold all places; their key, and their process ids."""
    key, pids = new_key("leases"), []
    with ExitStack() as stack:
        for number in range(LIMIT // 2):
            process, pipe = stack.enter_context(child(_hold_on, store, key, f"p{number}"))
            assert pipe.recv() == [1, 1]
            pids.append(process.pid)
        yield key, pids


@pytest.mark.slow
def test_places_of_dead_holders_are_free_within_one_lease(store, holders):
    """While leases are renewed, no place is free; a lease after the holders were killed, all are."""
    key, pids = holders
    caller = Caller(store)
    looked = [ask(caller, key, SHORT_US, "peek")]
    # Until the one that ends first was renewed after that look, and so all others.
    while looked[-1].decided_us + looked[-1].reply[3] < looked[0].decided_us + SHORT_US:
        time.sleep(0.05)  # the leases are renewed in real time
        looked.append(ask(caller, key, SHORT_US, "peek"))
    assert {call.reply[1] for call in looked} == {0}

    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    dead = ask(caller, key, SHORT_US, "peek")
    while (now := ask(caller, key, SHORT_US, "peek")).reply[3]:
        # A renewal may have been under way when the last of them died.
        assert now.decided_us + now.reply[3] <= dead.decided_us + SHORT_US + SHORT_US // 10
        time.sleep(now.reply[3] / 1e6)  # until the last lease has ended

    assert ask(caller, key, SHORT_US, "acquire", "heir", LIMIT).reply[:2] == (LIMIT, 0)
    assert ask(caller, key, SHORT_US, "release", "heir", LIMIT).reply[:2] == (LIMIT, LIMIT)
    caller.close()
