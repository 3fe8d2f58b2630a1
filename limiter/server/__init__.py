"""The decision service: one ASGI application for proxies, for services in any language, and for operators."""
