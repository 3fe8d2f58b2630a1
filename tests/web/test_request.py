"""Requests are equal for all servers."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.web.identity import Ambiguous
from limiter.web.request import Request, bare_host, from_asgi, from_wsgi, joined
from limiter.web.wiring import networks


def environ(**more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "SERVER_NAME": "server",
        "REMOTE_ADDR": "203.0.113.9",
        **more,
    }


def scope(*headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": list(headers),
        "client": ["203.0.113.9", 51234],
        **more,
    }


def test_wsgi() -> None:
    parsed = from_wsgi(
        environ(
            REQUEST_METHOD="post",
            SCRIPT_NAME="/app",
            PATH_INFO="/caf\xc3\xa9",
            HTTP_HOST="Api.Example:8080",
            HTTP_X_API_KEY="k",
            CONTENT_LENGTH="12",
            CONTENT_TYPE="",
        ),
        {"org": "acme"},
    )
    assert (parsed.method, parsed.host, parsed.path) == ("POST", "api.example", "/app/café")
    assert (parsed.peer, parsed.size, parsed.parts) == ("203.0.113.9", 12, {"org": "acme"})
    assert dict(parsed.headers) == {
        "host": "Api.Example:8080",
        "x-api-key": "k",
        "content-length": "12",
    }
    assert parsed.headers.get("x-api_key") is None
    assert parsed.headers.get("content-type") is None
    assert "x-api-key" in parsed.headers
    assert "x-other" not in parsed.headers


def test_asgi() -> None:
    parsed = from_asgi(
        scope(
            (b"host", b"Api.Example:8080"),
            (b"X-API-Key", b"k"),
            (b"x-forwarded-for", b"1.1.1.1"),
            (b"x-forwarded-for", b"2.2.2.2"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            method="post",
            path="/café",
        ),
        {"org": "acme"},
    )
    assert (parsed.method, parsed.host, parsed.path) == ("POST", "api.example", "/café")
    assert (parsed.peer, parsed.size, parsed.parts) == ("203.0.113.9", 0, {"org": "acme"})
    assert parsed.headers["x-api-key"] == "k"
    assert parsed.forwarded_for == "1.1.1.1, 2.2.2.2"
    assert (parsed.cookie("a"), parsed.cookie("b"), parsed.cookie("c")) == ("1", "2", None)


def test_a_key_function_can_read_the_environ_the_scope_and_the_state() -> None:
    """The WSGI environment, the ASGI scope, and what stands in ``request.state`` of Starlette."""
    ours = environ(REMOTE_USER="ann")
    for parsed in (from_wsgi(ours), replace(from_wsgi(ours), parts={"a": "b"})):
        assert (parsed.environ["REMOTE_USER"], dict(parsed.scope)) == ("ann", {})
    theirs = scope(state={"user": "ann"}, user="bob")
    for parsed in (from_asgi(theirs), replace(from_asgi(theirs), parts={"a": "b"})):
        assert (parsed.scope["user"], parsed.state.user, dict(parsed.environ)) == ("bob", "ann", {})
    with pytest.raises(AttributeError):
        assert from_asgi(scope()).state.user
    assert from_asgi(theirs) == from_asgi(scope())
    assert "bob" not in repr(from_asgi(theirs))
    assert "REMOTE_USER" not in repr(from_wsgi(ours))


def test_the_target_that_the_client_sent() -> None:
    """Each server has another variable for it, or none."""
    assert from_wsgi(environ(RAW_URI="/a%2Fb?c", REQUEST_URI="/x")).target == "/a%2Fb?c"
    assert from_wsgi(environ(REQUEST_URI="/a%2Fb?c")).target == "/a%2Fb?c"
    assert from_wsgi(environ()).target is None
    assert from_asgi(scope(raw_path=b"/a%2Fb\xff")).target == "/a%2Fb\xff"
    assert from_asgi(scope(raw_path=None)).target is None
    lazy = from_wsgi(environ(PATH_INFO="/a/b", RAW_URI="/a%2Fb"))
    assert replace(lazy, parts={"a": "b"}).readings == lazy.readings == ("/a/b", "/a\udc2fb")


def test_a_server_may_have_replaced_the_peer() -> None:
    """Uvicorn sets the port to 0 if it has used a proxy's header field."""
    assert from_asgi(scope(client=("203.0.113.9", 0))).has_replaced_peer
    assert not from_asgi(scope()).has_replaced_peer
    assert not from_asgi(scope(client=None)).has_replaced_peer
    assert not from_wsgi(environ()).has_replaced_peer


def test_a_websocket_s_handshake_is_a_get() -> None:
    parsed = scope()
    del parsed["method"]
    assert from_asgi({**parsed, "type": "websocket"}).method == "GET"


@pytest.mark.parametrize("address", ["", None])
def test_no_address_is_none(address: Any) -> None:
    """The peer of a Unix socket has no address."""
    assert from_wsgi(environ(REMOTE_ADDR=address)).peer is None
    assert from_asgi(scope(client=None)).peer is None
    assert from_asgi(scope(client=[address or "", 0])).peer in (None, "")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("a.example", "a.example"),
        ("A.Example.", "a.example"),
        ("a.example:80", "a.example"),
        ("a.example.:80", "a.example"),
        ("[2001:DB8::1]:80", "[2001:db8::1]"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("", ""),
        (" a ", "a"),
        ("u:p@A.example:80", "a.example"),
    ],
)
def test_hosts(text: str, host: str) -> None:
    assert bare_host(text) == host
    assert from_wsgi(environ(HTTP_HOST=text or "")).host == (host or "server")
    assert from_asgi(scope((b"host", text.encode()))).host == host


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("", 0), ("0", 0), ("7", 7), (" 7 ", 7), ("0" * 30 + "8192", 8192)),
        *(("-7", None), ("7.0", None), ("7, 7", None), ("\u0667", None)),
        ("9" * 5_000, 10**18 - 1),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    """An unknown size is None; a number that is too long for a body exceeds every limit."""
    assert Request("GET", "", "/", {"content-length": text}, None).size == size
    chunked = {"content-length": text, "transfer-encoding": "chunked"}
    assert Request("GET", "", "/", chunked, None).size is None


