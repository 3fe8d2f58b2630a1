"""The formats of access logs: each reads a line, and returns an entry.

A reader returns only those header fields that the policies need, since most lines have many more.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from limiter.simulate.entry import NO_FIELDS, Entry, make_entry
from limiter.simulate.times import CommonTimes, IsoTimes

#: Reads a line; it raises ``Unreadable`` if the line is no entry.
Reader = Callable[[str], Entry]


class Unreadable(ValueError):
    """A line is no entry of its log; the message says why."""


class Numbered:
    """Requests that their proxy numbers: gaps show that lines are missing, by sampling or a filter.

    Attributes:
        lines: The requests with a number.
        numbers: The numbers that the proxy gave away meanwhile.

    """

    def __init__(self) -> None:
        self.lines = self.numbers = 0
        self._least = self._most = 0

    def add(self, number: int) -> None:
        """Count a request; the numbers begin again if the proxy was restarted."""
        self.lines += 1
        if 2 * number < self._most:
            self._most = 0
        if not self._most:
            self._least = self._most = number
            self.numbers += 1
            return
        if number > self._most:
            self.numbers += number - self._most
            self._most = number
        elif number < self._least:
            self.numbers += self._least - number
            self._least = number


#: The usual line of nginx or Apache, common or combined, if no backslash is in it. Sets of one character
#: are the fastest.
_USUAL = re.compile(
    r'([^ ]+) [^ ]+ [^ ]+ \[([^\]]+)\] "([A-Z]+) ([^ "]+) [^" ]*" (\d{3}) [^ ]+'
    r'(?: "([^"]*)" "([^"]*)"(?: "([^"]*)")?)?',
    re.ASCII,
)
#: The same with a virtual host before it, escapes, blanks in the user's name, or no version of HTTP.
_UNUSUAL = re.compile(
    r"(?:(\S+) (?=[0-9A-Fa-f]*[.:][0-9A-Fa-f.:]* ))?(\S+) \S+ [^\[]*"
    r"\[([^\]]+)\] "
    r'"([!-~]+) ((?:[^"\\ ]|\\.)+)(?: [A-Z]+/[0-9.]+)?" (\d{3}) \S+'
    r'(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"(?: "([^"\\]*)")?)?',
    re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))")

#: What proxies write in the place of a value that they do not have, or hide.
_NO_VALUES = (None, "-", "", "REDACTED")
#: The header fields at the end of a combined line, in their order.
_COMBINED_FIELDS = ("referer", "user-agent", "x-forwarded-for")


def combined(needed: Collection[str]) -> Reader:
    """Lines of nginx, Apache and Traefik: the common and the combined format.

    A virtual host may come first. Behind the user agent, X-Forwarded-For may follow in quotes, as in the
    format "main" of nginx's own configuration; Traefik's fields there are not read.
    """
    times = CommonTimes()
    usual = _USUAL.match
    places = [(name, place) for place, name in enumerate(_COMBINED_FIELDS) if name in needed]

    def read(line: str) -> Entry:
        match = None if "\\" in line else usual(line)
        if match is None:
            return _read_unusual(line, times, places)
        address, time, method, target, status, *values = match.groups()
        headers = NO_FIELDS
        for name, place in places:
            if values[place] not in _NO_VALUES:
                headers = {**headers, name: values[place]}
        if not target.isascii():
            target = _raw(target)
        return make_entry((times[time], method, "", target, address, headers, int(status)))

    return read


def _read_unusual(line: str, times: CommonTimes, places: Sequence[tuple[str, int]]) -> Entry:
    match = _UNUSUAL.match(line)
    if match is None:
        raise Unreadable("it is no line of the common or combined format")
    host, address, time, method, target, status, *values = match.groups("")
    headers = _fields([(name, _unescaped(values[place])) for name, place in places])
    target = _unescaped(_raw(target))
    return Entry(times[time], method, host, target, address, headers, int(status))


def _unescaped(text: str) -> str:
    r"""Undo the escapes of nginx and Apache: ``\xHH`` is a byte, and ``\"`` a quote."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: match[2] or chr(int(match[1], 16)), text)


