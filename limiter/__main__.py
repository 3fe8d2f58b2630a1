"""The command ``limiter``."""

from __future__ import annotations

import sys

#: What the extra ``cli`` brings.
_CLI = ("click", "tomli")


def main() -> None:
    """Run the command line; it needs the extra ``cli``."""
    try:
        from limiter.command import cli

        cli(prog_name="limiter")
    except ModuleNotFoundError as error:
        if error.name not in _CLI:
            raise
        lacks = f"limiter: the command line needs {error.name}: pip install 'slotgate[cli]'"
        sys.stderr.write(f"{lacks}\n")
        sys.exit(2)  # 1 would say that a hit was denied


if __name__ == "__main__":
    main()
