"""``limiter serve`` with an operators' address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.server import serving as server
from tests.service.support import get


class Serving(NamedTuple):
    """A service that runs: its process, its two ports, and its log."""

    process: Child
    port: int
    operators: int
    log: Path

    def ask(self, path: str, client: str = "203.0.113.9") -> int:
        """The status of the answer to this path, asked for a client."""
        fields = {
            "X-Forwarded-For": client,
            "X-Forwarded-Method": "GET",
            "X-Forwarded-Host": "example",
            "X-Forwarded-Uri": "/",
        }
        return get(f"http://{HOST}:{self.port}{path}", fields).status

    def metrics(self) -> str:
        """What Prometheus reads."""
        return get(f"http://{HOST}:{self.operators}/metrics").text


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Serving]:
    """Run the service with these LIMITER_*, without a drain unless the options have one."""
    log, operators = folder / "log", free_port()
    address = ("--operators", f"{HOST}:{operators}")
    with server.serving(log, *address, *options, **variables) as (process, url):
        yield Serving(process, int(url.rpartition(":")[2]), operators, log)
