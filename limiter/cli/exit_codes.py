"""How a command ends, for shells: its exit code, and a line on standard error where something failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from limiter.decision import RateLimited
from limiter.errors import LimiterError, StoreRefused, StoreUnavailable

DENIED = 1
UNDECIDED = 3
REFUSED = 4
#: Why it was decided as it was, where nobody knows what the store would have said.
BY_FALLBACK = "the store did not decide, LIMITER_ON_ERROR did"
#: Of whatever a signal ended, as shells say it.
BY_SIGNAL = 128

_FAILURES = """
  2  the command line or a variable makes no sense
  3  the store did not decide
  4  the store refused: rights, password, a key of another type
"""
#: The end of the help of what may be denied, and of what may not.
CODES = f"\b\nExit codes:\n  0  allowed\n  1  denied{_FAILURES}"
CODES_OF_DONE = f"\b\nExit codes:\n  0  done{_FAILURES}"


@contextmanager
def by_exit_code() -> Iterator[None]:
    """Turn what a limiter raises into the exit codes; what RateLimited means is the command's to say."""
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
        # Click would make it 1, which says that it was denied.
        raise SystemExit(BY_SIGNAL + 2) from None


def fail(code: int, why: object) -> NoReturn:
    """Say why, and end."""
    click.echo(f"limiter: {why}", err=True)
    raise SystemExit(code)
