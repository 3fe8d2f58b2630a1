"""Temporary folders, and the removal of folders whose owner was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

#: The prefix of the folders' names; tempfile adds the rest.
_OURS = "limiter-"
_KINDS = ("server", "demo")
#: The Unix socket of a server, in its folder.
SOCKET = "server.sock"

#: Seconds in which a new folder is not removed: its owner may not have locked it yet.
_YOUNG = 600.0


class Folder:
    """A temporary folder, locked by this process. The lock ends with the process."""

    def __init__(self, kind: str) -> None:
        _sweep_once()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_OURS}{kind}-"))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the folder with its contents."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove this user's folders that no process has locked."""
    for kind in _KINDS:
        for path in Path(tempfile.gettempdir()).glob(f"{_OURS}{kind}-*"):
            with suppress(OSError):  # another user's, in use, or removed meanwhile
                _remove_if_left(path)


_sweep_once = cache(sweep)


def _remove_if_left(path: Path) -> None:
    # O_NOFOLLOW: a symbolic link of such a name may point to any folder.
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        about = os.fstat(lock)
        if about.st_uid == os.getuid() and time.time() - about.st_mtime > _YOUNG:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)