@pytest.mark.parametrize(
    ("version", "method", "size"),
    [
        *(("1.1", "POST", 0), ("1.0", "PUT", 0), ("", "POST", 0)),
        *(("2", "POST", None), ("2.0", "PUT", None), ("3", "PATCH", None), ("2", "MKCOL", None)),
        *(("2", "GET", 0), ("2", "OPTIONS", 0), ("3", "DELETE", 0)),
    ],
)
def test_a_body_that_http_2_does_not_announce(version: str, method: str, size: int | None) -> None:
    """Without this, a client that sends no length would choose its cost."""
    by_wsgi = from_wsgi(environ(REQUEST_METHOD=method, SERVER_PROTOCOL=f"HTTP/{version}"))
    by_asgi = from_asgi(scope(method=method, http_version=version))

    assert [by_wsgi.size, by_asgi.size] == [size, size]
    assert from_wsgi(environ(CONTENT_LENGTH="7", SERVER_PROTOCOL="HTTP/2")).size == 7
    assert replace(by_wsgi, parts={"a": "b"}).size == size


def test_preflights() -> None:
    """A preflight has the header fields of browsers; other OPTIONS requests are none."""
    both = {"origin": "https://a.example", "access-control-request-method": "PUT"}
    assert Request("OPTIONS", "", "/", both, None).is_preflight
    assert not Request("PUT", "", "/", both, None).is_preflight
    for name in both:
        assert not Request("OPTIONS", "", "/", {name: "x"}, None).is_preflight


@pytest.mark.parametrize(
    "text", ["", "a", "=", ";;", "a=\x00", 'a="', "\xff=1", "a b=c", "x" * 9000]
)
def test_any_text_is_a_valid_cookie_field(text: str) -> None:
    assert Request("GET", "", "/", {"cookie": text}, None).cookie("sid") is None


@given(
    st.lists(
        st.tuples(
            st.text("abcXYZ-", min_size=1, max_size=5),
            st.text(st.characters(max_codepoint=255), max_size=9),
        ),
        max_size=6,
    )
)
def test_headers_of_one_name_are_joined(fields: list[tuple[str, str]]) -> None:
    """The values stay in order and complete."""
    parsed = joined(fields)
    assert set(parsed) == {name.lower() for name, _ in fields}
    for name in parsed:
        assert parsed[name] == ", ".join(value for other, value in fields if other.lower() == name)


@given(
    path=st.text(st.characters(max_codepoint=255), max_size=20),
    headers=st.dictionaries(
        st.sampled_from(
            ["HTTP_HOST", "HTTP_COOKIE", "CONTENT_LENGTH", "HTTP_FORWARDED", "HTTP_X_A"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=30),
    ),
)
def test_anything_that_a_server_passes_is_a_request(path: str, headers: dict[str, str]) -> None:
    """WSGI passes any bytes as Latin-1 text."""
    parsed = from_wsgi(environ(PATH_INFO=path, **headers))
    assert parsed.path
    assert parsed.size is None or parsed.size >= 0
    with contextlib.suppress(Ambiguous):
        parsed.cookie("sid")
    assert dict(parsed.headers) == {name: parsed.headers[name] for name in parsed.headers}


@pytest.mark.parametrize("name", [b"x-user", b"X-User"])
def test_fields_of_an_asgi_scope_are_a_mapping(name: bytes) -> None:
    """Whether they are decoded when they are read, or at once since a name is not in lower case."""
    sent = ((b"host", b"h.example"), (name, b"\xe9"))
    headers = from_asgi({"type": "http", "path": "/", "headers": iter(sent)}).headers

    assert headers == {"host": "h.example", "x-user": "\xe9"}
    assert (headers["x-user"], headers.get("x-user"), "x-user" in headers) == ("\xe9", "\xe9", True)
    assert (headers.get("x"), headers.get("x", "y"), "x" in headers) == (None, "y", False)
    assert headers.get("\u20ac") is None
    assert sorted(headers) == ["host", "x-user"]
    assert len(headers) == 2
    with pytest.raises(KeyError, match="x"):
        headers["x"]


def test_a_caller_is_cached_for_each_kind_of_question() -> None:
    trusted, other = networks("10.0.0.0/8"), networks("192.0.2.0/24")
    request = from_asgi(
        {
            "type": "http",
            "path": "/",
            "headers": [(b"x-forwarded-for", b"2001:db8::1"), (b"x-real-ip", b"203.0.113.7")],
            "client": ("10.0.0.1", 1),
        }
    )

    for _ in range(2):
        assert request.caller(trusted) == "2001:db8::/64"
        assert request.caller(trusted, 48) == "2001:db8::/48"
        assert request.caller(other) == "10.0.0.1"
        assert request.changed(address_from="x-real-ip").caller(trusted) == "203.0.113.7"
        assert request.changed(parts={"a": "b"}).caller(trusted) == "2001:db8::/64"
