"""The library of another git revision, measured beside the checkout's in the same run.

A process of its own imports that library, makes the same cases from this checkout's modules, and runs one
whenever this process requests it. So only the library differs: the floor, the servers, the core and the
order of the chunks are the same.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bench.effort import Effort
from bench.sections import Failed
from service.demo.children import Child
from service.demo.servers import Server

_CHECKOUT = Path(__file__).parent.parent


class NoLibrary(Exception):
    """There is no library of that revision; the message says why."""


class Library(NamedTuple):
    """The library of a revision, in a folder."""

    commit: str
    """The short hash."""
    folder: Path


class Side(NamedTuple):
    """The servers for the cases of one library, and a name that keeps its keys apart."""

    name: str
    stores: tuple[str, ...]
    pids: tuple[int, ...]
    """The servers' processes."""

    @classmethod
    def here(cls, stores: Collection[str], servers: Collection[Server]) -> Side:
        """Return the side of the checkout's library."""
        return cls("bench", tuple(stores), tuple(server.pid for server in servers))

    def other(self) -> Side:
        """Return the side of another library; its keys have the same length."""
        return self._replace(name="other")


#: What a part measures of a library: for each case, a function that makes its call (most often a chunk).
Cases = dict[str, Callable[[], Callable[[], Any]]]


@contextmanager
def library(revision: str) -> Iterator[Library]:
    """Extract the library of a revision into a temporary folder.

    Changes in the checkout that are not committed belong to no revision, so they do not matter here.

    Raises:
        NoLibrary: git, the checkout's repository, the revision, or a library in it is missing.

    """
    words = ["rev-parse", "--verify", "--short", f"{revision}^{{commit}}"]
    expected = "expected a commit, branch or tag of this checkout"
    commit = str(_git(words, f"{revision} is no revision: {expected}"), "ascii").strip()
    with extract(revision, "limiter", "lua") as folder:
        yield Library(commit, folder)


@contextmanager
def extract(revision: str, *names: str) -> Iterator[Path]:
    """Extract folders of a revision into a temporary folder.

    Raises:
        NoLibrary: The revision lacks one of them.

    """
    failure = f"{revision} has no library: expected {', '.join(names)} in it"
    archive = _git(["archive", "--format=zip", revision, *names], failure)
    with TemporaryDirectory(prefix="limiter-before-") as folder:
        zipfile.ZipFile(io.BytesIO(archive)).extractall(folder)
        yield Path(folder)


def _git(words: list[str], failure: str) -> bytes:
    git = ["git", "-C", str(_CHECKOUT), *words]
    try:
        return subprocess.run(git, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise NoLibrary("git is not installed: install it, or leave this option out") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").partition("\n")[0]
        raise NoLibrary(f"{failure} (git: {reason})") from None


def calls_of(
    before: Library | None,
    part: str,
    side: Side,
    effort: Effort,
    stack: ExitStack,
    notes: list[str],
) -> dict[str, Callable[[], Any]]:
    """Start the process of another library, and return the calls of the cases that it can make.

    ``notes`` gets the reason for each other case. Without a library there are no calls.
    """
    if before is None:
        return {}
    here, there = Pipe()
    path = os.pathsep.join([str(before.folder), str(_CHECKOUT)])
    with there:
        child = Child(
            f"the process with the library of {before.commit}",
            [sys.executable, "-m", "bench.other_side", str(there.fileno())],
            env=os.environ | {"PYTHONPATH": path},
            cwd=before.folder,
            keep=[there.fileno()],
        )
    stack.callback(child.stop)
    stack.enter_context(here)

    def request(message: object) -> Any:
        try:
            here.send(message)
            answer = here.recv()
        except (EOFError, OSError):
            raise Failed(f"{child.name} ended ({child.ending})") from None
        if isinstance(answer, Failed):
            raise Failed(f"{child.name}: {answer}")
        return answer

    names, reasons = request((part, side.other(), effort))
    for name, reason in reasons.items():
        note = f"{name}, with the library of {before.commit}: {reason}"
        if note not in notes:  # the same on each server
            notes.append(note)

    def call(name: str) -> Callable[[], Any]:
        return lambda: request(name)

    return {name: call(name) for name in names}


def made(cases: Cases) -> dict[str, Callable[[], Any]]:
    """Make the calls of all cases."""
    return {name: make() for name, make in cases.items()}
