"""For whom a limit is: what of a request says who is meant."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b

from limiter.errors import InvalidSetting, shown
from limiter.keys import Key as Key  # what an identity finds, for who names subjects itself
from limiter.web import functions
from limiter.web.identity import PREFIX, Ambiguous, Network, Unidentified, parse
from limiter.web.identity import subject as of_address
from limiter.web.request import Request, bare_host, cookie_meaning

ACCEPTED = (
    "accepted are address (or address/N: IPv6 by N bits, 32 to 128), header:NAME, cookie:NAME, api-key "
    "(or api-key:HEADER), path:NAME, host, global, and a list of these"
)
#: What a program may give, where a policy file cannot.
ACCEPTED_IN_PROGRAMS = f"{ACCEPTED}; or {functions.accepted('key')}"

#: What the name of a header or a cookie may be.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
#: Without an underscore: servers and proxies drop such a header, or take it for one with a hyphen.
HEADER = re.compile(TOKEN.pattern.replace("_", ""))

_ADDRESS = re.compile(r"address/(3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-8])")

#: Kinds of which a client chooses the value.
_HASHED = ("header", "cookie", "path", "api-key", "host")

#: Where a client puts its key, when nobody says where else.
_API_KEY = "x-api-key"


#: Finds for whom a request counts, or raises Unidentified. What a client chose is hashed.
Identity = Callable[[Request, Sequence[Network]], Key]
#: The same, of an application: it takes as much as it needs, and returns None for no caller.
KeyFunction = (
    Callable[[], "Key | None"]
    | Callable[[Request], "Key | None"]
    | Callable[[Request, Sequence[Network]], "Key | None"]
)


def identity(spec: str | Sequence[str], accepted: str = ACCEPTED) -> Identity:
    """The identity that a text, or a list of them, describes; ``accepted`` is for the error.

    Raises:
        InvalidSetting: It describes none.

    """
    specs = [spec] if isinstance(spec, str) else list(spec) if _is_list(spec) else []
    if not specs or not all(isinstance(one, str) for one in specs):
        raise InvalidSetting.of("key", shown(spec), accepted)
    found = [_one(one, accepted) for one in specs]
    if len(found) == 1:
        return found[0]

    return lambda request, trusted: tuple(str(one(request, trusted)) for one in found)


def checked_subject(subject: Key | None) -> Key:
    """The subject that an identity has found, or a function of the application's.

    Raises:
        Unidentified: It is nobody.
        TypeError: It is no subject: an error of the program, so that the request does not pass.

    """
    if subject is None or subject in ("", b"", ()):
        raise Unidentified("the key function named no caller")
    if not isinstance(subject, (str, bytes, int, tuple)):
        raise TypeError(
            f"key is {shown(subject)}: accepted from a key function are str, bytes, int, a tuple of those, "
            f"and None for no caller; return the caller's id, as in str(user.id)"
        )
    return subject


def _is_list(spec: object) -> bool:
    return isinstance(spec, Sequence)


def spelled(subject: Key) -> str:
    r"""A subject as a text that no other subject has.

    A comma stands between the parts of a tuple, and behind the only one. In a text, a backslash stands
    before each comma and each backslash.

    >>> spelled(("acme", "root")), spelled(("acme",)), spelled("user:42")
    ('acme,root', 'acme,', 'user:42')
    >>> print(spelled("acme,root"))
    acme\,root
    """
    if not isinstance(subject, tuple):
        return _escaped(subject)
    return ",".join(map(_escaped, subject)) + "," * (len(subject) == 1)


def named(text: str) -> Key:
    """The subject that a text means: what ``spelled`` has made of it."""
    parts = [""]
    for piece in _PIECES.findall(text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += piece[1:] if piece in ("\\,", "\\\\") else piece
    keys = tuple(map(_unescaped, parts))
    if len(keys) == 1:
        return keys[0]
    return keys[:1] if keys[1:] == ("",) else keys


#: An escaped character, a comma, and what stands between those; a backslash elsewhere means itself.
_PIECES = re.compile(r"\\[,\\]|,|[^,\\]+|\\")


def _escaped(part: str | bytes | int) -> str:
    if isinstance(part, int):
        return f"{part:d}"
    text = part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _unescaped(text: str) -> str | bytes:
    """A text; bytes, where it stands for some that are no text."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def meant(name: str, spec: str | Sequence[str], or_address: bool = False) -> frozenset[str]:
    """The subjects, as ``spelled``, that a setting means by a name.

    The name itself, as it may stand in keys already, and what an identity by ``spec`` makes of it where
    a request says it; of several parts with commas between, of each part. A request that says a hash is
    hashed again, so it means nobody else. ``or_address``: the address counts where the request does not
    say who it is; then a name that is an address means that.
    """
    if or_address and (found := _address(name)) is not None:
        return frozenset({found})
    itself = spelled(named(name))
    pairs = _pairs(name, spec)
    if pairs is None:
        return frozenset({itself})
    values = tuple(_meant(*pair) for pair in pairs)
    return frozenset({itself, spelled(values if len(values) > 1 else values[0])})


