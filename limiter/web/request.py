"""An HTTP request as limits see it, without its framework."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote_to_bytes

from limiter.web import identity, paths
from limiter.web.identity import PREFIX, Address, Network

_NOTHING: Mapping[str, str | None] = {}
#: Digits read of a Content-Length: any longer number exceeds every limit.
_MOST_DIGITS = 18
#: Methods whose bodies have no meaning (RFC 9110): browsers send them without one.
_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT")

#: What is cached; it does not depend on the named parts of the path.
_CACHED = ("readings", "forwarded_for", "_client", "_caller")


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        method: In capitals.
        host: As the client sent it, without a port, in lower case.
        path: Decoded, without the query.
        headers: By name in lower case; values of a repeated field are joined by commas.
        peer: The address of the other end of the connection; None if it has none.
        parts: Named parts of the path, from the framework's route or the rule's pattern. A part is None
            if the path's readings differ in it.
        announces_body: Whether a request without a body's header fields has no body, as in HTTP/1.
        address_from: The header field in which trusted proxies report the client's address: one of
            ``identity.ADDRESS_FROM``.
        target: The path as the client sent it, perhaps with more of the request's target; None: not known.
        has_replaced_peer: Whether the server has replaced the proxy's address by the client's.
        environ: The WSGI environment; empty for other requests.
        scope: The ASGI scope; empty for other requests.

    """

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    peer: str | None
    parts: Mapping[str, str | None] = field(default_factory=lambda: _NOTHING)
    address_from: str = "x-forwarded-for"
    announces_body: bool = True
    target: str | None = None
    has_replaced_peer: bool = False
    environ: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, repr=False, compare=False)
    scope: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, repr=False, compare=False)

    @property
    def state(self) -> SimpleNamespace:
        """A copy of ``request.state`` of Starlette and FastAPI."""
        return SimpleNamespace(**self.scope.get("state", {}))

    @cached_property
    def readings(self) -> tuple[str, ...]:
        """The path, and the other ways in which servers and applications may read it.

        Raises:
            identity.Ambiguous: The path has more readings than those of real clients.

        """
        return paths.readings(self.path, self.target)

    @cached_property
    def forwarded_for(self) -> str | None:
        """The addresses that proxies report, in the form of X-Forwarded-For; None without the field."""
        value = self.headers.get(self.address_from)
        return None if value is None else identity.entries(self.address_from, value)

    def client(self, trusted: Sequence[Network]) -> Address:
        """Return the client's address, as trusted proxies report it; the result is cached.

        Raises:
            identity.Unidentified: The request has no such address.

        """
        known = self.__dict__.get("_client")
        if known is None or known[0] is not trusted:
            client = identity.client(trusted, self.peer, self.forwarded_for)
            known = self.__dict__["_client"] = trusted, client
        address: Address = known[1]
        return address

    def caller(self, trusted: Sequence[Network], prefix: int = PREFIX) -> str:
        """Return the client's subject: an IPv4 address, or an IPv6 network of ``prefix`` bits.

        Raises: As ``client``.
        """
        known = self.__dict__.get("_caller")
        if known is not None and known[0] is trusted and known[1] == prefix:
            return str(known[2])
        header = self.address_from
        value = self.headers.get(header)
        if value is None:
            caller = identity.of_peer(self.peer, prefix)
        else:
            caller = identity.caller(trusted, self.peer, header, value, prefix)
        self.__dict__["_caller"] = trusted, prefix, caller
        return caller

    def changed(self, **fields: Any) -> Request:
        """Return a copy with other fields; with other ``parts`` alone, it keeps what is cached."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        for name in () if len(fields) == 1 and "parts" in fields else _CACHED:
            copy.__dict__.pop(name, None)
        copy.__dict__.update(fields)
        return copy

    @property
    def is_preflight(self) -> bool:
        """Whether this is a CORS preflight, which browsers send before requests to another site."""
        return (
            self.method == "OPTIONS"
            and "origin" in self.headers
            and "access-control-request-method" in self.headers
        )

    def cookie(self, name: str) -> str | None:
        """Return a cookie's value in one spelling for all equal values; None without the cookie.

        Raises:
            identity.Ambiguous: The cookie has several values, or an escape that no encoder writes:
                frameworks differ in what they read.

        """
        text = self.headers.get("cookie", "")
        values = _cookies(text.split(";"), name)
        # Servers join several lines with a semicolon or with a comma.
        if len(values) > 1 or ("," in text and values != _cookies(_SEPARATORS.split(text), name)):
            raise identity.Ambiguous(f"the request has several cookies {name}")
        return cookie_meaning(values.pop().encode("latin-1", "replace")) if values else None

    def part(self, name: str) -> str | None:
        """Return a part of the path by its name; None without one.

        Raises:
            identity.Ambiguous: The path can be read in several ways, which differ in this part.

        """
        value = self.parts.get(name)
        if value is None and name in self.parts:
            raise identity.Ambiguous(f"the request's path has several readings of its part {name}")
        return value

    @property
    def size(self) -> int | None:
        """Bytes of the body by Content-Length; None if the size is unknown, as for a body in chunks.

        Since HTTP/2 a body needs neither a length nor Transfer-Encoding.
        """
        text = self.headers.get("content-length", "").strip()
        if "transfer-encoding" in self.headers:
            return None
        if not text:
            return 0 if self.announces_body or self.method in _WITHOUT_BODY else None
        if not (text.isascii() and text.isdigit()):
            return None
        return int(text.lstrip("0")[:_MOST_DIGITS] or 0)


def from_wsgi(environ: Mapping[str, Any], parts: Mapping[str, str | None] = _NOTHING) -> Request:
    """Make the request of a WSGI environment."""
    request = object.__new__(_WsgiRequest)  # __init__ would compute every field
    request.__dict__.update(
        method=str(environ.get("REQUEST_METHOD", "GET")).upper(),
        headers=_WsgiHeaders(environ),
        peer=environ.get("REMOTE_ADDR") or None,
        parts=parts,
        environ=environ,
        scope=_NOTHING,
    )
    return request


class _WsgiRequest(Request):
    """A request that computes its host and path only when a rule reads them; most rules do not."""

    @cached_property
    def host(self) -> str:
        return bare_host(str(self.environ.get("HTTP_HOST") or self.environ.get("SERVER_NAME", "")))

    @cached_property
    def path(self) -> str:
        path = f"{self.environ.get('SCRIPT_NAME', '')}{self.environ.get('PATH_INFO', '')}"
        return _decoded(path) or "/"

    @cached_property
    def target(self) -> str | None:
        return self.environ.get("RAW_URI") or self.environ.get("REQUEST_URI")

    @cached_property
    def announces_body(self) -> bool:
        return _announces_body(str(self.environ.get("SERVER_PROTOCOL", "")).rpartition("/")[2])


def _decoded(path: str) -> str:
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")


class _WsgiHeaders(Mapping[str, str]):
    """The header fields of a WSGI environment, converted one by one: most limits read one or two."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return str(value)

    def get(self, name: str, default: Any = None) -> Any:
        variable = _variable(name)
        value = self._environ.get(variable)
        if value is None or (value == "" and variable in _WITHOUT_PREFIX):
            return default
        return value if type(value) is str else str(value)

    def __iter__(self) -> Iterator[str]:
        for variable in self._environ:
            if variable.startswith("HTTP_") and variable[5:] not in _WITHOUT_PREFIX:
                yield variable[5:].replace("_", "-").lower()
        for variable in _WITHOUT_PREFIX:
            if self._environ.get(variable):
                yield variable.replace("_", "-").lower()

    def __len__(self) -> int:
        return sum(1 for _ in self)


