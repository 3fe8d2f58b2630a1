"""The costs of requests in a policy file; at least 1."""

from __future__ import annotations

import re
from collections.abc import Sequence

from limiter.errors import InvalidSetting, shown
from limiter.web.by_response import largest_number
from limiter.web.identity import Network
from limiter.web.request import Request
from limiter.web.rules import Cost
from limiter.web.trusted_field import TrustedField

_SIZE = re.compile(r"([0-9]{1,15})\s*(B|KB|MB|GB|KiB|MiB|GiB)?", re.IGNORECASE)
_UNITS = {"b": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30}
#: Names of sizes, the largest first.
_NAMES = {
    2**30: "GiB",
    10**9: "GB",
    2**20: "MiB",
    10**6: "MB",
    2**10: "KiB",
    10**3: "KB",
    1: "bytes",
}


class ByHeader(TrustedField):
    """The number in a header field, if the peer is a trusted proxy or service; else 1.

    If there are several, the largest: a client may send one beside the proxy's. None if one of them is
    not a whole number: then the cost is unknown.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, f"costs by {name.lower()} count as 1")

    def __call__(self, request: Request, trusted: Sequence[Network]) -> int | None:
        """The cost of a request."""
        text = self.value(request, trusted)
        if text is None:
            return 1
        return largest_number(text)


def by_body(size: int) -> Cost:
    """One unit for each ``size`` bytes of the body, rounded up; None if its length is unknown."""

    def cost(request: Request, trusted: Sequence[Network]) -> int | None:  # noqa: ARG001 (the signature of a Cost)
        return None if request.size is None else -(-request.size // size)

    return cost


def unit_of(cost: object) -> str:
    """Return what a limit with this cost counts, in the plural; ``cost`` is as in the file, and valid."""
    if cost == 1:
        return "requests"
    if not (isinstance(cost, dict) and "body" in cost):
        return "units"
    size = size_of(cost["body"])
    largest, name = next((each, name) for each, name in _NAMES.items() if size % each == 0)
    return name if size == largest else f"units of {size // largest:,} {name}"


def size_of(value: object) -> int:
    """Bytes, from an int or a text like ``1KiB``.

    Raises:
        InvalidSetting: It is neither, or less than 1.

    """
    size = None
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        unit = (match[2] or "b").lower()
        size = int(match[1]) * (_BINARY.get(unit[:2]) or _UNITS[unit[0]])
    elif isinstance(value, int) and not isinstance(value, bool):
        size = value
    if size is None or not 1 <= size <= 2**50:
        raise InvalidSetting.of(
            "value",
            shown(value),
            "expected bytes from 1, as a whole number or as in 512, 1KiB, 64KB",
        )
    return size
