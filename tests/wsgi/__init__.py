"""Limits for WSGI applications: the protocol, and real applications under gunicorn."""
