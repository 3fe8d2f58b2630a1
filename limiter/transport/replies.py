"""What an error of the store means: the only code that knows redis-py's exceptions.

Three things can be true of an error. *Nothing ran*, and the call may be sent once more where that can
help (``NOSCRIPT``, ``MOVED``, ``ASK``, ``READONLY``, ``TRYAGAIN``); the store *cannot decide now*
(StoreUnavailable, the only thing that ``on_error`` may turn into a decision); or the store *refuses*,
and somebody must look (StoreRefused).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from typing import Any

from redis import exceptions as redis_errors

from limiter.errors import LimiterError, StoreRefused, StoreUnavailable
from limiter.log_throttle import log_seldom

#: Replies of a store that will decide again when its trouble is over; they all come before any write.
_PASSING = frozenset(
    {
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "BUSY",
        "READONLY",
        "NOREPLICAS",
        "MISCONF",
        "OOM",
        "TRYAGAIN",
    }
)

#: Kinds of replies that mean our credentials or rights.
_RIGHTS = ("NOAUTH", "WRONGPASS", "NOPERM")

#: What the network and the server may do; asyncio's time-out is one of its own on Python 3.10.
_OF_THE_STORE = (redis_errors.RedisError, OSError, TimeoutError, asyncio.TimeoutError)

log = logging.getLogger("limiter")

#: So a server begins that has as many connections as it may.
_FULL = "max number of clients"

#: So a server that does not know a command (HELLO, say) begins to quote its arguments.
_QUOTE = ", with args beginning with"

_REFUSED = os.strerror(errno.ECONNREFUSED)
#: So redis-py words what keeps it from connecting: with the address, which stands before it already.
_CONNECTING = re.compile(r"Error (-?[0-9]+) connecting to .*?\. (.*)\.", re.DOTALL)
#: So asyncio words it, in the place of what the system says.
_CALL_FAILED = "Connect call failed"

_NODE = "is a node of a cluster: give the store as"
#: So a server that is alone answers CLUSTER SLOTS.
_ALONE = "cluster support disabled"


def code(error: BaseException) -> str:
    """The first word of an error reply, which says its kind."""
    stated = getattr(error, "status_code", None)
    return stated if isinstance(stated, str) else str(error).partition(" ")[0]


def cause(error: BaseException) -> BaseException | None:
    """The error, as the cause of ours; none where it quotes what we sent: a password may be in that."""
    if isinstance(error, LimiterError):  # it is ours already
        return error.__cause__
    return None if _QUOTE in str(error) else error


def translate(error: BaseException, where: str) -> LimiterError:
    """Our error for one that was raised, or answered, while talking to ``where``.

    Only what the network or the server does makes the store unavailable. Anything else is a fault of a
    program, ours or redis-py's: it is refused, and logged with its traceback, since nothing may be
    admitted because of it.
    """
    if isinstance(error, LimiterError):
        return error
    if not isinstance(error, _OF_THE_STORE):
        return _fault(error, where)
    said = _said(error)
    if code(error) in _RIGHTS or isinstance(error, redis_errors.AuthenticationError):
        return StoreRefused(
            f"{where} refused our credentials or rights ({said}): see the user and password of the "
            f"store, and what `limiter acl` prints"
        )
    if said.startswith(_FULL):  # a cluster's node says it in words of its own
        return StoreUnavailable(f"{where} cannot decide now: {said}")
    if code(error) in _PASSING:
        return StoreUnavailable(f"{where} cannot decide now: {code(error)} {said}")
    if code(error) in ("MOVED", "ASK"):
        return StoreRefused(f"{where} {_NODE} {_scheme(where)}+cluster://")
    if _ALONE in said:
        return StoreRefused(
            f"{where} is no cluster ({said}): give the store as {_scheme(where)}://"
        )
    lost = (redis_errors.ConnectionError, redis_errors.TimeoutError)
    if isinstance(error, redis_errors.RedisError) and not isinstance(error, lost):
        kind = "" if code(error) in ("ERR", *said.split()[:1]) else f"{code(error)} "
        return StoreRefused(f"{where} refused the call: {kind}{said}")
    return StoreUnavailable(f"{where}: {said}")


def _fault(error: BaseException, where: str) -> StoreRefused:
    """A program's own fault, in the place of an answer."""
    what = f"{type(error).__name__}: {error}"[:200]
    kind = (type(error), where)
    log_seldom(log, logging.ERROR, "%s: %s", where, what, kind=kind, exc_info=error)
    return StoreRefused(f"{where}: {what}; this is no failure of the store: see the log")


def _scheme(where: str) -> str:
    """How an address begins that leads there as well, TLS or not."""
    return "rediss" if where.endswith("(TLS)") else "redis"


def _said(error: BaseException) -> str:
    """What the error says, without what we sent and without the address."""
    said = str(error).partition(_QUOTE)[0] or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        said = error.strerror
    elif match := _CONNECTING.fullmatch(said):
        said = match[2]
        if said.startswith(_CALL_FAILED):
            said = os.strerror(int(match[1]))
    return f"{said}: does a server listen there?" if said == _REFUSED else said


def check_alone(hello: Any, where: str) -> None:
    """Check that a server is no node of a cluster, by its reply to HELLO.

    A node decides about the subjects of its own slots, and of a cluster of one node about all, until
    there is another.

    Raises:
        StoreRefused: It is one.

    """
    if isinstance(hello, list):  # as RESP2 has it
        hello = dict(zip(hello[::2], hello[1::2], strict=False))
    if isinstance(hello, dict) and hello.get(b"mode") == b"cluster":
        raise StoreRefused(f"{where} {_NODE} {_scheme(where)}+cluster://")
