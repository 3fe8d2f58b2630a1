"""Limits around ASGI applications: the protocol, and real ones under uvicorn."""
