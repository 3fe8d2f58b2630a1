"""Background threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from limiter.errors import StoreUnavailable


def start_thread(work: Callable[[], None], purpose: str) -> None:
    """Run ``work`` in a thread of its own, which does not keep the process alive.

    Raises:
        StoreUnavailable: This process can start no more threads; ``purpose`` begins the message.

    """
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError as error:
        raise StoreUnavailable(f"{purpose}: {error}") from error
