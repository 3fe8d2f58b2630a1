# ruff: noqa: N999 (the name that gunicorn gives such a file)
"""``gunicorn --config service/gunicorn.conf.py "service.app:create_app()"`` runs the service.

One worker with threads: the work of a request is to wait for Redis. More instances, or
``--workers``, use more processors; the limits hold across all of them.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from limiter import LimiterError
from service import settings

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 1
threads = 16

# Longer than a proxy keeps an idle connection, so that it is never we who close one under a
# request: Traefik would send that request again.
keepalive = 120

# It would lie in the home folder, and nobody here asks it anything.
control_socket_disable = True

# The heartbeat is a file that is touched; on a busy disk that could take longer than `timeout`.
if os.path.isdir("/dev/shm"):  # noqa: S108
    worker_tmp_dir = "/dev/shm"  # noqa: S108

timeout = 30
graceful_timeout = 3

# One line for each request is slower than the request; `--access-logfile -` turns it on.
accesslog = None


def on_starting(server: Any) -> None:
    """Refuse to start with a wrong environment: one line, and no worker that fails for ever."""
    try:
        settings.from_env()
    except LimiterError as error:
        server.log.error("%s", error)
        sys.exit(1)
    # While the store is away each worker decides alone: that much of the quota is its share. Other
    # instances are not known here; who runs some says so by the variable.
    if not os.environ.get("LIMITER_LOCAL_SHARE"):
        os.environ["LIMITER_LOCAL_SHARE"] = str(server.cfg.workers)


def post_worker_init(worker: Any) -> None:
    """Connect and load the scripts before the first request; without a store, serve as well."""
    try:
        worker.wsgi.extensions["limiter"].open()
    except LimiterError as error:
        worker.log.warning("started without the store: %s", error)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Give the connections back."""
    if worker.wsgi is not None:
        worker.wsgi.extensions["limiter"].close()
