"""The Pythons of this machine, and environments for them, which uv makes in about a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

#: The first two numbers of a Python.
Version = tuple[int, int]
#: Variables for uv: it trusts what pip and the system trust, and a lost connection is no failure.
UV = {"UV_SYSTEM_CERTS": "1", "UV_HTTP_RETRIES": "5"}
SUPPORTED = [(3, 10), (3, 11), (3, 12), (3, 13), (3, 14)]
THIS = sys.version_info[:2]


@cache
def find(version: Version) -> str | None:
    """An interpreter of that version: this one, on the PATH, or in a version manager's folder."""
    if version == THIS:
        return sys.executable
    name = f"python{version[0]}.{version[1]}"
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = sorted(managed.glob(f"{version[0]}.{version[1]}.*/bin/python"))
    for python in filter(None, [shutil.which(name), *map(str, kept)]):
        if _is(python, version):
            return python
    return None


def _is(python: str, version: Version) -> bool:
    """Whether it starts and is of that version; a version manager's shim may do neither."""
    asked = [python, "-c", f"import sys, venv; sys.exit(sys.version_info[:2] != {version})"]
    return subprocess.run(asked, capture_output=True).returncode == 0


def installed() -> dict[Version, str]:
    """All of them, this one too. It starts each, so no test may call it where tests are collected."""
    return {version: python for version in SUPPORTED if (python := find(version))}


def environment(home: Path, python: str, *requirements: str) -> Path:
    """Make an environment with these packages and what they need; return its folder of programs."""
    _uv("venv", "--python", python, "--no-python-downloads", str(home))
    _uv("pip", "install", "--python", str(home / "bin" / "python"), *requirements)
    return home / "bin"


def _uv(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", "--quiet", "--color=never", *arguments],
        env={**os.environ, **UV},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
