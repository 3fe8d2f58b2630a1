"""Temporary folders of ours, and the removal of those whose owner was killed before it could."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

#: What their names begin with; the rest is tempfile's.
_OURS = "limiter-"
_KINDS = ("server", "demo")
#: Where a server of ours listens, in its folder.
SOCKET = "server.sock"

#: Seconds for which a folder is left alone: its owner locks it long before.
_YOUNG = 600.0


class Folder:
    """A temporary folder, locked for as long as it is ours. The lock goes with the process."""

    def __init__(self, kind: str) -> None:
        _sweep_once()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_OURS}{kind}-"))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove this user's folders of ours that no process has."""
    for kind in _KINDS:
        for path in Path(tempfile.gettempdir()).glob(f"{_OURS}{kind}-*"):
            with suppress(OSError):  # another user's, in use, or gone by now
                _remove_if_left(path)


_sweep_once = cache(sweep)


def _remove_if_left(path: Path) -> None:
    # O_NOFOLLOW: a link of such a name may lead anywhere.
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        about = os.fstat(lock)
        if about.st_uid == os.getuid() and time.time() - about.st_mtime > _YOUNG:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
