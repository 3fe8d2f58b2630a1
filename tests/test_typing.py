"""What is public is typed: mypy, in its strictest, knows every call and refuses what is none."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.calls import typed, typed_web

FILE = Path(typed.__file__)
ROOT = FILE.parent.parent.parent
CALLS = {
    *("hit", "peek", "refund", "reset", "hit_all", "wait", "hold", "reserve", "open", "close"),
    *("from_env", "settle", "release"),
}


@pytest.mark.slow
def test_mypy_knows_every_call() -> None:
    """As strict as it can be, and without our own configuration, as a user's mypy reads us."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed; it comes with the extra test")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(FILE), typed_web.__file__],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_it_has_every_call() -> None:
    """Of both classes, and of what they hold and reserve."""
    for name in ("sync", "coroutines"):
        (body,) = [
            node
            for node in ast.parse(FILE.read_text()).body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
        ]
        called = {
            node.func.attr
            for node in ast.walk(body)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        assert called >= CALLS


def test_it_runs() -> None:
    """What is typed is also true."""
    typed.main()
    typed_web.main()
