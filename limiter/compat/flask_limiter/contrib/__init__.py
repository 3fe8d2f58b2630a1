"""Raises an error: Flask-Limiter's ``contrib`` is not offered."""

raise ImportError(
    "get_remote_address_cloudflare of Flask-Limiter is not offered here, since any caller can send that "
    "header: use limiter.flask.FlaskLimiter(trusted=<Cloudflare's networks>), which reads X-Forwarded-For"
)
