"""Starts a decision service: this checkout's, or that of another revision in its own way."""

from __future__ import annotations

import http.client
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.processes import children
from bench.sections import Failed
from service.demo.children import Child
from service.demo.servers import HOST, free_port

CHECKOUT = Path(__file__).parent.parent

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 20.0


class Served(NamedTuple):
    """One application under gunicorn or uvicorn."""

    port: int
    worker: int
    """The process that answers."""


@contextmanager
def decision_service(folder: Path, environ: Mapping[str, str]) -> Iterator[Served]:
    """Start the service of the files in ``folder``, with one worker; ``environ`` are its settings."""
    port = free_port()
    with served("the decision service", _command(folder, port), port, folder, environ) as service:
        yield service


def _command(folder: Path, port: int) -> list[str]:
    if (folder / "limiter/cli/serve.py").exists():
        return ["limiter", "serve", "--bind", f"{HOST}:{port}", "--drain", "0"]
    command = ["gunicorn", "--config", "service/gunicorn.conf.py", "--bind", f"{HOST}:{port}"]
    return [*command, "service.app:create_app()"]


@contextmanager
def served(
    name: str,
    module: Sequence[str],
    port: int,
    folder: Path = CHECKOUT,
    environ: Mapping[str, str] | None = None,
    path: str = "/healthz",
) -> Iterator[Served]:
    """Run a module with one worker, with the modules of ``folder``; stop it afterwards.

    ``module`` has the module's name and arguments. The service answers ``path`` when it has started.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("LIMITER_")}
    env |= {"PYTHONPATH": str(folder), **(environ or {})}
    env.pop("GUNICORN_CMD_ARGS", None)
    with tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", *module]
        child = Child(name, command, env=env, cwd=folder, output=output)
        try:
            deadline = time.monotonic() + _START_TIMEOUT
            while not answers(port, path):
                if not child.alive or time.monotonic() > deadline:
                    output.seek(0)
                    printed = output.read().decode(errors="replace").strip()[-500:]
                    raise Failed(f"{name} did not start: {printed}")
                time.sleep(0.05)
            # A server without other processes answers itself.
            workers = children(child.pid) or [child.pid]
            if len(workers) > 1:
                raise Failed(f"{name} has {len(workers)} workers, not one")
            yield Served(port, workers[0])
        finally:
            child.stop(_STOP_TIMEOUT)


def answers(port: int, path: str) -> bool:
    """Whether a server answers a GET of the path with 2xx."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status // 100 == 2
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
