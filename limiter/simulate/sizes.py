"""The bytes that MEMORY USAGE reports for the keys of a limiter, as Redis 8.0 with jemalloc allocates them.

Other servers, versions and allocators differ by some bytes for each key. The index of expiries is not in
these numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

#: A key's entry in the table of keys, and the object of its value.
_ENTRY = 24 + 16
#: The begin and the end of a listpack.
_LISTPACK = 7
#: An entry of a list: a time as an integer of 8 bytes.
_TIME = 10
#: A list of more bytes consists of listpacks of at most this size, under nodes.
_LONGEST_LISTPACK = 8_192
_QUICKLIST, _NODE = 48, 32
_TIMES_IN_NODE = (_LONGEST_LISTPACK - _LISTPACK) // _TIME


@cache
def key_bytes(name_length: int) -> int:
    """Return the bytes of a key with a name of this length, without its value."""
    header = 2 if name_length < 32 else 4
    return _ENTRY + allocated(name_length + header)


def hash_bytes(fields: Mapping[str, bytes]) -> int:
    """Return the bytes of a hash."""
    texts = 0
    for name, value in fields.items():
        texts += _text_bytes(len(name)) + _text_bytes(len(value))
    return allocated(_LISTPACK + texts)


@cache
def _text_bytes(length: int) -> int:
    """Return the bytes of a text in a listpack: with a header, and its own length behind it."""
    return length + (2 if length < 64 else 3)


@cache
def list_bytes(times: int) -> int:
    """Return the bytes of a list of times."""
    if times <= _TIMES_IN_NODE:
        return allocated(_LISTPACK + times * _TIME)
    full, rest = divmod(times, _TIMES_IN_NODE)
    nodes = full * (_NODE + allocated(_LONGEST_LISTPACK))
    return _QUICKLIST + nodes + (_NODE + allocated(_LISTPACK + rest * _TIME) if rest else 0)


@cache
def allocated(size: int) -> int:
    """Return the bytes that jemalloc allocates for a size: four classes for each doubling."""
    step = 16 if size <= 128 else 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step
