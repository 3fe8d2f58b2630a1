"""What an error reply allows next: pure, and the same for every way to carry a call.

A call is sent again, once for each reason and inside its deadline, where the reply proves that nothing
ran: NOSCRIPT (as EVAL), MOVED, ASK, READONLY, and TRYAGAIN after a pause. Everything else is the end.
"""

from __future__ import annotations

from enum import Enum

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import LimiterError, StoreUnavailable
from limiter.transport.replies import code, translate
from limiter.transport.wire import encode_with_text

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

    __slots__ = ("_call", "_pauses", "_redirects", "_seen", "asking", "command", "pause")

    def __init__(self, call: Call, encoded: bytes) -> None:
        self._call = call
        self.command = encoded
        """What to send now."""
        self._pauses = iter(TRYAGAIN_PAUSES)
        self._redirects = 0
        self._seen: set[str] = set()
        self.asking = False
        """The command goes behind an ASKING, on the same connection, with nothing between them."""
        self.pause = 0.0

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
            self.command = encode_with_text(self._call)
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
