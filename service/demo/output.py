"""What the demo prints: its own lines, and those of its children with their names before them."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from typing import IO

from service.demo.children import Child

_lock = threading.Lock()


def say(text: str) -> None:
    """Print at once. A reader that went away is no reason to end, let alone halfway."""
    with _lock:
        try:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


class Log:
    """Passes a child's lines on, and remembers the last ones."""

    def __init__(self, child: Child, width: int) -> None:
        self.last: deque[str] = deque(maxlen=3)
        self._prefix = f"{child.name:{width}} | "
        assert child.process.stdout is not None  # noqa: S101 (it was started with a pipe)
        self._pipe: IO[bytes] = child.process.stdout
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on what is left; the child has ended. Its own children may hold the pipe: not for ever."""
        self._thread.join(1.0)
        if not self._thread.is_alive():  # it would wait for those
            self._pipe.close()

    def _pass_on(self) -> None:
        for raw in self._pipe:
            line = raw.decode(errors="replace").rstrip()
            self.last.append(line)
            say(self._prefix + line)
