"""The only module that writes keys of Redis.

``rl:{user:42}:api:v1`` is a subject's hash: prefix, hash tag, limiter, version of the scripts. If a
policy's state is not a field of that hash, its own key is the same text and the policy's field. With a
tag, the subject comes before the limiter, and ``|`` separates them. No prefix, subject, name or field
contains ``|``, so a key can be read in only one way.

>>> spell = KeySpeller("rl", "api")
>>> spell.state("user:42")
(b'rl:{user:42}:api:v1', b'user:42')
>>> spell.state(("user", 42), tag="org:7")
(b'rl:{org:7}:user,42|api:v1', b'org:7')
>>> spell.state("a{b}")[0]
b'rl:{~77e9dba01c1057ea04f2ec05f910f2a6}:api:v1'
"""

from __future__ import annotations

import re
from hashlib import blake2b

from limiter.errors import InvalidKey, InvalidSetting

#: The key of a subject, for which a limit counts.
Key = str | bytes | int | tuple[str | bytes | int, ...]

#: The version of the scripts, which is part of every key, and the folder of ``lua/`` that holds them.
VERSION = "v1"

_PLAIN = re.compile(r"[A-Za-z0-9_.:@/-]{1,64}")
_PLAIN_BYTES = re.compile(rb"[A-Za-z0-9_.:@/-]{1,64}")
_PLAIN_PART = re.compile(rb"[A-Za-z0-9_.:@/-]+")
_LONGEST_PLAIN = 64
#: What a prefix, or the name of a limiter, may be.
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_ACCEPTED = "expected str, bytes, int, and a flat tuple of those, none of them empty"


class KeySpeller:
    """Writes the keys of one limiter's subjects."""

    def __init__(self, prefix: str, name: str, secret: str | bytes | None = None) -> None:
        for setting, value in (("prefix", prefix), ("name", name)):
            if not (isinstance(value, str) and NAME.fullmatch(value)):
                raise InvalidSetting.of(
                    setting, repr(value), "expected 1 to 64 of A-Z a-z 0-9 _ . -"
                )
        self._secret = _digest_key(secret)
        self._before = f"{prefix}:{{".encode()
        self._after = f"}}:{name}:{VERSION}".encode()
        self._after_tagged = f"|{name}:{VERSION}".encode()
        self._name = name.encode()

    def state(self, key: Key, tag: Key | None = None) -> tuple[bytes, bytes]:
        """Return the key of the subject's hash, and the tag that decides its slot.

        Raises:
            InvalidKey: ``key`` or ``tag`` is of a wrong type, empty, or not UTF-8.

        """
        if type(key) is str and self._secret is None and _PLAIN.fullmatch(key):
            subject = key.encode()
        else:
            subject = self._subject(key, "key")
        if tag is None:
            return self._before + subject + self._after, subject
        shared = self._subject(tag, "tag")
        return self._before + shared + b"}:" + subject + self._after_tagged, shared

    def share(self, key: Key, shares: int) -> int:
        """Assign the subject to one of ``shares`` equal shares, from 0: the same one at each call.

        Each limiter divides the subjects in its own way. With a secret, no client can predict the share
        of a subject.

        Raises:
            InvalidKey: ``key`` is of a wrong type, empty, or not UTF-8.

        """
        _, _, encoded = _read(key, "key")
        digest = blake2b(self._name + b" " + encoded, digest_size=8, key=self._secret or b"")
        return int.from_bytes(digest.digest(), "big") % shares

    def _subject(self, key: Key, what: str) -> bytes:
        """Return the subject as text if no other key has that text, else ``~`` and a digest."""
        text, readable, encoded = _read(key, what)
        if readable and self._secret is None:
            return text
        digest = blake2b(encoded, digest_size=16, key=self._secret or b"")
        return b"~" + digest.hexdigest().encode()


def _read(key: Key, what: str) -> tuple[bytes, bool, bytes]:
    """Return a key as text, whether a Redis key may contain it, and an encoding that no other key has."""
    if not isinstance(key, tuple):
        text = _part(key, what)
        return text, _PLAIN_BYTES.fullmatch(text) is not None, b"s" + text
    if not key:
        raise InvalidKey.of(what, "()", _ACCEPTED)
    parts = [_part(part, what) for part in key]
    text = b",".join(parts) if len(parts) > 1 else parts[0] + b","
    readable = len(text) <= _LONGEST_PLAIN and all(map(_PLAIN_PART.fullmatch, parts))
    # Each part follows its length, so no two tuples have the same encoding.
    return text, readable, b"t" + b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _part(part: object, what: str) -> bytes:
    """Return the bytes of a key that is no tuple, or of one part of a tuple."""
    if isinstance(part, str):
        try:
            raw = part.encode()
        except UnicodeEncodeError:
            raise InvalidKey.of(
                what, repr(part), "it holds a lone surrogate; expected UTF-8"
            ) from None
    elif isinstance(part, bytes):
        raw = part
    elif isinstance(part, int) and not isinstance(part, bool):
        try:
            raw = b"%d" % part
        except ValueError:
            raise InvalidKey(f"{what} is an int of more digits than Python prints") from None
    else:
        raise InvalidKey.of(what, f"{part!r} ({type(part).__name__})", _ACCEPTED)
    if not raw:
        raise InvalidKey.of(what, repr(part), _ACCEPTED)
    return raw


def _digest_key(secret: str | bytes | None) -> bytes | None:
    if secret is None:
        return None
    if not isinstance(secret, (str, bytes)) or not secret:
        # The message does not show the value: even a wrong secret is one.
        raise InvalidSetting(
            f"key_secret is an unusable {type(secret).__name__}: expected a str or bytes, not empty"
        )
    # Python decodes a wrong byte of the environment to a lone surrogate; this restores the byte.
    try:
        raw = secret.encode(errors="surrogateescape") if isinstance(secret, str) else secret
    except UnicodeEncodeError:
        raise InvalidSetting("key_secret holds a lone surrogate: expected UTF-8") from None
    # BLAKE2b takes at most 64 bytes as its key.
    return raw if len(raw) <= 64 else blake2b(raw).digest()
