"""The readings of a path: a limit applies to every path that a real router serves by the limited route."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limiter.web.identity import Ambiguous
from limiter.web.match import Match, pattern
from limiter.web.paths import path_of, readings
from limiter.web.request import Request
from tests.web.routers import raw, served

ORDERS = Match(paths=(pattern("/orders"), pattern("/orders/{id}")))


def sent(target: str, method: str = "GET") -> Request:
    """A request as ForwardAuth reads it."""
    path = path_of(target, method)
    assert path is not None, target
    return Request(method, "h.example", path, {}, "203.0.113.9", target=target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/orders", ["/orders"]),
        ("/orders?a=%2F#x", ["/orders"]),
        ("/orders/a%20b", ["/orders/a b"]),
        ("/orders#x", ["/orders#x", "/orders"]),
        ("/orders%23x", ["/orders#x"]),
        ("/orders%0A", ["/orders\n", "/orders"]),
        ("/a%2fb", ["/a/b", "/a\udc2fb"]),
        ("/a%252Fb", ["/a%2Fb"]),
        ("/a%2F..%2Fb", ["/a/../b", "/a\udc2f..\udc2fb", "/b"]),
        ("/caf%C3%A9", ["/café"]),
        ("/caf\xc3\xa9", ["/café"]),
        ("/a%FF", ["/a\ufffd", "/a"]),
        ("/a\xff", ["/a\ufffd", "/a"]),
        ("http://h/a", ["/a"]),
        ("HTTPS://u@h:1", ["/"]),
        ("http://h?a", ["/"]),
        ("http:///a", ["/a"]),
        ("//h/a", ["//h/a", "/h/a"]),
        ("//h//a/..", ["//h//a/..", "//h//", "/h/", "/h//a/..", "/h/a/.."]),
        ("/a%FF/%EF%BF%BD", ["/a\ufffd/\ufffd", "/a/\ufffd", "/a/"]),
    ],
)
def test_readings(target: str, expected: list[str]) -> None:
    assert list(sent(target).readings) == expected


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("/orders#x", None, ["/orders#x", "/orders"]),
        ("/orders#x", "/orders%23x", ["/orders#x"]),
        ("/orders", "/orders#x", ["/orders"]),
        ("/a/b", "/a%2Fb#x", ["/a/b", "/a\udc2fb"]),
        # Tomcat, if it allows a backslash as a slash, removes parameters before that.
        ("/a\\b;c\\d", None, ["/a\\b;c\\d", "/a/b;c/d", "/a\\b", "/a/b/d", "/a/b"]),
        ("/a/b", "http://h/a%2Fb?x", ["/a/b", "/a\udc2fb"]),
        # A server has changed the path, so the target that the client sent is not used.
        ("/v1/a/b", "/a%2Fb", ["/v1/a/b"]),
        ("orders", "orders", ["/orders"]),
        ("http://h/orders", "http://h/orders", ["/orders"]),
        ("http://h/a/b", "http://h/a%2Fb", ["/a/b", "/a\udc2fb"]),
        ("*", "*", ["/*"]),
        ("", "?a", ["/"]),
    ],
)
def test_readings_in_process(path: str, target: str | None, expected: list[str]) -> None:
    """Paths and targets as gunicorn, uvicorn, Hypercorn and Werkzeug's server pass them."""
    assert list(readings(path, target)) == expected


@pytest.mark.parametrize(
    ("target", "method"),
    [
        *(("", "GET"), ("orders", "GET"), ("?a", "GET"), ("#a", "GET"), ("*", "GET")),
        *(("ftp://h/a", "GET"), ("http:a", "GET"), ("h:80", "CONNECT"), ("://h/a", "GET")),
        *(("/a b", "GET"), ("/a\n", "GET"), ("/a\x7f", "GET"), (" /a", "GET"), ("/\x00", "GET")),
        *(("http://h x/a", "GET"), ("http://h\n/a", "GET"), ("http://\x00", "GET")),
        ("**", "OPTIONS"),
    ],
)
def test_no_targets(target: str, method: str) -> None:
    assert path_of(target, method) is None


def test_options_of_the_server() -> None:
    assert path_of("*", "OPTIONS") == "*"


