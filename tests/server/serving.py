"""Real processes of ``limiter serve``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.service.support import is_alive, run_until_it_exits, started

#: ``limiter serve``, and the same with short timeouts.
SERVE = ("-m", "limiter", "serve")
QUICK = ("-m", "tests.server.quick", "serve")


@contextmanager
def serving(
    log: Path, *options: str, program: tuple[str, ...] = SERVE, **variables: str
) -> Iterator[tuple[Child, str]]:
    """Run the service without a drain, and yield its process and address when it is alive."""
    address = f"{HOST}:{free_port()}"
    command = [sys.executable, *program, "--bind", address, "--drain", "0", *options]
    with started(log, command, lambda: is_alive(address), **variables) as child:
        yield child, f"http://{address}"


def run_serve(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a service that is expected to exit soon, until it exits."""
    return run_until_it_exits([sys.executable, *SERVE, *options], **variables)
