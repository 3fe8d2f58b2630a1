"""Run commands, in this process and as processes of their own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

from click.testing import CliRunner, Result

from limiter.command import cli
from limiter.settings import VARIABLES
from tests.service.support import ROOT, clean_environment

#: Nothing of what runs the tests.
UNSET = dict.fromkeys(VARIABLES.values(), "")


def run(line: str, **environ: str) -> Result:
    """Run the command line that follows ``limiter``, in this process."""
    return CliRunner().invoke(cli, shlex.split(line), env={**UNSET, **environ}, prog_name="limiter")


def shell(line: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell in which ``limiter`` is this checkout's, without coverage.

    ``run`` reaches the same lines, and coverage would take a third of the time of such a process.
    """
    before = f'python="{sys.executable}"; limiter() {{ "$python" -m limiter "$@"; }}; '
    words = ["bash", "-c", before + line]
    return subprocess.run(
        words,
        cwd=ROOT,
        env={**unmeasured(), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unmeasured() -> dict[str, str]:
    """An environment without coverage."""
    return {name: value for name, value in clean_environment().items() if "COVERAGE" not in name}


def start(words: list[str], **settings: Any) -> subprocess.Popen[str]:
    """Start ``limiter`` as a process of its own, which receives SIGHUP also under nohup."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        ["env", "--default-signal=HUP,INT,QUIT", sys.executable, "-m", "limiter", *words],
        env=clean_environment(),
        cwd=ROOT,
        text=True,
        **{**pipes, **settings},
    )
