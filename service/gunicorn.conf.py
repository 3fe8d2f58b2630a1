# ruff: noqa: N999 (the name that gunicorn gives such a file)
"""``gunicorn --config service/gunicorn.conf.py "service.app:create_app()"`` runs the service.

One worker with threads is enough for one processor, since a request mostly waits for Redis. More
instances, or ``--workers``, use more processors; the limits hold across all of them.

A second ``--bind HOST:PORT`` is the operators' address: /metrics, and the routes for LIMITER_ADMIN_TOKEN.
On SIGHUP gunicorn replaces its workers, which read the policy file again; a worker also notices a changed
file itself. If the new file is invalid, the last valid one stays in force, also in new workers.
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
# Fits in the usual limit of 1,024 open files, with room for other files.
worker_connections = 500

# Longer than a proxy keeps an idle connection. Else gunicorn could close one while a request arrives, and
# Traefik would repeat the request.
keepalive = 120

# By default a client could send SCRIPT_NAME through a trusted proxy, and cause a 500.
forwarder_headers = ""

# The socket would lie in the home folder, and nothing uses it.
control_socket_disable = True

# Workers touch a file as a heartbeat; on a busy disk that could take longer than `timeout`.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108

timeout = 30
graceful_timeout = 3

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_OURS = "limiter-metrics-"

# One line for each request is slower than the request; `--access-logfile -` turns it on.
accesslog = None


def on_starting(server: Any) -> None:
    """Refuse to start with an invalid environment: one line, in place of workers that fail repeatedly."""
    try:
        settings.check_workers(server.cfg.workers)
        settings.from_env()
        settings.hand_on_policies()
    except LimiterError as error:
        server.log.error("%s", error)
        sys.exit(1)
    # In the fallback `local` each worker grants its share of the limits. The variable is for deployments
    # with other instances, which gunicorn does not know.
    if not os.environ.get("LIMITER_LOCAL_SHARE"):
        os.environ["LIMITER_LOCAL_SHARE"] = str(server.cfg.workers)


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Log an error if workers added by a signal would each count by themselves."""
    if old_value is not None:
        try:
            settings.check_workers(new_value)
        except LimiterError as error:
            server.log.error("%s", error)


def when_ready(server: Any) -> None:
    """Refuse addresses if the operators' one cannot be recognised; then make the folder for metrics.

    The folder is made last, so that a start that fails leaves none behind.
    """
    names = [listener.getsockname() for listener in server.LISTENERS]
    # A Unix socket has no port: the client would choose SERVER_PORT.
    ports = {name[1] for name in names if isinstance(name, tuple)}
    if len(names) > 2 or (len(names) == 2 and len(ports) < 2):
        server.log.error(
            "bind: accepted are one address, or two of different ports, the second for operators"
        )
        sys.exit(1)
    # The folder in which workers share counters; prometheus_client reads the variable on import, in a
    # worker. A folder that another gunicorn made is not used: that gunicorn removes it.
    given = os.path.basename(os.environ.get(_FOLDER, ""))
    if not given or given.startswith(_OURS):
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix=_OURS)


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Log as JSON before the application is made, which may refuse the policy file."""
    logs.set_up(worker.log.error_log.level)


def post_worker_init(worker: Any) -> None:
    """Connect and load the scripts before the first request; serve also without a store."""
    extensions = worker.wsgi.extensions
    if len(worker.sockets) == 2:
        extensions["dispatcher"].operators_port = str(worker.sockets[1].getsockname()[1])
    signal.signal(signal.SIGHUP, lambda *_: extensions["policies"].reload())
    try:
        extensions["policies"].open()
    except LimiterError as error:
        worker.log.warning("started without the store: %s", error)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Close the connections."""
    if worker.wsgi is not None:
        worker.wsgi.extensions["policies"].close()


def on_exit(server: Any) -> None:  # noqa: ARG001
    """Remove the folder for metrics."""
    folder = os.environ.get(_FOLDER, "")
    if os.path.basename(folder).startswith(_OURS):
        shutil.rmtree(folder, ignore_errors=True)
