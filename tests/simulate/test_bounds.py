"""What a replay keeps of requests is bounded; what it finds again is the same."""

from __future__ import annotations

import pytest

from limiter.policyfile.reading import read
from limiter.simulate import checks
from limiter.simulate.replay import Replay
from tests.simulate.support import POLICIES, entries


def test_a_small_memory_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views, checks, blocks and calls are found again when there were too many."""
    reports = []
    for most in (checks._MOST_KEPT, 3):
        monkeypatch.setattr(checks, "_MOST_KEPT", most)
        file = read(POLICIES, "policies.toml")
        replay = Replay(file)
        replay.run(entries(1_500))
        reports.append(replay.report())
        finder = replay._finder
        kept = (finder._views, finder._number_of, finder._found, finder._prepared, finder._checks)
        assert all(len(each) <= most for each in kept)
    assert reports[0] == reports[1]
    assert reports[0].denied > 100
