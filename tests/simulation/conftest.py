"""What all tests of schedules need."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Leave older objects to no collection: between two schedules there are many."""
    gc.freeze()
    yield
    gc.unfreeze()
