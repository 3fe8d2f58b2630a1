"""Read the times of log lines; those of one second are parsed once."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_MONTHS = {
    name: number
    for number, name in enumerate(
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1
    )
}
_COMMON = re.compile(
    r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d):?(\d\d)", re.ASCII
)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s*(Z|[+-]\d\d:?\d\d)?",
    re.ASCII | re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)
#: The largest number that counts as seconds, as milliseconds, and so on; and the unit in microseconds.
_SCALES = ((10**11, 10**6), (10**14, 10**3), (10**17, 1))
_NANOSECONDS = 1_000
#: Times that are remembered; a log has few in one second.
_MOST_KNOWN = 1_024


def _since_epoch(moment: datetime) -> int:
    return (moment - _EPOCH) // _US


class CommonTimes(dict[str, int]):
    """Microseconds of times as in ``10/Oct/2000:13:55:36 -0700``, by their text."""

    def __missing__(self, text: str) -> int:
        match = _COMMON.fullmatch(text)
        if match is None:
            raise ValueError(f"the time is {text!r}")
        try:
            time_us = _since_epoch(_moment(*match.groups()))
        except (ValueError, OverflowError):  # as in 31/Feb, or a zone of more than a day
            raise ValueError(f"the time is {text!r}") from None
        if len(self) >= _MOST_KNOWN:
            self.clear()
        self[text] = time_us
        return time_us


def _moment(day: str, month: str, year: str, *clock: str) -> datetime:
    hour, minute, second, sign, hours, minutes = clock
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    return datetime(
        int(year),
        _MONTHS.get(month, 0),
        int(day),
        int(hour),
        int(minute),
        min(int(second), 59),  # a leap second
        tzinfo=timezone(offset),
    )


class IsoTimes:
    """Reads times as in ``2026-01-31T13:55:36.123456Z``, and numbers since 1970."""

    def __init__(self) -> None:
        #: By the text without a fraction.
        self._known: dict[tuple[str, str], int] = {}

    def read(self, value: object) -> int:
        """Return microseconds since 1970; a text without a zone is UTC.

        Numbers are seconds; larger ones, that would lie beyond the year 5000, are milliseconds,
        microseconds or nanoseconds.

        Raises:
            ValueError: It is no time.

        """
        if type(value) is str:
            head, tail = value[:19], value[19:]
            zone = tail.lstrip(".,0123456789")
            known = self._known.get((head, zone))
            if known is None:
                return self._read(value)
            fraction = tail[1 : len(tail) - len(zone)]
            return known + int(f"{fraction:0<6.6}") if fraction else known
        return _of_number(value)

    def _read(self, text: str) -> int:
        match = _ISO.fullmatch(text.strip())
        if match is None:
            try:
                return _of_number(float(text))
            except ValueError:
                raise ValueError(f"the time is {text[:64]!r}") from None
        day, clock, fraction, zone = match.groups()
        offset = "+00:00" if zone in (None, "Z", "z") else zone
        offset = offset if ":" in offset else f"{offset[:3]}:{offset[3:]}"
        clock = clock.replace(":60", ":59") if clock.endswith(":60") else clock
        second_us = _since_epoch(datetime.fromisoformat(f"{day}T{clock}{offset}"))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        if match.start() == 0 and text[19:].startswith((".", ",", zone or "")):
            self._known[text[:19], text[19:].lstrip(".,0123456789")] = second_us
        return second_us + int(f"{fraction or '':0<6.6}")


def _of_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 10**20:
        raise ValueError(f"the time is {str(value)[:64]!r}")
    for most, scale in _SCALES:
        if value < most:
            return round(value * scale)
    return int(value // _NANOSECONDS)