def _fields(pairs: Sequence[tuple[str, str | None]]) -> Mapping[str, str]:
    return {name: value for name, value in pairs if value is not None and value not in _NO_VALUES}


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        raise Unreadable("it is no JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("it is no JSON object")
    return value


def traefik(needed: Collection[str], numbered: Numbered | None = None) -> Reader:
    """JSON of Traefik. Header fields are in it if ``accessLog.fields.headers`` keeps them."""
    times = IsoTimes()
    wanted = [(name, f"request_{_canonical(name)}") for name in needed]

    def read(line: str) -> Entry:
        value = _object(line)
        get = value.get
        host, client = _text(get("ClientHost")), _text(get("ClientAddr"))
        headers: dict[str, str] = {}
        for name, key in wanted:
            field = get(key)
            if field not in _NO_VALUES:
                headers[name] = str(field)
        peer = _without_port(client) or host
        if host and host != peer.strip("[]"):
            # Traefik writes X-Forwarded-For here, if the request has one.
            headers.setdefault("x-forwarded-for", host)
        if "content-length" in needed and "RequestContentSize" in value:
            headers.setdefault("content-length", str(get("RequestContentSize")))
        if numbered is not None:
            numbered.add(int(get("RequestCount") or 0))
        return Entry(
            times.read(get("StartUTC") or get("time")),
            _text(value["RequestMethod"]),
            _text(get("RequestHost")),
            _raw(_text(value["RequestPath"])),
            peer,
            headers,
            int(get("DownstreamStatus") or 0),
        )

    return read


def caddy(needed: Collection[str]) -> Reader:
    """JSON of Caddy. It hides the values of Cookie and Authorization, unless ``log_credentials`` is set."""
    times = IsoTimes()
    wanted = [(name, _canonical(name)) for name in needed]

    def read(line: str) -> Entry:
        value = _object(line)
        request = value["request"]
        fields = request.get("headers") or {}
        headers = {}
        for name, key in wanted:
            values = fields.get(key)
            if values and values[0] not in _NO_VALUES:
                headers[name] = ("; " if name == "cookie" else ", ").join(values)
        if "content-length" in needed and "bytes_read" in value:
            headers.setdefault("content-length", str(value["bytes_read"]))
        ended_us, lasted = times.read(value["ts"]), value.get("duration")
        # A duration may also be written as a text or in other units, by a setting.
        lasted_us = round(lasted * 1e6) if isinstance(lasted, float) else 0
        return Entry(
            ended_us - lasted_us,
            _text(request["method"]),
            _text(request.get("host")),
            _raw(_text(request["uri"])),
            _text(request.get("remote_ip") or request.get("remote_addr")),
            headers,
            int(value.get("status") or 0),
        )

    return read


def envoy(needed: Collection[str]) -> Reader:
    """JSON of Envoy, with the keys of Istio's log; other header fields under their names."""
    times = IsoTimes()
    wanted = [(name, name.replace("-", "_")) for name in needed]

    def read(line: str) -> Entry:
        value = _object(line)
        get = value.get
        headers = {}
        for name, key in wanted:
            field = get(key, get(name))
            if field not in _NO_VALUES:
                headers[name] = str(field)
        if "content-length" in needed and "bytes_received" in value:
            headers.setdefault("content-length", str(get("bytes_received")))
        return Entry(
            times.read(value["start_time"]),
            _text(value["method"]),
            _text(get("authority")),
            _raw(_text(get("path"))),
            _without_port(_text(get("downstream_remote_address"))),
            headers,
            int(get("response_code") or 0),
        )

    return read


def json_lines(needed: Collection[str]) -> Reader:
    """JSON objects with the keys time, method, host, path, address, headers and status."""
    times = IsoTimes()

    def read(line: str) -> Entry:
        value = _object(line)
        get = value.get
        headers: Mapping[str, str] = NO_FIELDS
        fields = get("headers")
        if fields and needed:
            headers = {
                name.lower(): text
                for name, text in fields.items()
                if name.lower() in needed and isinstance(text, str) and text
            }
        return Entry(
            times.read(value["time"]),
            _text(get("method")) or "GET",
            _text(get("host")),
            _raw(_text(get("path"))),
            _text(get("address")),
            headers,
            int(get("status") or 0),
        )

    return read


#: The columns of CSV that are no header fields.
_COLUMNS = ("time", "method", "host", "path", "address", "status")


def columns(names: Sequence[str], needed: Collection[str]) -> Reader:
    """CSV with named columns: time, method, host, path, address, status; others are header fields."""
    times = IsoTimes()
    names = [name.strip().lower() for name in names]
    places = {name: names.index(name) for name in _COLUMNS if name in names}
    if "time" not in places:
        raise Unreadable("its first line names no column time")
    wanted = [
        (field, place)
        for place, name in enumerate(names)
        if name not in _COLUMNS and (field := name.replace("_", "-")) in needed
    ]
    time, method, host, path, address, status = (places.get(name, len(names)) for name in _COLUMNS)

    def read(line: str) -> Entry:
        values = next(csv.reader((line,)))
        if len(values) != len(names):
            raise Unreadable(f"it has {len(values)} columns, and the first line has {len(names)}")
        values.append("")
        return Entry(
            times.read(values[time]),
            values[method] or "GET",
            values[host],
            _raw(values[path] or "/"),
            values[address],
            _fields([(name, values[place]) for name, place in wanted]) if wanted else NO_FIELDS,
            int(values[status] or 0),
        )

    return read


def _canonical(name: str) -> str:
    """Write the name of a header field as Go's programs do."""
    return "-".join(word.capitalize() for word in name.split("-"))


def _text(value: object) -> str:
    return value if type(value) is str else "" if value in _NO_VALUES else str(value)


def _without_port(address: str) -> str:
    """Return an address without its port, which differs from connection to connection."""
    if address.startswith("[") or address.count(":") == 1:
        return address.rpartition(":")[0] if not address.endswith("]") else address
    return address


def _raw(target: str) -> str:
    """Write a target as requests have it: a character for each byte of UTF-8."""
    if target.isascii():
        return target or "/"
    return target.encode("utf-8", "surrogateescape").decode("latin-1")


#: The formats that need no first line, by the name of the option ``--format``.
FORMATS: dict[str, Callable[[Collection[str]], Reader]] = {
    "combined": combined,
    "traefik": traefik,
    "envoy": envoy,
    "caddy": caddy,
    "json": json_lines,
}
CSV = "csv"


def recognised(line: str) -> str | None:
    """Return the name of the format of a line; None if it is none of them."""
    if line.startswith("{"):
        try:
            value = _object(line)
        except Unreadable:
            return None
        if "RequestMethod" in value:
            return "traefik"
        if isinstance(value.get("request"), dict):
            return "caddy"
        if "start_time" in value:
            return "envoy"
        return "json" if "time" in value else None
    if _USUAL.match(line) or _UNUSUAL.match(line):
        return "combined"
    names = [name.strip().lower() for name in line.split(",")]
    return CSV if "time" in names and len(names) > 1 else None
