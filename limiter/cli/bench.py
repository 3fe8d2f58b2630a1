"""``limiter bench``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

_CHECKOUT = Path(__file__).parent.parent.parent


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def bench(words: tuple[str, ...]) -> None:
    """Measure the limiter: what ``python -m bench`` does in a checkout, with the same options."""
    if not (_CHECKOUT / "bench" / "__main__.py").is_file():
        raise click.ClickException(
            f"the measurements are not part of the package: bench/ is not in {_CHECKOUT}; run it from "
            f"a checkout of the repository, after pip install -e '.[bench]'"
        )
    sys.path.insert(0, str(_CHECKOUT))
    sys.argv[1:] = words  # the report shows them
    import_module("bench.command").bench(prog_name="limiter bench")
