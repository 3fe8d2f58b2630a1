"""``limiter hold``: run a command while holding a lease."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import closing
from time import monotonic
from types import FrameType
from typing import Any

import click

from limiter import RateLimited
from limiter.cli.exit_codes import BY_FALLBACK, BY_SIGNAL, CODES, DENIED, by_exit_code, fail
from limiter.cli.options import Wait, about_leases, limiter_of_leases, optional_tag, subject

_FORWARDED = tuple(
    getattr(signal, f"SIG{name}") for name in ("INT", "QUIT", "TERM", "HUP", "USR1", "USR2")
)
#: A terminal sends these itself, to every process in the foreground.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)

#: Exit codes of shells: the command was not found, or could not be run.
_NOT_FOUND = 127
_NOT_RUN = 126

#: Seconds between two tries to take a lease, at most: another process may release one at any time.
_ASK_EVERY = 1.0


class Stopped(BaseException):
    """A signal arrived before the command was started."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = BY_SIGNAL + number


class Running:
    """Runs a command and passes signals on to it; a context manager.

    A handler that raises an exception does so anywhere: in a finalizer, which loses it, or just after a
    lock was taken. So the handler only notes a signal that arrives before the command; ``pause``, ``run``
    and the end of the ``with`` raise Stopped. A second one ends the process at once: its lease expires.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._early: list[int] = []
        self._awake = threading.Lock()
        self._awake.acquire()
        self._before: dict[int, Any] = {}

    def pause(self, seconds: float) -> None:
        """Sleep for this time; raise Stopped if a signal arrives meanwhile, or arrived before."""
        if self._awake.acquire(timeout=seconds):
            raise Stopped(self._early[0])

    def run(self) -> int:
        """Run the command to its end, and return its exit code; after a signal, 128 and its number."""
        self.pause(0)
        self._starting = True
        try:
            self._process = subprocess.Popen(self._words)  # noqa: S603 (the user's command)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            fail(_NOT_FOUND if missing else _NOT_RUN, f"{self._words[0]}: {error.strerror}")
        for number in self._early:
            self._process.send_signal(number)
        code = self._process.wait()
        return BY_SIGNAL - code if code < 0 else code

    def __enter__(self) -> Running:
        for number in _FORWARDED:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under `nohup`
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._early and self._process is None:
            raise Stopped(self._early[0])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._starting and number in _FROM_TERMINAL and _in_foreground() and _has_child():
            return  # the command has it from the terminal
        if self._process is not None:
            self._process.send_signal(number)
            return
        self._early.append(number)
        if self._starting:
            return
        if len(self._early) > 1:
            os._exit(BY_SIGNAL + number)
        self._awake.release()


def _in_foreground() -> bool:
    """Whether this process is in a terminal's foreground, where Ctrl-C reaches the command too."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _has_child() -> bool:
    """Whether the command was forked: its process exists before ``Popen`` returns."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


class _LeaseCount(click.IntRange):
    """The number of leases."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r}: expected how many commands may run at once, a whole number from 1 "
                f"(for a rate, use limiter hit)",
                param,
                ctx,
            )


@click.command(epilog=CODES)
@click.argument("limit", type=_LeaseCount(min=1))
@click.argument("key")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@about_leases
@click.option(
    "--wait",
    type=Wait(),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="Wait up to this long for a free lease.",
)
@click.option(
    "--lease",
    type=float,
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long a lease stays taken after its machine fails.",
)
@click.option(
    "-E",
    "--denied-code",
    type=click.IntRange(0, 255),
    default=DENIED,
    show_default=True,
    help="Exit code if all leases are taken.",
)
def hold(
    limit: int,
    key: str,
    command: tuple[str, ...],
    tag: str | None,
    wait: float,
    lease: float,
    denied_code: int,
    **options: Any,
) -> None:
    """Run COMMAND while holding one of LIMIT leases of KEY, on all machines that share the store.

    The lease is renewed while the command runs, and released at its end. The exit code is the
    command's; if it was not run, one of those below, 126 or 127. Signals are passed on. If the store
    does not answer for longer than a lease lasts, the lease is lost: the command goes on, and a
    warning is printed. Everything after -- belongs to the command.

    \b
    Examples:
      limiter hold 1 nightly-backup -- rsync -a /srv/ backup:/srv/
      limiter hold 3 thumbnails --wait 60 -E 75 -- convert in.png out.png
    """
    deadline = monotonic() + wait
    try:
        with (
            by_exit_code(),
            Running(command) as running,
            closing(limiter_of_leases(limit, lease, **options)) as limiter,
        ):
            while True:
                try:
                    with limiter.hold(subject(key), tag=optional_tag(tag)) as held:
                        if held.degraded:
                            click.echo(
                                f"limiter: {BY_FALLBACK}: other machines see no lease", err=True
                            )
                        raise SystemExit(running.run())
                except RateLimited as denied:
                    left = deadline - monotonic()
                    if left <= 0 or denied.decision.degraded:
                        raise
                    running.pause(min(denied.decision.retry_after, _ASK_EVERY, left))
    except Stopped as stopped:
        raise SystemExit(stopped.code) from None
    except RateLimited as denied:
        reason = BY_FALLBACK if denied.decision.degraded else f"all leases are taken: {denied}"
        fail(denied_code, reason)
