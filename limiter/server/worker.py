"""gunicorn's worker for the decision service: uvicorn's server, with bounds for slow clients.

For an application that answers 204, uvicorn's protocol (uvloop, httptools) answers 1.6 times as many
requests in a second of the processor as gunicorn's own ASGI worker with its parser in C. Its class can be
replaced by a setting.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as BaseWorker

from limiter.server.connections import Bounds, Connection, Connections

#: Files of a worker that are no connections: those of the store, of metrics and of logs.
_OTHER_FILES = 200

#: New objects after which the garbage collector runs, and how rarely it looks at older ones.
_COLLECT = (10_000, 20, 50)

#: Seconds between two looks at the deadlines of connections.
_LOOK_EVERY = 0.5


class Worker(BaseWorker):  # type: ignore[misc]
    """A process that serves; subclasses may change the numbers."""

    #: Seconds in which a request must arrive, head and body.
    read_timeout = 10.0
    #: Seconds that a response waits while the client reads nothing, and the buffers are full.
    write_timeout = 5.0
    #: Seconds that a client has to read the last response and close.
    linger = 2.0
    #: The most connections; fewer if the limit of open files is lower.
    most_connections = 12_000
    #: The most bytes of all incomplete requests together.
    most_incomplete = 32 * 1024 * 1024
    #: Seconds for requests in progress when the worker stops; gunicorn kills it later (graceful_timeout).
    stop_timeout = 2

    def init_signals(self) -> None:
        """Leave all signals to the event loop, apart from USR1: gunicorn reopens its logs."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        signal.siginterrupt(signal.SIGUSR1, False)

    def run(self) -> None:
        """Serve until a signal ends it."""
        connections = Connections(
            Bounds(
                read=self.read_timeout,
                idle=self.cfg.keepalive,
                write=self.write_timeout,
                linger=self.linger,
                connections=self._most_connections(),
                incomplete=self.most_incomplete,
            )
        )
        config = uvicorn.Config(
            self.wsgi,
            http=partial(Connection, connections=connections),  # type: ignore[arg-type]
            ws="none",
            interface="asgi3",
            lifespan="on",
            log_config=None,
            access_log=False,
            # The service reads the addresses that proxies add by itself.
            proxy_headers=False,
            server_header=False,
            backlog=self.cfg.backlog,
            timeout_graceful_shutdown=self.stop_timeout,
        )
        # By default the collector runs after 700 new objects, and looks at all modules too, while requests
        # wait. Hardly any object of a request needs it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        server = _Server(config, self, connections)
        server.run(sockets=[listener.sock for listener in self.sockets])
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _most_connections(self) -> int:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return self.most_connections
        return min(self.most_connections, max(files - _OTHER_FILES, files // 2))


class _Server(uvicorn.Server):
    """uvicorn's server, as a worker of gunicorn."""

    def __init__(self, config: uvicorn.Config, worker: Worker, connections: Connections) -> None:
        super().__init__(config)
        self._worker = worker
        self._all = connections

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the event loop, and do not send them again at the end, as uvicorn does."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        for number in (signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._stop, True)
        loop.add_signal_handler(signal.SIGHUP, self._worker.wsgi.policies.reload)
        looking = loop.create_task(self._look())
        try:
            yield
        finally:
            looking.cancel()

    def _stop(self, at_once: bool = False) -> None:
        self.should_exit = True
        if at_once:
            for connection in list(self.server_state.connections):
                connection.abort()  # type: ignore[union-attr]

    async def _look(self) -> None:
        """Close connections past their deadline, and tell gunicorn that this process works."""
        loop = asyncio.get_running_loop()
        while True:
            self._all.close_late(loop.time())
            self._worker.notify()
            if os.getppid() != self._worker.ppid:  # gunicorn was killed
                self._stop()
            await asyncio.sleep(_LOOK_EVERY)

    async def shutdown(self, sockets: Any = None) -> None:
        """Answer the requests in progress; the event loop closes the sockets."""
        self._all.stopping = True
        await super().shutdown()
