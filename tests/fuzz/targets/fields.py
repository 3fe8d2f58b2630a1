"""Header fields: what a client invents changes neither its address nor its cost, in any spelling.

The first byte of an input chooses the peer, and each line is a field. Servers pass fields on without
control characters and in Latin-1, so a line is as HTTP's parsers leave it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.cookies import CookieError
from ipaddress import ip_network
from urllib.parse import urlsplit

from starlette.requests import cookie_parser
from werkzeug.http import parse_cookie

from limiter.policyfile.costs import ByHeader
from limiter.web import forward_auth
from limiter.web.guard import Guard
from limiter.web.identity import (
    ADDRESS_FROM,
    Ambiguous,
    NoAddress,
    TrustedNetworks,
    Unidentified,
    parse,
    subject,
)
from limiter.web.match import Match
from limiter.web.request import Request, from_asgi, from_wsgi, joined
from limiter.web.subjects import identity, named, spelled
from limiter.web.trusted_field import TrustedField
from tests.fuzz.source import Source, words

WORDS = [
    *("X-Forwarded-For: ", "Forwarded: for=", "X-Real-Ip: ", "Cookie: s=", "Host: ", "X-Cost: "),
    *(
        "X-Plan: ",
        "X-Forwarded-Uri: /",
        "X-Forwarded-Method: ",
        "X-Forwarded-Host: ",
        "X-Api-Key: ",
    ),
    *(
        "Authorization: Bearer ",
        "Content-Length: ",
        "Transfer-Encoding: chunked",
        "Origin: o",
        "\n",
    ),
    *words(
        "203.0.113.9 127.0.0.1 10.0.0.1 [2001:db8::1]:80 ::ffff:10.0.0.1 64:ff9b::a00:1 unknown"
    ),
    *words(
        r'for= ;proto=http api.example.com @ :80 " \ ; , = %41 %2C + _x 0 9 18446744073709551616'
    ),
]

_CLIENT = "203.0.113.77"
_PROXY = "10.0.0.1"
_TRUSTED = TrustedNetworks([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
_TRUSTED_PEERS = (_PROXY, "::ffff:10.0.0.2", "fd00::1")
_PEERS = (*_TRUSTED_PEERS, _CLIENT, "2001:db8:1:2:3::4", None)
_HOSTS = Match(hosts=frozenset({"api.example.com", "*.api.example.com"}))
_COST = ByHeader("X-Cost")
_PLAN = TrustedField("X-Plan", "plans do not count")
_NO_RULES = Guard([])
_KEYS = ("api-key", "cookie:s", "header:X-Api-Key", "host", "address", "global")
_BARE = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]+")


def check(data: bytes) -> None:
    """Check the fields of a request, by each kind of server."""
    source = Source(data)
    peer = source.pick(_PEERS)
    fields = list(_fields(source.rest().decode("latin-1")))
    for request in (_by_asgi(peer, fields), _by_wsgi(peer, fields)):
        _check_address(request)
        _check_trust(request)
        _check_keys(request)
        _check_cookie(request)
        _check_host(request)
        _check_size(request)
        _check_report(request)
    for _, value in fields:
        _check_subject(value)


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """Yield the fields of a text that a server passes on."""
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon and _BARE.fullmatch(name):
            yield name.lower(), re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", "", value).strip(" \t")


def _by_asgi(peer: str | None, fields: Iterable[tuple[str, str]]) -> Request:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    client = None if peer is None else (peer, 40_000)
    scope = {
        "method": "GET",
        "path": "/",
        "headers": headers,
        "client": client,
        "http_version": "1.1",
    }
    return from_asgi(scope)


def _by_wsgi(peer: str | None, fields: Iterable[tuple[str, str]]) -> Request:
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "REMOTE_ADDR": peer or "",
        "SERVER_NAME": "h",
    }
    for name, value in joined(fields).items():
        variable = name.upper().replace("-", "_")
        is_bare = variable in ("CONTENT_TYPE", "CONTENT_LENGTH")
        environ[variable if is_bare else f"HTTP_{variable}"] = value
    return from_wsgi(environ)


def _check_address(request: Request) -> None:
    """Check that a trusted proxy's report counts, whatever the client wrote before it."""
    for header in ADDRESS_FROM:
        own = request.changed(address_from=header)
        with suppress(Unidentified):
            caller = own.caller(_TRUSTED)
            assert caller == subject(own.client(_TRUSTED)), "the cached caller is another"
            assert subject(parse(caller.partition("/")[0])) == caller
        # The proxy adds the client's address to the field. Only X-Real-Ip it must replace.
        invented = request.headers.get(header)
        report = f"for={_CLIENT}" if header == "forwarded" else _CLIENT
        value = report if invented is None else f"{invented}, {report}"
        reported = request.changed(
            address_from=header, peer=_PROXY, headers={**request.headers, header: value}
        )
        try:
            assert reported.caller(_TRUSTED) == _CLIENT, value
        except NoAddress:
            assert header == "x-real-ip", value
            assert invented is not None, value


