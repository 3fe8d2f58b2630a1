"""The subject of a request: how a limit's ``key`` finds it, and how subjects are written as text."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b

from limiter.errors import InvalidSetting, shown
from limiter.keys import Key as Key  # for users who write an identity
from limiter.web import functions
from limiter.web.identity import PREFIX, Ambiguous, Network, Unidentified, parse
from limiter.web.identity import subject as of_address
from limiter.web.request import Request, bare_host, cookie_meaning

ACCEPTED = (
    "expected address (or address/N: IPv6 by N bits, 32 to 128), header:NAME, cookie:NAME, api-key "
    "(or api-key:HEADER), path:NAME, host, global, and a list of these"
)
#: Programs may also pass a function, which a policy file cannot.
ACCEPTED_IN_PROGRAMS = f"{ACCEPTED}; or {functions.accepted('key')}"

#: The names that a header field or a cookie may have.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
#: Without an underscore: servers and proxies drop such a field, or confuse it with one with a hyphen.
HEADER = re.compile(TOKEN.pattern.replace("_", ""))

_ADDRESS = re.compile(r"address(?:/(3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-8]))?")

#: Kinds of keys whose value the client chooses.
_HASHED = ("header", "cookie", "path", "api-key", "host")

#: The default header field of API keys.
_API_KEY = "x-api-key"


#: Returns the subject of a request, or raises Unidentified. It hashes values that a client chose.
Identity = Callable[[Request, Sequence[Network]], Key]
#: How the subject is found: a setting that ``identity`` reads, or a function of the application. That may
#: take fewer arguments than an identity, and returns None for no caller.
KeySpec = (
    str
    | Sequence[str]
    | Callable[[], "Key | None"]
    | Callable[[Request], "Key | None"]
    | Callable[[Request, Sequence[Network]], "Key | None"]
)


def identity(
    spec: str | Sequence[str], accepted: str = ACCEPTED, are_hashed: bool = True
) -> Identity:
    """Return the identity for a key such as ``"api-key"``, or for a list of them.

    Without ``are_hashed``, it returns values that a client chose as they are: never a subject of the store.

    Raises:
        InvalidSetting: There is no such key; the message says that ``accepted`` is.

    """
    specs = [spec] if isinstance(spec, str) else list(spec) if _is_list(spec) else []
    if not specs or not all(isinstance(each, str) for each in specs):
        raise InvalidSetting.of("key", shown(spec), accepted)
    convert = hashed if are_hashed else _as_it_is
    identities = [_identity(each, accepted, convert) for each in specs]
    if len(identities) == 1:
        return identities[0]

    return lambda request, trusted: tuple(str(part(request, trusted)) for part in identities)


def checked_subject(subject: Key | None) -> Key:
    """Return the subject that an identity, or a key function of the application, has returned.

    Raises:
        Unidentified: It is None or empty.
        TypeError: It is no subject. This is a mistake in the program; the request does not pass.

    """
    if subject is None or subject in ("", b"", ()):
        raise Unidentified("the key function named no caller")
    if not isinstance(subject, (str, bytes, int, tuple)):
        raise TypeError(
            f"key is {shown(subject)}: expected from a key function str, bytes, int, a tuple of those, "
            f"and None for no caller; return the caller's id, as in str(user.id)"
        )
    return subject


def _is_list(spec: object) -> bool:
    return isinstance(spec, Sequence)


def spelled(subject: Key) -> str:
    r"""Write a subject as a text that no other subject has.

    A comma separates the parts of a tuple, and follows a single one. In a text, a backslash precedes each
    comma and each backslash.

    >>> spelled(("acme", "root")), spelled(("acme",)), spelled("user:42")
    ('acme,root', 'acme,', 'user:42')
    >>> print(spelled("acme,root"))
    acme\,root
    """
    if not isinstance(subject, tuple):
        return _escaped(subject)
    return ",".join(map(_escaped, subject)) + "," * (len(subject) == 1)


def named(text: str) -> Key:
    """Return the subject that ``spelled`` wrote as this text."""
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


#: An escaped character, a comma, or the text between them; any other backslash is itself.
_PIECES = re.compile(r"\\[,\\]|,|[^,\\]+|\\")


def _escaped(part: str | bytes | int) -> str:
    if isinstance(part, int):
        return f"{part:d}"
    text = part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part
    return text.replace("\\", "\\\\").replace(",", "\\,")


def _unescaped(text: str) -> str | bytes:
    """Return a text, or the bytes that it was made of if they are not UTF-8."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def disguised(subject: Key) -> str:
    """Return the short hash by which logs name a subject: equal for equal subjects, and not readable."""
    return blake2b(spelled(subject).encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def meant(name: str, spec: str | Sequence[str], or_address: bool = False) -> frozenset[str]:
    """Return the subjects, in the form of ``spelled``, that a name in a setting stands for.

    These are the name itself, which may be a subject of the store, and the subject of a request that has
    the name as its value for ``spec``. In a name with several parts, each part is converted. A client that
    sends a hash as its value gets another subject, since the value is hashed again. With ``or_address``
    unidentified requests count by address, so a name that is an address stands for that address.
    """
    if or_address and (address := _address(name, PREFIX)) is not None:
        return frozenset({address})
    itself = spelled(named(name))
    pairs = _pairs(name, spec)
    if pairs is None:
        return frozenset({itself})
    values = tuple(_subject(*pair) or pair[1] for pair in pairs)
    return frozenset({itself, spelled(values if len(values) > 1 else values[0])})


def findable(name: str, spec: str | Sequence[str], or_address: bool = False) -> bool:
    """Whether any request can have a subject that ``meant`` returns for a name."""
    if or_address and _address(name, PREFIX) is not None:
        return True
    pairs = _pairs(name, spec)
    return pairs is not None and None not in (_subject(*pair) for pair in pairs)


def _pairs(name: str, spec: str | Sequence[str]) -> list[tuple[str, str]] | None:
    """Return each part of a key with its part of a name; None if their numbers differ."""
    specs = [spec] if isinstance(spec, str) else list(spec)
    subject = named(name)
    parts = subject if isinstance(subject, tuple) else (subject,)
    if len(parts) != len(specs) or isinstance(subject, tuple) != (len(specs) > 1):
        return None
    return [(each, str(part).strip()) for each, part in zip(specs, parts, strict=True)]


def is_chosen(spec: str) -> bool:
    """Whether a client chooses the value that a key reads."""
    return spec.partition(":")[0] in _HASHED


def _subject(spec: str, name: str) -> str | None:
    """Return the subject that a request with this value for ``spec`` has; a subject is its own.

    None: no request has such a value.
    """
    kind = spec.partition(":")[0]
    if kind in _HASHED:
        if re.fullmatch(f"{kind}:[0-9a-f]{{32}}", name):
            return name
        value = _canonical(spec, name)
        return hashed(kind, value) if value else None
    if bits := _ADDRESS.fullmatch(spec):
        return _address(name, int(bits[1] or PREFIX))
    return name if name == spec else None


def _canonical(spec: str, name: str) -> str | None:
    """Return the one spelling of a request's value for ``spec``; None if the value is refused."""
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


def _address(name: str, prefix: int) -> str | None:
    """Return the subject of an address in any spelling; a subject is its own."""
    address, slash, _ = name.partition("/")
    try:
        subject = of_address(parse(address), prefix)
    except Unidentified:
        return None
    return subject if not slash or subject == name else None


def hashed(kind: str, value: str) -> str:
    """Hash a value that a client chose: the subject has a bounded length and does not show the value.

    A client that knows this code can compute the digest of a value, and choose values whose subjects lie
    in one slot of a cluster. LIMITER_KEY_SECRET prevents that: no client can then predict a key.
    """
    digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{kind}:{digest.hexdigest()}"


def _as_it_is(kind: str, value: str) -> str:  # noqa: ARG001 (the signature of ``hashed``)
    return value


def by_address(request: Request, trusted: Sequence[Network]) -> str:
    """Return the client's address, as trusted proxies report it."""
    return request.caller(trusted)


def _identity(spec: str, accepted: str, convert: Callable[[str, str], str]) -> Identity:
    kind, _, name = spec.partition(":")

    def valued(what: str, read: Callable[[Request], str | None]) -> Identity:
        def find(request: Request, trusted: Sequence[Network]) -> Key:  # noqa: ARG001 (an address needs them)
            value = (read(request) or "").strip()
            if not value:
                raise Unidentified(f"the request has no {what}")
            return convert(kind, value)

        return find

    if spec == "address":
        return by_address
    if bits := _ADDRESS.fullmatch(spec):
        prefix = int(bits[1])
        return lambda request, trusted: request.caller(trusted, prefix)
    if spec == "global":
        return lambda request, trusted: "global"  # noqa: ARG005 (it is the same for all)
    if spec == "host":
        return valued("host", lambda request: _single("hosts", request.host))
    is_cookie = kind == "cookie"
    fits = TOKEN if is_cookie else HEADER
    if kind in ("header", "cookie", "api-key") and name and not fits.fullmatch(name):
        what = "a cookie" if is_cookie else "a header (without _)"
        raise InvalidSetting.of(
            "key", repr(spec), f"expected the name of {what}, as in {kind}:X-Name"
        )
    if kind in ("header", "api-key") and name:
        what = f"header {name}" if kind == "header" else "API key"
        return valued(what, partial(_field, kind, name.lower()))
    if spec == "api-key":
        return valued("API key", _api_key)
    if kind == "cookie" and name:
        return valued(f"cookie {name}", lambda request: request.cookie(name))
    if kind == "path" and name:
        return valued(f"part {name} of the path", lambda request: request.part(name))
    raise InvalidSetting.of("key", repr(spec), accepted)


#: Fields whose values have commas, so that a repeated field cannot be recognised. They identify no caller
#: anyway.
_LISTS = re.compile(r"user-agent|referer|accept(-.+)?|sec-ch-.+")


def _field(kind: str, name: str, request: Request) -> str:
    return _value(kind, name, request.headers.get(name, ""))


def _value(kind: str, name: str, value: str) -> str:
    """Return the only value of a header field, in one spelling.

    Raises:
        Ambiguous: There are several, and the application may use either.

    """
    if kind == "header" and _LISTS.fullmatch(name):
        return value
    if name == "authorization":
        return _credentials(kind, value)
    return _single("API keys" if kind == "api-key" else f"values of {name}", value)


def _single(what: str, value: str) -> str:
    if "," in value:  # a repeated field is joined by commas
        raise Ambiguous(f"the request has several {what}")
    return value


def _api_key(request: Request) -> str | None:
    """Return the API key in X-API-Key or as a bearer token.

    Raises:
        Ambiguous: There are several. If the application used one and the limit another, a client could
            change the other with each request.

    """
    credentials = request.headers.get("authorization", "")
    keys = {_field("api-key", _API_KEY, request).strip()}
    if _BEARER.search(credentials):
        keys.add(_credentials("api-key", credentials))
    keys.discard("")
    if len(keys) > 1:
        raise Ambiguous("the request has several API keys")
    return keys.pop() if keys else None


#: A bearer token anywhere in a field that may have been sent several times.
_BEARER = re.compile(r"(?:\A|,)\s*bearer(?:\s|,|\Z)", re.IGNORECASE)


def _credentials(kind: str, value: str) -> str:
    """Return the credentials of an Authorization field in one spelling; for ``api-key``, the bearer token.

    Raises:
        Ambiguous: There are several, or frameworks may read them in several ways.

    """
    scheme, *rest = _single("credentials", value).split() or [""]
    scheme = scheme.capitalize()
    if len(rest) > 1:
        raise Ambiguous("the request has words after its credentials")
    if scheme == "Basic" and rest and not _is_base64(rest[0]):
        raise Ambiguous("the request has Basic credentials that are not base64")
    if scheme == "Bearer" and kind == "api-key":
        return "".join(rest)
    return " ".join([scheme, *rest])


def _is_base64(text: str) -> bool:
    """Whether a text is base64 as encoders write it; decoders accept other spellings of the same bytes."""
    try:
        return b64encode(b64decode(text)) == text.encode()
    except ValueError:
        return False
