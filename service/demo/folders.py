"""Temporary folders of ours, and the removal of those whose owner was killed before it could."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

#: What their names begin with; the rest is tempfile's.
_OURS = "limiter-"
#: What a folder's name begins with until it is locked, which is soon.
_NEW = "new-limiter-"
_KINDS = ("server", "demo")
#: Where a server of ours listens, in its folder.
SOCKET = "server.sock"

#: Seconds for which a folder may have its first name.
_YOUNG = 600.0


class Folder:
    """A temporary folder, locked for as long as it is ours. The lock goes with the process."""

    def __init__(self, kind: str) -> None:
        _sweep_once()
        new = Path(tempfile.mkdtemp(prefix=f"{_NEW}{kind}-"))
        self._lock = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Whoever finds this name without a lock knows that the owner is gone.
        self.path = new.rename(new.with_name(new.name.replace(_NEW, _OURS)))

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep() -> None:
    """Remove this user's folders of ours that no process has or serves, nor is about to have."""
    root = Path(tempfile.gettempdir())
    for kind in _KINDS:
        for name, young in ((_OURS, 0.0), (_NEW, _YOUNG)):
            for path in root.glob(f"{name}{kind}-*"):
                with suppress(OSError):  # somebody else's, or gone by now
                    _remove_if_left(path, young)


_sweep_once = cache(sweep)


def _remove_if_left(path: Path, young: float) -> None:
    # O_NOFOLLOW: a link that bears such a name leads who knows where.
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        about = os.fstat(lock)
        if about.st_uid != os.getuid() or time.time() - about.st_mtime < young:
            return
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_served(path / SOCKET):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _is_served(address: Path) -> bool:
    """Whether a process listens there: a server that outlives its parent, paused or not."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(address))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # a full backlog is of one that is there
    return True
