"""Rate limits for Flask: ``FlaskLimiter``, and the exceptions of refused requests."""

from limiter.flask.flask_limiter import FlaskLimiter
from limiter.flask.refusals import CallerUnknown, LimitExceeded, NotDecided, TooCostly

__all__ = ["CallerUnknown", "FlaskLimiter", "LimitExceeded", "NotDecided", "TooCostly"]
