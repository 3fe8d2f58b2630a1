"""Processes that we start, and that never outlive us."""

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

#: How long a process may take to stop when asked, before it is killed.
PATIENCE = 5.0

# Run in place of the program, which it then becomes: the kernel ends it with its parent, however
# the parent ends. `preexec_fn` would do the same, but is not safe in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, sys
parent, death_signal, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(death_signal))
if os.getppid() != int(parent):
    os._exit(1)
os.execv(argv[0], argv)
"""


class Child:
    """A process in a session of its own, so that a terminal's Ctrl-C reaches only us.

    On Linux it ends with us even when we are killed. The kernel means the *thread* that started
    it, so this holds for children of the main thread only; others have to be stopped.

    ``keep`` are the open files it inherits.
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
        """The process, and its process group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """The process itself (its own children aside) is still there."""
        return self.process.poll() is None

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self.process.poll()
        if code is None:
            return "still running"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def signal(self, number: int) -> None:
        """Signal the process, if it is still there."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the process and everything in its group at once."""
        with suppress(ProcessLookupError):  # raised when nobody is left in the group
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, patience: float = PATIENCE) -> None:
        """Ask the process to end, and kill what is left of its group after ``patience`` seconds."""
        stop([self], patience)


def stop(children: Iterable[Child], patience: float = PATIENCE) -> None:
    """Stop all of them side by side; afterwards none of them, nor of their groups, is left."""
    children = list(children)
    for child in children:
        if child.alive:
            # A process that was paused would never see the request.
            child.signal(signal.SIGCONT)
            child.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    for child in children:
        with suppress(subprocess.TimeoutExpired):  # killed in the next line, as its group is
            child.process.wait(max(0.0, deadline - time.monotonic()))
        child.kill()
