"""Subjects of requests: each caller has one subject of its own, and no key shows a secret."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter import InvalidSetting
from limiter.keys import Key, KeySpeller
from limiter.web.identity import ADDRESS_FROM, Ambiguous, Unidentified, parse, subject
from limiter.web.request import Request
from limiter.web.subjects import findable, hashed, identity, meant, named, spelled

PROXIES = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("fd00::/8"))

ipv4 = st.ip_addresses(v=4).map(IPv4Address)
public = ipv4.filter(lambda found: not any(found in network for network in PROXIES))
ours = st.integers(0, 2**24 - 1).map(lambda low: IPv4Address(10 << 24 | low))
spellings = st.sampled_from(
    ["{}", " {} ", "{}:51234", "::ffff:{}", "[::ffff:{}]", "[::ffff:{}]:80"]
)
#: Texts that a client may send, most of them with characters that have a meaning in the fields.
inventions = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=60),
    st.text('for=";,\\ 1.[]:%', max_size=60),
    st.builds("for={}".format, public),
    st.just('for="'),
    st.just('for="1.1.1.1'),
    st.just('for=1.1.1.1;host="'),
    st.just(",".join(["127.0.0.1"] * 2_000)),
    st.just("x" * 100_000),
)


def request(
    peer: str | None = "127.0.0.1", address_from: str = "x-forwarded-for", **headers: str
) -> Request:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", "h.example", "/", fields, peer, {"org": "acme"}, address_from)


def key(spec: str | list[str], incoming: Request) -> Key:
    return identity(spec)(incoming, PROXIES)


# --- X-Forwarded-For, Forwarded, X-Real-IP: one of them is used, and only of trusted peers ---


@given(invented=inventions, client=public, proxies=st.lists(ours, max_size=3), spelling=spellings)
def test_x_forwarded_for(
    invented: str, client: IPv4Address, proxies: list[IPv4Address], spelling: str
) -> None:
    """The client is the one that trusted proxies report, whatever it sends, in each of their spellings."""
    value = ", ".join([invented, spelling.format(client), *map(str, proxies)])
    assert key("address", request(x_forwarded_for=value)) == str(client)


@given(
    invented=inventions,
    client=public,
    proxies=st.lists(ours, max_size=3),
    spelling=st.sampled_from(
        [
            "for={}",
            "For={}",
            'for="{}"',
            'for="{}:51234"',
            'for="[::ffff:{}]:80"',
            "proto=https;for={};by=10.1.1.1",
            'for={};host="a, b; c"',
            'host="a\\"b, for=6.6.6.6";for={}',
            " for={} ; proto=http ",
        ]
    ),
)
def test_forwarded(
    invented: str, client: IPv4Address, proxies: list[IPv4Address], spelling: str
) -> None:
    """The same for RFC 7239, also if the client leaves a quote open."""
    value = ", ".join([invented, spelling.format(client), *(f"for={proxy}" for proxy in proxies)])
    assert key("address", request(address_from="forwarded", forwarded=value)) == str(client)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::/64"),
        ('for=1.1.1.1, for="[2001:db8:cafe::17]"', "2001:db8:cafe::/64"),
        ("for=1.1.1.1,for=2.2.2.2", "2.2.2.2"),
        ("for=1.1.1.1, for=10.1.1.1", "1.1.1.1"),
        ("for=10.1.1.1, for=10.1.1.2", "10.1.1.1"),  # all trusted: the leftmost
        ("for=1.1.1.1, ", "1.1.1.1"),
        ('for="1.1\\.1.1"', "1.1.1.1"),
    ],
)
def test_forwarded_as_the_standard_has_it(value: str, expected: str) -> None:
    assert key("address", request(address_from="forwarded", forwarded=value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        " , ",
        "for=unknown",
        "for=_hidden",
        'for="_hidden"',
        "proto=https",
        "for=1.1.1.1;for=2.2.2.2",
        "for=",
        "for",
        "1.1.1.1",
        "for=1.1.1.1 for=2.2.2.2",
        'for="1.1.1.1',
        'for="1.1.1.1, 2.2.2.2"',
        'for=""',
        "for=1.1.1.1, for=unknown",
        "for=1.1.1.1, for=unknown, for=10.1.1.1",
        "for=2001:db8::1",  # a colon needs quotes and brackets
    ],
)
def test_forwarded_without_a_client(value: str) -> None:
    with pytest.raises(Unidentified):
        key("address", request(address_from="forwarded", forwarded=value))


@given(client=public, spelling=spellings)
def test_x_real_ip(client: IPv4Address, spelling: str) -> None:
    incoming = request(address_from="x-real-ip", x_real_ip=spelling.format(client))
    assert key("address", incoming) == str(client)


@pytest.mark.parametrize("value", ["", "1.1.1.1, 2.2.2.2", "unknown", ","])
def test_x_real_ip_is_one_address(value: str) -> None:
    """Of two lines, one is the client's and one the proxy's, in an unknown order."""
    with pytest.raises(Unidentified):
        key("address", request(address_from="x-real-ip", x_real_ip=value))


@given(
    invented=inventions,
    name=st.sampled_from([*ADDRESS_FROM, "cf-connecting-ip", "true-client-ip", "x_forwarded_for"]),
    address_from=st.sampled_from(ADDRESS_FROM),
)
def test_an_untrusted_peer_is_the_client(invented: str, name: str, address_from: str) -> None:
    """The client is the other end of the connection, whatever header field it sends."""
    incoming = Request("GET", "", "/", {name: invented}, "203.0.113.9", address_from=address_from)
    assert key("address", incoming) == "203.0.113.9"


@given(invented=inventions, others=st.sampled_from(ADDRESS_FROM))
def test_one_field_is_used_and_no_other(invented: str, others: str) -> None:
    """A proxy writes one of the fields, and passes the others on as the client sent them."""
    for address_from in ADDRESS_FROM:
        incoming = Request(
            "GET", "", "/", {others: invented}, "127.0.0.1", address_from=address_from
        )
        if others != address_from:
            assert key("address", incoming) == "127.0.0.1"


@given(text=st.one_of(inventions, st.binary(max_size=40).map(lambda raw: raw.decode("latin-1"))))
def test_any_header_is_an_address_or_unidentified(text: str) -> None:
    for address_from in ADDRESS_FROM:
        incoming = Request(
            "GET", "", "/", {address_from: text}, "127.0.0.1", address_from=address_from
        )
        try:
            found = key("address", incoming)
        except Unidentified:
            continue
        ip_network(str(found))


# --- addresses ---


@given(
    network=st.integers(0, 2**64 - 1),
    hosts=st.tuples(*[st.integers(0, 2**64 - 1)] * 2),
    spelling=st.sampled_from(["{}", "[{}]", "[{}]:443", "{}%eth0", "[{}%25en1]:1", " {} "]),
)
def test_an_ipv6_host_is_one_caller_however_it_turns(
    network: int, hosts: tuple[int, int], spelling: str
) -> None:
    """Any two addresses of one /64 share a key, in any spelling, except for IPv4 in IPv6."""
    addresses = [IPv6Address(network << 64 | host) for host in hosts]
    if any(isinstance(parse(str(address)), IPv4Address) for address in addresses):
        return
    keys = {subject(parse(spelling.format(address))) for address in addresses}
    exploded = {subject(parse(address.exploded.upper())) for address in addresses}
    assert keys == exploded == {f"{IPv6Address(network << 64)}/64"}


@given(one=ipv4, other=ipv4, first=spellings, second=spellings)
def test_two_ipv4_addresses_are_two_callers(
    one: IPv4Address, other: IPv4Address, first: str, second: str
) -> None:
    """Two addresses have two subjects, and each has one for all its spellings."""
    keys = [subject(parse(first.format(one))), subject(parse(second.format(other)))]
    assert (keys[0] == keys[1]) == (one == other)


@given(address=st.ip_addresses(v=6).map(IPv6Address), prefix=st.integers(32, 128))
def test_other_prefixes(address: IPv6Address, prefix: int) -> None:
    found = parse(str(address))
    if isinstance(found, IPv4Address):
        return
    expected = str(ip_network((address, prefix), strict=False))
    assert key(f"address/{prefix}", request(str(address))) == expected
    assert ip_address(str(address)) in ip_network(expected)


@pytest.mark.parametrize("prefix", [0, 31, 129, 999, "064", "", "-64", "64/"])
def test_wrong_prefixes(prefix: object) -> None:
    with pytest.raises(InvalidSetting, match="32 to 128"):
        identity(f"address/{prefix}")


# --- other keys ---

READ = {
    "header:X-Org": lambda value: request(x_org=value),
    "cookie:sid": lambda value: request(cookie=f"a=1; sid={value}"),
    "api-key": lambda value: request(x_api_key=value),
    "api-key:X-Mine": lambda value: request(x_mine=value),
}
printable = st.characters(min_codepoint=33, max_codepoint=255, exclude_characters='",;\\%\x7f')
words = st.text(printable, min_size=1, max_size=40).map(str.strip).filter(bool)


@pytest.mark.parametrize("spec", READ)
@given(one=words, other=words)
def test_what_a_client_chose_is_hashed(spec: str, one: str, other: str) -> None:
    """Two values have two subjects, of a bounded length, which do not show the value."""
    if spec.startswith("cookie") and not (one + other).isascii():  # cookies are ASCII
        return
    keys = [str(key(spec, READ[spec](value))) for value in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    kind, _, digest = keys[0].partition(":")
    assert kind == spec.partition(":")[0]
    assert len(digest) == 32
    # The subject stands unchanged in keys, and has the length of a hash.
    assert KeySpeller("rl", "x").state(keys[0])[1].decode() == keys[0]


@pytest.mark.parametrize(
    ("incoming", "value_sent"),
    [
        (request(x_api_key="k"), "k"),
        (request(authorization="Bearer k"), "k"),
        (request(authorization="bearer  k "), "k"),
        (request(x_api_key="k", authorization="Basic other"), "k"),
        (request(x_api_key="k", authorization="Bearer k"), "k"),
    ],
)
def test_api_keys(incoming: Request, value_sent: str) -> None:
    assert key("api-key", incoming) == hashed("api-key", value_sent)


@pytest.mark.parametrize("value", ["Bearer k", "bearer k", "BEARER   k "])
def test_one_bearer_token_is_one_key_however_it_is_spelled(value: str) -> None:
    found = key("api-key:Authorization", request(authorization=value))
    assert found == hashed("api-key", "k")


@pytest.mark.parametrize(
    ("spec", "incoming"),
    [
        ("api-key", request(x_api_key="real", authorization="Bearer other")),
        ("api-key", request(x_api_key="real, junk")),
        ("api-key", request(authorization="Bearer real, Bearer junk")),
        ("api-key:X-Mine", request(x_mine="real, junk")),
        ("cookie:sid", request(cookie="sid=real; sid=junk")),
        ("cookie:sid", request(cookie='sid=real; a=1; sid="re\\141l2"')),
        # Two lines, joined with a comma.
        ("cookie:sid", request(cookie="sid=real,sid=junk")),
        ("cookie:sid", request(cookie="sid=junk, sid=real; a=1")),
        ("cookie:sid", request(cookie="a=1,sid=real")),
        ("cookie:sid", request(cookie="sid=real,junk")),
        ("cookie:sid", request(cookie='sid="real,junk"')),
        # No encoder writes these escapes.
        ("cookie:sid", request(cookie="sid=%72eal")),
        ("cookie:sid", request(cookie="sid=rea%6c")),
        ("cookie:sid", request(cookie="sid=re%2dal")),
        ("cookie:sid", request(cookie="sid=re%5Fal")),
        ("api-key", request(authorization="Bearer real junk")),
        ("api-key", request(authorization="Bearer real\tjunk")),
        ("api-key", request(authorization="Bearer real,junk")),
        ("api-key", request(authorization="Basic x, Bearer real")),
        ("api-key", request(authorization="bearer real,Basic x")),
        ("api-key", request(authorization='Digest a="b", bearer real')),
        ("api-key", request(authorization=", Bearer real")),
        ("api-key", request(x_api_key="real", authorization="Bearer real x")),
        ("api-key:Authorization", request(authorization="Bearer real junk")),
        ("api-key:Authorization", request(authorization="Basic cmVhbDp4, Basic eDp4")),
        ("api-key:Authorization", request(authorization="Basic cmVhbDp4=")),
        ("api-key:Authorization", request(authorization="Basic cmVh!bDp4")),
        ("header:Authorization", request(authorization="Basic cmVhbDp4, Bearer x")),
        ("header:Authorization", request(authorization="Token real junk")),
        ("header:X-User", request(x_user="real, junk")),
        ("header:X-User", request(x_user="real,")),
        ("host", replace(request(), host="h.example, junk")),
    ],
)
def test_a_request_with_two_values_is_unidentified(spec: str, incoming: Request) -> None:
    """The application could use one and the limit the other, which a client could change each time."""
    with pytest.raises(Ambiguous):
        key(spec, incoming)


@pytest.mark.parametrize(
    "cookie",
    [
        "sid=real",
        "x=a b; sid=real",
        'prefs={"a":1}; sid=real',
        "novalue;sid=real;",
        "=v; expires=Wed; sid = real ",
        'sid="real"',
        'sid="re\\141l"; sid=real',
        'sid="\\r\\eal"',
        "prefs=1,2; sid=real; ids=a,b",
    ],
)
def test_a_cookie_is_read_as_applications_read_it(cookie: str) -> None:
    """Other cookies beside it change nothing."""
    assert key("cookie:sid", request(cookie=cookie)) == hashed("cookie", "real")


TWINS = [
    ("cookie:sid", "cookie", ["s%3Aa%2Fb", "s%3aa%2fb", "s:a/b", '"s:a/b"', "s%3Aa/b"], "s:a/b"),
    ("cookie:sid", "cookie", ["a%20b%3D", "a+b=", "a%2Bb="], "a+b="),
    ("cookie:sid", "cookie", ["a~b", "a%7Eb"], "a~b"),
    ("cookie:sid", "cookie", ["caf%C3%A9", "caf\xc3\xa9"], "café"),
    ("api-key", "authorization", ["Bearer a", "BEARER  a", "bearer a "], "a"),
    ("api-key", "authorization", ["Bearer a%2Cb"], "a%2Cb"),
    ("api-key:Authorization", "authorization", ["Basic YTpi", "basic  YTpi"], "BASIC YTpi"),
    ("header:Authorization", "authorization", ["Bearer a", "bearer  a"], "Bearer a"),
    ("header:X-User", "x-user", ["a b", " a b "], "a b"),
    ("header:User-Agent", "user-agent", ["M (X, like Y)"], "M (X\\, like Y)"),
    ("header:Accept-Language", "accept-language", ["de, en;q=0.5"], "de\\, en;q=0.5"),
]


@pytest.mark.parametrize(("spec", "field", "values", "name"), TWINS)
def test_one_caller_is_one_subject(spec: str, field: str, values: list[str], name: str) -> None:
    """All spellings that applications accept are one subject, and a setting may use each of them."""
    before = "a=1; sid=" if field == "cookie" else ""
    found = {
        spelled(key(spec, replace(request(), headers={field: f"{before}{value}"})))
        for value in values
    }

    assert len(found) == 1
    assert found < meant(name, spec)
    assert findable(name, spec)


@pytest.mark.parametrize(
    ("spec", "name"),
    [("cookie:sid", "%61"), ("header:X-User", "a,b"), ("api-key", "a,b"), ("host", "a,b")],
)
def test_a_name_that_no_request_can_have_is_not_findable(spec: str, name: str) -> None:
    assert not findable(name, spec)
    assert meant(name, spec) == {name}


def test_a_digest_is_no_api_key() -> None:
    incoming = request(authorization='Digest username="a", realm="b", nonce="c"')
    with pytest.raises(Unidentified) as raised:
        key("api-key", incoming)
    assert not isinstance(raised.value, Ambiguous)


@pytest.mark.parametrize(
    ("name", "spec", "value_sent"),
    [
        ("H.Example.", "host", request()),
        ("acme", "header:X-Org", request(x_org="acme")),
        ("203.0.113.9", "address", request("203.0.113.9")),
        ("::ffff:203.0.113.9", "address", request("203.0.113.9")),
        ("2001:db8::5", "address", request("2001:db8::6")),
        ("2001:db8::/64", "address", request("2001:db8::6")),
        ("2001:db8:0:1::5", "address/48", request("2001:db8::6")),
        ("global", "global", request()),
        ("h.example", "host", request()),
        ("203.0.113.9,k", ["address", "api-key"], request("203.0.113.9", x_api_key="k")),
        ("203.0.113.9, k", ["address", "api-key"], request("203.0.113.9", x_api_key="k")),
    ],
)
def test_a_name_in_a_setting_is_the_subject_of_a_request(
    name: str, spec: str | list[str], value_sent: Request
) -> None:
    """A setting may have the plain value, or the subject as it stands in keys."""
    found = spelled(key(spec, value_sent))
    assert found in meant(name, spec)
    assert found in meant(found, spec)


#: Parts of subjects, most of them with characters that separate parts.
texts = st.one_of(st.text(",\\ab", min_size=1, max_size=5), st.text(min_size=1, max_size=5))
keys = st.one_of(
    texts, st.binary(min_size=1, max_size=4), st.integers(), st.just("acme,root"), st.just("acme,")
)
subjects = st.one_of(keys, st.lists(keys, min_size=1, max_size=3).map(tuple))


def plain(subject: Key) -> object:
    """Return one form of equal subjects: 42, "42" and b"42" are one."""
    if isinstance(subject, tuple):
        return tuple(map(plain, subject))
    return subject if isinstance(subject, bytes) else str(subject).encode("utf-8", "surrogatepass")


@given(subjects, subjects)
@example("acme,root", ("acme", "root"))
@example(("acme",), "acme,")
@example("a\\", ("a\\",))
@example("a\\,b", ("a\\", "b"))
def test_no_two_subjects_are_spelled_alike(one: Key, other: Key) -> None:
    """An exemption, an override, or an operator's path for one must not match the other."""
    assert (spelled(one) == spelled(other)) == (plain(one) == plain(other))


