"""Read the files of deploy/, and run programs that read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from limiter.server.serve import Application
from tests.service.support import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def program(name: str, package: str) -> str:
    """Return the path of a program; skip the test without it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def run(*command: str | Path) -> str:
    """Run a command that must succeed; return its output and its messages."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Instruction(NamedTuple):
    """An instruction of a Dockerfile; ``stage`` counts the FROM lines so far."""

    stage: int
    name: str
    arguments: str


def instructions() -> Iterator[Instruction]:
    """The instructions of deploy/Dockerfile, in their order."""
    lines = [
        line
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    stage = 0
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line:
            name, arguments = line.split(maxsplit=1)
            stage += name == "FROM"
            yield Instruction(stage, name, arguments)


def last(name: str) -> str:
    """The arguments of an instruction that the last stage has once."""
    stage = max(instruction.stage for instruction in instructions())
    (found,) = [each for each in instructions() if (each.stage, each.name) == (stage, name)]
    return found.arguments


def command(name: str) -> list[str]:
    """The words of ENTRYPOINT, CMD or HEALTHCHECK, which need no shell."""
    words: list[str] = json.loads(re.sub(r"^(--\S+ )*(CMD )?", "", last(name)))
    return words


def manifest(kind: str) -> dict[str, Any]:
    """The manifest of this kind, as it is in the repository."""
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / f"{kind.lower()}.yml").read_text())
    assert found["kind"] == kind
    return found


def container() -> dict[str, Any]:
    """The container of the Deployment."""
    (found,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def option(arguments: list[str], name: str) -> str:
    """The value of an option among arguments."""
    return arguments[arguments.index(name) + 1]


def graceful_timeout() -> float:
    """The seconds that gunicorn gives requests in progress, after the drain."""
    return float(Application(["127.0.0.1:0"]).cfg.graceful_timeout)
