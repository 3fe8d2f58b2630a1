"""Refuses what Flask-Limiter has here."""

raise ImportError(
    "get_remote_address_cloudflare of Flask-Limiter is not offered here, since any caller can send that "
    "header: use limiter.flask.FlaskLimiter(trusted=<Cloudflare's networks>), which reads X-Forwarded-For"
)
