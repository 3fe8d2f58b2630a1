"""What a limit may look at of an HTTP request, whichever framework brought it."""

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
#: Of a body's length; no body is longer, whatever its header says.
_MOST_DIGITS = 18
#: Methods whose bodies mean nothing (RFC 9110), and which browsers send without.
_WITHOUT_BODY = ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT")

#: What a request works out once, and the fields that it does so of.
_WORKED_OUT = {
    "readings": {"path", "target"},
    "forwarded_for": {"headers", "address_from"},
    "_trust": {"peer"},
    "_client": {"headers", "address_from", "peer"},
}


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        method: In capitals.
        host: As the client spelled it, without a port, in lower case.
        path: Decoded, without the query.
        headers: By name in lower case; what was sent several times is joined by commas.
        peer: The other end of the connection, or None where there is no such address.
        parts: Parts of the path by name, from whoever routed the request; None for one about which
            the path's spellings do not agree.
        announces_body: Whether a request that says nothing of a body has none, as in HTTP/1.
        address_from: In which header trusted proxies say who calls: one of ``identity.ADDRESS_FROM``.
        target: The path as it was sent, perhaps with more of the request's target; None: not known.
        has_replaced_peer: Whether the server has put the client's address in the place of the proxy's.
        environ: The WSGI environment, where the request came by one; else empty.
        scope: The ASGI scope of the connection, where the request came by one; else empty.

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
        """What middlewares of Starlette and FastAPI have put into ``request.state``: a copy."""
        return SimpleNamespace(**self.scope.get("state", {}))

    @cached_property
    def readings(self) -> tuple[str, ...]:
        """The path, and what others may take it for.

        Raises:
            identity.Ambiguous: There are more than any honest client's path has.

        """
        return paths.readings(self.path, self.target)

    @cached_property
    def forwarded_for(self) -> str | None:
        """The proxies' word for where the request came from, as X-Forwarded-For has it."""
        value = self.headers.get(self.address_from)
        return None if value is None else identity.entries(self.address_from, value)

    def is_proxied(self, trusted: Sequence[Network]) -> bool:
        """Whether the peer is one of these proxies."""
        known = self.__dict__.get("_trust")
        if known is None or known[0] is not trusted:
            known = trusted, identity.is_trusted(self.peer, trusted)
            self.__dict__["_trust"] = known
        return bool(known[1])

    def client(self, trusted: Sequence[Network]) -> Address:
        """The client's address, by the proxies that are trusted; worked out once.

        Raises:
            identity.Unidentified: There is none.

        """
        known = self.__dict__.get("_client")
        if known is None or known[0] is not trusted:
            named = self.forwarded_for if self.is_proxied(trusted) else None
            found = (
                identity.parse(self.peer or "")
                if named is None
                else identity.outermost(named, trusted)
            )
            known = self.__dict__["_client"] = trusted, found
        address: Address = known[1]
        return address

    def caller(self, trusted: Sequence[Network], prefix: int = PREFIX) -> str:
        """The client's subject: an IPv4 address, or an IPv6 network of ``prefix`` bits.

        Raises: As ``client``.
        """
        if self.forwarded_for is None:
            return identity.caller(self.peer, None, trusted, prefix)
        return identity.subject(self.client(trusted), prefix)

    def changed(self, **fields: Any) -> Request:
        """A copy with other fields, which keeps what was worked out of the same ones."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        for name, sources in _WORKED_OUT.items():
            if not sources.isdisjoint(fields):
                made.__dict__.pop(name, None)
        made.__dict__.update(fields)
        return made

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks, by itself, what another site's page may do here."""
        return (
            self.method == "OPTIONS"
            and "origin" in self.headers
            and "access-control-request-method" in self.headers
        )

    def cookie(self, name: str) -> str | None:
        """The meaning of a cookie, in one spelling of several; None without one.

        Raises:
            identity.Ambiguous: It was sent with several values, on several lines, or with an escape that no
                encoder writes: frameworks differ in what they take.

        """
        text = self.headers.get("cookie", "")
        found = _cookies(text.split(";"), name)
        # Lines are joined with a semicolon or with a comma, by the server or by the one behind it.
        if len(found) > 1 or ("," in text and found != _cookies(_SEPARATORS.split(text), name)):
            raise identity.Ambiguous(f"the request has several cookies {name}")
        return cookie_meaning(found.pop().encode("latin-1", "replace")) if found else None

    def part(self, name: str) -> str | None:
        """A part of the path by its name; None without one.

        Raises:
            identity.Ambiguous: The path can be read in several ways, and the part is another in each.

        """
        found = self.parts.get(name)
        if found is None and name in self.parts:
            raise identity.Ambiguous(f"the request's path has several readings of its part {name}")
        return found

    @property
    def size(self) -> int | None:
        """Bytes of the body, as its header says; None where nobody can tell, as with one sent in chunks.

        From HTTP/2 on a body needs neither a length nor Transfer-Encoding.
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
    """The request of a WSGI application."""
    made = object.__new__(_WsgiRequest)  # its __init__ would set, and so work out, every field
    made.__dict__.update(
        method=str(environ.get("REQUEST_METHOD", "GET")).upper(),
        headers=_WsgiHeaders(environ),
        peer=environ.get("REMOTE_ADDR") or None,
        parts=parts,
        environ=environ,
        scope=_NOTHING,
    )
    return made


class _WsgiRequest(Request):
    """A request that works its host and its path out when a rule looks at them; most do not."""

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
    """The header fields of a WSGI environment, read when somebody asks: most limits look at one or two."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return str(found)

    def get(self, name: str, default: Any = None) -> Any:
        variable = _variable(name)
        value = self._environ.get(variable)
        if value is None or (value == "" and variable in _WITHOUT_PREFIX):
            return default
        return value if type(value) is str else str(value)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

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
    """The values of the cookies of a name."""
    found = set()
    for pair in pairs:
        called, equals, value = pair.partition("=")
        if equals and called.strip() == name:
            found.add(_unquoted(value.strip()))
    return found


