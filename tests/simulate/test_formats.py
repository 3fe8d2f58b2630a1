"""Lines of access logs, as documents and users write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limiter.simulate.entry import Entry
from limiter.simulate.formats import FORMATS, Numbered, columns, recognised, traefik
from limiter.simulate.logs import _WRONG
from limiter.simulate.times import CommonTimes, IsoTimes

#: 10 October 2000, 20:55:36 UTC.
AT_US = 971_211_336_000_000
REQUEST = '"GET /apache_pb.gif?a=b HTTP/1.0" 200 2326'
NEEDED = ("x-api-key", "user-agent", "referer", "cookie", "content-length", "x-forwarded-for")


def entry(**changes: Any) -> Entry:
    """The entry of a usual line."""
    usual = Entry(AT_US, "GET", "", "/apache_pb.gif?a=b", "192.0.2.7", {}, 200)
    return usual._replace(**changes)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] {REQUEST}", entry()),
        (f"192.0.2.7 - frank [10/Oct/2000:22:55:36 +0200] {REQUEST}\n", entry()),
        (f"192.0.2.7 - two words [10/Oct/2000:20:55:36 +0000] {REQUEST}\n", entry()),
        (f"2001:db8::7 - - [10/Oct/2000:13:55:36 -0700] {REQUEST}", entry(address="2001:db8::7")),
        (
            f"shop.example.com:443 192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] {REQUEST}",
            entry(host="shop.example.com:443"),
        ),
        (
            f'192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] {REQUEST} "https://a/" "Mozilla (X11)"',
            entry(headers={"referer": "https://a/", "user-agent": "Mozilla (X11)"}),
        ),
        (
            f'192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] {REQUEST} "-" "-" "203.0.113.9, 10.0.0.1"',
            entry(headers={"x-forwarded-for": "203.0.113.9, 10.0.0.1"}),
        ),
        (
            f'192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] {REQUEST} "-" "a \\"b\\" \\x5C" 0.002 x',
            entry(headers={"user-agent": 'a "b" \\'}),
        ),
        (
            '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET /\\xC3\\xA9\\"x HTTP/2.0" 200 5',
            entry(target='/\xc3\xa9"x'),
        ),
        ('192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET /" 200 -', entry(target="/")),
        (
            '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET /\u00e9 HTTP/2.0" 200 5',
            entry(target="/\xc3\xa9"),
        ),
    ],
)
def test_common_and_combined(line: str, expected: Entry) -> None:
    """As in Apache's and nginx's documentation, with what users add."""
    assert recognised(line) == "combined"
    assert FORMATS["combined"](NEEDED)(line) == expected
    assert FORMATS["combined"](())(line)[:5] == expected[:5]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "garbage",
        '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "\\x16\\x03\\x01" 400 157 "-" "-"',
        '192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "-" 408 0 "-" "-"',
        f"192.0.2.7 - - [10/Foo/2000:13:55:36 -0700] {REQUEST}",
        f"192.0.2.7 - - [31/Feb/2000:13:55:36 -0700] {REQUEST}",
        f"192.0.2.7 - - [2000-10-10 13:55:36] {REQUEST}",
    ],
)
def test_other_lines_are_no_entries(line: str) -> None:
    """Bytes of TLS, closed connections, times that are none: a reader raises an expected error."""
    with pytest.raises(_WRONG):
        FORMATS["combined"](())(line)


TRAEFIK = {
    "ClientAddr": "192.0.2.7:4242",
    "ClientHost": "192.0.2.7",
    "DownstreamStatus": 200,
    "RequestContentSize": 7,
    "RequestCount": 3,
    "RequestHost": "shop.example.com",
    "RequestMethod": "GET",
    "RequestPath": "/apache_pb.gif?a=b",
    "StartUTC": "2000-10-10T20:55:36.000000Z",
    "request_X-Api-Key": "key-1",
    "request_Cookie": "REDACTED",
    "time": "2000-10-10T20:55:37Z",
}
CADDY = {
    "level": "info",
    "ts": 971_211_336.25,
    "request": {
        "remote_ip": "192.0.2.7",
        "method": "GET",
        "host": "shop.example.com",
        "uri": "/apache_pb.gif?a=b",
        "headers": {"X-Api-Key": ["key-1"], "Cookie": ["REDACTED"]},
    },
    "bytes_read": 7,
    "duration": 0.25,
    "status": 200,
}
ENVOY = {
    "start_time": "2000-10-10T20:55:36.000Z",
    "method": "GET",
    "path": "/apache_pb.gif?a=b",
    "authority": "shop.example.com",
    "response_code": 200,
    "bytes_received": "7",
    "downstream_remote_address": "192.0.2.7:4242",
    "x_api_key": "key-1",
    "cookie": None,
    "user_agent": "-",
}
OURS = {
    "time": AT_US / 1e6,
    "method": "GET",
    "host": "shop.example.com",
    "path": "/apache_pb.gif?a=b",
    "address": "192.0.2.7",
    "headers": {"X-Api-Key": "key-1", "Content-Length": "7", "Other": "x"},
    "status": 200,
}
JSON = {"traefik": TRAEFIK, "caddy": CADDY, "envoy": ENVOY, "json": OURS}


@pytest.mark.parametrize("name", JSON)
def test_json(name: str) -> None:
    """Hidden and missing values are no values."""
    line = json.dumps(JSON[name])
    headers = {"x-api-key": "key-1", "content-length": "7"}
    assert recognised(line) == name
    assert FORMATS[name](NEEDED)(line) == entry(host="shop.example.com", headers=headers)
    bare = FORMATS[name](())(line)
    assert bare == entry(host="shop.example.com", headers={})


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize(
    "line", ["{}", "[]", "1", "{", '{"time": {}}', '{"request": []}', "[" * 9_999]
)
def test_other_json_is_no_entry(name: str, line: str) -> None:
    """Other objects, other types, no JSON, and too deep JSON."""
    with pytest.raises(_WRONG):
        FORMATS[name](NEEDED)(line)


@pytest.mark.parametrize("name", ["traefik", "envoy"])
def test_a_forwarded_address_is_a_field(name: str) -> None:
    """Traefik writes it in the place of the client's host, Envoy in a field of its own."""
    changes = {
        "traefik": {"ClientHost": "203.0.113.9"},
        "envoy": {"x_forwarded_for": "203.0.113.9"},
    }
    line = json.dumps({**JSON[name], **changes[name]})
    read = FORMATS[name](("x-forwarded-for",))(line)
    assert (read.address, dict(read.headers)) == ("192.0.2.7", {"x-forwarded-for": "203.0.113.9"})


