"""A store in the process: keys, their lives, a clock, and a bound on memory."""

from __future__ import annotations

import heapq
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from limiter.call import Call
from limiter.errors import InvalidSetting, StoreRefused, shown
from limiter.memory import clock
from limiter.memory.decide import Outcome, ask, change
from limiter.policies.concurrency import LeaseSet
from limiter.policies.step import Step

#: What every key lives longer than its state counts, and one that is used under a given time.
_SLACK_US, _GIVEN_US = 1_000_000, 3_600_000_000
#: So many places in line are brought up to date in one call, which takes a millisecond.
_MOST_RENEWALS = 1_000

_TAKING = frozenset({"hit", "acquire"})
_ASKING = frozenset({"hit", "acquire", "peek", "reset"})

_EMPTY: dict[str, Callable[[], Any]] = {"hash": dict, "list": list, "zset": LeaseSet}


class _Key:
    """What stands under a name, and for how long."""

    __slots__ = ("expires_us", "kind", "marked_us", "value")

    def __init__(self, kind: str, expires_us: int) -> None:
        self.kind = kind
        self.value = _EMPTY[kind]()
        self.expires_us = expires_us
        #: The life by which it stands in the store's heap; lives only grow, so the heap may lag.
        self.marked_us = expires_us


class MemoryStore:
    """Subjects' state in this process, decided by the rules of the scripts.

    Same call, same reply, same state as ``several.lua``. Threads may share it, and a process may
    fork with it: the child goes on with a copy. Its clock is the wall's when it was made, and never
    steps back.

    At most ``most_subjects`` keys are kept (a subject has one, and one more for each log and each
    set of leases), and for a moment a thousandth more. When one more comes, those go first that have
    expired, then those that are soonest as if unused, but never a key of the call itself. Whoever is
    thrown out starts afresh: each time that can admit one more bound of its policies.
    """

    def __init__(self, most_subjects: int = 100_000) -> None:
        if type(most_subjects) is not int or most_subjects < 1:
            raise InvalidSetting.of(
                "most_subjects", shown(most_subjects), "accepted is a whole number from 1"
            )
        self._most = most_subjects
        self._keys: dict[bytes, _Key] = {}
        #: (expiry, name) of every key, the soonest first; some lag, some are of keys that are gone.
        self._heap: list[tuple[int, bytes]] = []
        self._began_us = int(time.time_ns()) // 1_000 - clock.now_us()
        # Reentrant, since a signal handler may ask in the middle of a call of its own thread.
        self._lock = threading.RLock()
        _remember(self)

    def __len__(self) -> int:
        return len(self._keys)

    def clear(self) -> None:
        """Forget every subject."""
        with self._lock:
            self._keys.clear()
            self._heap.clear()

    def run(self, call: Call) -> list[int]:
        """Decide: five integers for each block, and the time of the decision.

        Raises:
            StoreRefused: A key holds something of another kind; nothing was changed.

        """
        with self._lock:
            return self._run(call)

    def _run(self, call: Call) -> list[int]:
        template, names = call.template, call.keys
        mode, now_us, blocks = template.mode, template.now_us, template.blocks
        takes, asks = mode in _TAKING, mode in _ASKING
        clock_us = self._began_us + clock.now_us()
        slack_us = _SLACK_US + _GIVEN_US if now_us else _SLACK_US
        now_us = now_us or clock_us
        steps = []
        for block in blocks:
            policy, name = block.policy, names[block.key]
            value = self._read(name, policy.key_type, clock_us, mode == "reset")
            lease = block.lease if takes or not asks else ""
            steps.append(policy.step(value, now_us, lease, block.cost))
        outcome = (
            ask(takes, template.at_least, blocks, steps) if asks else change(mode, blocks, steps)
        )
        if mode == "reset":
            for name in names:
                self._keys.pop(name, None)
        elif mode != "peek":
            self._save(call, steps, outcome, clock_us, slack_us)
        outcome.reply.append(now_us)
        return outcome.reply

    def _read(self, name: bytes, kind: str, clock_us: int, mends: bool) -> Any:
        """What stands under a name; None where there is nothing, or no more."""
        key = self._keys.get(name)
        if key is None:
            return None
        if key.expires_us <= clock_us:
            del self._keys[name]
            return None
        if key.kind == kind:
            return key.value
        if mends:
            return None
        raise StoreRefused(
            f"the key {name!r} holds a {key.kind}: accepted is a {kind}; reset the subject"
        )

    def _save(
        self,
        call: Call,
        steps: list[Step],
        outcome: Outcome,
        clock_us: int,
        slack_us: int,
    ) -> None:
        """Write what changed, and let it live for as long as it counts."""
        names, blocks, keys = call.keys, call.template.blocks, self._keys
        grown = False
        # In whole milliseconds, as a server counts lives.
        lives = [clock_us + -(-step.reset_us // 1_000) * 1_000 + slack_us for step in steps]
        for place in outcome.writes:
            policy, name = blocks[place].policy, names[blocks[place].key]
            key = keys.get(name)
            if key is None:
                key = keys[name] = _Key(policy.key_type, lives[place])
                heapq.heappush(self._heap, (lives[place], name))
                grown = True
            steps[place].write(key.value)
        for block, until_us in zip(blocks, lives, strict=True):
            key = keys.get(names[block.key])
            if key is None or not block.cost:
                continue
            if not key.value:
                del keys[names[block.key]]
                continue
            if outcome.passes:
                key.expires_us = max(key.expires_us, until_us)
        if grown:
            self._bound(clock_us, names)

    def _bound(self, clock_us: int, spared: tuple[bytes, ...]) -> None:
        """Throw out a few of those that have expired, and as many as are too many."""
        keys, heap, back = self._keys, self._heap, []
        dropped = renewed = 0
        if len(heap) > 2 * len(keys) + 64:
            # Most are of keys that are gone.
            for key in keys.values():
                key.marked_us = key.expires_us
            heap[:] = [(key.marked_us, name) for name, key in keys.items()]
            heapq.heapify(heap)
        while heap and (len(keys) > self._most or (heap[0][0] <= clock_us and dropped < 2)):
            item = heapq.heappop(heap)
            found = keys.get(item[1])
            if found is None or found.marked_us != item[0]:
                continue
            if found.expires_us != found.marked_us:
                found.marked_us = found.expires_us
                heapq.heappush(heap, (found.marked_us, item[1]))
                renewed += 1
                if renewed == _MOST_RENEWALS:
                    break  # the next calls go on with it; until then there is one key too many
            elif item[1] in spared:
                back.append(item)
            else:
                del keys[item[1]]
                dropped += 1
        for item in back:
            heapq.heappush(heap, item)


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()
_guard = threading.RLock()
_held: list[MemoryStore] = []


def _remember(store: MemoryStore) -> None:
    with _guard:
        _stores.add(store)


def clear_all() -> None:
    """Forget every subject of every store in this process; for tests."""
    with _guard:
        stores = list(_stores)
    for store in stores:
        store.clear()


def _before_fork() -> None:
    """Wait until no thread is in the middle of a call: the child's copies are whole, its locks free."""
    _guard.acquire()
    _held[:] = _stores
    for store in _held:
        store._lock.acquire()


def _after_fork() -> None:
    for store in _held:
        store._lock.release()
    _held.clear()
    _guard.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
