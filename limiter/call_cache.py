"""Keep the calls of ``hit``: to make and encode one again would be a tenth of a hit's time."""

from __future__ import annotations

from limiter.call import Call
from limiter.plan import Plan

#: Characters of a key; longer ones are not kept, so that no client fills the memory with them.
_LONGEST = 256

#: A key, a cost and the call's time. Their types are str and int alone: True, 1 and 1.0 are equal.
Name = tuple[str, int, int]


class CallCache(dict[Name, Call]):
    """Calls of ``hit`` by their names; a call that is not there is made, and kept if there is room.

    There are two generations, each of at most ``size`` calls. When the younger one is full, it becomes the
    older one, and the calls not used since the last time are forgotten.

    Threads share it without a lock. A race can only lose a call, which is then made again.
    """

    def __init__(self, plan: Plan, size: int) -> None:
        self._plan = plan
        self._size = size
        self._older: dict[Name, Call] = {}

    def __missing__(self, name: Name) -> Call:
        call = self._older.get(name)
        if call is None:
            key, cost, now_us = name
            call = self._plan.call("hit", key, cost, now_us=now_us)
        if self._size and len(name[0]) <= _LONGEST:
            if len(self) >= self._size:
                self._older = dict(self)
                self.clear()
            self[name] = call
        return call
