# ruff: noqa: N999 (the name that gunicorn gives such a file)
"""``gunicorn --config service/gunicorn.conf.py "service.app:create_app()"`` runs the Flask application.

It is for clients that are proxies: gunicorn's thread worker gives a connection a thread before its request
has arrived, so sixteen slow clients would stop it. Traefik receives whole requests first
(``buffering`` in traefik/dynamic.yml).

On SIGTERM /readyz answers 503 for DRAIN_SECONDS (5 by default), while requests are answered; then gunicorn
stops. On SIGHUP gunicorn replaces its workers, which read the policy file again; a worker also notices a
changed file itself. If the new file is invalid, the last valid one stays in force, also in new workers.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

from limiter import LimiterError
from limiter.log_throttle import ThrottleFilter
from limiter.server import drain, logs
from limiter.server.settings import check_workers, hand_on_policies
from service import settings

bind = "127.0.0.1:8000"
worker_class = "gthread"
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

# One line for each request is slower than the request; `--access-logfile -` turns it on.
accesslog = None
logger_class = "limiter.server.gunicorn_log.JsonLogger"


def on_starting(server: Any) -> None:
    """Refuse to start with an invalid environment: one line, in place of workers that fail repeatedly."""
    root = logging.getLogger()
    root.addHandler(logging.StreamHandler())
    logs.write_json(root)
    logs.set_up(server.log.loglevel)
    logging.getLogger("service.app").addFilter(ThrottleFilter())
    try:
        check_workers(server.cfg.workers)
        settings.from_env()
        hand_on_policies()
        settings.drain_seconds()
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
            check_workers(new_value)
        except LimiterError as error:
            server.log.error("%s", error)


def when_ready(server: Any) -> None:
    """Answer requests for some seconds after SIGTERM."""
    drain.install(server, settings.drain_seconds())


def post_worker_init(worker: Any) -> None:
    """Connect and load the scripts before the first request; serve also without a store."""
    policies = worker.wsgi.extensions["policies"]
    signal.signal(signal.SIGHUP, lambda *_: policies.reload())
    try:
        policies.open()
    except LimiterError as error:
        worker.log.warning("started without the store: %s", error)


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001
    """Close the connections."""
    if worker.wsgi is not None:
        worker.wsgi.extensions["policies"].close()
