"""The virtual clock, the seeded choices, the events to come and the trace of one schedule."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

#: When each schedule begins, in seconds.
BEGIN = 1_000.0


class Stuck(AssertionError):
    """Nothing can happen any more, and a caller still waits."""


class World:
    """All that a schedule depends on; a seed makes the same world in each process."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = BEGIN
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._trace: list[tuple[float, str, tuple[Any, ...]]] = []
        self.stalled = 0.0
        """Seconds in which the client's process did not run."""

    def number(self) -> int:
        """A number that was not used before."""
        self._numbers += 1
        return self._numbers

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something at that time."""
        heapq.heappush(self._events, (when, self.number(), action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something later."""
        self.at(self.now + seconds, action)

    @property
    def next_at(self) -> float | None:
        """When the next event happens; None if there is none."""
        return self._events[0][0] if self._events else None

    def step(self) -> None:
        """Let the next event happen."""
        when, _, action = heapq.heappop(self._events)
        self.now = max(self.now, when)
        action()

    def run_until(self, when: float) -> None:
        """Let all events up to that time happen."""
        while self._events and self._events[0][0] <= when:
            self.step()
        self.now = max(self.now, when)

    def stall(self, seconds: float) -> None:
        """Let time pass in which the network and the servers run, and the client's process does not."""
        self.note("the client's process stands still for %.6f s", seconds)
        self.stalled += seconds
        self.run_until(self.now + seconds)

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return probability > 0 and self.random.random() < probability

    def note(self, text: str, *values: Any) -> None:
        """Add a line to the trace."""
        self._trace.append((self.now, text, values))

    def trace(self) -> list[str]:
        """The lines of the trace, each with its time."""
        return [f"{when - BEGIN:10.6f} {text % values}" for when, text, values in self._trace]