@given(subjects)
def test_a_spelled_subject_can_be_read_back(subject: Key) -> None:
    assert plain(named(spelled(subject))) == plain(subject)


@given(st.text(",\\ab\udcff\ud800", max_size=8))
def test_any_text_names_a_subject(text: str) -> None:
    """The same holds for texts that ``spelled`` never returns."""
    assert named(spelled(named(text))) == named(text)


def test_a_comma_in_a_name_is_written_with_a_backslash() -> None:
    # Values of this field may have commas.
    incoming = request(referer="x,y", b="back\\slash")
    assert spelled(key("header:Referer", incoming)) in meant("x\\,y", "header:Referer")
    assert meant("x,y", "header:Referer") == {
        "x,y"
    }  # a pair, as a caller of the service may send it
    assert spelled(key(["header:Referer", "header:B"], incoming)) in meant(
        "x\\,y,back\\slash", ["header:Referer", "header:B"]
    )


def test_no_other_request_has_the_subject_of_a_setting() -> None:
    """A client that sends a hash, or a comma, does not get the subject of another client."""
    secret = hashed("api-key", "secret")
    assert key("api-key", request(x_api_key=secret)) not in meant(secret, "api-key")
    # If unidentified requests count by address, a name that is an address stands for the address.
    assert meant("203.0.113.9", "api-key", or_address=True) == {"203.0.113.9"}
    both = ["header:Referer", "header:User-Agent"]
    assert spelled(key(both, request(referer="x,y", user_agent="z"))) not in meant("x,y,z", both)
    assert spelled(key(both, request(referer="x", user_agent="y,z"))) not in meant("x,y,z", both)


