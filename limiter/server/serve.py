"""The gunicorn application behind ``limiter serve``.

gunicorn's master reads no request. It checks the environment, and starts the workers. On SIGHUP it replaces
them, and the new ones read the policy file again; a worker also notices a changed file itself. If the new
file is invalid, the last valid one stays in force, also in new workers.
"""

from __future__ import annotations

import logging
import os
import resource
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from gunicorn import systemd, util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from limiter import LimiterError
from limiter.log_throttle import ThrottleFilter
from limiter.server import drain, logs, settings
from limiter.server.gunicorn_log import JsonLogger
from limiter.server.worker import Worker
from limiter.settings import ADMIN_TOKEN, METRICS_FOLDER, metrics_folder, with_config

#: Imported when the folder for metrics is known, which prometheus_client reads on import.
_SERVICE = "limiter.server.app"

_LOCAL_SHARE = "LIMITER_LOCAL_SHARE"
_OURS = "limiter-metrics-"

#: Seconds for which a connection may be idle: longer than proxies keep one, so that no proxy sends a
#: request on a connection that is being closed.
_IDLE = 120


class Application(BaseApplication):  # type: ignore[misc]
    """The decision service under gunicorn.

    ``addresses`` are in the form that ``read_address`` accepts; the second one is for operators.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        workers: int = 1,
        drain_seconds: float = 5.0,
        worker_class: type[Worker] = Worker,
    ) -> None:
        self._addresses = list(addresses)
        self._workers = workers
        self._drain_seconds = drain_seconds
        self._worker_class = worker_class
        #: The folder in which workers share counters; the name cannot be guessed.
        self._folder = Path(tempfile.gettempdir(), _OURS + secrets.token_hex(8))
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's settings; gunicorn calls this again on SIGHUP."""
        # A folder that another instance made is not used: that instance removes it.
        given = metrics_folder()
        environment = []
        if not given or Path(given).name.startswith(_OURS):
            environment.append(f"{METRICS_FOLDER}={self._folder}")
        # In the fallback `local` each worker grants its share of the limits. The variable is for
        # deployments with other instances, which gunicorn does not know.
        if not with_config({}).get(_LOCAL_SHARE):
            environment.append(f"{_LOCAL_SHARE}={self._workers}")
        for name, value in {
            "bind": self._addresses,
            "workers": self._workers,
            "worker_class": self._worker_class,
            "proc_name": "limiter",
            "raw_env": environment,
            "logger_class": JsonLogger,
            "accesslog": None,  # one line for each request is slower than the request
            "keepalive": _IDLE,
            "timeout": 30,
            "graceful_timeout": 3,
            # Workers touch a file as a heartbeat; on a busy disk that could take longer than `timeout`.
            "worker_tmp_dir": "/dev/shm" if os.path.isdir("/dev/shm") else None,  # noqa: S108
            # The socket would lie in the home folder, and nothing uses it.
            "control_socket_disable": True,
            "nworkers_changed": self._nworkers_changed,
            "when_ready": self._when_ready,
            "post_worker_init": self._post_worker_init,
            "on_exit": self._on_exit,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Make the service, in a worker."""
        try:
            return import_module(_SERVICE).create_app()
        except Exception as error:
            # gunicorn would print the error too, and not as JSON.
            logs.log.exception("the service cannot start: %s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        """Serve until a signal ends it; exit with 1 if the service cannot start."""
        _set_up_logs()
        _raise_limit_of_files()
        if all(isinstance(address, int) for address in self.cfg.address):
            systemd.listen_fds()  # drops the variables, by which gunicorn would open the same sockets again
        try:
            settings.check_workers(self._workers)
            admin_token = settings.from_env().admin_token
            settings.hand_on_policies()
        except LimiterError as error:
            logs.log.error("%s", error)
            sys.exit(1)
        if admin_token is not None and len(self._addresses) == 1:
            logs.log.warning(
                "%s has no effect without an address for operators: add --operators HOST:PORT",
                ADMIN_TOKEN,
            )
        master = os.getpid()
        try:
            super().run()
        except SystemExit as end:
            if end.code and os.getpid() == master:  # gunicorn's codes of workers mean more to it
                sys.exit(1)
            raise
        except Exception as error:  # such as a Unix socket's path that is another file
            logs.log.exception("the service cannot start: %s", error)
            sys.exit(1)

    def _nworkers_changed(self, arbiter: Any, new_value: int, old_value: int | None) -> None:
        """Log an error if workers added by a signal would each count by themselves."""
        if old_value is not None:
            try:
                settings.check_workers(new_value)
            except LimiterError as error:
                arbiter.log.error("%s", error)

    def _when_ready(self, arbiter: Any) -> None:
        """Refuse addresses if the operators' one cannot be recognised; then make the folder for metrics.

        The folder is made last, so that a start that fails leaves none behind.
        """
        ports = [_port(listener) for listener in arbiter.LISTENERS]
        if len(ports) != len(self._addresses) or ports[1:] == [None] or len({*ports}) < len(ports):
            arbiter.log.error(
                "bind: expected one address, or two of different ports, the second for operators"
            )
            sys.exit(1)
        # Workers start in a moment if their master has imported what they need; else it takes a second.
        import_module(_SERVICE)
        if self.cfg.env.get(METRICS_FOLDER):
            self._folder.mkdir(0o700)
        drain.install(arbiter, self._drain_seconds)

    def _post_worker_init(self, worker: Any) -> None:
        """Let the service recognise the operators' address."""
        if len(worker.sockets) == 2:
            worker.wsgi.operators_port = _port(worker.sockets[1])

    def _on_exit(self, arbiter: Any) -> None:
        """Remove the folder for metrics."""
        shutil.rmtree(self._folder, ignore_errors=True)


def read_address(text: str) -> None:
    """Check the form of an address: HOST:PORT, HOST, [HOST]:PORT, unix:PATH or fd://NUMBER.

    Raises:
        ValueError: It is another one; the message is what is accepted.

    """
    try:
        address = util.parse_address(text)
    except RuntimeError:
        address = None
    if isinstance(address, tuple):
        host, port = address
        # Only digits are a port without a host: gunicorn would try for seconds to resolve it as a name.
        valid = bool(host) and not host.isdigit() and 0 <= port <= 65_535
    else:
        valid = bool(address)
    if not valid:
        raise ValueError("expected HOST:PORT, HOST, [HOST]:PORT, unix:PATH or fd://NUMBER")


def _port(listener: Any) -> int | None:
    """The port of a socket; None for a Unix socket."""
    return None if listener.family == socket.AF_UNIX else int(listener.getsockname()[1])


def _raise_limit_of_files() -> None:
    """Allow as many open files as the system does: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS reports a limit that it does not allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _set_up_logs() -> None:
    """Write each line of each logger as JSON, and throttle those that requests can cause."""
    handler = logging.StreamHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    logs.write_json(root)
    logging.captureWarnings(True)
    logs.set_up(logging.INFO)
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)  # gunicorn logs when a worker starts and ends
        logger.addFilter(ThrottleFilter())
