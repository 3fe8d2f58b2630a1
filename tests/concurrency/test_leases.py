"""Leases of many processes and threads: never one too many, and none outlives its holder for long."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

import pytest

from tests.concurrency.hammer import PATIENCE, explain, processes
from tests.machines.support import new_key
from tests.model.base import Answer
from tests.model.concurrency import Concurrency
from tests.scripts import Caller, single

PROCESSES = THREADS = 8
LIMIT, ROUNDS = 10, 12
#: So long that nothing expires while all of them call; and short enough to wait for.
LONG_US, SHORT_US = 60_000_000, 2_000_000


class Told(NamedTuple):
    """One call that was decided: the script's reply but for the time, which stands in front."""

    decided_us: int
    mode: str
    holder: str
    cost: int
    reply: tuple[int, ...]


def ask(
    caller: Caller, key: str, lease_us: int, mode: str, holder: str = "", cost: int = 1
) -> Told:
    """Call the script by the server's own clock."""
    script, words = single(Concurrency(LIMIT, lease_us), 0, mode, cost, holder=holder)
    *reply, now_us = caller.run([key], script, words)
    return Told(now_us, mode, holder, cost, tuple(reply))


def _take_and_give_back(
    url: str, key: str, name: str, start: threading.Barrier, told: list[Told]
) -> None:
    """Take, hold for a moment, renew or not, release once or twice; if denied, try again."""
    caller = Caller(url)
    start.wait()
    for number in range(ROUNDS):
        holder, cost = f"{name}-{number}", 1 + number % 3
        calls = ["acquire", *["acquire"] * (number % 4 == 0), *["renew"] * (number % 2)]
        calls += ["release"] * (1 + (number % 5 == 0))
        for mode in calls:
            one = ask(caller, key, LONG_US, mode, holder, cost)
            told.append(one)
            if mode == "acquire" and not one.reply[0]:
                break
    caller.close()


def _work(url: str, key: str, name: str, pipe: Connection) -> None:
    """Start the threads of one process together, at a signal."""
    told: list[Told] = []
    start = threading.Barrier(THREADS + 1)
    threads = [
        threading.Thread(target=_take_and_give_back, args=(url, key, f"{name}-{n}", start, told))
        for n in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    pipe.send("ready")
    pipe.recv()
    start.wait()
    for thread in threads:
        thread.join()
    pipe.send(told)


def most_held(told: list[Told]) -> int:
    """The most units that were held at any instant, by the times of taking and releasing."""
    moves = []
    for one in told:
        if one.mode == "release":
            moves.append((one.decided_us, -one.reply[0]))
        elif one.mode == "acquire":
            moves.append((one.decided_us, one.reply[0]))
    held = most = 0
    for _, units in sorted(moves):  # at one instant, releases come first
        held += units
        most = max(most, held)
    return most


def say(model: Concurrency, now_us: int, call: Told) -> Answer:
    """The model's answer to a call."""
    answer: Answer = getattr(model, call.mode)(now_us, call.cost, call.holder)
    return answer


@pytest.mark.slow
def test_no_instant_has_more_than_the_limit(any_store):
    """Eight processes of eight threads; and every reply is one that a single caller could have had."""
    key, pipes, running, told = new_key("leases"), [], [], []
    for number in range(PROCESSES):
        ours, theirs = processes.Pipe()
        child = processes.Process(target=_work, args=(any_store, key, f"p{number}", theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        running.append(child)
    try:
        for pipe in pipes:
            assert pipe.recv() == "ready"
        for pipe in pipes:
            pipe.send("go")
        for pipe in pipes:
            told += pipe.recv()
    finally:
        for child, pipe in zip(running, pipes, strict=True):
            pipe.close()
            child.join(PATIENCE)
            child.close()

    # The same lease taken twice is one: count the first reply only.
    first = {}
    for one in sorted(told):
        if one.mode == "acquire" and one.reply[0]:
            first.setdefault(one.holder, one)
    moves = [one for one in told if one.mode == "release"] + list(first.values())
    assert most_held(moves) <= LIMIT
    assert {one.mode for one in told if one.reply[0]} == {"acquire", "renew", "release"}
    assert any(one.mode == "acquire" and not one.reply[0] for one in told)
    explain(Concurrency(LIMIT, LONG_US), told, say)
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
    key, running = new_key("leases"), []
    try:
        for number in range(LIMIT // 2):
            ours, theirs = processes.Pipe()
            child = processes.Process(target=_hold_on, args=(store, key, f"p{number}", theirs))
            child.start()
            theirs.close()
            running.append(child)
            assert ours.recv() == [1, 1]
            ours.close()
        yield key, [child.pid for child in running]
    finally:
        for child in running:
            child.kill()
            child.join()
            child.close()


@pytest.mark.slow
def test_places_of_dead_holders_are_free_within_one_lease(store, holders):
    """While leases are renewed, no place is free; a lease after the holders were killed, all are."""
    key, pids = holders
    caller = Caller(store)
    began_us = ask(caller, key, SHORT_US, "peek").decided_us
    looked = [ask(caller, key, SHORT_US, "peek")]
    while looked[-1].decided_us < began_us + 3 * SHORT_US // 2:
        time.sleep(0.05)  # the leases are renewed in real time
        looked.append(ask(caller, key, SHORT_US, "peek"))
    assert {one.reply[1] for one in looked} == {0}

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
