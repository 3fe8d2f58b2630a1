"""Chooses the application that answers a request: for proxies, for operators, or for all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from service.forward_auth import PREFIX

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Dispatcher:
    """The WSGI application in front of the others.

    Attributes:
        operators_port: The port of the operators' address; None without one. It is read from the socket,
            so that no client can choose it.

    """

    def __init__(self, public: App, forward_auth: App, operators: App) -> None:
        self._public = public
        self._forward_auth = forward_auth
        self._operators = operators
        self.operators_port: str | None = None

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer by the operators' application on their port, else by the path."""
        if self.operators_port is not None and environ["SERVER_PORT"] == self.operators_port:
            return self._operators(environ, start_response)
        if environ.get("PATH_INFO", "").startswith(PREFIX):
            return self._forward_auth(environ, start_response)
        return self._public(environ, start_response)
