"""What an error reply allows next: pure, and the same for every way to carry a call.

A call is sent again, once for each reason and inside its deadline, where the reply proves that nothing
ran: NOSCRIPT (as EVAL), MOVED, ASK, READONLY, and TRYAGAIN after a pause. Everything else is the end.
"""

from __future__ import annotations

from enum import Enum

from redis.exceptions import ResponseError

from limiter.errors import LimiterError, StoreUnavailable
from limiter.plan import Call, bulk
from limiter.transport.replies import code, translate

#: A slot that is half moved refuses calls on several keys; most moves of one subject end within these.
TRYAGAIN_PAUSES = (0.005, 0.010, 0.020)
#: A call is sent on so often; a cluster that sends it further is in trouble.
MOST_REDIRECTS = 3


class Step(Enum):
    """Where a call that was answered with an error goes next."""

    AGAIN = "to the same node, after ``pause`` seconds"
    ELSEWHERE = "this primary became a replica; its address, or the slot, has another by now"
    THERE = "to the node that the error names"
    END = "nowhere: ``failure`` says why"


class Detour:
    """The way of one call after its first error reply."""

    __slots__ = ("_call", "_head", "_pauses", "_redirects", "_seen", "asking", "pause")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._head = call.by_sha
        self._pauses = iter(TRYAGAIN_PAUSES)
        self._redirects = 0
        self._seen: set[str] = set()
        self.asking = False
        """The command goes behind an ASKING, on the same connection, with nothing between them."""
        self.pause = 0.0

    @property
    def command(self) -> bytes:
        """What to send now."""
        return self._head + self._call.rest

    def after(self, error: ResponseError, left: float) -> Step:
        """What to do about the error, with so many seconds left."""
        kind = code(error)
        self.pause = 0.0
        step = self._step(kind, left)
        self._seen.add(kind)
        return step

    def failure(self, error: ResponseError, where: str) -> LimiterError:
        """What the error comes to, where it was the end."""
        if code(error) in ("MOVED", "ASK") and self._redirects == MOST_REDIRECTS:
            return StoreUnavailable(f"{where}: more than {MOST_REDIRECTS} redirections")
        return translate(error, where)

    def _step(self, kind: str, left: float) -> Step:
        if kind == "NOSCRIPT" and kind not in self._seen:
            self._head = self._call.by_text
            return Step.AGAIN
        if kind == "TRYAGAIN":
            self.pause = next(self._pauses, left)
            return Step.AGAIN if self.pause < left else Step.END
        if kind == "READONLY" and kind not in self._seen:
            self.asking = False
            return Step.ELSEWHERE
        if kind in ("MOVED", "ASK") and self._redirects < MOST_REDIRECTS:
            self._redirects += 1
            self.asking = kind == "ASK"
            return Step.THERE
        return Step.END


def command(*words: str | bytes) -> bytes:
    """A whole command, as the protocol spells it."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


ASKING = command("ASKING")
CLUSTER_SLOTS = command("CLUSTER", "SLOTS")
HELLO = command("HELLO")
