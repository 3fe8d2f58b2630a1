"""The command ``limiter``."""

from __future__ import annotations

import sys
from pathlib import Path

#: Modules that the extra ``cli`` installs.
_CLI = ("click", "tomli")


def main() -> None:
    """Run the command line; it needs the extra ``cli``."""
    _refuse_mixture()
    try:
        from limiter.command import cli

        cli(prog_name="limiter")
    except ModuleNotFoundError as error:
        if error.name not in _CLI:
            raise
        _refuse(
            f"the command line needs {error.name}: in a checkout of slotgate, pip install '.[cli]'"
        )


def _refuse_mixture() -> None:
    """Refuse to run if PyPI's ``limiter`` is installed too: its files replace some of this package's."""
    folder = Path(__file__).parent.parent
    for other in folder.glob("limiter-*.dist-info"):
        name = other.stem.replace("-", " ")
        _refuse(
            f"{folder} holds slotgate and another distribution, {name}, whose package has the same name: "
            f"expected one of them; pip uninstall limiter slotgate, then install slotgate again"
        )


def _refuse(reason: str) -> None:
    sys.stderr.write(f"limiter: {reason}\n")
    sys.exit(2)  # 1 would mean that a hit was denied


if __name__ == "__main__":
    main()
