# ruff: noqa: N999 (the name that gunicorn gives such a file)
"""``gunicorn --config service/upstream.conf.py "service.upstream:create_app()"`` runs the upstream."""

bind = "127.0.0.1:8002"
worker_class = "gthread"  # for clients that are proxies: see service/gunicorn.conf.py
threads = 16
worker_connections = 500
keepalive = 120
control_socket_disable = True
forwarder_headers = ""
graceful_timeout = 3
logger_class = "limiter.server.gunicorn_log.JsonLogger"
