"""The environment of real servers, and limiters that read the state of their applications."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limiter import Concurrency, Limiter


@pytest.fixture
def streams(store: str, subject: str) -> Iterator[Limiter]:
    """A limiter with the same state as the application's limiter of streams."""
    with Limiter(
        [Concurrency(2, lease=30)], store=store, prefix=subject, name="streams", timeout=5
    ) as found:
        yield found


@pytest.fixture
def variables(store: str, subject: str) -> dict[str, str]:
    """The applications' environment."""
    return {
        "LIMITER_STORE": store,
        "LIMITER_PREFIX": subject,
        "LIMITER_LIMITS": "20/minute",
    }
