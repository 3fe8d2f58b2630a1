"""Names of tests by their values, the same in every process."""

from __future__ import annotations

import re


def plain(value: object) -> str:
    """A value as text, without its address in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value) if isinstance(value, str) else repr(value))
