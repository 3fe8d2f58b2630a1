"""A replacement for Flask-Limiter's import: common uses run unchanged, the rest raise an error."""

from limiter.compat.flask_limiter.constants import ExemptionScope, HeaderNames
from limiter.compat.flask_limiter.errors import RateLimitExceeded
from limiter.compat.flask_limiter.extension import Limiter
from limiter.compat.flask_limiter.request_limit import RequestLimit

__all__ = ["ExemptionScope", "HeaderNames", "Limiter", "RateLimitExceeded", "RequestLimit"]

_INSTEAD = {
    "Limit": "write a limit string, and give its options to Limiter.limit",
    "ApplicationLimit": "write the limit string in application_limits",
    "RouteLimit": "use Limiter.limit",
    "MetaLimit": "put another limit on the routes: a denied request takes nothing from any",
}


def __getattr__(name: str) -> object:
    if name in _INSTEAD:
        raise ImportError(f"{name} of Flask-Limiter is not offered here: {_INSTEAD[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
