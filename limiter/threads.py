"""Threads that do something beside their maker, and what an interrupt makes of waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from limiter.errors import StoreUnavailable

_Function = TypeVar("_Function", bound=Callable[..., Any])


def start_thread(work: Callable[[], None], what: str) -> None:
    """Run it in a thread of its own, which does not keep the process alive.

    Raises:
        StoreUnavailable: This process gets no more threads; ``what`` says what comes of that.

    """
    try:
        _start(work)
    except RuntimeError as error:
        raise StoreUnavailable(f"{what}: {error}") from error


def as_raised(function: _Function) -> _Function:
    """Let out what a signal's handler raised while the function waited, KeyboardInterrupt say.

    ``threading.Condition`` is Python's own code: whoever is interrupted in the middle of it may release
    a lock that it does not have, and that error stands in the place of the handler's.
    """

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            if error.__context__ is None or "lock" not in str(error):
                raise
            raise error.__context__ from None

    return cast("_Function", called)


@as_raised
def _start(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True).start()