_SEPARATORS = re.compile("[;,]")


def _cookies(pairs: Iterable[str], name: str) -> set[str]:
    """Return the different values of the cookies of a name."""
    values = set()
    for pair in pairs:
        cookie_name, equals, value = pair.partition("=")
        if equals and cookie_name.strip() == name:
            values.add(_unquoted(value.strip()))
    return values


def cookie_meaning(value: bytes) -> str:
    """Return one spelling for all values of a cookie that a framework may read as the same.

    Some frameworks decode escapes, others do not; PHP reads a + as a blank.

    Raises:
        identity.Ambiguous: A letter, a digit, or one of ``-._`` is escaped: no encoder does that.

    """
    if _NEEDLESS.search(value):
        raise identity.Ambiguous("the request has a cookie with an escape that no encoder writes")
    return unquote_to_bytes(value).decode("utf-8", "surrogateescape").replace(" ", "+")


#: An escape of A-Z a-z 0-9 - . _ (encoders of forms do escape the ~).
_NEEDLESS = re.compile(rb"%(2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9A])", re.IGNORECASE)


def _unquoted(value: str) -> str:
    """Return a cookie's value without its quotes and the escapes in them, as frameworks read it."""
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    return _QUOTED.sub(lambda match: match[2] or chr(int(match[1], 8)), value[1:-1])


