#!/usr/bin/env python3
"""Show on a real server how counters lose counts and expiries, and that a script loses neither.

This program belongs to docs/incr.md.

Usage: python docs/incr.py [--store redis://127.0.0.1:6379/0]

Without --store the program starts a server of its own on loopback, and stops it at the end. With --store it
uses only keys that begin with "incr-demo.", and deletes them afterwards.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ModuleNotFoundError:
    sys.exit("docs/incr.py needs redis-py: make venv, then .venv/bin/python docs/incr.py")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # also run from a checkout

from limiter import FixedWindow, Limiter, LimiterError
from service.demo.servers import Server, ServerError

LIMIT = 100
THREADS = 8
CALLS_EACH = 50
WINDOW_S = 1
#: Attempts at a race, or at a kill at the worst moment, before the program reports that it did not happen.
ATTEMPTS = 40

#: Clients start in milliseconds if the system can fork.
processes = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")

#: Returns whether this call is admitted.
Call = Callable[[], bool]


def get_set(store: redis.Redis, key: str) -> bool:
    """Read the count, add one in the client, write it: three steps, and other clients in between."""
    count = int(store.get(key) or 0)
    if count >= LIMIT:
        return False
    store.set(key, count + 1)
    return True


def incr(store: redis.Redis, key: str) -> bool:
    """Add one in Redis: a single step, so each client gets a different number."""
    return int(store.incr(key)) <= LIMIT


def incr_expire(store: redis.Redis, key: str, window_s: int = WINDOW_S) -> bool:
    """Let the first call of a window set its expiry: two steps again."""
    count = int(store.incr(key))
    if count == 1:
        store.expire(key, window_s)
    return count <= LIMIT


def count_admitted(call: Call) -> int:
    """Make THREADS x CALLS_EACH calls at once; return how many are admitted."""
    admitted: list[bool] = []
    start = threading.Barrier(THREADS)

    def one_client() -> None:
        start.wait()
        admitted.extend(call() for _ in range(CALLS_EACH))

    threads = [threading.Thread(target=one_client) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(admitted)


def serve_new_users(url: str, prefix: str, scripted: bool, at_work: Event) -> None:
    """Call for a new user each time, until this process is killed."""
    store = redis.Redis.from_url(url)
    limiter = Limiter(FixedWindow(LIMIT, per=WINDOW_S), store=url, prefix=prefix, timeout=5)
    for user in itertools.count():
        if scripted:
            limiter.hit(user)
        else:
            incr_expire(store, f"{prefix}:{user}")
        at_work.set()


def kill_clients(
    store: redis.Redis, url: str, prefix: str, scripted: bool
) -> tuple[int, list[str]]:
    """Kill clients until one leaves a key without an expiry; return the number killed, and such keys."""
    immortal: list[str] = []
    kills = 0
    while not immortal and kills < ATTEMPTS:
        at_work = processes.Event()
        client = processes.Process(
            target=serve_new_users, args=(url, f"{prefix}.{kills}", scripted, at_work)
        )
        client.start()
        at_work.wait(10)
        time.sleep(random.uniform(0, 0.003))  # at a random moment of its work
        client.kill()
        client.join()
        kills += 1
        keys = store.scan_iter(f"{prefix}.*", count=1_000)
        immortal = [key for key in keys if store.ttl(key) == -1]
    return kills, immortal


def is_blocked_for_ever(store: redis.Redis, key: str) -> bool:
    """Return whether a user whose key lost its expiry is still denied after two windows."""
    while incr_expire(store, key):
        pass  # the user takes the rest of the limit
    time.sleep(2 * WINDOW_S + 0.1)  # real time: the server's own expiry decides
    return not incr_expire(store, key)


@contextmanager
def server_at(url: str | None) -> Iterator[str]:
    """Yield the URL of the server; start one if no URL is given."""
    if url:
        yield url
    else:
        with Server() as server:
            yield server.url


def show(what: str, outcome: str, verdict: str) -> None:
    """Print one row of the table."""
    print(f"{what:<34}{outcome:<40}{verdict}", flush=True)


def demonstrate(url: str) -> bool:
    """Make each failure happen, then try the script; return whether all happened as on the page."""
    prefix = f"incr-demo.{secrets.token_hex(4)}"
    store = redis.Redis.from_url(url, decode_responses=True, retry=Retry(NoBackoff(), 0))
    store.ping()  # an unreachable server should cause one error, not one from each thread
    as_described = []

    def report(what: str, outcome: str, verdict: str, happened: bool) -> None:
        show(what, outcome, verdict if happened else "DID NOT HAPPEN")
        as_described.append(happened)

    try:
        show(f"{THREADS * CALLS_EACH} calls, {LIMIT} allowed", "what happened", "result")
        for attempt in range(ATTEMPTS):
            admitted = count_admitted(functools.partial(get_set, store, f"{prefix}.1.{attempt}"))
            if admitted > LIMIT:
                break
        report("1 GET, then SET", f"{admitted} admitted", "counts are lost", admitted > LIMIT)

        key = f"{prefix}.2"
        admitted = count_admitted(functools.partial(incr, store, key))
        outcome = f"{admitted} admitted, count {store.get(key)}, TTL {store.ttl(key)}"
        report("2 INCR", outcome, "exact, but never expires", admitted == LIMIT)

        admitted = count_admitted(functools.partial(incr_expire, store, f"{prefix}.3", 60))
        report("3 INCR, then EXPIRE", f"{admitted} admitted", "exact", admitted == LIMIT)
        kills, lost = kill_clients(store, url, f"{prefix}.3", scripted=False)
        outcome = f"{kills} killed, {len(lost)} key without TTL"
        report("  clients are killed", outcome, "an expiry is lost", bool(lost))
        blocked = bool(lost) and is_blocked_for_ever(store, lost[0])
        report("  its user, two windows later", "denied", "blocked for ever", blocked)

        policy = FixedWindow(LIMIT, per=60)
        with Limiter(policy, store=url, prefix=f"{prefix}.4", timeout=5) as limiter:
            admitted = count_admitted(lambda: limiter.hit("user:1").allowed)
        report("4 the script", f"{admitted} admitted", "exact", admitted == LIMIT)
        kills, lost = kill_clients(store, url, f"{prefix}.4", scripted=True)
        outcome = f"{kills} killed, {len(lost)} keys without TTL"
        report("  clients are killed", outcome, "no expiry is lost", not lost)
    finally:
        for key in store.scan_iter(f"{prefix}.*", count=1_000):
            store.delete(key)
        store.close()
    return all(as_described)


def main() -> int:
    """Run everything; return 0 if each counter failed as described and the script did not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\nUsage")[0])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--store", metavar="URL", help="use this Redis or Valkey, and start no server"
    )
    options = parser.parse_args()
    try:
        with server_at(options.store) as url:
            return 0 if demonstrate(url) else 1
    except (ServerError, LimiterError, redis.RedisError, ValueError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
