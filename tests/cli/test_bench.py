"""``limiter bench`` runs ``python -m bench``, or reports that it needs a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.cli import bench
from tests.cli.support import run, shell


@pytest.mark.slow
def test_from_a_checkout_it_runs_the_measurements() -> None:
    """With their options, their help and their exit codes, from any folder."""
    for line in ("cd / && limiter bench --help", "cd / && limiter bench --nonsense"):
        done = shell(line)
        plain = shell(f"{{ {line}; }}".replace("limiter bench", _PLAIN))
        theirs = (plain.returncode, plain.stdout, plain.stderr)
        expected = [text.replace("python -m bench", "limiter bench") for text in theirs[1:]]
        assert [done.returncode, done.stdout, done.stderr] == [theirs[0], *expected]
    printed = shell("limiter bench --help").stdout
    assert printed.startswith("Usage: limiter bench [OPTIONS]")
    assert "--quick" in printed
    assert "Example: limiter bench --quick --only hit" in printed


_PLAIN = 'PYTHONPATH="$OLDPWD" "$python" -m bench'


def test_outside_a_checkout_it_reports_that_it_needs_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In one line, for all options."""
    monkeypatch.setattr(bench, "_CHECKOUT", tmp_path)
    done = run("bench --quick --only hit")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"bench/ is not in {tmp_path}; run it from a checkout" in done.stderr