def findable(name: str, spec: str | Sequence[str], or_address: bool = False) -> bool:
    """Whether an identity by ``spec`` can find what ``meant`` says of a name, whatever the request."""
    if or_address and _is_address(name):
        return True
    pairs = _pairs(name, spec)
    return pairs is not None and all(_findable(*pair) for pair in pairs)


def _pairs(name: str, spec: str | Sequence[str]) -> list[tuple[str, str]] | None:
    """Each identity with its part of a name; None where the name has more parts, or fewer."""
    specs = [spec] if isinstance(spec, str) else list(spec)
    subject = named(name)
    parts = subject if isinstance(subject, tuple) else (subject,)
    if len(parts) != len(specs) or isinstance(subject, tuple) != (len(specs) > 1):
        return None
    return [(one, str(part).strip()) for one, part in zip(specs, parts, strict=True)]


def is_chosen(spec: str) -> bool:
    """Whether a client chooses what an identity by ``spec`` finds."""
    return spec.partition(":")[0] in _HASHED


def _findable(spec: str, name: str) -> bool:
    if spec.partition(":")[0] in _HASHED:
        return bool(name) and _canonical(spec, name) is not None
    if spec == "global":
        return name == spec
    bits = _ADDRESS.fullmatch(spec)
    return _is_address(name, int(bits[1]) if bits else PREFIX)


def _is_address(name: str, prefix: int = PREFIX) -> bool:
    """An address as anybody writes it, or what is limited of one as it stands in keys."""
    return _address(name, prefix) is not None or _address(name.partition("/")[0], prefix) == name


def _meant(spec: str, name: str) -> str:
    kind = spec.partition(":")[0]
    if kind in _HASHED:
        is_hash = re.fullmatch(f"{kind}:[0-9a-f]{{32}}", name)
        value = None if is_hash else _canonical(spec, name)
        return name if value is None else hashed(kind, value)
    bits = _ADDRESS.fullmatch(spec)
    return _address(name, int(bits[1]) if bits else PREFIX) or name


def _canonical(spec: str, name: str) -> str | None:
    """What an identity by ``spec`` makes of a value that a request says; None where it refuses that."""
    kind, _, field = spec.partition(":")
    try:
        if kind == "cookie":
            return cookie_meaning(name.encode("utf-8", "surrogatepass"))
        if kind == "path":
            return name
        if kind == "host":
            return _single("hosts", bare_host(name))
        return _value(kind, field.lower(), name)
    except Ambiguous:
        return None


def _address(name: str, prefix: int = PREFIX) -> str | None:
    try:
        return of_address(parse(name), prefix)
    except Unidentified:
        return None


def hashed(kind: str, value: str) -> str:
    """What a client chose, as a subject of bounded length that does not show it.

    A client that knows this code can compute the digest of a value, and choose values whose subjects lie
    in one slot of a cluster. LIMITER_KEY_SECRET prevents that: then the keys of the store cannot be
    predicted.
    """
    digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{kind}:{digest.hexdigest()}"


def by_address(request: Request, trusted: Sequence[Network]) -> str:
    """The client's address, by the proxies that are trusted."""
    return request.caller(trusted)


def _by_prefix(prefix: int) -> Identity:
    return lambda request, trusted: request.caller(trusted, prefix)


