r"""Replies of the store: any bytes, split anywhere, give each call its own reply or one documented error.

An input chooses the number of calls, which of their callers give up, and the size of the pieces in which
the rest arrives. The reader for threads and that for event loops get the same bytes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cache
from time import monotonic
from typing import Any, NamedTuple, cast

from redis.exceptions import RedisError, ResponseError

from limiter.call import Block, Call, CallTemplate
from limiter.errors import LimiterError, StoreRefused, StoreUnavailable
from limiter.policies import FixedWindow, SlidingLog
from limiter.transport import redispy, wire
from limiter.transport.async_connection import AsyncConnection
from limiter.transport.connection import Connection
from limiter.transport.redirects import MOST_REDIRECTS, Action, Redirects
from limiter.transport.replies import check_alone, fields_of, translate
from limiter.transport.sentinels import PrimaryTable
from limiter.transport.slots import SLOTS, SlotTable
from limiter.transport.store import Address, read_store
from tests.fuzz.source import Source, words

WORDS = [
    *(
        "\r\n",
        "$1\r\na\r\n",
        "$0\r\n\r\n",
        f"$48\r\n{'0' * 48}\r\n",
        "=5\r\ntxt:a\r\n",
        "!3\r\nERR\r\n",
    ),
    *(f"{size}\r\n" for size in words("*0 *1 *2 *6 *-1 >1 %1 ~1 |1 $-1")),
    *(f"{value}\r\n" for value in words(":0 :1 :-1 :16384 :99999999 ,1.5 ,nan #t _ (12 +OK")),
    *(f"-{error} x\r\n" for error in words("ERR NOSCRIPT TRYAGAIN READONLY OOM NOAUTH")),
    *(
        "-MOVED 5 h:1\r\n",
        "-ASK 5 :1\r\n",
        "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\nh\r\n:6379\r\n",
    ),
    *(
        "$4\r\nmode\r\n",
        "$7\r\ncluster\r\n",
        "$12\r\nconfig-epoch\r\n",
        "$19\r\nnum-other-sentinels\r\n",
    ),
]

_WHERE = "store h:1"
_CLUSTER = read_store("redis+cluster://a:1,b:2")
_SENTINELS = read_store("redis+sentinel://a:1,b:2/main")
_PIECES = (1, 2, 3, 7, 64, 10_000)
_CALLS = (
    Call(CallTemplate("hit", 0, 0, (Block(FixedWindow(5, 1), 0, 1),)), (b"key",), b"tag"),
    Call(
        CallTemplate("hit", 0, 0, (Block(FixedWindow(5, 1), 0, 1), Block(SlidingLog(5, 1), 1, 1))),
        (b"key", b"log"),
        b"tag",
    ),
)


class Expected(NamedTuple):
    """What the bytes mean to a reader that gets all of them at once."""

    replies: Sequence[object]
    is_broken: bool
    """Whether something other than Redis's protocol follows."""


def check(data: bytes) -> None:
    """Check the bytes of an input with both readers, and what the client makes of each reply."""
    source = Source(data)
    count = source.pick((1, 2, 3, 5, 8))
    gives_up = source.byte()
    size = source.pick(_PIECES)
    raw = source.rest()
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    expected = _at_once(raw)
    _check_loop(pieces, count, gives_up, expected)
    _check_thread(raw, size, count, expected)
    for reply in expected.replies:
        _check_meaning(reply)


def _at_once(raw: bytes) -> Expected:
    reader = redispy.new_reader()
    reader.feed(raw)
    replies: list[object] = []
    try:
        while (reply := reader.gets(False)) is not redispy.NOT_COMPLETE:
            if not isinstance(reply, redispy.Push):
                replies.append(reply)
    except (RedisError, MemoryError, TypeError):  # as hiredis raises them
        return Expected(replies, True)
    return Expected(replies, False)


class _Transport(asyncio.Transport):
    """A transport whose other side is the fuzzer."""

    def __init__(self, own: socket.socket) -> None:
        super().__init__({"socket": own})
        self.is_aborted = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_aborted

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        self.is_aborted = True


def _check_loop(pieces: list[bytes], count: int, gives_up: int, expected: Expected) -> None:
    """Check that each call gets its reply, whatever other callers do, and ends with the connection."""

    async def received() -> list[asyncio.Future[Any]]:
        connection = AsyncConnection(_Transport(_idle()), _WHERE, 1.0)
        calls = [connection.send(b"x", monotonic() + 60) for _ in range(count)]
        await asyncio.sleep(0)
        for number, pending in enumerate(calls):
            if gives_up >> number & 1:
                pending.cancel()
        for piece in pieces:
            connection.data_received(piece)
            if connection.closed:
                break
        assert connection.closed == (expected.is_broken or len(expected.replies) > count)
        connection.eof_received()
        assert connection.closed
        connection.connection_lost(None)
        return calls

    for number, pending in enumerate(_loop().run_until_complete(received())):
        if gives_up >> number & 1:
            assert pending.cancelled()
        else:
            _check_outcome(pending.result(), number, expected)


