"""A store in the process: keys, their expiry, a clock, and a bound on memory."""

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
from limiter.memory.decide import ask, change, reserve, settle
from limiter.policies.concurrency import LeaseSet
from limiter.policies.step import Step

#: How much later a key expires than its state; under a caller's own time, another hour is added.
_SLACK_US, _GIVEN_US = 1_000_000, 3_600_000_000
#: Entries of the heap that one call corrects at most; more would take it longer than a millisecond.
_MOST_CORRECTIONS = 1_000

_TAKING = frozenset({"hit", "acquire"})
_ASKING = frozenset({"hit", "acquire", "peek", "reset"})

_EMPTY: dict[str, Callable[[], Any]] = {
    "hash": dict,
    "list": list,
    "zset": LeaseSet,
    "string": str,
}


class _Key:
    """The value of a key, and when it expires."""

    __slots__ = ("expires_us", "kind", "marked_us", "value")

    def __init__(self, kind: str, expires_us: int) -> None:
        self.kind = kind
        self.value = _EMPTY[kind]()
        self.expires_us = expires_us
        #: The expiry of its entry in the store's heap; an expiry only grows, so the heap may lag.
        self.marked_us = expires_us


class MemoryStore:
    """The state of subjects in this process, decided by the rules of the scripts.

    A call gets the same reply, and leaves the same state, as with ``several.lua`` or ``reservation.lua``.
    Threads may share a store. If a process forks, the child goes on with a copy. The clock begins at the
    wall's time and never steps back.

    At most ``most_subjects`` keys are kept, and for a moment a thousandth more. A subject has one key,
    and one more for each log, each set of leases and each recorded reservation. If there are too many,
    the store removes expired keys first, then those that expire soonest, but never a key of the present
    call. A removed subject starts unused, which can admit one more bound of its policies each time.
    """

    def __init__(self, most_subjects: int = 100_000) -> None:
        if type(most_subjects) is not int or most_subjects < 1:
            raise InvalidSetting.of(
                "most_subjects", shown(most_subjects), "expected a whole number from 1"
            )
        self._most = most_subjects
        self._keys: dict[bytes, _Key] = {}
        #: (expiry, name) of every key, the soonest first; some lag, and some belong to removed keys.
        self._heap: list[tuple[int, bytes]] = []
        #: Whether a call has added a key since ``_bound`` was last run.
        self._grown = False
        self._began_us = int(time.time_ns()) // 1_000 - clock.now_us()
        # Reentrant: a signal handler may make a call while its own thread is in the middle of one.
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
        """Decide a call; return five integers for each block, and the time of the decision.

        Raises:
            StoreRefused: A key holds a value of another kind; nothing was changed.

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
            step = policy.step(value, now_us, lease, block.cost)
            if template.hold_us:
                step.stamp(template.hold_us)
            steps.append(step)
        if template.record_ms is not None:
            return [*self._run_recorded(call, steps, clock_us, slack_us), now_us]
        reply, writes = ask(template, takes, steps) if asks else change(mode, blocks, steps)
        if mode == "reset":
            for name in names:
                self._keys.pop(name, None)
        elif mode != "peek":
            self._save(call, steps, writes, clock_us, slack_us)
        return [*reply, now_us]

    def _run_recorded(
        self, call: Call, steps: list[Step], clock_us: int, slack_us: int
    ) -> list[int]:
        """Reserve or settle by the record, the last of the call's keys."""
        template, name = call.template, call.keys[-1]
        decide = reserve if template.mode == "reserve" else settle
        record = self._read(name, "string", clock_us, resets=False)
        reply, writes, changed, keeps_expiry = decide(template, steps, record)
        if changed is not None:
            # Its life may become shorter: it is a new key, whose entry in the heap replaces the old one.
            old = self._keys.pop(name, None)
            given_us = slack_us - _SLACK_US
            until_us = clock_us + (template.record_ms or 0) * 1_000 + given_us
            if keeps_expiry and old is not None:
                until_us = old.expires_us
            if changed:
                self._add(name, "string", until_us).value = changed
        self._save(call, steps, writes, clock_us, slack_us)
        return reply

    def _read(self, name: bytes, kind: str, clock_us: int, resets: bool) -> Any:
        """The value of a key; None if there is none or it has expired."""
        key = self._keys.get(name)
        if key is None:
            return None
        if key.expires_us <= clock_us:
            del self._keys[name]
            return None
        if key.kind == kind:
            return key.value
        if resets:
            return None
        raise StoreRefused(
            f"the key {name!r} holds a {key.kind}: expected a {kind}; reset the subject"
        )

    def _save(
        self,
        call: Call,
        steps: list[Step],
        writes: list[int],
        clock_us: int,
        slack_us: int,
    ) -> None:
        """Write the changed state, and move the expiry of its keys to later."""
        names, blocks, keys = call.keys, call.template.blocks, self._keys
        for place in writes:
            policy, name, step = blocks[place].policy, names[blocks[place].key], steps[place]
            # In whole milliseconds, as a server counts them.
            until_us = clock_us + -(-step.reset_us // 1_000) * 1_000 + slack_us
            key = keys.get(name)
            if key is None:
                key = self._add(name, policy.key_type, until_us)
            step.write(key.value)
            key.expires_us = max(key.expires_us, until_us)
            if not key.value:
                del keys[name]
        if self._grown:
            self._grown = False
            self._bound(clock_us, names)

    def _add(self, name: bytes, kind: str, until_us: int) -> _Key:
        """Make a key without content."""
        key = self._keys[name] = _Key(kind, until_us)
        heapq.heappush(self._heap, (until_us, name))
        self._grown = True
        return key

    def _bound(self, clock_us: int, spared: tuple[bytes, ...]) -> None:
        """Remove up to two expired keys, and every key above the bound."""
        keys, heap, kept = self._keys, self._heap, []
        dropped = corrected = 0
        if len(heap) > 2 * len(keys) + 64:
            # Most entries belong to removed keys.
            for key in keys.values():
                key.marked_us = key.expires_us
            heap[:] = [(key.marked_us, name) for name, key in keys.items()]
            heapq.heapify(heap)
        while heap and (len(keys) > self._most or (heap[0][0] <= clock_us and dropped < 2)):
            marked_us, name = heapq.heappop(heap)
            candidate = keys.get(name)
            if candidate is None or candidate.marked_us != marked_us:
                continue
            if candidate.expires_us != marked_us:
                candidate.marked_us = candidate.expires_us
                heapq.heappush(heap, (candidate.marked_us, name))
                corrected += 1
                if corrected == _MOST_CORRECTIONS:
                    break  # the next calls go on with it; until then there is one key too many
            elif name in spared:
                kept.append((marked_us, name))
            else:
                del keys[name]
                dropped += 1
        for entry in kept:
            heapq.heappush(heap, entry)


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
    """Wait until no thread is in a call, so that the child gets complete state and free locks."""
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
