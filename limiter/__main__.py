"""The command ``limiter``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; it needs the extra ``cli``."""
    try:
        from limiter.command import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("limiter: the command line needs click: pip install 'slotgate[cli]'")
    cli(prog_name="limiter")


if __name__ == "__main__":
    main()
