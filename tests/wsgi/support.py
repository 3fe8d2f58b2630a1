"""A WSGI server in a function, checked by Python's own validator, and real servers as processes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.service.support import started

#: The default address of the client.
CALLER = "203.0.113.7"


class Answer(NamedTuple):
    """A response as a server would send it."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]
    exc_info: Any = None

    @property
    def code(self) -> int:
        """The number of the status."""
        return int(self.status.split()[0])

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for field, value in self.headers if field.lower() == name.lower()]

    def __getitem__(self, name: Any) -> Any:
        """The only value of a field."""
        (value,) = self.all(name)
        return value


def environ(method: str = "GET", path: str = "/", **more: Any) -> dict[str, Any]:
    """Return the environment that a server makes of a request."""
    found: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "REMOTE_ADDR": CALLER}
    found |= {"SCRIPT_NAME": "", "QUERY_STRING": ""}
    setup_testing_defaults(found)
    return {**found, **more}


def begin(app: Any, **more: Any) -> Answer:
    """Call an application, read nothing of its response, and do not close it."""
    said: list[Any] = []

    def start_response(status: str, headers: Any, *exc_info: Any) -> Callable[[bytes], None]:
        said[:] = [status, headers, *exc_info]
        return [].append

    body = app(environ(**more), start_response)
    first = iter(body)
    # A generator calls start_response only when its first piece is read.
    pieces = [] if said else [next(first)]
    return Answer(said[0], said[1], _Begun(pieces, first, body), *said[2:])


class _Begun:
    """A response of which a piece may have been read."""

    def __init__(self, pieces: list[bytes], rest: Iterator[bytes], body: Any) -> None:
        self._pieces = pieces
        self._rest = rest
        self.inner = body

    def __iter__(self) -> Iterator[bytes]:
        while self._pieces:
            yield self._pieces.pop()
        yield from self._rest

    def close(self) -> None:
        """Close the body, as every server must."""
        if hasattr(self.inner, "close"):
            self.inner.close()


def ask(app: Any, **more: Any) -> Answer:
    """Call an application and read its whole response, checked by Python's validator."""
    answer = begin(validator(app), **more)
    try:
        return answer._replace(body=[b"".join(answer.body)])
    finally:
        answer.body.close()  # type: ignore[attr-defined]


@contextmanager
def running(
    log: Path, module: str, *options: str, bind: str, **variables: str
) -> Iterator[tuple[Child, int]]:
    """A server's module as a process, and its port, when it listens; ``bind`` is its option for that."""
    port = free_port()
    spelled = bind.format(host=HOST, port=port).split()
    command = [sys.executable, "-m", module, *spelled, *options]
    with started(log, command, lambda: listens(port), **variables) as child:
        yield child, port


def gunicorn(log: Path, app: str, *options: str, **variables: str) -> Any:
    """A WSGI application under gunicorn."""
    more = ["--no-control-socket", "--graceful-timeout=2", *options, app]
    return running(log, "gunicorn", *more, bind="--bind {host}:{port}", **variables)


def listens(at: int | Path) -> bool:
    """Whether a server listens at a port, or at the path of a socket."""
    family = socket.AF_UNIX if isinstance(at, Path) else socket.AF_INET
    with suppress(OSError), socket.socket(family) as connection:
        connection.settimeout(1)
        connection.connect(str(at) if isinstance(at, Path) else (HOST, at))
        return True
    return False


def begin_http(
    port: int, path: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[socket.socket, str]:
    """Send a request, and return the connection when the head of the response is there, and that."""
    connection = socket.create_connection((HOST, port), timeout=10)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(1)
        assert data, head
        head += data
    return connection, head.decode()


def served(port: int, targets: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The statuses of each target's first and second request, each target by a client of its own."""
    found = {}
    for place, target in enumerate(targets):
        statuses = []
        for _ in range(2):
            fields = {"X-Forwarded-For": f"203.0.113.{place}", "Connection": "close"}
            connection, head = begin_http(port, target, headers=fields)
            connection.close()
            statuses.append(int(head.split()[1]))
        found[target] = (statuses[0], statuses[1])
    return found
