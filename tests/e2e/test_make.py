"""The Makefile's first steps, before a long one runs, and the demo of a fresh clone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.support import Demo
from tests.pythons import UV
from tests.service.support import ROOT, clean_environment, get

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a target with a ``.venv`` in that folder, without the variables of CI and of an outer make."""
    kept = {name: value for name, value in clean_environment().items() if "MAKE" not in name}
    return subprocess.run(
        ["make", target, f"VENV={folder}/venv"],
        cwd=ROOT,
        env={**kept, "LOCKED": "", **variables},
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

    (pip,) = [line for line in done.stdout.splitlines() if " install " in line]
    assert pip.endswith("-e .[demo]")
    assert "-q" not in pip
    assert "--quiet" not in pip
    assert "a minute or more" in done.stdout
    assert done.stdout.splitlines()[-1] == "python -m service.demo --port 9001"


@pytest.mark.parametrize(
    ("locked", "expected"),
    [
        ("", "slotgate needs Python 3.10 or later: make demo PYTHON=python3.12, say"),
        ("1", "LOCKED=1 needs Python 3.11 or later: make demo LOCKED=1 PYTHON=python3.12, say"),
    ],
)
def test_an_older_python_is_refused_before_anything_is_made(
    tmp_path: Path, locked: str, expected: str
) -> None:
    """An interpreter just too old: one that fails for each version it is not."""
    is_old = f'case "$2" in *"(3, {11 if locked else 10})"*) exit 1;; esac'
    script(tmp_path / "python3", is_old)
    done = make(tmp_path, "demo", PYTHON=f"{tmp_path}/python3", LOCKED=locked)

    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == expected
    assert not (tmp_path / "venv").exists()


def test_an_environment_that_was_left_without_pip_is_made_anew(tmp_path: Path) -> None:
    """Debian's Python without python3-venv leaves such a one, and says which package is missing."""
    script(tmp_path / "venv/bin/python", 'case "$*" in *"import pip"*) exit 1;; esac')
    script(tmp_path / "python3", 'echo "python3 $*"')
    done = make(tmp_path, "demo", PYTHON=f"{tmp_path}/python3")

    assert f"python3 -m venv --clear {tmp_path}/venv" in done.stdout


def test_ci_installs_only_what_has_a_locked_hash(tmp_path: Path) -> None:
    """Each package by the lock file, and then our own without a look at any index."""
    script(tmp_path / "venv/bin/python", 'echo "python $*"')
    done = make(tmp_path, "demo", LOCKED="1")

    first, second = [line for line in done.stdout.splitlines() if " install " in line]
    assert first.endswith("--require-hashes --no-deps --only-binary :all: -r requirements.lock")
    assert second.endswith("--no-index --no-deps --no-build-isolation -e .")


def test_an_audit_without_a_database_fails(tmp_path: Path) -> None:
    """The interpreter of this test fails as pip-audit does."""
    script(tmp_path / "venv/bin/python", 'case "$*" in *pip_audit*) exit 1;; esac')
    done = make(tmp_path, "audit")

    assert done.returncode == 2
    assert "the database of PyPI did not answer" in done.stderr


@pytest.mark.slow(10)
@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
def test_the_demo_of_a_fresh_clone_limits(tmp_path: Path) -> None:
    """As printed in README.md, but uv installs what it needs, since pip takes ten times as long."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    program = ("sh", "-c", 'exec make "PIP=$0 -m uv pip" demo DEMO="$*"', sys.executable)
    with Demo(
        tmp_path,
        *("--instances=1", "--nodes=1"),
        program=("env", "-C", str(clone), *program),
        UV_PYTHON=str(clone / ".venv/bin/python"),  # the only one that uv may change
        LIMITER_LIMITS="1/hour",
        **UV,
        **dict.fromkeys(("LOCKED", "MAKEFLAGS", "PYTHONPATH"), ""),
    ) as demo:
        demo.wait_for("Ready", 150)
        assert [get(f"{demo.url}/demo-service/hello").status for _ in range(2)] == [200, 429]
        demo.stop(signal.SIGTERM)  # make passes it on
        assert not [each for each in demo.left_behind() if "/uv-" not in each]  # a lock of uv
    changed = ["git", "-C", str(clone), "status", "--porcelain", "--ignored"]
    made = subprocess.run(changed, check=True, capture_output=True, text=True).stdout
    assert [line for line in made.splitlines() if "__pycache__" not in line] == [
        "!! .venv/",
        "!! slotgate.egg-info/",
    ]
