"""``limiter hold``: a command under a lease, its signals and its exit code, on real servers."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, FrameType

import pytest
import redis

from limiter.cli.hold import Running
from service.demo.servers import HOST, Server
from tests.cli.support import run, start
from tests.e2e.support import until
from tests.proxy import Proxy
from tests.service.support import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

#: Files of functions that use locks, connections and threads, or have finalizers.
RISKY = re.compile(r"/limiter/(transport|leases|lines|\w*threads?)|/redis/conn|/threading\.py")

#: A shell that prints each signal that it gets, and ends when the file $1 is removed.
LISTENS = """
for name in INT QUIT TERM HUP USR1 USR2; do trap "echo $name" $name; done
echo ready
while [ -e "$1" ]; do sleep 0.05; done
exit 7
"""


def leases(store: str, subject: str) -> int:
    """The number of leases of a subject."""
    with redis.Redis.from_url(store) as client:
        keys = client.scan_iter(f"rl:{{{subject}}}*", 10_000)
        return sum(client.zcard(key) for key in keys)


class Held:
    """``limiter hold 1 SUBJECT``, which runs that shell."""

    def __init__(self, store: str, subject: str, folder: Path, *options: str) -> None:
        self.gate, self.out = folder / "gate", folder / "out"
        self.gate.touch()
        self.store, self.subject = store, subject
        words = ["hold", "1", subject, "--store", store, *options, "--"]
        with self.out.open("wb") as out:
            self.process = start(
                [*words, "bash", "-c", LISTENS, "bash", str(self.gate)],
                stdout=out,
                start_new_session=True,
            )
        until(lambda: "ready" in self.printed, what=lambda: self.printed)

    @property
    def printed(self) -> str:
        """The output of the command so far."""
        return self.out.read_text()

    def leases(self) -> int:
        """The number of leases in the store."""
        return leases(self.store, self.subject)

    def finish(self) -> tuple[int, str]:
        """End the command; return the exit code and standard error."""
        self.gate.unlink(missing_ok=True)
        _, err = self.process.communicate(timeout=30)
        return self.process.returncode, err


@pytest.fixture
def held(store: str, subject: str, tmp_path: Path) -> Iterator[Held]:
    """A running command under a lease."""
    running = Held(store, subject, tmp_path)
    yield running
    running.process.kill()
    running.process.wait()


def hold(store: str, subject: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run ``limiter hold`` with one lease to the command's end."""
    with start(["hold", "--store", store, "1", subject, *words]) as process:
        out, err = process.communicate(timeout=30)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def test_others_are_denied_until_it_ends(held: Held, tmp_path: Path) -> None:
    """One lease at a time; the exit code is the command's."""
    assert held.leases() == 1
    done = hold(held.store, held.subject, "--", "touch", str(tmp_path / "ran"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("limiter: all leases are taken: denied by Concurrency(1")
    assert run(f"hold 1 {held.subject} -E 75 false", LIMITER_STORE=held.store).exit_code == 75
    assert not (tmp_path / "ran").exists()
    assert held.finish() == (7, "")
    assert held.leases() == 0


def test_waiting_for_a_lease(held: Held) -> None:
    """It gets the lease that the first holder releases."""
    words = ["hold", "1", held.subject, "--store", held.store, "--wait", "60", "--"]
    with start([*words, "echo", "mine"]) as waiting:
        held.finish()
        assert waiting.communicate(timeout=30) == ("mine\n", "")
    assert waiting.returncode == 0


def test_signals_are_passed_on(held: Held) -> None:
    """The command decides what they mean; the lease is held until the command ends."""
    names = ["INT", "QUIT", "TERM", "HUP", "USR1", "USR2"]
    for number, name in enumerate(names, 2):
        held.process.send_signal(signal.Signals[f"SIG{name}"])
        until(lambda: len(held.printed.split()) == number, what=lambda: held.printed)  # noqa: B023
    assert held.process.poll() is None
    assert held.leases() == 1
    assert held.finish() == (7, "")
    assert held.printed.split() == ["ready", *names]
    assert held.leases() == 0


def test_a_command_that_a_signal_ends(store: str, subject: str) -> None:
    """The exit code is 128 and the signal's number, as in shells."""
    assert hold(store, subject, "--", "sh", "-c", "kill -KILL $$").returncode == 128 + 9
    assert leases(store, subject) == 0


#: ``limiter hold`` that sees the command start only when a file exists.
SEES_LATE = """
import subprocess, sys, time
from pathlib import Path
from limiter.__main__ import main

start = subprocess.Popen.__init__

def late(*arguments, **more):
    start(*arguments, **more)
    while not Path(sys.argv[-1] + ".seen").exists():
        time.sleep(0.01)

subprocess.Popen.__init__ = late
main()
"""


@pytest.mark.parametrize("program", [["-m", "limiter"], ["-c", SEES_LATE]], ids=["", "starting"])
def test_ctrl_c_reaches_the_command_once(
    store: str, subject: str, tmp_path: Path, program: list[str]
) -> None:
    """A terminal sends it to every process in the foreground: it is not passed on as well."""
    gate = tmp_path / "gate"
    gate.touch()
    words = [sys.executable, *program, "hold", "1", subject, "--store", store, "--"]
    words += ["bash", "-c", LISTENS, "bash", str(gate)]
    ours, theirs = pty.openpty()
    # Else the terminal drops output while it sends the signal.
    modes = termios.tcgetattr(theirs)
    modes[3] |= termios.NOFLSH
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    # The command runs in the foreground of its own terminal.
    # Tests that run in the background ignore Ctrl-C, and the command would inherit that.
    words = ["setsid", "--ctty", "env", "--default-signal=HUP,INT,QUIT", *words]
    process = subprocess.Popen(words, cwd=ROOT, **streams)
    os.close(theirs)
    printed = b""
    while b"ready" not in printed:
        printed += os.read(ours, 1000)
    os.write(ours, b"\x03")
    while b"INT" not in printed:
        printed += os.read(ours, 1000)
    Path(f"{gate}.seen").touch()
    time.sleep(0.3)  # a second signal would arrive in this time, and no event says that none comes
    gate.unlink()
    assert process.wait(30) == 7
    with suppress(OSError):  # Linux reports so that the other end is closed
        while more := os.read(ours, 1000):
            printed += more
    os.close(ours)
    assert printed.count(b"INT") == 1, printed
    assert leases(store, subject) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_waiting_ends_it(held: Held, number: int, tmp_path: Path) -> None:
    """No command was run, and no lease is held."""
    words = ["hold", "1", held.subject, "--store", held.store, "--wait", "100", "--"]
    with start([*words, "touch", str(tmp_path / "ran")]) as waiting:
        # No other program handles this one: coverage, for example, handles SIGTERM.
        until(lambda: _catches(waiting.pid, signal.SIGUSR2), what=lambda: "no handler")
        waiting.send_signal(number)
        assert waiting.communicate(timeout=30) == ("", "")
    assert waiting.returncode == 128 + number
    held.finish()
    assert held.leases() == 0
    assert not (tmp_path / "ran").exists()


def test_a_second_signal_ends_it_at_once(proxy: Proxy, subject: str) -> None:
    """Also while the store does not answer: the first signal waits for the end of the call."""
    asked = threading.Event()

    def silent(data: bytes) -> bytes:
        if b"EVAL" in data:
            asked.set()
            return b""
        return data

    proxy.requests = silent
    words = ["hold", "1", subject, "--store", proxy.url, "--timeout", "100", "--", "true"]
    with start(words) as waiting:
        assert asked.wait(30)
        for number in (signal.SIGUSR1, signal.SIGTERM):  # in the order of their numbers
            waiting.send_signal(number)
        assert waiting.communicate(timeout=30) == ("", "")
    assert waiting.returncode == 128 + signal.SIGTERM


@pytest.mark.slow(5)
def test_a_signal_in_any_function_ends_it(store: str, subject: str, tmp_path: Path) -> None:
    """Also in finalizers and under locks: no command was run, and no lease is held."""
    line = f"hold --store {store} 1 {subject} -- touch {tmp_path / 'ran'}"
    interrupted: set[CodeType] = set()
    while True:
        with signal_in_another_function(interrupted) as sent:
            done = run(line)
        if not sent:
            break
        assert (done.exit_code, done.output) == (128 + signal.SIGTERM, ""), sent
        assert leases(store, subject) == 0
    assert (done.exit_code, done.output) == (0, "")
    # Else the test would no longer reach what it is about.
    assert {"__del__", "start", "_take_flow"} <= {code.co_name for code in interrupted}


@contextmanager
def signal_in_another_function(interrupted: set[CodeType]) -> Iterator[list[CodeType]]:
    """Send SIGTERM when ``limiter hold`` calls the next function that is not ``interrupted``."""
    sent: list[CodeType] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if (
            event == "call"
            and not sent
            and code not in interrupted
            and RISKY.search(code.co_filename)
        ):
            sent.append(code)
            interrupted.add(code)
            signal.raise_signal(signal.SIGTERM)

    def enter(running: Running) -> Running:
        entered(running)
        sys.setprofile(profile)
        return running

    def go_on(running: Running) -> int:
        sys.setprofile(None)
        return ran(running)

    entered, ran = Running.__enter__, Running.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Running, "__enter__", enter)
        patch.setattr(Running, "run", go_on)
        try:
            yield sent
        finally:
            sys.setprofile(None)


def _catches(pid: int, number: int) -> bool:
    """Whether a process has installed a handler for a signal."""
    mask = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:")[2].split()[0]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_lost_lease_is_reported(subject: str, tmp_path: Path) -> None:
    """The command goes on, and its exit code does not change."""
    with Server() as server:
        held = Held(server.url, subject, tmp_path, "--lease", "2", "--timeout", "2")
        server.kill()
        assert held.process.stderr is not None
        line = held.process.stderr.readline()
        assert line.startswith("limiter: a lease was lost: ")
        assert held.process.poll() is None
        code, _ = held.finish()
    assert code == 7


def test_the_lease_is_renewed(store: str, subject: str, tmp_path: Path) -> None:
    """The command runs longer than a lease lasts."""
    held = Held(store, subject, tmp_path, "--lease", "3")  # renewed each second
    with redis.Redis.from_url(store) as client:
        (key,) = client.scan_iter(f"rl:{{{subject}}}*", 10_000)
        first = client.zrange(key, 0, -1, withscores=True)
        until(
            lambda: client.zrange(key, 0, -1, withscores=True)[0][1] > first[0][1] + 500_000,
            what=lambda: "no renewal",
        )
    assert held.finish() == (7, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("-- /nowhere/at-all", 127, "limiter: /nowhere/at-all: No such file or directory\n"),
        ("-- /etc/passwd", 126, "limiter: /etc/passwd: Permission denied\n"),
        ("", 2, "Missing argument 'COMMAND...'"),
        ("rsync -a", 2, "No such option"),
        ("--lease 0 -- true", 2, "lease"),
    ],
)
def test_a_command_that_cannot_be_run(
    store: str, subject: str, words: str, code: int, message: str
) -> None:
    """The error is one line, and no lease is held afterwards."""
    before = signal.getsignal(signal.SIGINT)
    done = run(f"hold --store {store} 1 {subject} {words}")
    assert (done.exit_code, done.stdout) == (code, "")
    assert message.lower() in done.stderr.lower()
    assert leases(store, subject) == 0
    assert signal.getsignal(signal.SIGINT) == before


