"""Connections that are held open: ``python -m bench.idle PORT CONNECTIONS REQUEST``.

A process of its own holds them, since one process may open a limited number of files. On each it sends the
request, and reads the response. Then it prints a line, and waits until its input is closed. At the
end it prints how many of the connections the server has closed meanwhile.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.sections import Failed
from service.demo.servers import HOST

#: Files that a process opens besides its connections.
_OTHER_FILES = 500
_HELD = "held"


class Held:
    """Connections that another process holds open.

    Attributes:
        closed: How many of them the server had closed at the end.

    """

    closed = 0


@contextmanager
def held(port: int, count: int, request: bytes) -> Iterator[Held]:
    """Hold as many connections, on each of which one request was answered."""
    command = [sys.executable, "-m", "bench.idle", str(port), str(count), request.decode()]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        if process.stdout is None or process.stdout.readline().strip() != _HELD:
            raise Failed(f"the server did not answer on each of {count:,} connections")
        connections = Held()
        yield connections
        output, _ = process.communicate()  # closes the input, so that the process ends
        connections.closed = int(output)


def most() -> int:
    """Return how many connections one process can hold here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (sys.maxsize if hard == resource.RLIM_INFINITY else hard) - _OTHER_FILES


def allow_all() -> None:
    """Let this process, and those that it starts, open as many files as the system permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Hold the connections until the input is closed."""
    port, count, request = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
    allow_all()
    with ExitStack() as stack:
        connections = [stack.enter_context(_used(port, request)) for _ in range(count)]
        print(_HELD, flush=True)
        sys.stdin.read()
        print(sum(map(_is_closed, connections)), flush=True)


def _used(port: int, request: bytes) -> socket.socket:
    connection = socket.create_connection((HOST, port), timeout=10)
    connection.sendall(request)
    if not connection.recv(65_536):
        raise ConnectionError("the server closed a connection without a response")
    return connection


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


if __name__ == "__main__":
    main()
