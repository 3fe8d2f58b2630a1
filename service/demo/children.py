"""Child processes that end with this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

#: Seconds between SIGTERM and SIGKILL.
STOP_TIMEOUT = 5.0
#: Seconds between two signals: a process handles the first one before the second one arrives.
_AGAIN = 0.2

# This wrapper asks the kernel to end it with its parent, however the parent ends, and then executes the
# program. `preexec_fn` would do the same, but is not safe in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, sys
parent, death_signal, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(death_signal))
if os.getppid() != int(parent):
    os._exit(1)
os.execv(argv[0], argv)
"""


class Child:
    """A child process in a session of its own, so that a terminal's Ctrl-C reaches only the parent.

    On Linux it ends with its parent even when that is killed. The kernel watches the *thread* that started
    it, so this holds only for children of the main thread; others must be stopped.

    ``keep`` are the open files that it inherits.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        output: IO[bytes] | int | None = None,
        death_signal: int = signal.SIGTERM,
        keep: Collection[int] = (),
    ) -> None:
        command = [str(part) for part in argv]
        if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
            wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT]
            command = [*wrapper, str(os.getpid()), str(int(death_signal)), *command]
        self.name = name
        self.process = subprocess.Popen(  # noqa: S603
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            start_new_session=True,
            pass_fds=tuple(keep),
        )

    @property
    def pid(self) -> int:
        """The id of the process, and of its group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process itself is still running, whatever its own children do."""
        return self.process.poll() is None

    @property
    def ending(self) -> str:
        """How the process ended, as text."""
        code = self.process.poll()
        if code is None:
            return "still running"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def signal(self, number: int) -> None:
        """Signal the process, if it is still running."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the process and its group."""
        with suppress(ProcessLookupError):  # the group is empty
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Send SIGTERM, and kill what is left of the process's group after ``timeout`` seconds."""
        stop([self], timeout)


def stop(children: Iterable[Child], timeout: float = STOP_TIMEOUT) -> None:
    """Stop all children at the same time; afterwards no process of their groups is left."""
    children = list(children)
    for child in children:
        if child.alive:
            # A paused process would not handle SIGTERM.
            child.signal(signal.SIGCONT)
            child.signal(signal.SIGTERM)
    deadline = time.monotonic() + timeout
    for child in children:
        with suppress(subprocess.TimeoutExpired):  # the next line kills it
            child.process.wait(max(0.0, deadline - time.monotonic()))
        child.kill()


def stop_at_once(children: Iterable[Child]) -> None:
    """Stop children that drain on SIGTERM: the second one ends that."""
    children = list(children)
    for child in children:
        child.signal(signal.SIGTERM)
    time.sleep(_AGAIN)
    stop(children)
