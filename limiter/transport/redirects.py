"""What to do after an error reply: decided without I/O, for threads and event loops alike.

A call is sent again only if the reply proves that nothing ran, and only within its deadline. The replies
are NOSCRIPT (sent as EVAL), MOVED, ASK, READONLY, and TRYAGAIN (after a pause, as often as the deadline
permits). Any other error fails the call.
"""

from __future__ import annotations

from enum import Enum
from itertools import chain, repeat

from redis.exceptions import ResponseError

from limiter.call import Call
from limiter.errors import LimiterError, StoreUnavailable
from limiter.transport.replies import code, translate
from limiter.transport.wire import encode_with_text

#: While a slot is moved, its nodes may refuse calls on several keys. The last pause is repeated.
TRYAGAIN_PAUSES = (0.005, 0.010, 0.020)
#: Seconds between two new connections to an address at which a replica answers READONLY, at least: no
#: second has more than two of them.
SEARCH_EVERY = 0.6
#: MOVED and ASK replies that one call follows; a cluster that sends more of them is in trouble.
MOST_REDIRECTS = 3


class Action(Enum):
    """Where to send a call next, after an error reply."""

    RETRY = "to the same node, after ``pause`` seconds"
    FIND_PRIMARY = "to the new primary: this node became a replica"
    FOLLOW = "to the node that the error names"
    FAIL = "nowhere: ``failure`` says why"


class Redirects:
    """The redirects of one call, from its first error reply on."""

    __slots__ = ("_call", "_followed", "_pauses", "_seen", "asking", "command", "pause")

    def __init__(self, call: Call, encoded: bytes) -> None:
        self._call = call
        self.command = encoded
        """The command to send next."""
        self._pauses = chain(TRYAGAIN_PAUSES, repeat(TRYAGAIN_PAUSES[-1]))
        self._followed = 0
        self._seen: set[str] = set()
        self.asking = False
        """Whether to send ASKING directly before the command, on the same connection."""
        self.pause = 0.0

    def next_action(self, error: ResponseError, left: float) -> Action:
        """Decide what to do about the error, with ``left`` seconds until the deadline."""
        kind = code(error)
        self.pause = 0.0
        action = self._action(kind, left)
        self._seen.add(kind)
        return action

    def failure(self, error: ResponseError, where: str) -> LimiterError:
        """Make the error to raise, if the call cannot be sent again."""
        if code(error) in ("MOVED", "ASK") and self._followed == MOST_REDIRECTS:
            return StoreUnavailable(f"{where}: more than {MOST_REDIRECTS} redirects")
        return translate(error, where)

    def _action(self, kind: str, left: float) -> Action:
        if kind == "NOSCRIPT" and kind not in self._seen:
            self.command = encode_with_text(self._call)
            return Action.RETRY
        if kind == "TRYAGAIN":
            self.pause = next(self._pauses)
            # The answer needs time, too: one that came too late would no longer prove that nothing ran.
            return Action.RETRY if 2 * self.pause < left else Action.FAIL
        if kind == "READONLY" and kind not in self._seen:
            self.asking = False
            return Action.FIND_PRIMARY
        if kind in ("MOVED", "ASK") and self._followed < MOST_REDIRECTS:
            self._followed += 1
            self.asking = kind == "ASK"
            return Action.FOLLOW
        return Action.FAIL
