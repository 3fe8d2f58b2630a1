"""Public names are typed: ``make check`` runs mypy on a typed program that makes every call."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.calls import typed, typed_web

FILE = Path(typed.__file__)
CALLS = {
    *("hit", "peek", "refund", "reset", "hit_all", "wait", "hold", "reserve", "open", "close"),
    *("from_env", "settle", "release", "reserve_all"),
}


def test_it_has_every_call() -> None:
    """Of both classes, and of their leases and reservations."""
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
    """The typed program also runs."""
    typed.main()
    typed_web.main()
