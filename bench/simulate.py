"""``limiter simulate``: the time of a line by format and by policies, and the memory of a subject.

``python -m bench.simulate SUBJECTS ALGORITHM`` prints the bytes of one subject, in a process of its own.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from bench.effort import Effort, progress
from bench.sections import Failed, Section, Spread, Table, shown, tabulate
from limiter.policies import ALGORITHMS
from limiter.policyfile.reading import PolicyFile, read
from limiter.simulate.entry import Entry
from limiter.simulate.fields import needed
from limiter.simulate.logs import Counts, Reading
from limiter.simulate.replay import Replay

#: Lines of a log for each call of a chunk in the other parts.
_LINES = 500
_SUBJECTS = 5_000
_BEGIN_US = 1_790_000_000_000_000
_MOST_SUBJECTS = 1_000_000
_HERE = "this machine"

_BY_ALGORITHM = {name: f'limits = "100/minute"\nalgorithm = "{name}"' for name in ALGORITHMS}
#: Policies, by what they show: each algorithm alone, and files of several.
_POLICIES = {
    **{name: f"[policies.default]\n{text}\n" for name, text in _BY_ALGORITHM.items()},
    "three policies, by address": "".join(
        f"[policies.{name}]\n{_BY_ALGORITHM[name]}\n"
        for name in ("sliding_window", "token_bucket", "gcra")
    ),
    "by path and key": "".join(
        f'[policies.{name}]\nlimits = "100/minute"\nkey = ["path:name", "header:User-Agent"]\n'
        f'match = {{paths = ["/{name}/{{name}}"], methods = ["GET"]}}\n'
        for name in ("items", "orders")
    ),
}
_ONE = "sliding_log"
#: The log in which every line has another subject.
_NEW = "all subjects new"


class _Request(NamedTuple):
    time_us: int
    address: str
    target: str

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.time_us / 1e6, timezone.utc)


def _requests(count: int, are_new: bool = False) -> Iterator[_Request]:
    """Yield 500 requests a second, slightly out of order; most of a few subjects, or all of new ones."""
    draw = random.Random(19)
    for number in range(count):
        subject = number if are_new else int(_SUBJECTS * draw.random() ** 3)
        page = f"?page={draw.randrange(1_000)}" if draw.random() < 0.2 else ""
        yield _Request(
            _BEGIN_US + number * 2_000 - draw.randrange(300_000),
            f"{198 - (subject >> 16)}.51.{subject >> 8 & 255}.{subject & 255}",
            f"/{draw.choice(('items', 'orders', 'static'))}/{draw.randrange(200)}{page}",
        )


def _combined(request: _Request) -> str:
    return (
        f"{request.address} - - [{request.moment:%d/%b/%Y:%H:%M:%S} +0000] "
        f'"GET {request.target} HTTP/1.1" 200 5120 "https://shop.example.com/" "Mozilla/5.0 (X11; '
        f'Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36"'
    )


def _traefik(request: _Request) -> str:
    usual = (
        "ClientPort ClientUsername RequestAddr RequestPort RequestProtocol RequestScheme RouterName"
    )
    numbers = (
        "Duration Overhead OriginDuration OriginStatus OriginContentSize DownstreamContentSize"
    )
    fields: dict[str, Any] = dict.fromkeys(usual.split(), "usual@file")
    fields |= dict.fromkeys(numbers.split(), 1_234_567)
    return json.dumps(
        {
            **fields,
            "ClientAddr": f"{request.address}:4242",
            "ClientHost": request.address,
            "DownstreamStatus": 200,
            "RequestHost": "shop.example.com",
            "RequestMethod": "GET",
            "RequestPath": request.target,
            "StartUTC": request.moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "request_User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
            "level": "info",
        }
    )


def _caddy(request: _Request) -> str:
    headers = {"User-Agent": ["Mozilla/5.0 (X11; Linux x86_64)"], "Accept": ["*/*"]}
    asked = {
        "remote_ip": request.address,
        "remote_port": "4242",
        "proto": "HTTP/2.0",
        "method": "GET",
        "host": "shop.example.com",
        "uri": request.target,
        "headers": headers,
    }
    ended = {"ts": request.time_us / 1e6, "duration": 0.001, "size": 5_120, "status": 200}
    return json.dumps({"level": "info", "logger": "http.log.access", "request": asked, **ended})


def _envoy(request: _Request) -> str:
    others = (
        "protocol route_name response_flags upstream_host upstream_cluster user_agent request_id"
    )
    return json.dumps(
        {
            **dict.fromkeys(others.split(), "usual"),
            "start_time": request.moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "method": "GET",
            "path": request.target,
            "authority": "shop.example.com",
            "response_code": 200,
            "downstream_remote_address": f"{request.address}:4242",
        }
    )


def _json(request: _Request) -> str:
    return json.dumps(
        {
            "time": request.moment.isoformat(),
            "method": "GET",
            "host": "shop.example.com",
            "path": request.target,
            "address": request.address,
            "headers": {},
        }
    )


def _csv(request: _Request) -> str:
    return f"{request.moment.isoformat()},GET,shop.example.com,{request.target},{request.address}"


_FORMATS: dict[str, Callable[[_Request], str]] = {
    "combined": _combined,
    "traefik": _traefik,
    "caddy": _caddy,
    "envoy": _envoy,
    "json": _json,
    "csv": _csv,
}
_CSV_HEAD = "time,method,host,path,address\n"


def measure(effort: Effort) -> Section:
    """Measure the processor time of whole replays, and the memory of many subjects."""
    count = _LINES * effort.calls
    subjects = max(number for number in effort.subjects if number <= _MOST_SUBJECTS)
    section = Section(
        "simulate",
        "Simulations",
        f"`limiter simulate` reads {count:,} lines of {_SUBJECTS:,} subjects, and decides each of them: "
        f"processor time of one process, {effort.repetitions} times. By format: one policy ({_ONE}). By "
        f"policies, and with new subjects: combined lines. Memory: of {subjects:,} subjects with a request "
        f"each, whose state does not expire meanwhile.",
    )
    files = {name: read(text, "policies.toml") for name, text in _POLICIES.items()}
    cases: dict[str, tuple[str, PolicyFile]] = {
        **{f"format {name}": (name, files[_ONE]) for name in _FORMATS},
        **{f"policies {name}": ("combined", file) for name, file in files.items()},
        _NEW: (_NEW, files[_ONE]),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    steps = len(cases) * effort.repetitions
    with tempfile.TemporaryDirectory() as folder, progress("simulations", steps) as step:
        logs = {name: _written(Path(folder), name, count) for name in (*_FORMATS, _NEW)}
        for _ in range(effort.repetitions):
            for name, (log, file) in cases.items():
                times[name].append(_microseconds(logs[log], file, count))
                step()
    spreads = {f"{name}, us a line": Spread.of(values) for name, values in times.items()}
    rates = {name: Spread.of(1e6 / each for each in values) for name, values in times.items()}
    with progress("memory of simulated subjects", len(ALGORITHMS)) as step:
        for algorithm in ALGORITHMS:
            spreads[f"{algorithm}, bytes a subject"] = Spread.of([_bytes(subjects, algorithm)])
            step()
    section.checks[_HERE] = spreads
    rows = [[name, shown(rate, 0)] for name, rate in rates.items()]
    section.tables = [
        Table("Lines a second", ["", _HERE], rows),
        tabulate("Time and memory", "", section.checks, 1),
    ]
    return section


def _written(folder: Path, name: str, count: int) -> str:
    path = folder / name
    line_of = _FORMATS.get(name, _combined)
    with path.open("w") as file:
        file.write(_CSV_HEAD if name == "csv" else "")
        requests = _requests(count, are_new=name == _NEW)
        file.writelines(f"{line_of(request)}\n" for request in requests)
    return str(path)


def _microseconds(path: str, file: PolicyFile, count: int) -> float:
    """Return the processor time of a line."""
    fields = needed(file)
    replay, counts = Replay(file), Counts()
    began = time.process_time()
    replay.run(Reading(fields).entries([path], counts))
    took = time.process_time() - began
    report = replay.report()
    if report.requests != count:
        raise Failed(f"{count - report.requests:,} lines of {path} were not replayed: {counts}")
    return took / count * 1e6


def _bytes(subjects: int, algorithm: str) -> float:
    """Return the memory of a subject, in a process of its own."""
    words = [sys.executable, "-m", "bench.simulate", str(subjects), algorithm]
    folder = Path(__file__).parent.parent
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def _main(subjects: int, algorithm: str) -> None:
    file = read(f'[policies.default]\nlimits = "100/day"\nalgorithm = "{algorithm}"\n', "")
    replay = Replay(file)
    addresses = (
        f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}.7" for number in range(subjects)
    )
    before = _resident()
    replay.run(
        Entry(_BEGIN_US + number, "GET", "", "/", address)
        for number, address in enumerate(addresses)
    )
    print((_resident() - before) / subjects)


def _resident() -> int:
    """Return the memory of this process in bytes; where that is not known, the most so far."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        return int(statistics.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2])