def test_too_many_readings_are_refused() -> None:
    """Real clients do not send such paths, and each reading costs time."""
    with pytest.raises(Ambiguous, match="readings"):
        ORDERS.parts(sent("/a%2Fb\\..;%FF%0A#x"))
    began = time.process_time()
    match = Match(paths=(pattern("/**/a/**/b/**/c"),))
    for piece in ("/..%2F", "/.\\", "/a;%2F", "//%FF", "/a%2Fb/../"):
        match.parts(sent(piece * 200 + "#"))
        with pytest.raises(Ambiguous, match="too long"):
            match.parts(sent(piece * 10_000))
    assert match.parts(sent("/a/b/c" * 10_000)) == {}
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("/orders/a%2Fb", {"id": "a/b"}),
        ("/orders/a%2fb", {"id": "a/b"}),
        ("/orders/5%0A", {"id": None}),
        ("/orders/a%FF", {"id": None}),
        ("/orders/a#b", {"id": None}),
        ("/orders/a%23b", {"id": "a#b"}),
        ("/orders/%0A", {"id": None}),
        ("/orders%2F5", {"id": "5"}),
        ("/orders/a/b", None),
        ("/orders/ABC", {"id": "ABC"}),
    ],
)
def test_parts(target: str, parts: dict[str, str | None] | None) -> None:
    """A part is None if the readings differ in it."""
    assert ORDERS.parts(sent(target)) == parts


@pytest.mark.parametrize("path", ["/Orders/Ab", "/orders/Ab", "/ORDERS/Ab"])
def test_capitals_may_be_ignored(path: str) -> None:
    """Express ignores case; parts stay as the client sent them."""
    for match in (
        Match(paths=(pattern("/Orders/{id}"),), ignore_case=True),
        Match(paths=(pattern("/oRDERS/{id}", ignore_case=True),)),
        Match(paths=(pattern("/**rs/{id}", ignore_case=True),)),
    ):
        assert match.parts(sent(path)) == {"id": "Ab"}
    assert Match(paths=(pattern("/orders/*"),)).parts(sent("/Orders/Ab")) is None


def test_two_hosts_are_refused_if_a_rule_names_hosts() -> None:
    """The application uses one of two Host fields; a rule could match the other one."""
    incoming = replace(sent("/"), host="h.example, x.example")
    with pytest.raises(Ambiguous, match="hosts"):
        Match(hosts=frozenset({"h.example"})).parts(incoming)
    assert Match().parts(incoming) == {}


# --- real routers ---

#: Pieces of targets: words of the route, and texts that some software reads in another way.
PIECES = [
    *("orders", "orders", "5", "/", "/", "//", ".", "..", "/../", "x", "Orders"),
    *(
        "%0A",
        "%0a",
        "%0D",
        "%00",
        "%20",
        "%09",
        "#",
        "?",
        "%23",
        "%3F",
        ";",
        "%3B",
        ";a=b",
        "\\",
        "%5C",
    ),
    *("%2F", "%2f", "%2E", "%2e%2e", "%252F", "%25", "%FF", "%C3", "%C3%A9", "\xff", "\xc3\xa9"),
    *("%6Frders", "%EF%BF%BD", "%ED%A0%80", "%E2%80%A8", "%C2%85", "%C2%A0", "*", ":", "@", "~"),
]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=6),
    st.sampled_from(["/", "/", "/orders", "/orders/", "http://h/orders"]),
)
@example(["%0A"], "/orders")
@example(["5", "%0A"], "/orders/")
@example(["#", "x"], "/orders")
@example(["5", "%2F", "x"], "/orders/")
@example(["%FF"], "/orders")
@example(["Orders"], "/")
@example(["5"], "/orders/")
@example(["/orders/.."], "/")  # Werkzeug drops the first slash, and resolves nothing
@example(["%FF", "/", "orders", "%EF%BF%BD"], "/orders")
@example(["\\", "5", ";"], "/orders")  # Node's URL has a slash here, and keeps the semicolon
@example(["5", "\\", "x", ";"], "/orders/")  # Tomcat keeps the backslash, and removes the semicolon
@example(["\\", "5", "%5C"], "/orders")  # Node's URL has no slash for an escaped backslash
@example(["%2F", "5", ";", "%2F", "x"], "/orders")  # Tomcat removes parameters before it decodes
def test_a_limit_holds_for_what_a_router_serves(pieces: list[str], start: str) -> None:
    """The limit applies for each router and each end of the path, with the same part or with none."""
    target = start + "".join(pieces)
    found: list[str | None] = []
    loosely: list[str | None] = []
    for end in ("[?]", "[?#]"):  # servers end a path at one of these
        path = re.split(end, target.removeprefix("http://h"), maxsplit=1)[0]
        found += served(path)
        loosely += raw(path, ignore_case=True)
    try:
        for match, ids in ((ORDERS, found), (replace(ORDERS, ignore_case=True), loosely)):
            parts = match.parts(sent(target))
            assert not ids or parts is not None, target
            counted = (parts or {}).get("id")
            # None is no id, or that of a number, which has several spellings (such as 5 and 05).
            assert counted is None or all(one in (None, counted) for one in ids), target
    except Ambiguous:
        return  # a 400