def _one(spec: str, accepted: str) -> Identity:
    kind, separator, name = spec.partition(":")
    if spec == "address":
        return by_address
    if found := _ADDRESS.fullmatch(spec):
        return _by_prefix(int(found[1]))
    if spec == "global":
        return lambda request, trusted: "global"  # noqa: ARG005 (it is the same for all)
    if spec == "host":
        return _valued("host", "host", lambda request: _single("hosts", request.host))
    is_cookie = kind == "cookie"
    fits = TOKEN if is_cookie else HEADER
    if kind in ("header", "cookie", "api-key") and name and not fits.fullmatch(name):
        what = "a cookie" if is_cookie else "a header (without _)"
        raise InvalidSetting.of(
            "key", repr(spec), f"accepted is the name of {what}, as in {kind}:X-Name"
        )
    if kind == "header" and name:
        return _valued("header", f"header {name}", partial(_header, name.lower()))
    if kind == "cookie" and name:
        return _valued("cookie", f"cookie {name}", lambda request: request.cookie(name))
    if kind == "path" and name:
        return _valued("path", f"part {name} of the path", lambda request: request.part(name))
    if kind == "api-key" and (name or not separator):
        return _valued("api-key", "API key", partial(_api_key, name.lower()))
    raise InvalidSetting.of("key", repr(spec), accepted)


def _valued(kind: str, what: str, read: Callable[[Request], str | None]) -> Identity:
    def find(request: Request, trusted: Sequence[Network]) -> Key:  # noqa: ARG001 (an address needs them)
        value = (read(request) or "").strip()
        if not value:
            raise Unidentified(f"the request has no {what}")
        return hashed(kind, value)

    return find


#: Fields whose content has commas by nature, so that one sent twice looks like one sent once.
#: They identify no caller anyway.
_LISTS = re.compile(r"user-agent|referer|accept(-.+)?|sec-ch-.+")


def _header(name: str, request: Request) -> str | None:
    value = request.headers.get(name)
    return None if value is None else _value("header", name, value)


def _value(kind: str, name: str, value: str) -> str:
    """The one value of a header field, in one spelling.

    Raises:
        Ambiguous: There are several: the application takes one of them.

    """
    if kind == "header" and _LISTS.fullmatch(name):
        return value
    if name == "authorization":
        return _credentials(kind, value)
    return _single("API keys" if kind == "api-key" else f"values of {name}", value)


def _single(what: str, value: str) -> str:
    if "," in value:  # lines of one field are joined by commas
        raise Ambiguous(f"the request has several {what}")
    return value


def _api_key(header: str, request: Request) -> str | None:
    """The key in the header of that name; else in X-API-Key, or a bearer token.

    Raises:
        Ambiguous: There are several. The application behind would take one of them, and we perhaps
            another, which a client could make up anew for each request.

    """
    if header:
        return _value("api-key", header, request.headers.get(header, ""))
    credentials = request.headers.get("authorization", "")
    keys = {_value("api-key", _API_KEY, request.headers.get(_API_KEY, "")).strip()}
    if _BEARER.search(credentials):
        keys.add(_credentials("api-key", credentials))
    keys.discard("")
    if len(keys) > 1:
        raise Ambiguous("the request has several API keys")
    return keys.pop() if keys else None


#: A bearer token anywhere in a field that was perhaps sent several times.
_BEARER = re.compile(r"(?:\A|,)\s*bearer(?:\s|,|\Z)", re.IGNORECASE)


def _credentials(kind: str, value: str) -> str:
    """What an Authorization field says, in one spelling; as an API key, a bearer token alone.

    Raises:
        Ambiguous: It says several things, or one that frameworks read in several ways.

    """
    scheme, *rest = _single("credentials", value).split() or [""]
    scheme = scheme.capitalize()
    if len(rest) > 1:
        raise Ambiguous("the request has words behind its credentials")
    if scheme == "Basic" and rest and not _is_base64(rest[0]):
        raise Ambiguous("the request has credentials that are no base64")
    if scheme == "Bearer" and kind == "api-key":
        return "".join(rest)
    return " ".join([scheme, *rest])


def _is_base64(text: str) -> bool:
    """Whether it is base64 as encoders write it; decoders take much else for the same."""
    try:
        return b64encode(b64decode(text)) == text.encode()
    except ValueError:
        return False
