"""Holders in other processes are stopped, killed, and forked; all places are free again in time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis

from limiter import Concurrency, Limiter, RateLimited, SlidingLog
from limiter.aio import AsyncLimiter
from tests.calls.support import PATIENCE
from tests.parallel import child, in_threads
from tests.waiting import until_renewed

#: A lease bears a stall of two seconds before its renewal.
LEASE = 3.0


def _hold(store: str, subject: str, pipe: Connection) -> None:
    """Hold a lease until the pipe says to end; report when it is held, and when it is lost."""
    with Limiter(Concurrency(1, lease=LEASE), store=store, timeout=PATIENCE) as limiter:
        with limiter.hold(subject, on_lost=lambda: pipe.send("lost")) as lease:
            pipe.send("held")
            pipe.recv()
        pipe.send((lease.lost, limiter.unsettled))


def _hold_in_a_loop(store: str, subject: str, pipe: Connection) -> None:
    """The same, as a coroutine."""

    async def main() -> None:
        policy = Concurrency(1, lease=LEASE)
        async with AsyncLimiter(policy, store=store, timeout=PATIENCE) as limiter:
            async with limiter.hold(subject, on_lost=lambda: pipe.send("lost")) as lease:
                pipe.send("held")
                await asyncio.to_thread(pipe.recv)
            pipe.send((lease.lost, limiter.unsettled))

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("hold", [_hold, _hold_in_a_loop])
def test_a_stopped_holder_reports_the_loss(store: str, subject: str, hold: Any) -> None:
    """It stops for a lease; another client holds it then, and is not disturbed when it wakes up."""
    with (
        Limiter(Concurrency(1, lease=LEASE), store=store, timeout=PATIENCE) as limiter,
        child(hold, store, subject) as (process, pipe),
    ):
        assert pipe.poll(PATIENCE)
        assert pipe.recv() == "held"
        os.kill(process.pid, signal.SIGSTOP)
        with limiter.hold(subject, timeout=PATIENCE) as other:
            os.kill(process.pid, signal.SIGCONT)
            assert pipe.poll(PATIENCE)
            assert pipe.recv() == "lost"
            assert not limiter.peek(subject)
            pipe.send("end")
            assert pipe.recv() == (True, 0)
            assert not limiter.peek(subject)  # its release took nothing from us
            until_renewed(limiter, subject)  # ours
            assert not other.lost


LIMIT = 12


def _come_and_go(store: str, subject: str, number: int, pipe: Connection) -> None:
    """Hold some leases, now and then, until killed."""
    draw = random.Random(number)
    with Limiter(Concurrency(LIMIT, lease=LEASE), store=store, timeout=PATIENCE) as limiter:
        pipe.send("ready")
        while True:
            with suppress(RateLimited), limiter.hold(subject, draw.randint(1, 4)):
                time.sleep(draw.uniform(0, 0.02))  # the work


@pytest.mark.slow
def test_killed_holders_leave_every_place_free(store: str, subject: str) -> None:
    """Killed with -9: never more than the limit is held, and a lease later all places are free."""
    draw, running = random.Random(5), []
    client = redis.Redis.from_url(store)
    key = f"rl:{{{subject}}}:default:v1:concurrency"

    def held() -> int:
        seconds, micros = client.time()
        now_us = seconds * 1_000_000 + micros
        life_ms = client.pttl(key)
        assert life_ms == -2 or life_ms > 0
        return int(client.zcount(key, f"({now_us}", "+inf"))

    with ExitStack() as stack:
        for number in range(8):
            process, pipe = stack.enter_context(child(_come_and_go, store, subject, number))
            assert pipe.poll(PATIENCE)
            running.append(process)
            if len(running) == 4:
                end = time.monotonic() + draw.uniform(0.02, 0.1)
                while time.monotonic() < end:
                    assert held() <= LIMIT
                victim = running.pop(draw.randrange(4))
                os.kill(victim.pid, signal.SIGKILL)
                victim.join()
    last = time.monotonic()
    with Limiter(Concurrency(LIMIT, lease=LEASE), store=store, timeout=PATIENCE) as limiter:
        with limiter.hold(subject, LIMIT, timeout=PATIENCE):
            assert time.monotonic() - last < LEASE + 5
            assert limiter.peek(subject).remaining == 0
        assert limiter.peek(subject).remaining == LIMIT
    assert not client.exists(key)
    client.close()


def _fork_while_holding(store: str, subject: str, pipe: Connection) -> None:
    """Fork in the body: one child leaves it, at its end and early, the other takes its own lease."""
    policy = Concurrency(5, lease=LEASE)
    limiter = Limiter(policy, store=store, timeout=PATIENCE)
    with limiter.hold(subject, 2) as lease:
        seen = []
        for way in ("its end", "its own"):
            read, write = os.pipe()
            if os.fork() == 0:
                status = 1
                try:
                    if way == "its own":
                        with limiter.hold(subject) as own:
                            until_renewed(limiter, subject, 3)  # in the child
                            status = 2 if own.lost else limiter.peek(subject).remaining + 10
                    else:
                        lease.__exit__(None, None, None)
                        lease.release()
                        status = limiter.peek(subject).remaining + 10
                finally:
                    os.write(write, b"%d" % status)
                    os._exit(0)
            os.close(write)
            os.wait()
            with os.fdopen(read) as said:
                seen.append(int(said.read()))
        seen.append(limiter.peek(subject).remaining + 10)
        seen.append(int(lease.lost))
    seen.append(limiter.peek(subject).remaining + 10)
    limiter.close()
    pipe.send(seen)


@pytest.mark.slow
def test_a_fork_with_a_lease(store: str, subject: str) -> None:
    """The lease is the parent's: no child releases or renews it; a child's own lease is its own."""
    with child(_fork_while_holding, store, subject) as (_, pipe):
        assert pipe.poll(30)
        assert pipe.recv() == [13, 12, 13, 0, 15]


def _fork_and_hold_in_threads(store: str, subject: str, pipe: Connection) -> None:
    """Fork in the body; two threads of the child take its first leases at once."""
    limiter = Limiter(Concurrency(5, lease=LEASE), store=store, timeout=PATIENCE)
    with limiter.hold(subject):
        if os.fork() == 0:
            real, lost = threading.Condition, []

            def slowly(*lock: Any) -> Any:
                time.sleep(0.05)
                return real(*lock)

            threading.Condition = slowly  # type: ignore[assignment,misc]

            def hold(number: int) -> None:
                time.sleep(number * 0.02)
                with limiter.hold(f"{subject}-{number}") as lease:
                    until_renewed(limiter, f"{subject}-{number}", 5)
                    lost.append(lease.lost or limiter.peek(f"{subject}-{number}").remaining != 4)

            in_threads(2, hold)
            pipe.send(lost)
            os._exit(0)
        os.wait()
    limiter.close()


@pytest.mark.slow
def test_the_first_leases_of_a_child(store: str, subject: str) -> None:
    """Two threads take them at once: both are renewed."""
    with child(_fork_and_hold_in_threads, store, subject) as (_, pipe):
        assert pipe.poll(30)
        assert pipe.recv() == [False, False]


def _fork_while_reserving(store: str, subject: str, pipe: Connection) -> None:
    """Fork in the body; one child fails in it, the other settles."""
    limiter = Limiter(SlidingLog(10, 60), store=store, timeout=PATIENCE)
    seen = []
    for actual in (None, 1):
        limiter.reset(subject)
        with limiter.reserve(subject, 4) as reserved:
            if os.fork() == 0:
                if actual is None:
                    reserved.__exit__(ValueError, ValueError(), None)
                else:
                    reserved.settle(actual)
                os._exit(0)
            os.wait()
            seen.append(limiter.peek(subject).remaining)
    limiter.close()
    pipe.send(seen)


def test_a_fork_with_a_reservation(store: str, subject: str) -> None:
    """A child's failure does not refund its parent's cost; a child's settlement counts."""
    with child(_fork_while_reserving, store, subject) as (_, pipe):
        assert pipe.poll(PATIENCE)
        assert pipe.recv() == [6, 9]


def _reserve(store: str, subject: str, pipe: Connection) -> None:
    limiter = Limiter(SlidingLog(10, 60), store=store, timeout=PATIENCE)
    with limiter.reserve(subject, 4):
        pipe.send("reserved")
        pipe.recv()


def test_a_killed_reservation_keeps_its_charge(store: str, subject: str) -> None:
    """The charge stays: no other process knows the true cost."""
    with child(_reserve, store, subject) as (process, pipe):
        assert pipe.poll(PATIENCE)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with Limiter(SlidingLog(10, 60), store=store, timeout=PATIENCE) as limiter:
        assert limiter.peek(subject).remaining == 6
