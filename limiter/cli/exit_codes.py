"""Exit codes of the commands, and the line on standard error after a failure."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import click

from limiter.decision import RateLimited
from limiter.errors import LimiterError, StoreRefused, StoreUnavailable

DENIED = 1
UNDECIDED = 3
REFUSED = 4
UNWRITTEN = 5
#: The reason that is printed for a decision of the fallback.
BY_FALLBACK = "the store did not decide, LIMITER_ON_ERROR did"
#: A command that a signal ended has this exit code and the signal's number, as in shells.
BY_SIGNAL = 128
_SIGPIPE = 13
#: Why a system cannot take what a command prints. Errors of files have a name; those of sockets never get
#: here.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_FAILURES = """
  2  the command line or a variable is wrong
  3  the store did not decide
  4  the store refused: rights, password, a key of another type
  5  standard output cannot be written
"""
#: The end of the help texts: of commands that can be denied, and of the others.
CODES = f"\b\nExit codes:\n  0  allowed\n  1  denied{_FAILURES}"
CODES_OF_DONE = f"\b\nExit codes:\n  0  done{_FAILURES}"


@contextmanager
def by_exit_code() -> Iterator[None]:
    """Turn a limiter's errors into exit codes, but for RateLimited, which each command handles."""
    try:
        yield
    except RateLimited:
        raise
    except StoreUnavailable as error:
        fail(UNDECIDED, error)
    except StoreRefused as error:
        fail(REFUSED, error)
    except LimiterError as error:
        raise click.UsageError(str(error)) from None
    except KeyboardInterrupt:
        # Click would exit with 1, which means denied.
        raise SystemExit(BY_SIGNAL + 2) from None


@contextmanager
def by_output() -> Iterator[None]:
    """Turn errors of standard output into exit codes; say nothing if its reader has gone."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, *_FULL):
            raise
        # Python writes what is left when it exits, and would fail again.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise SystemExit(BY_SIGNAL + _SIGPIPE) from None
        fail(UNWRITTEN, f"standard output cannot be written: {error.strerror}")


def fail(code: int, reason: object) -> NoReturn:
    """Print the reason to standard error, and exit."""
    click.echo(f"limiter: {reason}", err=True)
    raise SystemExit(code)