@pytest.mark.parametrize(
    ("spec", "incoming"),
    [
        ("header:X-Org", request()),
        ("header:X-Org", request(x_org="  ")),
        ("cookie:sid", request()),
        ("cookie:sid", request(cookie="sid=")),
        ("cookie:sid", request(cookie="nonsense")),
        ("api-key", request()),
        ("api-key", request(authorization="Basic abc")),
        ("api-key", request(authorization="Bearer")),
        ("api-key", request(authorization="Bearer ")),
        ("api-key:X-Mine", request(x_api_key="k")),
        ("path:other", request()),
        ("address", request(peer=None)),
        (["global", "header:X-Org"], request()),
        ("cookie:sid", request(cookie="sid; sid=")),
    ],
)
def test_requests_without_a_value_are_unidentified(
    spec: str | list[str], incoming: Request
) -> None:
    with pytest.raises(Unidentified):
        key(spec, incoming)


def test_keys_that_are_not_hashed() -> None:
    assert key("global", request(peer=None)) == "global"
    assert key("host", request()) == hashed("host", "h.example")
    assert key("path:org", request()) == hashed("path", "acme")
    assert key(["address"], request()) == "127.0.0.1"
    assert key(["address", "path:org"], request()) == ("127.0.0.1", hashed("path", "acme"))


@given(st.lists(words, min_size=2, max_size=2), st.lists(words, min_size=2, max_size=2))
def test_different_combinations_are_different_subjects(one: list[str], other: list[str]) -> None:
    """Also parts with separators are different."""
    spec = ["header:A", "header:B"]
    keys = [key(spec, request(a=a, b=b)) for a, b in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@pytest.mark.parametrize("spec", ["header:X Org", "header:X-Org:", "cookie:a=b", "api-key:B H"])
def test_names_that_no_request_has(spec: str) -> None:
    with pytest.raises(InvalidSetting, match=r"expected the name of a (header|cookie)"):
        identity(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "adress",
        "header",
        "header:",
        "cookie:",
        "path:",
        "api-key:",
        "global:x",
        [],
        ["host", 5],
    ],
)
def test_wrong_identities(spec: object) -> None:
    with pytest.raises(InvalidSetting, match="expected address"):
        identity(spec)  # type: ignore[arg-type]
