"""Limits around WSGI applications: the protocol, and real ones under gunicorn."""
