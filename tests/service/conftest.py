"""The Flask application, made by LIMITER_*."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from service.app import create_app

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(
    monkeypatch: pytest.MonkeyPatch, store: str, new_subject: Callable[[], str]
) -> MakeApp:
    """Make an application by these LIMITER_*, on the shared store and under a prefix of its own."""
    prefix = new_subject()

    def make(instance: str | None = "app", **variables: str) -> Flask:
        found = {"STORE": store, "PREFIX": prefix, "TIMEOUT": "5", **variables}
        for variable, value in found.items():
            monkeypatch.setenv(f"LIMITER_{variable}", value)
        return create_app(instance)

    return make


@pytest.fixture
def make_by_file(make_app: MakeApp, tmp_path: Path) -> Callable[..., Flask]:
    """Make an application by the text of a policy file."""

    def make(text: str, **variables: str) -> Flask:
        path = tmp_path / "policies.toml"
        path.write_text(text)
        return make_app(POLICIES=str(path), **variables)

    return make
