"""Ask a store for what the limiter relies on; ``limiter.doctor`` judges the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic, sleep
from typing import Any, NamedTuple, TypeVar

from limiter.errors import StoreRefused
from limiter.transport import rights
from limiter.transport.base import Transport
from limiter.transport.node import Node
from limiter.transport.replies import code, fields_of
from limiter.transport.wire import CLUSTER_SLOTS, HELLO, command

_Answer = TypeVar("_Answer")

#: Calls of the script that reads the clock; each is also a round trip that is measured.
SAMPLES = 20
#: Seconds between two of them: a clock in steps of milliseconds must have moved at the end.
_PAUSE = 0.001

#: Replies with the server's clock, and whether the library ``struct`` is there.
_SCRIPT = b"local t = redis.call('TIME') return {t[1], t[2], struct and 1 or 0}"


class Scripts(NamedTuple):
    """What a script found on one server."""

    times_us: tuple[int, ...]
    """The server's clock inside of the script, once for each call."""
    seconds: tuple[float, ...]
    """The round trip of each call."""
    has_struct: bool


class Server(NamedTuple):
    """One primary. None stands for what the store's user may not ask, or the server does not know."""

    where: str
    hello: Mapping[str, str]
    info: Mapping[str, str] | None
    full_coverage: str | None
    """The setting ``cluster-require-full-coverage``."""
    scripts: Scripts | None
    refusal: str
    """Why no script ran."""
    missing: str | None
    """The rights that the store's user lacks, as the words of an ACL rule."""


class Facts(NamedTuple):
    """A store, as the limiter reaches it."""

    where: str
    is_cluster: bool
    is_checked: bool | None
    """Whether TLS checks the server's certificate; None without TLS."""
    servers: tuple[Server, ...]
    slots: int
    """The slots of a cluster that have an owner."""
    replicas: int | None
    """How many there are; None if that is not known."""
    sentinels: tuple[int, int] = (0, 0)
    """How many sentinels name the primary, and how many there are."""


def inspect(transport: Transport, key: bytes, timeout: float) -> Facts:
    """Ask every primary, within about ``timeout`` seconds each; ``key`` is one that the limiter may use.

    Raises:
        StoreUnavailable: A primary did not answer.
        StoreRefused: A server refused the connection, or the store is of another kind than its URL says.

    """
    nodes = transport.primaries(monotonic() + timeout)
    servers = tuple(_server(transport, node, key, timeout) for node in nodes)
    slots, replicas = 0, None
    if transport.is_cluster:
        reply = transport.ask(nodes[0], CLUSTER_SLOTS, monotonic() + timeout)
        slots = sum(int(last) - int(first) + 1 for first, last, *_ in reply)
        replicas = len({tuple(each[:3]) for _, _, _, *others in reply for each in others})
    else:
        replicas = number(servers[0].info, "connected_slaves")
    return Facts(
        transport.where,
        transport.is_cluster,
        transport.checks_certificates,
        servers,
        slots,
        replicas,
        transport.sentinels(),
    )


def number(info: Mapping[str, str] | None, name: str) -> int | None:
    """Return a number of INFO; None if INFO was refused, or does not state it as a number."""
    value = (info or {}).get(name, "")
    return int(value) if value.isdecimal() else None


def _server(transport: Transport, node: Node, key: bytes, timeout: float) -> Server:
    def ask(*words: str | bytes) -> Any:
        return transport.ask(node, command(*words), by())

    def by() -> float:
        return monotonic() + timeout

    def unless_refused(question: Callable[[], _Answer]) -> _Answer | None:
        try:
            return question()
        except StoreRefused:
            return None

    ask("PING")  # a wrong password is an error of the store, not of one question
    hello = fields_of(unless_refused(lambda: transport.ask(node, HELLO, by())))
    info = unless_refused(lambda: _lines(ask("INFO")))
    coverage = unless_refused(
        lambda: fields_of(ask("CONFIG", "GET", "cluster-require-full-coverage"))
    )
    scripts, refusal, missing = None, "", None
    try:
        scripts = _run_scripts(lambda: ask("EVAL", _SCRIPT, "0"))
    except StoreRefused as error:
        refusal = str(error)
        if code(error.__cause__ or error) == "NOPERM":
            missing = "+eval"
    else:
        question = rights.question(key, with_records=True)
        missing = rights.missing(unless_refused(lambda: transport.ask(node, question, by())))
    return Server(
        node.where,
        hello,
        info,
        (coverage or {}).get("cluster-require-full-coverage"),
        scripts,
        refusal,
        missing,
    )


def _run_scripts(call: Callable[[], Any]) -> Scripts:
    times, seconds, has_struct = [], [], True
    for _ in range(SAMPLES):
        began = monotonic()
        reply = call()
        seconds.append(monotonic() - began)
        try:
            second, microsecond, found = map(int, reply)
        except (TypeError, ValueError):
            raise StoreRefused(f"a script that reads the clock replied {reply!r:.100}") from None
        times.append(second * 1_000_000 + microsecond)
        has_struct = has_struct and bool(found)
        sleep(_PAUSE)
    return Scripts(tuple(times), tuple(seconds), has_struct)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _lines(reply: Any) -> dict[str, str]:
    """Return the fields of an INFO reply."""
    lines = (line.partition(":") for line in _text(reply).splitlines())
    return {name: value for name, colon, value in lines if colon}
