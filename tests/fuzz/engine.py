"""``python -m tests.fuzz.engine TARGET ...``: one target under atheris; the rest are libFuzzer's arguments.

The target's code must be imported by atheris, so nothing here imports it before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

import atheris

from tests.fuzz import targets

#: The argument with the beginning of the names of the files for faults.
_PREFIX = "-artifact_prefix="


def fuzz(name: str, arguments: Sequence[str], plant: Any = None) -> None:
    """Run a target until libFuzzer ends the process; ``plant`` changes the code first, for the tests."""
    # Comparisons of texts guide the fuzzer too. Regular expressions do so for one target alone: atheris
    # replaces each of them, and the methods of the replacement accept no positions.
    for hook in ("str", "RegEx") if name == "limits" else ("str",):
        atheris.enabled_hooks.add(hook)
    with atheris.instrument_imports(include=[*targets.CODE[name]]):
        target = targets.load(name)
    if plant is not None:
        plant()
    prefix = next(text for text in arguments if text.startswith(_PREFIX)).removeprefix(_PREFIX)

    def check(data: bytes) -> None:
        """Write an input that shows a fault: libFuzzer does not always, if other threads run."""
        try:
            target.check(data)
        except BaseException:
            digest = sha1(data, usedforsecurity=False).hexdigest()
            Path(f"{prefix}crash-{digest}").write_bytes(data)
            raise

    atheris.Setup([name, *arguments], check)
    atheris.Fuzz()


if __name__ == "__main__":
    fuzz(sys.argv[1], sys.argv[2:])
