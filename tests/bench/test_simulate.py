"""The measurement of simulations, in its smallest form."""

from __future__ import annotations

import pytest

from bench import simulate
from bench.effort import QUICK


@pytest.mark.slow
def test_every_format_and_policy_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines are read, and most subjects come again; the memory is that of a process of its own."""
    monkeypatch.setattr(simulate, "ALGORITHMS", ["token_bucket"])
    section = simulate.measure(QUICK._replace(calls=4, repetitions=1, subjects=(2_000,)))
    (figures,) = section.checks.values()
    assert {name for name in figures if name.startswith("format ")} == {
        f"format {name}, us a line"
        for name in ("combined", "traefik", "caddy", "envoy", "json", "csv")
    }
    assert {"policies by path and key, us a line", "all subjects new, us a line"} < set(figures)
    assert all(0 < spread.median < 10_000 for spread in figures.values())
    assert 100 < figures["token_bucket, bytes a subject"].median < 5_000
    rates, times = section.tables
    assert len(rates.rows) == len(times.rows) - 1
