"""Prints the demo's own lines, and the lines of its children with their names."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import IO

from service.demo.children import Child

_lock = threading.Lock()


def say(text: str) -> None:
    """Print a line at once. If the reader has closed the pipe, go on without output."""
    with _lock:
        try:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


class Log:
    """Prints a child's lines, and keeps the last ones."""

    def __init__(self, child: Child, width: int) -> None:
        self.last: deque[str] = deque(maxlen=3)
        self._prefix = f"{child.name:{width}} | "
        assert child.process.stdout is not None  # noqa: S101 (it was started with a pipe)
        self._pipe: IO[bytes] = child.process.stdout
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Print the rest, after the child has ended; wait a second, as its children may hold the pipe."""
        self._thread.join(1.0)
        if not self._thread.is_alive():  # else closing would wait for the thread
            self._pipe.close()

    def _pass_on(self) -> None:
        for raw in self._pipe:
            line = raw.decode(errors="replace").rstrip()
            self.last.append(line)
            say(self._prefix + line)