_QUOTED = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)

_WITHOUT_PREFIX = ("CONTENT_TYPE", "CONTENT_LENGTH")


@lru_cache(maxsize=256)  # names come from the program and its settings, not from clients
def _variable(name: str) -> str:
    """Return the variable of a header field; empty for a name with _, which could stand for one with -."""
    if "_" in name:
        return ""
    variable = name.upper().replace("-", "_")
    return variable if variable in _WITHOUT_PREFIX else f"HTTP_{variable}"


def from_asgi(scope: Mapping[str, Any], parts: Mapping[str, str | None] = _NOTHING) -> Request:
    """Make the request of an ASGI scope; a websocket's handshake is a GET."""
    client = scope.get("client")
    request = object.__new__(_AsgiRequest)  # __init__ would compute every field
    request.__dict__.update(
        method=str(scope.get("method", "GET")).upper(),
        headers=_asgi_headers(scope["headers"]),
        peer=str(client[0]) if client else None,
        parts=parts,
        environ=_NOTHING,
        scope=scope,
    )
    return request


class _AsgiRequest(Request):
    """A request that computes its host and path only when a rule reads them; most rules do not."""

    @cached_property
    def host(self) -> str:
        return bare_host(self.headers.get("host", ""))

    @cached_property
    def path(self) -> str:
        return str(self.scope["path"]) or "/"

    @cached_property
    def target(self) -> str | None:
        target = self.scope.get("raw_path")
        return None if target is None else target.decode("latin-1")

    @cached_property
    def announces_body(self) -> bool:
        return _announces_body(str(self.scope.get("http_version", "")))

    @cached_property
    def has_replaced_peer(self) -> bool:
        client = self.scope.get("client")
        return bool(client and client[1] == 0)  # no connection comes from port 0


def _asgi_headers(fields: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Return the header fields of an ASGI scope by name."""
    fields = list(fields)
    by_name = dict(fields)
    if len(by_name) == len(fields) and b"".join(by_name).islower():
        return _AsgiHeaders(by_name)
    return joined((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)


class _RawNames(dict[str, bytes]):
    """Names of header fields as bytes; they come from the program and its settings, not from clients."""

    def __missing__(self, name: str) -> bytes:
        raw = name.encode("latin-1", "replace")
        if len(self) < _MOST_NAMES:
            self[name] = raw
        return raw


_MOST_NAMES = 256
_RAW = _RawNames()


class _AsgiHeaders(Mapping[str, str]):
    """Header fields of different names in lower case, decoded one by one: most limits read one or two."""

    def __init__(self, by_name: Mapping[bytes, bytes]) -> None:
        self._by_name = by_name

    def __getitem__(self, name: str) -> str:
        return self._by_name[_RAW[name]].decode("latin-1")

    def get(self, name: str, default: Any = None) -> Any:
        value = self._by_name.get(_RAW[name])
        return default if value is None else value.decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return header fields by name, with repeated ones joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for name, value in fields:
        name = name.lower()
        between = "; " if name == "cookie" else ", "
        headers[name] = headers[name] + between + value if name in headers else value
    return headers


def _announces_body(version: str) -> bool:
    """Whether this version of HTTP announces bodies in the header; an unknown version does."""
    return version[:1] not in ("2", "3")


def bare_host(text: str) -> str:
    """Return a host without its port and a user's name, in lower case."""
    host = text.strip().lower().rpartition("@")[2]
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")
