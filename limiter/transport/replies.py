"""Translate the store's errors: the only code that reads redis-py's exceptions.

An error of the store has one of three meanings:

* Nothing ran; the call may be sent again (``NOSCRIPT``, ``MOVED``, ``ASK``, ``READONLY``, ``TRYAGAIN``).
* The store cannot decide now: StoreUnavailable, the only error that ``on_error`` may turn into a decision.
* The store refuses, and an operator must change something: StoreRefused.
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

#: Error replies that end by themselves when the store recovers; it sends them before any write.
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

#: Error replies about our credentials or rights.
_RIGHTS = ("NOAUTH", "WRONGPASS", "NOPERM")

#: Errors of the network or the server; asyncio's TimeoutError is a class of its own on Python 3.10.
_OF_THE_STORE = (redis_errors.RedisError, OSError, TimeoutError, asyncio.TimeoutError)

log = logging.getLogger("limiter")

#: The beginning of the reply of a server that has reached ``maxclients``.
_FULL = "max number of clients"

#: A server that does not know a command (HELLO, say) writes this before it quotes the arguments.
_QUOTE = ", with args beginning with"

_REFUSED = os.strerror(errno.ECONNREFUSED)
#: The form of redis-py's errors while connecting; our messages begin with the address already.
_CONNECTING = re.compile(r"Error (-?[0-9]+) connecting to .*?\. (.*)\.", re.DOTALL)
#: asyncio's text in the place of the system's.
_CALL_FAILED = "Connect call failed"

#: In errors of TLS: the server asks for a client certificate.
_CERTIFICATE_WANTED = "CERTIFICATE_REQUIRED"
#: In errors of redis-py while it connects: the server ended the handshake. With TLS, perhaps since it asks
#: for a certificate: TLS 1.2 has no alert for that, and an alert may be lost when the server closes the
#: connection. Without TLS, perhaps since it expects TLS.
_HANDSHAKE_ENDED = ("ALERT_HANDSHAKE_FAILURE", "while reading from", "while writing to socket")
_GIVE_CERTIFICATE = "give ssl_certfile and ssl_keyfile, in the URL or to the client"
#: In errors of TLS: the server answered in plain text.
_PLAIN_TEXT = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")

_NODE = "is a node of a cluster: give the store as"
#: The reply of a server that is no cluster to CLUSTER SLOTS.
_ALONE = "cluster support disabled"


def code(error: BaseException) -> str:
    """The first word of an error reply, which names its kind."""
    stated = getattr(error, "status_code", None)
    return stated if isinstance(stated, str) else str(error).partition(" ")[0]


def cause(error: BaseException) -> BaseException | None:
    """The cause for our error; None if redis-py's quotes what we sent, which may have a password."""
    if isinstance(error, LimiterError):
        return error.__cause__
    return None if _QUOTE in str(error) else error


def translate(error: BaseException, where: str) -> LimiterError:
    """Make our error from one that was raised, or answered, during a call to ``where``.

    Only errors of the network or the server make the store unavailable. Any other error is a fault in
    our code or redis-py's. It is logged with its traceback and becomes StoreRefused, so that ``on_error``
    admits nothing because of it.
    """
    if isinstance(error, LimiterError):
        return error
    if not isinstance(error, _OF_THE_STORE):
        return _fault(error, where)
    text = _text(error)
    if code(error) in _RIGHTS or isinstance(error, redis_errors.AuthenticationError):
        return StoreRefused(
            f"{where} refused our credentials or rights ({text}): see the user and password of the "
            f"store, and what `limiter acl` prints"
        )
    if text.startswith(_FULL):  # a cluster's node continues in other words
        return StoreUnavailable(f"{where} cannot decide now: {text}")
    if code(error) in _PASSING:
        return StoreUnavailable(f"{where} cannot decide now: {code(error)} {text}")
    if code(error) in ("MOVED", "ASK"):
        return StoreRefused(f"{where} {_NODE} {_scheme(where)}+cluster://")
    if _ALONE in text:
        return StoreRefused(
            f"{where} is no cluster ({text}): give the store as {_scheme(where)}://"
        )
    lost = (redis_errors.ConnectionError, redis_errors.TimeoutError)
    if isinstance(error, redis_errors.RedisError) and not isinstance(error, lost):
        kind = "" if code(error) in ("ERR", *text.split()[:1]) else f"{code(error)} "
        return StoreRefused(f"{where} refused the call: {kind}{text}")
    if _CERTIFICATE_WANTED in text:
        return StoreUnavailable(f"{where} asks for a client certificate: {_GIVE_CERTIFICATE}")
    if any(sign in text for sign in _PLAIN_TEXT):
        text += "; if the server uses no TLS, write redis in the URL, not rediss"
    elif any(sign in text for sign in _HANDSHAKE_ENDED):
        if _scheme(where) == "rediss":
            text += f"; if the server asks for a client certificate, {_GIVE_CERTIFICATE}"
        else:
            text += "; if the server uses TLS, write rediss in the URL, not redis"
    return StoreUnavailable(f"{where}: {text}")


def _fault(error: BaseException, where: str) -> StoreRefused:
    """Log an unexpected exception, and make the error to raise for it."""
    what = f"{type(error).__name__}: {error}"[:200]
    kind = (type(error), where)
    log_seldom(log, logging.ERROR, "%s: %s", where, what, kind=kind, exc_info=error)
    return StoreRefused(f"{where}: {what}; this is no failure of the store: see the log")


def _scheme(where: str) -> str:
    """The URL scheme for the same store, with TLS or without."""
    return "rediss" if where.endswith("(TLS)") else "redis"


def _text(error: BaseException) -> str:
    """The error's text, without the quoted arguments and without the address."""
    text = str(error).partition(_QUOTE)[0] or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        text = error.strerror
    elif match := _CONNECTING.fullmatch(text):
        text = match[2]
        if text.startswith(_CALL_FAILED):
            text = os.strerror(int(match[1]))
    return f"{text}: does a server listen there?" if text == _REFUSED else text


def check_alone(hello: Any, where: str) -> None:
    """Check that a server is no node of a cluster, by its reply to HELLO.

    A node decides only about the subjects of its own slots. While it is the cluster's only node, these
    are all, so that the mistake would show only after a second node is added.

    Raises:
        StoreRefused: The server is a node of a cluster.

    """
    mode = fields_of(hello).get("mode")
    if mode == "cluster":
        raise StoreRefused(f"{where} {_NODE} {_scheme(where)}+cluster://")


def fields_of(reply: Any) -> dict[str, str]:
    """Return a reply of names and values, in RESP2's form or in RESP3's; empty if it is none."""
    if isinstance(reply, list):
        reply = dict(zip(map(_decoded, reply[::2]), reply[1::2], strict=False))
    if not isinstance(reply, dict):
        return {}
    return {_decoded(name): _decoded(value) for name, value in reply.items()}


def _decoded(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
