"""The caller is the first untrusted address from the right that a trusted proxy reports."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.settings import network, trusted_proxies
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
PROXIES = (*LOOPBACK, ip_network("10.0.0.0/8"), ip_network("fd00::/8"))

ipv4 = st.ip_addresses(v=4).map(IPv4Address)
public = ipv4.filter(lambda found: not any(found in network for network in PROXIES))


def caller(peer: str | None, forwarded_for: str | None, trusted: tuple[Network, ...]) -> str:
    """The subject of a request's client."""
    headers = {} if forwarded_for is None else {"x-forwarded-for": forwarded_for}
    return Request("GET", "h", "/", headers, peer).caller(trusted)


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        # No proxy.
        ("203.0.113.9", None, "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::/64"),
        # The field of an untrusted peer is ignored.
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("203.0.113.9", "nonsense", "203.0.113.9"),
        # A trusted proxy reports the client; the client invented what is left of that.
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "nonsense, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "127.0.0.1, 203.0.113.9", "203.0.113.9"),
        # Several trusted proxies, one behind the other.
        ("127.0.0.1", "198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1,203.0.113.9,10.1.2.3,10.9.9.9", "203.0.113.9"),
        ("fd00::1", "203.0.113.9, fd00::2", "203.0.113.9"),
        # All trusted: the leftmost.
        ("127.0.0.1", "10.1.2.3, 10.9.9.9", "10.1.2.3"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        # Spellings.
        ("127.0.0.1", "  203.0.113.9  ", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.9,", "203.0.113.9"),
        ("127.0.0.1", "203.0.113.9:51234", "203.0.113.9"),
        ("127.0.0.1", "[2001:db8:1:2:3:4:5:6]:51234", "2001:db8:1:2::/64"),
        ("127.0.0.1", "[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::/64"),
        ("127.0.0.1", "2001:DB8:1:2:0:0:0:6", "2001:db8:1:2::/64"),
        ("127.0.0.1", "2001:db8:1:2::6%eth0", "2001:db8:1:2::/64"),
        # IPv4 in any form of IPv6 is IPv4: by /64 all of it would be one caller.
        ("127.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "::ffff:cb00:7109", "203.0.113.9"),
        ("127.0.0.1", "64:ff9b::203.0.113.9", "203.0.113.9"),
        ("::ffff:127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "203.0.113.9, ::ffff:10.1.2.3", "203.0.113.9"),
    ],
)
def test_caller(peer: str, forwarded_for: str | None, expected: str) -> None:
    assert caller(peer, forwarded_for, PROXIES) == expected


@pytest.mark.parametrize(
    ("peer", "forwarded_for"),
    [
        (None, None),
        ("", None),  # a Unix socket has no address
        ("", "203.0.113.9"),
        ("unix:", None),
        ("127.0.0.1", ""),
        ("127.0.0.1", " , "),
        ("127.0.0.1", "unknown"),
        ("127.0.0.1", "203.0.113.9, unknown"),
        ("127.0.0.1", "203.0.113.9, _hidden, 10.1.2.3"),
        ("127.0.0.1", "203.0.113.009"),
        ("127.0.0.1", "203.0.113"),
        ("127.0.0.1", "203.0.113.9:"),
        ("127.0.0.1", "203.0.113.9:http"),
        ("127.0.0.1", "203.0.113.9:123456"),
        ("127.0.0.1", "[2001:db8::1"),
        ("127.0.0.1", "[2001:db8::1]80"),
        ("127.0.0.1", "203.0.113.9 198.51.100.1"),
        ("127.0.0.1", "203.0.113.9\r\nX: y"),
        ("127.0.0.1", "٢٠٣.0.113.9"),
    ],
)
def test_unidentified_callers_share_no_limit(peer: str | None, forwarded_for: str | None) -> None:
    with pytest.raises(Unidentified):
        caller(peer, forwarded_for, PROXIES)


@given(invented=st.text(max_size=80), client=public, proxies=st.lists(ipv4, max_size=3))
def test_what_the_client_invents_changes_nothing(
    invented: str, client: IPv4Address, proxies: list[IPv4Address]
) -> None:
    """The caller is the address that the trusted proxy reports, whatever the client puts before it."""
    ours = [str(IPv4Address(10 << 24 | int(proxy) & 0xFFFFFF)) for proxy in proxies]
    forwarded_for = ", ".join([invented, str(client), *ours])

    assert caller("127.0.0.1", forwarded_for, PROXIES) == str(client)


def test_a_network_of_ipv4_in_ipv6_is_that_of_ipv4() -> None:
    """Addresses are compared as IPv4, and a client behind such a proxy is no proxy."""
    mapped = (network("::ffff:10.0.0.0/104"),)

    assert mapped == (ip_network("10.0.0.0/8"),)
    for peer in ("10.0.0.5", "::ffff:10.0.0.5"):
        assert caller(peer, "203.0.113.9", mapped) == "203.0.113.9"
    assert network("::ffff:10.1.2.3") == ip_network("10.1.2.3/32")
    assert network("::/0") == ip_network("::/0")


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_unidentified(text: str) -> None:
    try:
        found = caller("127.0.0.1", text, LOOPBACK)
    except Unidentified:
        return

    ip_network(found)


def test_a_proxy_on_a_unix_socket_has_no_address() -> None:
    """It is trusted by the name ``unix``; without its header field the caller is unidentified."""
    unix = trusted_proxies({"LIMITER_TRUSTED_PROXIES": "unix, 10.0.0.0/8"})

    for peer in (None, ""):
        assert caller(peer, "203.0.113.7", unix) == "203.0.113.7"
        assert caller(peer, "198.51.100.1, 203.0.113.7, 10.1.2.3", unix) == "203.0.113.7"
        with pytest.raises(Unidentified):
            caller(peer, None, unix)
        with pytest.raises(Unidentified):
            caller(peer, "203.0.113.7", trusted_proxies({}))
