"""``python -m tests.server.quick serve OPTIONS``: ``limiter serve`` with short timeouts.

Its tests would wait for the real ones.
"""

from __future__ import annotations

from functools import partial

from limiter.command import cli
from limiter.server import serve
from limiter.server.worker import Worker

#: Seconds for idle connections.
IDLE = 3


class Quick(Worker):
    """A worker with short timeouts, and few connections."""

    read_timeout = 1.0
    write_timeout = 0.5
    linger = 0.5
    most_connections = 50
    most_incomplete = 1024 * 1024


class _Application(serve.Application):
    def load_config(self) -> None:
        """Set a short timeout for idle connections, too."""
        super().load_config()
        self.cfg.set("keepalive", IDLE)


if __name__ == "__main__":
    serve.Application = partial(_Application, worker_class=Quick)  # type: ignore[misc,assignment]
    cli(prog_name="limiter")
