"""What a view does not get to see."""

from __future__ import annotations

from typing import Any, NamedTuple

from flask import Response
from werkzeug.exceptions import TooManyRequests


class Breached(NamedTuple):
    """What an error handler asks of the limit that denied."""

    limit: Any
    """The limit: ``str`` of it is what Flask-Limiter shows, like "2 per 1 minute"."""
    error_message: Any = None


class RateLimitExceeded(TooManyRequests):
    """A limit has no room: 429, described by the limit or its message."""

    def __init__(self, limit: Breached, response: Response | None = None) -> None:
        message = limit.error_message
        description = (message() if callable(message) else message) or str(limit.limit)
        super().__init__(description=description, response=response)
        self.limit = limit
        self.response = response
