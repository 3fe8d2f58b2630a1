"""The client's address: that of the connection, or the one that trusted proxies report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
)

from limiter.errors import LimiterError
from limiter.settings import UNIX_PEERS

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Header fields in which proxies report the client's address. A deployment's proxies write one of them;
#: the others come from the client as it likes, so only one is read.
ADDRESS_FROM = ("x-forwarded-for", "forwarded", "x-real-ip")

#: Leading bits of an IPv6 address that are one caller: a site gets at least a /64.
PREFIX = 64

_LONGEST_HEADER = 8_192
#: Longer texts are not cached; every address is shorter.
_LONGEST_KNOWN = 64
#: The longest header field with which a caller is cached, and the number of callers.
_LONGEST_REPORT = 256
_MOST_CALLERS = 2048
#: Stands for an entry that cannot be parsed; it is no address.
_UNREADABLE = "unknown"
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rf'({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*")'
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rf"[ \t]*(?:{_PAIR}[ \t]*)?(?:;[ \t]*(?:{_PAIR}[ \t]*)?)*")

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PLAIN_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")

# IPv4 addresses in IPv6: those of sockets for both, and what a NAT64 gateway writes (RFC 6052). By /64 they
# would all be one caller. These are the first 96 bits.
_IPV4_IN_IPV6 = [int(IPv6Address(network)) >> 32 for network in ("::ffff:0:0", "64:ff9b::")]


class Unidentified(LimiterError, ValueError):
    """The caller cannot be identified; one limit for all such callers would let one deny the others."""


class NoAddress(Unidentified):
    """The text in the place of the caller's address is no address; the message shows it."""


class Ambiguous(Unidentified):
    """The request identifies its caller in several ways: letting it pass would be a way past the limit."""


def of_peer(peer: str | None, prefix: int = PREFIX) -> str:
    """Return the subject of the other end of a connection."""
    if peer and len(peer) <= _LONGEST_KNOWN:
        return _of_peer(peer, prefix)
    return subject(parse(peer or ""), prefix)


@lru_cache(maxsize=4096)
def _of_peer(peer: str, prefix: int) -> str:
    # An IPv4 address as its subject is written; to parse it takes ten times as long.
    return peer if _PLAIN_IPV4.fullmatch(peer) else subject(parse(peer), prefix)


class TrustedNetworks(tuple[Network, ...]):
    """Networks of trusted proxies, with a cache of these proxies, and of the callers that they reported."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self.caller = lru_cache(_MOST_CALLERS)(partial(_caller, self))
        self.has = lru_cache(_MOST_CALLERS)(partial(_has, self))

    @classmethod
    def of(cls, networks: Iterable[Network]) -> TrustedNetworks:
        """Return these networks; if they have a cache already, with that one."""
        return networks if isinstance(networks, TrustedNetworks) else cls(networks)


def caller(
    trusted: Sequence[Network], peer: str | None, header: str, value: str, prefix: int
) -> str:
    """Return the subject of a request in which ``header``, a field of ``ADDRESS_FROM``, has this value.

    Raises:
        Unidentified: The request has no such address.

    """
    is_short = len(value) <= _LONGEST_REPORT and len(peer or "") <= _LONGEST_KNOWN
    if is_short and isinstance(trusted, TrustedNetworks):
        return trusted.caller(peer, header, value, prefix)
    return _caller(trusted, peer, header, value, prefix)


def _caller(
    trusted: Sequence[Network], peer: str | None, header: str, value: str, prefix: int
) -> str:
    return subject(client(trusted, peer, entries(header, value)), prefix)


def client(trusted: Sequence[Network], peer: str | None, forwarded_for: str | None) -> Address:
    """Return the client's address: the reported one if a trusted proxy reports it, else the peer's.

    Raises:
        Unidentified: There is no such address.

    """
    if forwarded_for is not None and is_trusted(peer, trusted):
        return outermost(forwarded_for, trusted)
    return parse(peer or "")


def outermost(forwarded_for: str, trusted: Sequence[Network]) -> Address:
    """Return the first address from the right that is not trusted; the leftmost if all are.

    A client can invent what is left of that address.
    """
    entries = [entry for entry in map(str.strip, forwarded_for.split(",")) if entry]
    if not entries:
        raise NoAddress("X-Forwarded-For has no address")
    for entry in reversed(entries):
        address = parse(entry)
        if not _is_in(address, trusted):
            break
    return address


def parse(text: str) -> Address:
    """Read an address as proxies write it: with brackets, a port or a zone, or IPv4 in IPv6."""
    return _known(text) if len(text) <= _LONGEST_KNOWN else _read(text)


def _read(text: str) -> Address:
    bare = text.strip()
    if bare.startswith("["):
        bare, bracket, port = bare[1:].partition("]")
        good = bool(bracket) and (not port or _is_port(port))
    elif bare.count(":") == 1:
        bare, _, port = bare.partition(":")
        good = _is_port(":" + port)
    else:
        good = True
    try:
        if not good:
            raise ValueError
        kind = IPv6Address if ":" in bare else IPv4Address  # ip_address tries both
        address: Address = kind(bare.partition("%")[0])
    except ValueError:
        raise NoAddress(f"{text[:64]!r} is no address") from None
    if isinstance(address, IPv6Address) and int(address) >> 32 in _IPV4_IN_IPV6:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


#: Caches addresses: a proxy's comes with every request, and callers come again.
_known = lru_cache(maxsize=4096)(_read)


def subject(address: Address, prefix: int = PREFIX) -> str:
    """Return an address's subject: an IPv4 address, or the IPv6 network from which a host can choose."""
    if isinstance(address, IPv4Address):
        return str(address)
    others = 128 - prefix
    return f"{IPv6Address(int(address) >> others << others)}/{prefix}"


def is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether the other end of a connection is a trusted proxy."""
    if not peer:
        return UNIX_PEERS in trusted
    if len(peer) <= _LONGEST_KNOWN and isinstance(trusted, TrustedNetworks):
        return trusted.has(peer)
    return _has(trusted, peer)


def _has(trusted: Sequence[Network], peer: str) -> bool:
    try:
        return _is_in(parse(peer), trusted)
    except Unidentified:
        return False


def entries(header: str, value: str) -> str:
    """Rewrite a field of ``ADDRESS_FROM`` in the form of X-Forwarded-For."""
    if header == "x-real-ip":  # of two addresses, one would be the client's invention
        return _UNREADABLE if "," in value else value
    if header == "forwarded":
        return ", ".join(_forwarded(value))
    return value


def _forwarded(text: str) -> list[str]:
    """Return the ``for`` of each element of a Forwarded field (RFC 7239), read from the right.

    Each proxy appends its element. If the field were read from the left, a quote that the client leaves
    open would hide the elements of trusted proxies.
    """
    text = text[-_LONGEST_HEADER:]
    nodes: list[str] = []
    end = len(text)
    while end >= 0:
        comma = end
        while comma >= 0:
            comma = text.rfind(",", 0, comma)
            if _ELEMENT.fullmatch(text, comma + 1, end):
                break
            if comma < 0:  # the rest is no element
                return [_UNREADABLE, *nodes]
        element = text[comma + 1 : end]
        if element.strip():
            nodes.insert(0, _node(element))
        end = comma
    return nodes


def _node(element: str) -> str:
    nodes = [value for name, value in _PAIRS.findall(element) if name.lower() == "for"]
    if len(nodes) != 1:
        return _UNREADABLE
    node = nodes[0]
    if node.startswith('"'):
        node = re.sub(r"\\(.)", r"\1", node[1:-1])
    return _UNREADABLE if "," in node or not node.strip() else node


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6
