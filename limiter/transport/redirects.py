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


class Action(Enum):
    """Where a call that was answered with an error goes next."""

    RETRY = "to the same node, after ``pause`` seconds"
    RECONNECT = "this primary became a replica; its address, or the slot, has another by now"
    FOLLOW = "to the node that the error names"
    FAIL = "nowhere: ``failure`` says why"


class Redirects:
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

    def next_action(self, error: ResponseError, left: float) -> Action:
        """What to do about the error, with so many seconds left."""
        kind = code(error)
        self.pause = 0.0
        action = self._action(kind, left)
        self._seen.add(kind)
        return action

    def failure(self, error: ResponseError, where: str) -> LimiterError:
        """What the error comes to, where it was the end."""
        if code(error) in ("MOVED", "ASK") and self._redirects == MOST_REDIRECTS:
            return StoreUnavailable(f"{where}: more than {MOST_REDIRECTS} redirections")
        return translate(error, where)

    def _action(self, kind: str, left: float) -> Action:
        if kind == "NOSCRIPT" and kind not in self._seen:
            self._head = self._call.by_text
            return Action.RETRY
        if kind == "TRYAGAIN":
            self.pause = next(self._pauses, left)
            return Action.RETRY if self.pause < left else Action.FAIL
        if kind == "READONLY" and kind not in self._seen:
            self.asking = False
            return Action.RECONNECT
        if kind in ("MOVED", "ASK") and self._redirects < MOST_REDIRECTS:
            self._redirects += 1
            self.asking = kind == "ASK"
            return Action.FOLLOW
        return Action.FAIL


def command(*words: str | bytes) -> bytes:
    """A whole command, as the protocol spells it."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


ASKING = command("ASKING")
CLUSTER_SLOTS = command("CLUSTER", "SLOTS")
HELLO = command("HELLO")
