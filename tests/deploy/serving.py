"""``limiter serve`` on ports of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.service.support import clean_environment, get
from tests.waiting import until

LIMITER = Path(sys.executable).parent / "limiter"


class Serving(NamedTuple):
    """A service that runs: its process, its two ports, and its log."""

    process: Child
    port: int
    operators: int
    log: Path

    def ask(self, path: str, client: str = "203.0.113.9") -> int:
        """The status of the answer to this path, asked for a client."""
        return get(f"http://{HOST}:{self.port}{path}", fields(client)).status

    def is_alive(self) -> bool:
        """Whether it answers; an error if it has ended."""
        assert self.process.alive, self.log.read_text()
        try:
            return self.ask("/healthz") == 200
        except OSError:
            return False

    def metrics(self) -> str:
        """What Prometheus reads."""
        return get(f"http://{HOST}:{self.operators}/metrics").text


def fields(client: str) -> dict[str, str]:
    """What a proxy sends of a client's request."""
    return {
        "X-Forwarded-For": client,
        "X-Forwarded-Method": "GET",
        "X-Forwarded-Host": "example",
        "X-Forwarded-Uri": "/",
    }


@contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Serving]:
    """Run ``limiter serve`` with these LIMITER_*, until the end of the block."""
    port, operators = free_port(), free_port()
    words = ["serve", "--bind", f"{HOST}:{port}", "--operators", f"{HOST}:{operators}", *options]
    log = folder / "log"
    with log.open("wb") as output:
        environment = clean_environment(**variables)
        child = Child("limiter", [LIMITER, *words], env=environment, cwd=folder, output=output)
    found = Serving(child, port, operators, log)
    try:
        until(found.is_alive, what=log.read_text)
        yield found
    finally:
        child.stop()
