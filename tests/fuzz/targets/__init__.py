"""What is fuzzed: each module has ``check``, which raises for an input that shows a fault.

``WORDS`` has texts that the fuzzer tries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

#: Every target, by the name of its module, and the modules whose branches guide the fuzzer.
CODE = {
    "limits": ("limiter.grammar", "limiter.units", "limiter.policies"),
    "policies": ("limiter.policyfile", "limiter.grammar", "limiter.web"),
    "paths": ("limiter.web.paths", "limiter.web.match"),
    "fields": ("limiter.web",),
    "bodies": ("limiter.server", "limiter.web"),
    "replies": ("limiter.transport",),
}


class Target(Protocol):
    """The module of a target."""

    WORDS: Sequence[str]
    check: Callable[[bytes], None]


def load(name: str) -> Target:
    """Import a target, and with it the code that it checks."""
    return cast("Target", import_module(f"{__name__}.{name}"))