def _check_outcome(outcome: object, number: int, expected: Expected) -> None:
    if number < len(expected.replies):
        assert _same(outcome, expected.replies[number]), f"call {number} got {outcome!r}"
    elif expected.is_broken:
        assert isinstance(outcome, StoreRefused), f"call {number} got {outcome!r}"
    else:
        assert isinstance(outcome, StoreUnavailable), f"call {number} got {outcome!r}"


class _Connected:
    """What redis-py hands over: a connected socket."""

    def __init__(self, own: socket.socket) -> None:
        self._sock = own
        self.is_open = True

    def connect(self) -> None:
        pass

    def can_read(self, timeout: float) -> bool:
        return False

    def disconnect(self) -> None:
        self.is_open = False


def _check_thread(raw: bytes, size: int, count: int, expected: Expected) -> None:
    """Check that calls in turn get the replies in turn, until one is missing."""
    own, server = socket.socketpair()
    with closing(own), closing(server):
        connected = _Connected(own)
        connection = Connection(connected, _WHERE)
        connection._buffer = bytearray(size)
        server.sendall(raw)
        server.shutdown(socket.SHUT_WR)
        for number in range(count):
            outcome: object
            try:
                outcome = connection.execute(b"x", monotonic() + 5)
            except ResponseError as error:
                outcome = error
            except LimiterError as error:
                outcome = error
            _check_outcome(outcome, number, expected)
            assert connected.is_open == (not isinstance(outcome, LimiterError))
            if connection._has_more():
                assert not connection.is_open(), "a connection with an unread reply is used again"
                break
            if not connected.is_open:
                break


class _Node:
    """A node without connections."""

    has_idle = False

    def __init__(self, address: Address, *_: object) -> None:
        self.address = address
        self.where = _WHERE


def _check_meaning(reply: object) -> None:
    """Check what the client makes of a reply: a decision, a table, or a documented error."""
    if isinstance(reply, ResponseError):
        _check_error(reply)
        return
    for call in _CALLS:
        with suppress(StoreRefused):
            wire.encode(call)
            assert len(wire.checked(call, reply)) == 5 * len(call.template.blocks) + 1
    assert all(isinstance(name, str) for name in fields_of(reply))
    with suppress(StoreRefused):
        check_alone(reply, _WHERE)
    _check_slots(reply)
    _check_sentinel(reply)


def _check_slots(reply: object) -> None:
    table = SlotTable(_CLUSTER, _Node)
    node = table.node_at(("a", 1))
    with suppress(StoreRefused, StoreUnavailable):
        table.fill(table.parse(reply, node))
    assert len(table.owners) == SLOTS, "the table has another number of slots"


def _check_sentinel(reply: object) -> None:
    table = PrimaryTable(_SENTINELS, _Node)
    reading = table.begin_reading()
    with suppress(StoreRefused, StoreUnavailable):
        reading.add(table.sentinels[0], [reply, [b"h", b"6379"]])
        reading.add(
            table.sentinels[1], [{b"num-other-sentinels": b"1", b"config-epoch": b"1"}, reply]
        )
    table.end_reading(reading)


def _check_error(error: ResponseError) -> None:
    """Check that an error ends a call, also if it comes again and again."""
    assert isinstance(translate(error, _WHERE), StoreRefused | StoreUnavailable)
    table = SlotTable(_CLUSTER, _Node)
    redirects, asked = Redirects(_CALLS[0], b"x"), 0
    while (action := redirects.next_action(error, 0.02)) is not Action.FAIL:
        asked += 1
        assert asked <= MOST_REDIRECTS
        if action is Action.FOLLOW:
            with suppress(StoreRefused):
                table.pointed_to(error, table.node_at(("a", 1)))
    assert isinstance(redirects.failure(error, _WHERE), StoreRefused | StoreUnavailable)
    assert len(table.owners) == SLOTS, "the table has another number of slots"


def _same(one: object, other: object) -> bool:
    """Whether two readings of a reply are the same; an error is another object each time."""
    return type(one) is type(other) and repr(one) == repr(other)


@cache
def _idle() -> socket.socket:
    """Return a socket on which nothing ever arrives."""
    own, other = socket.socketpair()
    _kept.append(other)
    return own


_kept: list[socket.socket] = []


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return cast("asyncio.AbstractEventLoop", asyncio.new_event_loop())
