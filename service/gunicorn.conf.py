# ruff: noqa: N999 (the name that gunicorn gives such a file)
"""``gunicorn --config service/gunicorn.conf.py "service.app:create_app()"`` runs the service.

One worker with threads: the work of a request is to wait for Redis. More instances, or
``--workers``, use more processors; the limits hold across all of them.

A second ``--bind HOST:PORT`` is the operators' address: /metrics, and what LIMITER_ADMIN_TOKEN opens. On
SIGHUP gunicorn replaces its workers, which read the policy file anew; a worker sees by itself, too, that
it has changed. Where the new text is wrong, the last good one stays in force, in new workers as well.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from typing import Any

from limiter import LimiterError
from service import logs, settings

bind = "127.0.0.1:8000"
worker_class = "service.worker.Worker"
workers = 1
threads = 16
# A usual limit of 1,024 open files has room for them and for all else.
worker_connections = 500

# Longer than a proxy keeps an idle connection, so that it is never we who close one under a
# request: Traefik would send that request again.
keepalive = 120

# By default a client could send SCRIPT_NAME through a proxy that gunicorn trusts, and make a 500 of its
# request.
forwarder_headers = ""

# It would lie in the home folder, and nobody here asks it anything.
control_socket_disable = True

# The heartbeat is a file that is touched; on a busy disk that could take longer than `timeout`.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108

timeout = 30
graceful_timeout = 3

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_OURS = "limiter-metrics-"

# One line for each request is slower than the request; `--access-logfile -` turns it on.
accesslog = None


def on_starting(server: Any) -> None:
    """Refuse to start with a wrong environment: one line, and no worker that fails for ever."""
    try:
        settings.check_workers(server.cfg.workers)
        settings.from_env()
        settings.hand_on_policies()
    except LimiterError as error:
        server.log.error("%s", error)
        sys.exit(1)
    # While the store is away each worker decides alone: that much of the quota is its share. Other
    # instances are not known here; who runs some says so by the variable.
    if not os.environ.get("LIMITER_LOCAL_SHARE"):
        os.environ["LIMITER_LOCAL_SHARE"] = str(server.cfg.workers)


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Say, too, that workers which are added while it runs would each count for themselves."""
    if old_value is not None:
        try:
            settings.check_workers(new_value)
        except LimiterError as error:
            server.log.error("%s", error)


def when_ready(server: Any) -> None:
    """Refuse addresses of which nobody could say which one is the operators', before there are workers.

    Then nothing stands in the way any more: make what a start that failed would leave behind.
    """
    names = [listener.getsockname() for listener in server.LISTENERS]
    # At a Unix socket the port would be a word of the client's.
    ports = {name[1] for name in names if isinstance(name, tuple)}
    if len(names) > 2 or (len(names) == 2 and len(ports) < 2):
        server.log.error(
            "bind: accepted are one address, or two of different ports, the second for operators"
        )
        sys.exit(1)
    # Where workers count together; prometheus_client looks when it is imported, in a worker. One that
    # another gunicorn made for itself goes with that.
    given = os.path.basename(os.environ.get(_FOLDER, ""))
    if not given or given.startswith(_OURS):
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix=_OURS)


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Say all as JSON from the beginning: making the application may refuse the policy file."""
    logs.set_up(worker.log.error_log.level)


def post_worker_init(worker: Any) -> None:
    """Connect and load the scripts before the first request; without a store, serve as well."""
    found = worker.wsgi.extensions
    if len(worker.sockets) == 2:
        found["dispatcher"].operators_port = str(worker.sockets[1].getsockname()[1])
    signal.signal(signal.SIGHUP, lambda *_: found["policies"].reload())
    try:
        found["policies"].open()
    except LimiterError as error:
        worker.log.warning("started without the store: %s", error)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Give the connections back."""
    if worker.wsgi is not None:
        worker.wsgi.extensions["policies"].close()


def on_exit(server: Any) -> None:  # noqa: ARG001
    """Leave nothing behind."""
    folder = os.environ.get(_FOLDER, "")
    if os.path.basename(folder).startswith(_OURS):
        shutil.rmtree(folder, ignore_errors=True)
