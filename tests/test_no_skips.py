"""The rule about skipped tests holds where it should, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("ci", "skips", "code"), [("true", 1, 1), ("true", 0, 0), ("", 1, 0)])
def test_a_skip_fails_the_run_in_ci(tmp_path, ci, skips, code):
    """A missing tool is named everywhere, but only CI promises to have all of them."""
    test = tmp_path / "test_tool.py"
    test.write_text(f"import pytest\ndef test_tool():\n    if {skips}: pytest.skip('no tool')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.no_skips", "-c", os.devnull]

    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(test)],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == code, run.stdout
    assert ("a skipped test fails the run" in run.stdout) == bool(code)
