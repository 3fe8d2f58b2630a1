"""`ab` through Traefik, two Flask instances and a cluster: a client's view."""

from __future__ import annotations

import csv
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.effort import Effort, progress
from bench.sections import Failed, Section, Spread, Table
from limiter.policies import ALGORITHMS
from limiter.web.wiring import DENIAL_CACHE
from service.demo.children import Child
from service.demo.servers import HOST, Cluster, free_port

CHECKOUT = Path(__file__).parent.parent
PATH = "/demo-service/hello"
#: Within the largest limit of a sliding log, and more than all requests of one run.
OPEN = "100000/hour"
TIGHT, TIGHT_LIMIT = "100/minute", 100

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_PERCENTILES = (50, 90, 95, 99)


def missing() -> str:
    """Say why this part cannot run; empty if it can."""
    if shutil.which("ab") is None:
        return "`ab` is not installed (Debian: apache2-utils)"
    return ""


def measure(effort: Effort) -> Section:
    """Start the demo for each algorithm and limit, and run `ab` against it."""
    section = Section(
        "ab",
        "`ab` through Traefik",
        "The demo as `make demo` starts it (Traefik, two Flask instances under gunicorn), on a "
        "cluster of three nodes, everything on this machine and unpinned: `ab` takes its share of "
        f"the same cores. Open: `{OPEN}`, no request is denied. Tight: `{TIGHT}`, all but "
        f"{TIGHT_LIMIT} are denied. Every run begins with an unused limit, and a token bucket also "
        "admits the tokens that are refilled meanwhile. Failed are requests without a complete answer. "
        "A 429 is complete: with `-l`, `ab` accepts its other length. Times in milliseconds.",
    )
    runs = [(keep, *run) for keep in (True, False) for run in _sizes(effort)]
    limits = {"open": OPEN, "tight": TIGHT}
    steps = len(effort.algorithms) * len(limits) * len(runs)
    with Cluster(3) as cluster, progress("ab through Traefik", steps) as step:
        for algorithm in effort.algorithms:
            for label, limit in limits.items():
                with _demo(cluster.url, algorithm, limit) as port:
                    _ab(port, 50, 5, keep=True)
                    for keep, connections, requests in runs:
                        _forget(cluster)
                        record = _ab(port, requests, connections, keep)
                        record = {"algorithm": algorithm, "limit": label, **record}
                        _check(record, label)
                        section.records.append(record)
                        step()
    section.figures["requests a second"] = {
        _name(record): Spread.of([record["requests_per_second"]]) for record in section.records
    }
    section.tables = [_table(section.records)]
    return section


def parse(report: str, percentages: str) -> dict[str, Any]:
    """Read the output of `ab`, and the file that it wrote with `-e`."""

    def number(label: str, default: str | None = None) -> float:
        match = re.search(rf"^{re.escape(label)}:\s+([\d.]+)", report, re.M)
        if match is None and default is None:
            raise Failed(f"`ab` did not print {label!r}: {report[-500:]}")
        return float(match[1] if match else default or 0)

    rows = [row for row in csv.reader(percentages.splitlines()) if row and row[0].isdigit()]
    at = {int(row[0]): float(row[1]) for row in rows}
    complete, refused = int(number("Complete requests")), int(number("Non-2xx responses", "0"))
    return {
        "connections": int(number("Concurrency Level")),
        "requests": complete,
        "seconds": number("Time taken for tests"),
        "requests_per_second": number("Requests per second"),
        "ok": complete - refused,
        "non_2xx": refused,
        "failed": int(number("Failed requests")),
        **{f"p{percent}_ms": at[percent] for percent in _PERCENTILES if percent in at},
        "longest_ms": at[max(at)],
    }


def _sizes(effort: Effort) -> Iterator[tuple[int, int]]:
    return zip(effort.connections, effort.requests, strict=True)


def _ab(port: int, requests: int, connections: int, keep: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as folder:
        percentages = Path(folder, "percentages.csv")
        words = ["ab", "-q", "-l", "-s", "30", "-n", str(requests), "-c", str(connections)]
        words += ["-e", str(percentages), *(["-k"] if keep else []), f"http://{HOST}:{port}{PATH}"]
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        if ran.returncode:
            raise Failed(f"`ab` failed: {ran.stderr.strip() or ran.stdout.strip()}")
        return {"keep_alive": keep, **parse(ran.stdout, percentages.read_text())}


def _check(record: dict[str, Any], label: str) -> None:
    """Fail unless the limit held during the run: otherwise the figures mean nothing."""
    least = record["requests"] if label == "open" else TIGHT_LIMIT
    most = least
    if label == "tight" and ALGORITHMS[record["algorithm"]].has_burst:
        most += int(record["seconds"] * TIGHT_LIMIT / 60) + 1
    # A failed request may have been counted, or may not have arrived.
    if not least - record["failed"] <= record["ok"] <= most:
        raise Failed(
            f"{_name(record)}: {record['ok']} requests passed, expected {least} to {most}: {record}"
        )


@contextmanager
def _demo(store: str, algorithm: str, limit: str) -> Iterator[int]:
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    environ |= {"LIMITER_ALGORITHM": algorithm, "LIMITER_LIMITS": limit}
    command = [sys.executable, "-m", "service.demo", "--port", str(port), "--store", store]
    with tempfile.TemporaryFile() as output:
        child = Child("demo", command, env=environ, cwd=CHECKOUT, output=output)
        try:
            deadline = time.monotonic() + _START_TIMEOUT
            while not _serves(port):
                if not child.alive or time.monotonic() > deadline:
                    output.seek(0)
                    printed = output.read().decode(errors="replace").strip()[-500:]
                    raise Failed(f"the demo did not start: {printed}")
                time.sleep(0.1)
            yield port
        finally:
            # The same signal as Ctrl-C; processes that do not stop in time are killed.
            if child.alive:
                child.signal(signal.SIGINT)
            child.stop(_STOP_TIMEOUT)


def _serves(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _forget(cluster: Cluster) -> None:
    """Remove all counts, and let the instances' cached denials expire."""
    for node in cluster.nodes:
        with node.client() as client:
            client.flushall()
    time.sleep(DENIAL_CACHE)


def _name(record: dict[str, Any]) -> str:
    keep = "keep-alive" if record["keep_alive"] else "no keep-alive"
    return f"{record['algorithm']}, {record['limit']}, {keep}, {record['connections']}"


def _table(records: list[dict[str, Any]]) -> Table:
    columns = ["algorithm", "limit", "keep-alive", "connections", "requests", "requests/s"]
    columns += [
        "200",
        "non-2xx",
        "failed",
        *(f"{percent} %" for percent in _PERCENTILES),
        "longest",
    ]
    rows = [
        [
            record["algorithm"],
            record["limit"],
            "on" if record["keep_alive"] else "off",
            f"{record['connections']:,}",
            f"{record['requests']:,}",
            f"{record['requests_per_second']:,.0f}",
            f"{record['ok']:,}",
            f"{record['non_2xx']:,}",
            f"{record['failed']:,}",
            *(f"{record.get(f'p{percent}_ms', 0.0):,.1f}" for percent in _PERCENTILES),
            f"{record['longest_ms']:,.1f}",
        ]
        for record in records
    ]
    return Table("Requests", columns, rows)
