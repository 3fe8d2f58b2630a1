"""`ab` through Traefik, two service instances and a cluster: what a client sees."""

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
from service.demo.children import Child
from service.demo.servers import HOST, Cluster, free_port

CHECKOUT = Path(__file__).parent.parent
PATH = "/demo-service/hello"
#: Below the most that a sliding log can have, and above all requests of one run.
OPEN = "100000/hour"
TIGHT, TIGHT_LIMIT = "100/minute", 100

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0
_PERCENTILES = (50, 90, 95, 99)


def missing() -> str:
    """Why this part cannot run here; empty when it can."""
    if shutil.which("ab") is None:
        return "`ab` is not installed (Debian: apache2-utils)"
    return ""


def measure(effort: Effort) -> Section:
    """Start the demo for each algorithm and limit, and run `ab` against it."""
    section = Section(
        "ab",
        "`ab` through Traefik",
        "The demo as `make demo` starts it (Traefik, two service instances under gunicorn), on a "
        "cluster of three nodes, everything on this machine and unpinned: `ab` takes its share of "
        f"the same cores. Open: `{OPEN}`, nobody is denied. Tight: `{TIGHT}`, all but "
        f"{TIGHT_LIMIT} are; every run begins with nothing taken (a token bucket also admits what "
        "drips in meanwhile). Failed are requests without a whole answer; a 429 is none, its "
        "other length is allowed for with `-l`. Times in milliseconds.",
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
                        found = _ab(port, requests, connections, keep)
                        found = {"algorithm": algorithm, "limit": label, **found}
                        _check(found, label)
                        section.records.append(found)
                        step()
    section.figures["requests a second"] = {
        _name(found): Spread.of([found["requests_per_second"]]) for found in section.records
    }
    section.tables = [_table(section.records)]
    return section


def parse(report: str, percentages: str) -> dict[str, Any]:
    """What `ab` printed, and wrote with `-e`."""

    def number(label: str, default: str | None = None) -> float:
        match = re.search(rf"^{re.escape(label)}:\s+([\d.]+)", report, re.M)
        if match is None and default is None:
            raise Failed(f"`ab` did not say {label!r}: {report[-500:]}")
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


def _check(found: dict[str, Any], label: str) -> None:
    """The figures mean nothing unless the limit held while they were taken."""
    least = found["requests"] if label == "open" else TIGHT_LIMIT
    most = least
    if label == "tight" and ALGORITHMS[found["algorithm"]].has_burst:
        most += int(found["seconds"] * TIGHT_LIMIT / 60) + 1
    # A request that failed may have been counted, or not have arrived.
    if not least - found["failed"] <= found["ok"] <= most:
        raise Failed(
            f"{_name(found)}: {found['ok']} requests passed in place of {least} to {most}: {found}"
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
                    said = output.read().decode(errors="replace").strip()[-500:]
                    raise Failed(f"the demo did not start: {said}")
                time.sleep(0.1)
            yield port
        finally:
            # As Ctrl-C does; what it has not stopped by itself is killed.
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
    for node in cluster.nodes:
        with node.client() as client:
            client.flushall()


def _name(found: dict[str, Any]) -> str:
    keep = "keep-alive" if found["keep_alive"] else "no keep-alive"
    return f"{found['algorithm']}, {found['limit']}, {keep}, {found['connections']}"


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
            found["algorithm"],
            found["limit"],
            "on" if found["keep_alive"] else "off",
            f"{found['connections']:,}",
            f"{found['requests']:,}",
            f"{found['requests_per_second']:,.0f}",
            f"{found['ok']:,}",
            f"{found['non_2xx']:,}",
            f"{found['failed']:,}",
            *(f"{found.get(f'p{percent}_ms', 0.0):,.1f}" for percent in _PERCENTILES),
            f"{found['longest_ms']:,.1f}",
        ]
        for found in records
    ]
    return Table("Requests", columns, rows)
