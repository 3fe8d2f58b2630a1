"""Find the hooks that run before a view, but after the limits: their values are not set yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, request

#: The key in an environment for the hook that checks the limits, while it runs.
RUNNING = "limiter.flask.running"

TO_DO = "register them on the application and before FlaskLimiter(app), or call init_app(app) after them"


def waiting(app: Flask, environ: Mapping[str, Any]) -> str:
    """The ``before_request`` hooks that run after the limits of this request, for messages."""
    hook = environ.get(RUNNING)
    if hook is None:
        return ""
    of_application = app.before_request_funcs.get(None, [])
    later = of_application[of_application.index(hook) + 1 :] if hook in of_application else []
    names = [_name(function) for function in later]
    for blueprint in reversed(request.blueprints):
        of_blueprint = app.before_request_funcs.get(blueprint, [])
        names += [f"{_name(function)} of blueprint {blueprint}" for function in of_blueprint]
    return f"the before_request hooks {', '.join(names)}" if names else ""


def _name(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", None) or repr(hook))
