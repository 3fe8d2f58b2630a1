"""No key expires too early, too late or never, by the server's own clock."""

from __future__ import annotations

import pytest

from tests import lives
from tests.machines.support import DEPTH

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.mark.slow
def test_every_key_expires_when_its_state_counts_no_more(any_store):
    """Checked after each call of random subjects; ``python -m tests.lives`` makes more of them."""
    assert lives.check(any_store, 1_000 * DEPTH) > 1_000 * DEPTH
