"""The exception of a breach, for error handlers."""

from __future__ import annotations

from typing import Any, NamedTuple

from flask import Response
from werkzeug.exceptions import TooManyRequests


class Breached(NamedTuple):
    """The limit that denied, as error handlers read it."""

    limit: Any
    """The limit; its ``str`` is Flask-Limiter's, like "2 per 1 minute"."""
    error_message: Any = None


class RateLimitExceeded(TooManyRequests):
    """429: a limit has no room; the description is the limit or its message."""

    def __init__(self, limit: Breached, response: Response | None = None) -> None:
        message = limit.error_message
        description = (message() if callable(message) else message) or str(limit.limit)
        super().__init__(description=description, response=response)
        self.limit = limit
        self.response = response
