"""Numbers and times as text, for the reports of a simulation."""

from __future__ import annotations

from datetime import datetime, timezone

from limiter import units


def duration(us: int) -> str:
    """Write a time in the largest unit of which it is a whole number: ``90 seconds``, ``minute``."""
    for name, length_us in (
        ("day", units.DAY_US),
        ("hour", 3_600 * units.SECOND_US),
        ("minute", 60 * units.SECOND_US),
        ("second", units.SECOND_US),
    ):
        if us % length_us == 0:
            count = us // length_us
            return name if count == 1 else f"{count:,} {name}s"
    return f"{us / units.MILLISECOND_US:g} ms"


def a(period: str) -> str:
    """Write one of what ``duration`` wrote: ``a minute``, ``an hour``, ``90 seconds``."""
    if period[0].isdigit():
        return period
    return f"an {period}" if period == "hour" else f"a {period}"


def part(count: int, whole: int) -> str:
    """Write a number, and its share of the whole."""
    return f"{count:,} ({count / whole:.2%})" if count else "0"


def moment(time_us: int) -> str:
    """Write a time in UTC, to the second."""
    time = datetime.fromtimestamp(time_us // units.SECOND_US, timezone.utc)
    return f"{time:%Y-%m-%d %H:%M:%S}"


def size(count: int) -> str:
    """Write a number of bytes, rounded up."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1_000 or unit == "GB":
            break
        count = -(-count // 1_000)
    return f"about {count:,} {unit}"