def _check_trust(request: Request) -> None:
    """Check that no field of an untrusted peer counts, and that no value lowers a trusted cost."""
    if request.peer not in _TRUSTED_PEERS:
        assert _COST(request, _TRUSTED) == 1
        assert _PLAN.value(request, _TRUSTED) is None
    value = request.headers.get("x-cost", "")
    reported = request.changed(peer=_PROXY, headers={"x-cost": f"{value}, 7" if value else "7"})
    cost = _COST(reported, _TRUSTED)
    assert cost is None or cost >= 7, value


def _check_keys(request: Request) -> None:
    """Check that each kind of key finds a subject or none, and hashes what a client sends."""
    for spec in _KEYS:
        with suppress(Unidentified):
            key = identity(spec)(request, _TRUSTED)
            assert spec == "address" or re.fullmatch(r"global|[a-z-]+:[0-9a-f]{32}", str(key))


def _check_cookie(request: Request) -> None:
    """Check that the limiter sees each cookie that frameworks read, and that one value is one subject."""
    text = request.headers.get("cookie", "")
    found = {value for value in (_starlette(text), _werkzeug(text)) if value}
    try:
        own = request.cookie("s")
    except Ambiguous:
        return  # a 400
    assert own is not None or not found, (
        f"{found} is a cookie of a framework, and not of the limiter"
    )
    for other in (f's="{own}"', f"s={own}", f"x=1; s={own}"):
        again = request.changed(headers={"cookie": other})
        for framework in (_starlette, _werkzeug):
            if own and own.isascii() and framework(text) == framework(other) is not None:
                with suppress(Ambiguous):
                    assert again.cookie("s") == own, f"{text!r} and {other!r} are one cookie"


def _starlette(text: str) -> str | None:
    with suppress(CookieError):
        return cookie_parser(text).get("s")
    return None


def _werkzeug(text: str) -> str | None:
    with suppress(UnicodeDecodeError):  # an application of Werkzeug fails
        return parse_cookie(text).get("s")
    return None


def _check_host(request: Request) -> None:
    """Check that a limit of a host applies to the host that an application reads."""
    with suppress(ValueError, Ambiguous):
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        if host == "api.example.com" or (host or "").endswith(".api.example.com"):
            assert _HOSTS.parts(request) is not None, f"{request.host!r} is {host}, and not limited"


def _check_size(request: Request) -> None:
    """Check that a length is a number as the server reads it, or unknown."""
    size, text = request.size, request.headers.get("content-length", "")
    assert size is None or size >= 0
    if re.fullmatch("[0-9]{1,18}", text) and "transfer-encoding" not in request.headers:
        assert size == int(text)


def _check_report(request: Request) -> None:
    """Check the client's request that a proxy reports: valid, or refused."""
    client = forward_auth.original(request, "", "x-forwarded-for")
    if client is None:
        return
    assert "," not in client.host
    assert client.path.startswith("/") or client.path == "*"
    assert not re.search(r"[\s\x00-\x20]", f"{client.method}{client.target}"), "it could end a line"
    refusal = forward_auth.reported(request, _NO_RULES, _TRUSTED)
    assert isinstance(refusal, forward_auth.Refusal)


def _check_subject(text: str) -> None:
    """Check that a subject is written in one way, and read as the same."""
    key = named(text)
    if key and "" not in (key if isinstance(key, tuple) else (key,)):
        assert named(spelled(key)) == key
