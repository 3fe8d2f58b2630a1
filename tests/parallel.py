"""Threads, forks and processes that work beside a test."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

#: Processes come from a small server that has no threads, so that starting one takes milliseconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.concurrency.hammer"])


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Call ``work`` with 0, 1, 2 ... in ``count`` threads at once; raise the error of any."""
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(run, number) for number in range(count)]:
            future.result()


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork of this process; return its exit code, which is 1 after an error."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextmanager
def child(work: Callable[..., None], *args: Any) -> Iterator[tuple[Any, Connection]]:
    """A process at work, and the pipe to it, its last argument; the process is killed at the end."""
    ours, theirs = processes.Pipe()
    running = processes.Process(target=work, args=(*args, theirs))
    running.start()
    theirs.close()
    try:
        yield running, ours
    finally:
        with suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGCONT)
        running.kill()
        running.join()
        running.close()
        ours.close()
