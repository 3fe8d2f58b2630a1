"""Who calls: the address that the proxies we trust vouch for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)

from limiter.errors import LimiterError
from limiter.settings import UNIX_PEERS

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Header fields in which proxies say where a request came from. A deployment's proxies write one of
#: them; whoever believed another one as well would believe the client.
ADDRESS_FROM = ("x-forwarded-for", "forwarded", "x-real-ip")

#: Bits of an IPv6 address that are one caller: what one site is given at the least.
PREFIX = 64

_LONGEST_HEADER = 8_192
#: Texts up to here are remembered as addresses; longer than any address is.
_LONGEST_KNOWN = 64
#: Stands for an entry that nobody can read; no address is spelled like this.
_UNREADABLE = "unknown"
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = rf'({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*")'
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rf"[ \t]*(?:{_PAIR}[ \t]*)?(?:;[ \t]*(?:{_PAIR}[ \t]*)?)*")

# IPv4 addresses as a NAT64 gateway spells them (RFC 6052): by /64 they would all be one caller.
_NAT64 = IPv6Network("64:ff9b::/96")


class Unidentified(LimiterError, ValueError):
    """Nobody can say who calls; a bucket for all such callers would punish each for the others."""


class NoAddress(Unidentified):
    """What stands in the place of the caller's address is none; the message names it."""


class Ambiguous(Unidentified):
    """The request says several things of who calls: whoever lets such pass is evaded by them."""


def caller(
    peer: str | None, forwarded_for: str | None, trusted: Sequence[Network], prefix: int = PREFIX
) -> str:
    """Return the caller's subject: an IPv4 address, or an IPv6 network of ``prefix`` bits.

    ``peer`` is the other end of the connection, ``forwarded_for`` its X-Forwarded-For, read from
    the right for as long as trusted proxies vouch for the next entry. What stands left of that is
    the caller's own invention.
    """
    if forwarded_for is not None and is_trusted(peer, trusted):
        return subject(outermost(forwarded_for, trusted), prefix)
    if peer and len(peer) <= _LONGEST_KNOWN:
        return _of_peer(peer, prefix)
    return subject(parse(peer or ""), prefix)


@lru_cache(maxsize=4096)
def _of_peer(peer: str, prefix: int) -> str:
    return subject(parse(peer), prefix)


def outermost(forwarded_for: str, trusted: Sequence[Network]) -> Address:
    """Return the first address from the right that is not trusted; the leftmost where all are."""
    entries = [entry for entry in map(str.strip, forwarded_for.split(",")) if entry]
    if not entries:
        raise NoAddress("X-Forwarded-For names nobody")
    for entry in reversed(entries):
        found = parse(entry)
        if not _is_in(found, trusted):
            break
    return found


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
        found = ip_address(bare.partition("%")[0])
    except ValueError:
        raise NoAddress(f"{text[:64]!r} is no address") from None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found in _NAT64:
            return IPv4Address(int(found) & 0xFFFFFFFF)
    return found


#: The addresses that were seen last: proxies are seen with every request, and callers come again.
_known = lru_cache(maxsize=4096)(_read)


def subject(found: Address, prefix: int = PREFIX) -> str:
    """Return what is limited: one IPv4 address, or all addresses that an IPv6 host can take."""
    if isinstance(found, IPv4Address):
        return str(found)
    others = 128 - prefix
    return f"{IPv6Address(int(found) >> others << others)}/{prefix}"


def is_trusted(peer: str | None, trusted: Sequence[Network]) -> bool:
    """Whether the other end of a connection is one of our proxies."""
    if not peer:
        return UNIX_PEERS in trusted
    try:
        return _is_in(parse(peer), trusted)
    except Unidentified:
        return False


def entries(header: str, value: str) -> str:
    """What a field of ``ADDRESS_FROM`` says, as X-Forwarded-For would."""
    if header == "x-real-ip":  # one address; two would be the proxy's and the client's
        return _UNREADABLE if "," in value else value
    if header == "forwarded":
        return ", ".join(_forwarded(value))
    return value


def _forwarded(text: str) -> list[str]:
    """The ``for`` of each element of a Forwarded field (RFC 7239), read from the right.

    Each proxy writes its element behind what is there already. Read from the left, a quote that the
    client leaves open would swallow what our proxies wrote.
    """
    text = text[-_LONGEST_HEADER:]
    found: list[str] = []
    end = len(text)
    while end >= 0:
        comma = end
        while comma >= 0:
            comma = text.rfind(",", 0, comma)
            if _ELEMENT.fullmatch(text, comma + 1, end):
                break
            if comma < 0:  # nobody can read what is left
                return [_UNREADABLE, *found]
        element = text[comma + 1 : end]
        if element.strip():
            found.insert(0, _node(element))
        end = comma
    return found


def _node(element: str) -> str:
    nodes = [value for name, value in _PAIRS.findall(element) if name.lower() == "for"]
    if len(nodes) != 1:
        return _UNREADABLE
    node = nodes[0]
    if node.startswith('"'):
        node = re.sub(r"\\(.)", r"\1", node[1:-1])
    return _UNREADABLE if "," in node or not node.strip() else node


def _is_in(found: Address, networks: Sequence[Network]) -> bool:
    return any(found in network for network in networks)


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6
