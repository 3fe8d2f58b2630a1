"""The fixtures of real servers."""

from __future__ import annotations

from tests.wsgi.conftest import streams, variables

__all__ = ["streams", "variables"]
