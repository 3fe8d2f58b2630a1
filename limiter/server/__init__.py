"""The decision service: one ASGI application for proxies, other services, and operators."""
