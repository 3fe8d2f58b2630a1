"""Helpers of the tests of Flask."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from werkzeug.test import TestResponse


def ask(
    app: Flask, *calls: str, address: str = "203.0.113.1", headers: Mapping[str, str] | None = None
) -> list[TestResponse]:
    """Responses to calls like ``GET /path``, or ``/path`` for short."""
    client = app.test_client()
    answers = []
    for call in calls:
        method, _, path = call.rpartition(" ")
        peer = {"REMOTE_ADDR": address}
        # Buffered: read to its end and closed, as a server does.
        answers.append(
            client.open(
                path, method=method or "GET", environ_base=peer, headers=headers, buffered=True
            )
        )
    return answers


def statuses(app: Flask, *calls: str, address: str = "203.0.113.1", **headers: str) -> list[int]:
    """The statuses of the responses, with header fields: ``x_user="ann"`` is ``X-User``."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return [answer.status_code for answer in ask(app, *calls, address=address, headers=fields)]
