"""Limits for ASGI applications: the protocol, and real applications under uvicorn."""
