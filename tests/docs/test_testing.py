"""The examples of ``docs/testing.md`` are tests that pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.support import ROOT, clean_environment

PAGE = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.slow
def test_every_example_passes(tmp_path: Path) -> None:
    """Each example is a test file, in a folder without this project."""
    for number, block in enumerate(BLOCKS):
        (tmp_path / f"test_example_{number}.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:schemathesis", "."],
        cwd=tmp_path,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"{len(re.findall('^def test_', PAGE, re.M)) + 1} passed" in done.stdout
    )  # one example runs twice


def test_the_readme_names_the_page() -> None:
    assert "(docs/testing.md)" in (ROOT / "README.md").read_text()
