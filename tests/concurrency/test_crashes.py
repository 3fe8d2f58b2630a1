"""Clients die and fork at any moment; the state that they share stays right."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import pytest
import redis

from limiter import Limiter, SlidingLog
from limiter.policies import ALGORITHMS
from tests.parallel import child, processes
from tests.waiting import PATIENCE

DAY = 86_400
LIMIT = 50
POLICIES = [policy(LIMIT, DAY) for policy in ALGORITHMS.values()]
KILLS = 16
#: With more, a busy machine would look at keys for longer than clients take to make them.
MOST_USERS = 500


def _serve_new_users(store: str, prefix: str, number: int, begun: Event) -> None:
    """Hit a shared key and new keys of its own, again and again, until killed."""
    with Limiter(POLICIES, store=store, prefix=prefix, timeout=PATIENCE) as limiter:
        for user in itertools.count():
            limiter.hit("shared")
            limiter.hit((str(number), str(user % MOST_USERS)))
            if user == 1:
                begun.set()


def test_killing_clients_leaves_no_key_for_ever(store, subject):
    """Clients are killed with -9 in their first hits: every key expires, and the limit is kept."""
    prefix = subject
    rng = random.Random(7)
    client = redis.Redis.from_url(store)
    running = []
    try:
        for number in range(KILLS):
            begun = processes.Event()
            args = (store, prefix, number, begun)
            process = processes.Process(target=_serve_new_users, args=args)
            process.start()
            running.append((process, begun))
            if len(running) == 4:
                victim, begun = running.pop(rng.randrange(4))
                assert begun.wait(PATIENCE)  # on a busy machine it may take a while to begin
                time.sleep(rng.uniform(0.01, 0.05))  # a client has to be in the middle of something
                os.kill(victim.pid, signal.SIGKILL)
                victim.join()
                victim.close()
            keys = list(client.scan_iter(f"{prefix}:*", count=1_000))
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.pttl(key)
            lives = pipe.execute()
            # A sliding window counts for two of its periods.
            assert all(0 < life <= (2 * DAY + 2) * 1000 for life in lives), min(lives)
    finally:
        for process, _ in running:
            process.kill()
            process.join()
            process.close()

    assert len(keys) > KILLS
    with Limiter(POLICIES, store=store, prefix=prefix, timeout=PATIENCE) as limiter:
        shared = limiter.peek("shared")
    # All of them hit it, far more often than it admits: it is used up exactly, and only once.
    assert [part.remaining for part in shared.each] == [0] * len(POLICIES)
    pipe.reset()
    client.unlink(*keys)
    client.close()


def _fork_and_hit(store: str, subject: str, calls: int, pipe: Connection) -> None:
    """Use a limiter, fork with it, and let every process use it at once."""
    limiter = Limiter(SlidingLog(LIMIT, DAY), store=store, timeout=PATIENCE).open()
    admitted = sum(limiter.hit(subject).allowed for _ in range(3))
    ends = []
    for _ in range(4):
        read, write = os.pipe()
        if os.fork() == 0:
            mine = sum(limiter.hit(subject).allowed for _ in range(calls))
            if os.fork() == 0:  # and a grandchild, of a child that used it
                mine = sum(limiter.hit(subject).allowed for _ in range(calls))
                os.write(write, b"%d " % mine)
                os._exit(0)
            os.write(write, b"%d " % mine)
            os.wait()
            os._exit(0)
        os.close(write)
        ends.append(read)
    admitted += sum(limiter.hit(subject).allowed for _ in range(calls))
    for end in ends:
        with os.fdopen(end) as said:
            admitted += sum(map(int, said.read().split()))
    pipe.send(admitted)


@pytest.mark.parametrize("where", ["standalone", "cluster"])
def test_a_limiter_goes_on_after_forks(request, subject, where):
    """No reply reaches the wrong process: exactly the limit is admitted among nine of them."""
    store = request.getfixturevalue("store" if where == "standalone" else "cluster")
    url = store if isinstance(store, str) else store.url
    with child(_fork_and_hit, url, subject, LIMIT) as (process, pipe):
        assert pipe.poll(PATIENCE)
        assert pipe.recv() == LIMIT
        process.join()
        assert process.exitcode == 0
