"""``python -m tests.fuzz.engine TARGET ...``: one target under atheris; the rest are libFuzzer's arguments.

The target's code must be imported by atheris, so nothing here imports it before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import atheris

from tests.fuzz import targets


def fuzz(name: str, arguments: Sequence[str], plant: Any = None) -> None:
    """Run a target until libFuzzer ends the process; ``plant`` changes the code first, for the tests."""
    # Comparisons of texts guide the fuzzer too. Expressions do where the code calls them without positions: it
    # replaces every compiled expression by one whose methods take none.
    for hook in ("str", "RegEx") if name == "limits" else ("str",):
        atheris.enabled_hooks.add(hook)
    with atheris.instrument_imports(include=[*targets.CODE[name]]):
        target = targets.load(name)
    if plant is not None:
        plant()
    atheris.Setup([name, *arguments], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2:])