def test_characters_of_json_become_bytes() -> None:
    """As in a request line: rules decode them."""
    read = FORMATS["json"](())(json.dumps({"time": 1, "path": "/caf\u00e9"}))
    assert read == Entry(1_000_000, "GET", "", "/caf\xc3\xa9", "")


def test_csv_has_named_columns() -> None:
    """In any order; what is no column of an entry is a header field."""
    names = ["status", "X_Api_Key", "time", "address", "path", "other"]
    assert recognised(",".join(names)) == "csv"
    read = columns(names, NEEDED)
    expected = Entry(AT_US, "GET", "", "/a,b?c", "192.0.2.7", {"x-api-key": "key-1"}, 404)
    assert read('404,key-1,2000-10-10T20:55:36Z,192.0.2.7,"/a,b?c",x') == expected
    assert read("404,-,2000-10-10T20:55:36Z,192.0.2.7,,x") == expected._replace(
        target="/", headers={}
    )
    for line in ("404,key-1", "x,key-1,2000-10-10T20:55:36Z,192.0.2.7,/,x"):
        with pytest.raises(_WRONG):
            read(line)
    with pytest.raises(ValueError, match="names no column time"):
        columns(["address", "path"], ())


@pytest.mark.parametrize("line", ["", "garbage", "a,b,c", '{"a": 1}', "{", "time"])
def test_other_lines_have_no_format(line: str) -> None:
    """Nothing is guessed."""
    assert recognised(line) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2000-10-10T20:55:36Z", AT_US),
        ("2000-10-10T22:55:36.1+02:00", AT_US + 100_000),
        ("2000-10-10T22:55:36.123456789+0200", AT_US + 123_456),
        ("2000-10-10 20:55:36,5", AT_US + 500_000),
        ("2000-10-10T20:55:60Z", AT_US + 23_000_000),
        ("971211336.25", AT_US + 250_000),
        (971_211_336, AT_US),
        (971_211_336.000_001, AT_US + 1),
        (971_211_336_250, AT_US + 250_000),
        (971_211_336_250_000, AT_US + 250_000),
        (971_211_336_250_000_999, AT_US + 250_000),
    ],
)
def test_times(value: object, expected: int) -> None:
    """Also when a time of the same second was read before."""
    times = IsoTimes()
    assert times.read(value) == times.read(value) == expected


@pytest.mark.parametrize(
    "value", ["", "noon", "2000-13-10T20:55:36Z", None, True, -1, float("nan"), float("inf"), [1]]
)
def test_other_values_are_no_times(value: object) -> None:
    """Nothing is guessed."""
    with pytest.raises(_WRONG):
        IsoTimes().read(value)


def test_many_times_are_read_and_few_are_kept() -> None:
    """Those of one second are parsed once; memory stays bounded."""
    times, common = IsoTimes(), CommonTimes()
    for second in range(3_000):
        text = f"2000-10-10T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        assert times.read(f"{text}.5Z") == 971_136_000_500_000 + second * 1_000_000
        clock = text.partition("T")[2]
        assert common[f"10/Oct/2000:{clock} +0000"] == 971_136_000_000_000 + second * 1_000_000
    assert len(common) <= 1_024


def test_numbered_requests_show_gaps() -> None:
    """By the numbers that Traefik gives away, in nearly any order, and from 1 after a restart."""
    numbered = Numbered()
    for number in (10, 12, 11, 9, 13, 2, 1, 3):
        numbered.add(number)
    assert (numbered.lines, numbered.numbers) == (8, 8)
    read = traefik((), numbered)
    read(json.dumps({**TRAEFIK, "RequestCount": 13}))
    assert (numbered.lines, numbered.numbers) == (9, 18)