def cookie_meaning(value: bytes) -> str:
    """A cookie's value in one spelling for all that frameworks may read as one: they decode it, or do not.

    PHP reads a + as a blank, others do not.

    Raises:
        identity.Ambiguous: A letter, a digit, or one of ``-._`` is escaped, which no encoder does.

    """
    if _NEEDLESS.search(value):
        raise identity.Ambiguous("the request has a cookie with an escape that no encoder writes")
    return unquote_to_bytes(value).decode("utf-8", "surrogateescape").replace(" ", "+")


#: An escape of A-Z a-z 0-9 - . _ (encoders of forms do escape the ~).
_NEEDLESS = re.compile(rb"%(2[DE]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9A])", re.IGNORECASE)


def _unquoted(value: str) -> str:
    """The value of a cookie as frameworks read it, where it stands in quotes."""
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    return _QUOTED.sub(lambda one: one[2] or chr(int(one[1], 8)), value[1:-1])


_QUOTED = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)

_WITHOUT_PREFIX = ("CONTENT_TYPE", "CONTENT_LENGTH")


@lru_cache(maxsize=256)  # names come from the program and its settings, not from clients
def _variable(name: str) -> str:
    """Where a gateway puts a header; one with an underscore has no place, and hides no other."""
    if "_" in name:
        return ""
    variable = name.upper().replace("-", "_")
    return variable if variable in _WITHOUT_PREFIX else f"HTTP_{variable}"


def from_asgi(scope: Mapping[str, Any], parts: Mapping[str, str | None] = _NOTHING) -> Request:
    """The request of an ASGI application; a websocket's handshake is a GET."""
    headers = joined(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    )
    client = scope.get("client")
    target = scope.get("raw_path")
    return Request(
        method=str(scope.get("method", "GET")).upper(),
        host=bare_host(headers.get("host", "")),
        path=str(scope["path"]) or "/",
        headers=headers,
        peer=str(client[0]) if client else None,
        parts=parts,
        announces_body=_announces_body(str(scope.get("http_version", ""))),
        target=None if target is None else target.decode("latin-1"),
        has_replaced_peer=bool(client and client[1] == 0),  # no connection comes from such a port
        scope=scope,
    )


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header fields by name, those of one name joined (RFC 9110, section 5.3)."""
    headers: dict[str, str] = {}
    for name, value in fields:
        name = name.lower()
        between = "; " if name == "cookie" else ", "
        headers[name] = headers[name] + between + value if name in headers else value
    return headers


def _announces_body(version: str) -> bool:
    """Whether a body is announced in this version of HTTP, or nobody says which it is."""
    return version[:1] not in ("2", "3")


def bare_host(text: str) -> str:
    """A host without its port and a user's name, in lower case."""
    host = text.strip().lower().rpartition("@")[2]
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")
