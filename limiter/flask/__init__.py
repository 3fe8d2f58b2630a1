"""Rate limits for Flask: ``FlaskLimiter``, and what it answers with."""

from limiter.flask.extension import FlaskLimiter
from limiter.flask.refusals import CallerUnknown, LimitExceeded, NotDecided, TooCostly

__all__ = ["CallerUnknown", "FlaskLimiter", "LimitExceeded", "NotDecided", "TooCostly"]