def test_a_rate_cannot_be_held() -> None:
    """The error names what is accepted."""
    done = run("hold --store redis://127.0.0.1:1 1/minute report -- true")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "'1/minute': expected how many commands may run at once" in done.stderr


def test_limits_of_the_environment_do_not_apply_to_leases(store: str, subject: str) -> None:
    """A service's variables do not keep a command from running."""
    environ = {"LIMITER_LIMITS": "5/x", "LIMITER_ALGORITHM": "gcra", "LIMITER_STORE": store}
    assert run(f"hold 1 {subject} true", **environ).exit_code == 0


@pytest.mark.parametrize(("on_error", "code"), [("allow", 0), ("local", 0), ("deny", 1)])
def test_a_decision_of_the_fallback_is_reported(subject: str, on_error: str, code: int) -> None:
    """Users must not take it for a denial, or for a lease that other machines see."""
    line = f"hold --store redis://{HOST}:1 1 {subject} true"
    done = run(line, LIMITER_ON_ERROR=on_error)
    assert done.exit_code == code
    assert "limiter: the store did not decide, LIMITER_ON_ERROR did" in done.stderr
    assert ("other machines see no lease" in done.stderr) == (code == 0)
    assert "taken" not in done.stderr


def test_without_a_store_it_does_not_run(subject: str, tmp_path: Path) -> None:
    """The exit code is 3, and the command has not run."""
    done = run(f"hold --store redis://{HOST}:1 1 {subject} -- touch {tmp_path / 'ran'}")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("limiter: store ")
    assert not (tmp_path / "ran").exists()
