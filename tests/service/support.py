"""Requests, a clean environment, and the demo's applications under gunicorn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.waiting import TIMEOUT, until

ROOT = Path(__file__).parent.parent.parent


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Mapping[str, str]
    text: str


def get(url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Answer:
    """Send a request, without a proxy of the environment; return the response of any status."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310
    try:
        with opener.open(request, timeout=10) as response:
            return Answer(response.status, response.headers, response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read().decode())


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with these LIMITER_* and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    return {**kept, **variables}


def post(url: str, body: object) -> Answer:
    """Send a request with a JSON body."""
    return get(url, {"Content-Type": "application/json"}, json.dumps(body).encode())


@contextmanager
def gunicorn(
    log: Path, *options: str, app: str = "service.app:create_app()", **variables: str
) -> Iterator[tuple[Child, str]]:
    """Run the Flask application, and yield its process and address when it is alive."""
    address = f"{HOST}:{free_port()}"
    command = [sys.executable, "-m", "gunicorn", "--config", "service/gunicorn.conf.py"]
    command += ["--bind", address, *options, app]
    with started(log, command, lambda: is_alive(address), **variables) as child:
        yield child, f"http://{address}"


@contextmanager
def started(
    log: Path, command: list[str], serves: Callable[[], bool], **variables: str
) -> Iterator[Child]:
    """Run a server's process, and yield it when it serves."""
    # Without a drain, which would make each test's end longer.
    settings = {"DRAIN_SECONDS": "0", "LIMITER_TIMEOUT": str(TIMEOUT)}
    environment = clean_environment(**{**settings, **variables})
    with log.open("wb") as output:
        child = Child(command[0], command, env=environment, cwd=ROOT, output=output)

    def is_there() -> bool:
        assert child.alive, log.read_text()
        return serves()

    try:
        until(is_there, what=log.read_text)
        yield child
    finally:
        child.stop()


def run_gunicorn(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the Flask application, which is expected to exit soon, until it exits."""
    command = [sys.executable, "-m", "gunicorn", "--config", "service/gunicorn.conf.py"]
    command += ["--bind", f"{HOST}:{free_port()}", *options, "service.app:create_app()"]
    return run_until_it_exits(command, **variables)


def run_until_it_exits(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to exit soon."""
    return subprocess.run(
        command,
        env=clean_environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def is_alive(address: str) -> bool:
    """Whether the server answers at this address."""
    try:
        return get(f"http://{address}/healthz").status == 200
    except OSError:
        return False
