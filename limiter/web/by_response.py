"""The true cost of a request, as its response shows it: by the status, or by a header field.

This module calls no store: ``settling`` charges and refunds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from limiter.errors import InvalidSetting, shown
from limiter.log_throttle import log_seldom
from limiter.policies import Policy
from limiter.web.subjects import HEADER

log = logging.getLogger("limiter.web")

#: Returns the true cost of a request from its response: 0 for nothing, None if the charge stays.
ByResponse = Callable[[Any], int | None]

#: Digits read of a cost; a longer number exceeds every limit.
_MOST_DIGITS = 18
_CLASS = re.compile(r"[1-5]xx", re.IGNORECASE)
_STATUS = re.compile(r"[1-5][0-9][0-9]")
#: What ``statuses`` accepts, for a message.
STATUS = "expected a status or a class of statuses, as in '401' or '2xx'"


class Head(NamedTuple):
    """The status and the header fields of a response."""

    status: int
    fields: Iterable[tuple[str, str]] | Iterable[tuple[bytes, bytes]] = ()

    def values(self, name: str) -> list[str]:
        """Return every value of a field; ``name`` is in lower case."""
        return [_text(value) for field, value in self.fields if _text(field).lower() == name]


#: The head of the response that the server sends if the application fails before it has answered.
FAILED = Head(500)


class StatusOrField:
    """The true cost by ``refund_unless`` and ``true_cost``.

    A response whose status is not in ``charged`` costs nothing; None: the status does not matter. Of any
    other response, the number in the header field ``field`` is the cost. The charge stays if there is no
    such field, or no whole number in it. Of several numbers, the largest is the cost.
    """

    def __init__(self, charged: frozenset[int] | None, field: str | None) -> None:
        self._charged = charged
        self._field = None if field is None else field.lower()

    def __call__(self, head: Head) -> int | None:
        """Return the true cost."""
        if self._charged is not None and head.status not in self._charged:
            return 0
        values = [] if self._field is None else head.values(self._field)
        if not values:
            return None
        cost = largest_number(",".join(values))
        if cost is None:
            text = "a response has no whole number in its field %s: its request stays charged as it was"
            log_seldom(log, logging.WARNING, text, self._field, kind=self._field)
        return cost


def largest_number(text: str) -> int | None:
    """Return the largest of the whole numbers in a header field; None if it has anything else."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    return max(int(number.lstrip("0")[:_MOST_DIGITS] or 0) for number in numbers)


def of_arguments(
    policies: Sequence[Policy], refund_unless: object, true_cost: object
) -> StatusOrField | None:
    """Return the true cost by the arguments of a middleware; None if both are None.

    Raises:
        InvalidSetting: An argument is wrong, or has no effect on these policies.

    """
    if refund_unless is None and true_cost is None:
        return None
    charged = None if refund_unless is None else _listed(refund_unless)
    field = None if true_cost is None else _field(true_cost)
    check_rates("true_cost" if charged is None else "refund_unless", policies)
    return StatusOrField(charged, field)


def check_rates(setting: str, policies: Sequence[Policy]) -> None:
    """Check that a policy counts units, since leases are released at the end of every response.

    Raises:
        InvalidSetting: All policies count leases.

    """
    if all(policy.leases for policy in policies):
        raise InvalidSetting(
            f"{setting} has no effect on {policies[0]!r}, whose leases are released: expected a limit "
            f"that counts units"
        )


def statuses(value: object) -> frozenset[int]:
    """Return the statuses that a status, or a class of them, names; none if the value is neither."""
    if isinstance(value, str) and _CLASS.fullmatch(value):
        first = int(value[0]) * 100
        return frozenset(range(first, first + 100))
    if (
        isinstance(value, (int, str))
        and not isinstance(value, bool)
        and _STATUS.fullmatch(str(value))
    ):
        return frozenset([int(value)])
    return frozenset()


def _listed(value: object) -> frozenset[int]:
    """Return the statuses that a list names."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        named = [statuses(each) for each in value]
        if named and all(named):
            return frozenset().union(*named)
    expected = "expected a list of statuses, as in ['2xx', '401']"
    raise InvalidSetting.of("refund_unless", shown(value), expected)


def _field(value: object) -> str:
    kind, _, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind != "header" or not HEADER.fullmatch(name):
        expected = "expected a field of the response, as in 'header:X-Tokens-Used'"
        raise InvalidSetting.of("true_cost", shown(value), expected)
    return name


def _text(part: str | bytes) -> str:
    return part if isinstance(part, str) else bytes(part).decode("latin-1")
