"""Applications whose limits no other test uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from limiter.flask import FlaskLimiter

Make = Callable[..., tuple[Flask, FlaskLimiter]]


@pytest.fixture
def make(store: str, new_subject: Callable[[], str]) -> Iterator[Make]:
    """Make an application with limits on a real server; only the given ones apply."""

    def made(default: Any = None, **settings: Any) -> tuple[Flask, FlaskLimiter]:
        app = Flask("app", static_folder=None)
        settings = {"store": store, "prefix": new_subject(), "timeout": 5.0, **settings}
        limits = FlaskLimiter(app, default, **settings)
        opened.append(limits)
        return app, limits

    opened: list[FlaskLimiter] = []
    yield made
    for limits in opened:
        limits.close()
