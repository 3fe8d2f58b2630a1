"""Keep the calls of ``hit``: to make and encode one again would be a tenth of a hit's time."""

from __future__ import annotations

from limiter.call import Call
from limiter.generations import LONGEST_KEY, Generations
from limiter.plan import Plan

#: A key, a cost and the call's time. Their types are str and int alone: True, 1 and 1.0 are equal.
Name = tuple[str, int, int]


class CallCache(Generations[Name, Call]):
    """Calls of ``hit`` by their names; a call that is not there is made, and kept if there is room."""

    def __init__(self, plan: Plan, size: int) -> None:
        super().__init__(size)
        self._plan = plan

    def __missing__(self, name: Name) -> Call:
        call = self._older.get(name)
        if call is None:
            key, cost, now_us = name
            call = self._plan.call("hit", key, cost, now_us=now_us)
            if len(name[0]) > LONGEST_KEY:
                return call
            call.is_kept = bool(self._size)
        self.keep(name, call)
        return call
