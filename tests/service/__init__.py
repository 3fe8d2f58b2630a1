"""The service, as an application and under gunicorn."""
