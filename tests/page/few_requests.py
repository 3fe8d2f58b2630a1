"""The demo's application, whose page denies a visitor after 60 requests, however slow the machine is."""

from __future__ import annotations

from limiter import TokenBucket
from service import page
from service.app import create_app

__all__ = ["create_app"]

page.OWN = TokenBucket(1, per=60, burst=60)
