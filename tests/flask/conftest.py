"""Applications whose limits nobody else uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from limiter.flask import FlaskLimiter

Make = Callable[..., tuple[Flask, FlaskLimiter]]


@pytest.fixture
def make(store: str, new_subject: Callable[[], str]) -> Make:
    """Make an application, and limits on a real server in it; only what is given is limited."""

    def made(default: Any = None, **more: Any) -> tuple[Flask, FlaskLimiter]:
        app = Flask("app", static_folder=None)
        settings = {"store": store, "prefix": new_subject(), "timeout": 5.0, **more}
        return app, FlaskLimiter(app, default, **settings)

    return made
