"""The demo as a user starts it, and the processes that it leaves."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import pytest

from service.demo.servers import HOST
from tests.service.support import ROOT, clean_environment
from tests.waiting import PATIENCE, until


class Process:
    """A process of ``/proc``, identified by its id and its start time."""

    def __init__(self, pid: int) -> None:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.pid = pid
        self.state = after_name[0]
        self.parent = int(after_name[1])
        self.started = after_name[19]
        self.command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()

    @property
    def runs(self) -> bool:
        """Whether this same process is still running."""
        try:
            now = Process(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return now.started == self.started and now.state != "Z"


def processes() -> list[Process]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.append(Process(int(name)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return found


def listening(pids: set[int]) -> set[str]:
    """Return the addresses on which these processes listen, in the kernel's spelling."""
    inodes = set()
    for pid in pids:
        try:
            files = list(Path(f"/proc/{pid}/fd").iterdir())
        except (FileNotFoundError, PermissionError):
            continue
        for file in files:
            try:
                target = os.readlink(file)
            except OSError:
                continue
            if match := re.fullmatch(r"socket:\[(\d+)\]", target):
                inodes.add(match[1])
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                found.add(words[1])
    return found


def _port_for_later() -> int:
    """Return a free port that no other part of the demo chooses: Traefik starts last."""
    while True:
        port = secrets.choice(range(10_000, 18_000))  # `free_port` uses the ports above
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port


class Demo:
    """``make demo`` in a session of its own, with a temporary folder of its own.

    ``program`` is what the recipe of ``make demo`` runs, or ``make`` itself.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        program: Sequence[str] = (sys.executable, "-m", "service.demo"),
        **variables: str,
    ) -> None:
        self.port = _port_for_later()
        self.url = f"http://127.0.0.1:{self.port}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        # All tests share the store, so this demo needs subjects of its own.
        variables = {"LIMITER_PREFIX": f"demo-{secrets.token_hex(4)}", **variables}
        self._log = folder / "log"
        self.seen: dict[int, Process] = {}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                # A demo under nohup ignores SIGHUP; tests under nohup must not pass that on.
                ["env", "--default-signal=HUP", *program, f"--port={self.port}", *options],
                env=clean_environment(TMPDIR=str(self.temporary), **variables),
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """The demo's output."""
        return self._log.read_text()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Wait until the demo has printed this."""
        until(
            lambda: text in self.log or self.process.poll() is not None,
            seconds,
            what=lambda: f"no {text!r} in:\n{self.log}",
        )
        assert text in self.log, self.log

    def look(self) -> list[Process]:
        """Remember all processes of the demo, and return those that run now."""
        family = {self.process.pid}
        everybody = sorted(processes(), key=lambda process: process.pid)
        while True:
            more = {p.pid for p in everybody if p.parent in family} - family
            if not more:
                break
            family |= more
        found = [process for process in everybody if process.pid in family]
        self.seen.update({process.pid: process for process in found})
        return found

    def child(self, text: str) -> int:
        """Return the process whose command line has this text."""
        return next(p.pid for p in self.look() if text in p.command and p.pid != self.process.pid)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send it a signal, as a terminal or `kill` does, and return its exit code."""
        self.look()
        self.process.send_signal(number)
        return self.process.wait(30)

    def left_behind(self) -> list[str]:
        """Return the processes that are still running, of all that were seen."""
        running = [process.command for process in self.seen.values() if process.runs]
        return running + [str(path) for path in self.temporary.iterdir()]

    def __enter__(self) -> Demo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


class Counts:
    """The counts of `ab`, without failures by length."""

    def __init__(self, report: str) -> None:
        def number(label: str) -> int:
            match = re.search(rf"{label}:\s+(\d+)", report)
            return int(match[1]) if match else 0

        self.report = report
        self.seconds = float(re.search(r"Time taken for tests:\s+([\d.]+)", report)[1])  # type: ignore[index]
        self.complete = number("Complete requests")
        self.failed = number("Failed requests")
        self.refused = number("Non-2xx responses")
        self.admitted = self.complete - self.refused


def ab(url: str, *options: str) -> Counts:
    """Run ApacheBench: by default the 1,000 requests on 100 connections of the README."""
    program = shutil.which("ab")
    if program is None:
        pytest.skip("ab is not installed (Debian: apache2-utils)")
    options = options or ("-n", "1000", "-c", "100")
    done = subprocess.run(
        [program, *options, url], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return Counts(done.stdout)
