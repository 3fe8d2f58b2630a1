"""The command line of ``limiter serve``; ``tests/server/test_serve.py`` runs it."""

from __future__ import annotations

import re
import shlex

import pytest

from limiter.cli import serve as command
from tests.cli.support import run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--bind nowhere:port", "'nowhere:port': expected HOST:PORT"),
        ("--bind 127.0.0.1:70000", "expected HOST:PORT"),
        ("--bind :8000", "expected HOST:PORT"),
        ("--bind 8000", "expected HOST:PORT"),
        ("--operators 127.0.0.1:8000", "both 127.0.0.1:8000: expected two different addresses"),
        ("--bind fd://x", "fd://NUMBER"),
        ("--bind unix:", "unix:PATH"),
        ("--operators unix:/run/limiter", "expected an address with a port"),
        ("--bind fd://3 --operators 127.0.0.1:8001", "or fd://N for both"),
        ("--workers 0", "--workers"),
        ("--drain -1", "--drain"),
        ("--drain nan", "expected seconds from 0"),
        ("--drain 3601", "expected up to 3600 seconds"),
    ],
)
def test_a_wrong_command_line(words: str, message: str) -> None:
    done = run(f"serve {words}", LIMITER_STORE="memory://")

    assert done.exit_code == 2
    assert message in done.output


def test_the_examples_are_valid() -> None:
    """They are parsed, and not run: they do not end."""
    lines = re.findall(r"^ +limiter serve(.*)$", command.serve.help or "", re.M)
    found = [command.serve.make_context("serve", shlex.split(line)).params for line in lines]

    assert [each["workers"] for each in found] == [1, 2]
    assert [each["operators"] for each in found] == [None, "127.0.0.1:8001"]


@pytest.mark.parametrize("lacking", ["gunicorn", "starlette"])
def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == lacking else name)
    done = run("serve")

    assert done.exit_code == 2
    assert done.output == (
        f"limiter: serve needs {lacking}: in a checkout of slotgate, pip install '.[server]'\n"
    )
