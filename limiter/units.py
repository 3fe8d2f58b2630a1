"""Periods: what a policy's ``per`` may be, in microseconds."""

from __future__ import annotations

import re
from datetime import timedelta

from limiter.errors import InvalidPolicy, shown

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US

SHORTEST_US = MILLISECOND_US
LONGEST_US = 366 * DAY_US

#: The types of a period.
Period = int | float | str | timedelta

_UNITS_US = {
    "ms": MILLISECOND_US,
    "s": SECOND_US,
    "sec": SECOND_US,
    "second": SECOND_US,
    "m": 60 * SECOND_US,
    "min": 60 * SECOND_US,
    "minute": 60 * SECOND_US,
    "h": 3_600 * SECOND_US,
    "hour": 3_600 * SECOND_US,
    "d": DAY_US,
    "day": DAY_US,
    "w": 7 * DAY_US,
    "week": 7 * DAY_US,
    "month": 30 * DAY_US,
    "year": 365 * DAY_US,
}
UNIT_NAMES = " ".join(_UNITS_US)

#: A unit as it is written in a limit string or a period; a plural s is optional.
UNIT_PATTERN = "|".join(sorted((f"{unit}s?" for unit in _UNITS_US), key=len, reverse=True))
_PERIOD = re.compile(rf"\s*(?:([0-9_]+)\s*)?({UNIT_PATTERN})\s*", re.IGNORECASE)

_ACCEPTED = (
    "expected seconds (int or float), a timedelta, or a string like 'minute', '30s', '5 minutes', "
    "from 1 millisecond to 366 days"
)


def unit_us(name: str) -> int:
    """Microseconds of the unit ``name``, which matches ``UNIT_PATTERN``."""
    name = name.lower()
    return _UNITS_US[name] if name in _UNITS_US else _UNITS_US[name.removesuffix("s")]


def period_us(per: Period) -> int:
    """Whole microseconds of ``per``.

    Raises:
        InvalidPolicy: It is not a duration, shorter than 1 ms, or longer than 366 days.

    """
    us: float | None = None
    if isinstance(per, str):
        match = _PERIOD.fullmatch(per)
        if match and per.isascii():
            count = _whole(match[1]) if match[1] else 1
            us = None if count is None else count * unit_us(match[2])
    elif isinstance(per, timedelta):
        us = per // timedelta(microseconds=1)
    elif isinstance(per, (int, float)) and not isinstance(per, bool):
        us = per * SECOND_US
    # The comparison is false for NaN and infinity.
    if us is None or not SHORTEST_US <= us <= LONGEST_US:
        raise InvalidPolicy.of("per", shown(per), _ACCEPTED)
    return round(us)


def _whole(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        return None


def seconds(us: int) -> int | float:
    """Microseconds as seconds, an int where they are whole."""
    return us // SECOND_US if us % SECOND_US == 0 else us / SECOND_US
