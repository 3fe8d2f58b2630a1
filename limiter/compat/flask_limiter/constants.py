"""Flask-Limiter's enumerations."""

from __future__ import annotations

import enum


class HeaderNames(enum.Enum):
    """The response's header fields, by their content."""

    RESET = "X-RateLimit-Reset"
    REMAINING = "X-RateLimit-Remaining"
    LIMIT = "X-RateLimit-Limit"
    RETRY_AFTER = "Retry-After"


class ExemptionScope(enum.Flag):
    """The limits from which a view or a blueprint is exempt."""

    NONE = 0
    APPLICATION = enum.auto()
    META = enum.auto()
    DEFAULT = enum.auto()
    DESCENDENTS = enum.auto()
    ANCESTORS = enum.auto()
