"""Debian's `wrk`: requests on kept connections, each sent as soon as the one before is answered."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.sections import Failed
from service.demo.servers import HOST

CONNECTIONS = 32

_SCRIPT = Path(__file__).with_name("wrk.lua")


class Run(NamedTuple):
    """One run of `wrk`."""

    requests: int
    """Requests that were answered."""
    seconds: float
    refused: int
    """Responses with a status of 400 or more."""
    failed: int
    """Errors of connections, and time-outs."""
    p50: float
    """Microseconds within which half of the requests were answered."""
    p99: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def missing() -> str:
    """Say why there are no runs; empty if there are."""
    return "" if shutil.which("wrk") else "`wrk` is not installed (Debian: wrk)"


def write(path: Path, requests: Sequence[bytes]) -> Path:
    """Write the file with the requests of a run, which are sent in turn; return its path."""
    path.write_bytes(b"".join(b"%d\n%b" % (len(request), request) for request in requests))
    return path


def run(port: int, requests: Path, seconds: int, connections: int = CONNECTIONS) -> Run:
    """Send the requests of a file for some seconds; fail if a response was missing.

    `wrk` sends for a time, in whole seconds, so the number of requests is not fixed.
    """
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    words += ["-s", str(_SCRIPT), f"http://{HOST}:{port}", "--", str(requests)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds + 60)
    lines = ran.stdout.splitlines()
    if ran.returncode or not lines or not lines[-1].startswith("{"):
        raise Failed(f"`wrk` failed: {ran.stderr.strip() or ran.stdout.strip()}")
    result = Run(**json.loads(lines[-1]))
    if result.failed or not result.requests:
        raise Failed(f"{requests.stem}: {result.failed} errors of connections: {result}")
    return result
