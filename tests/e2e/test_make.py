"""The Makefile's first steps, before a long one runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service.support import ROOT, clean_environment

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a target with a ``.venv`` in that folder, without the variables of an outer make."""
    kept = {name: value for name, value in clean_environment().items() if "MAKE" not in name}
    return subprocess.run(
        ["make", target, f"VENV={folder}/venv"],
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def script(path: Path, text: str) -> None:
    """Make a program of a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_check_names_the_package_that_is_missing_before_it_installs(tmp_path: Path) -> None:
    """PATH has only the programs that make itself and the other recipes need."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "make", "python3", "touch"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    done = make(tmp_path, "check", PATH=str(programs))

    assert done.returncode == 2
    assert "apt install lua-check" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "venv").exists()


def test_an_installation_shows_how_far_it_is(tmp_path: Path) -> None:
    """Pip's own progress is shown; this test's interpreter prints only its arguments."""
    script(tmp_path / "venv/bin/python", 'echo "python $*"')
    done = make(tmp_path, "demo", DEMO="--port 9001")

    (pip,) = [line for line in done.stdout.splitlines() if " -m pip install " in line]
    assert pip.endswith("-e .[demo]")
    assert "-q" not in pip
    assert "--quiet" not in pip
    assert "a minute or more" in done.stdout
    assert done.stdout.splitlines()[-1] == "python -m service.demo --port 9001"
