"""``limiter scripts``."""

from __future__ import annotations

import json

import click

from limiter import scripts as ours
from limiter.cli.exit_codes import by_exit_code
from limiter.cli.options import environment, needs_store, store_option


@click.command()
@click.argument("name", required=False, type=click.Choice(ours.names()))
@click.option("--install", is_flag=True, help="Load them on the store: all primaries of a cluster.")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Names, SHA-1s and, of NAME, the text.")
def scripts(name: str | None, install: bool, store: str | None, as_json: bool) -> None:
    """List the Lua scripts by the SHA-1 under which EVALSHA calls them; of NAME, print the text.

    A limiter loads what a store does not know by itself; --install is for whoever calls the scripts
    without one, and for a store whose users may not load any. Its exit code is 3 where the store does
    not answer, and 4 where it refuses.

    \b
    Examples:
      limiter scripts
      limiter scripts token_bucket | sha1sum
      limiter scripts --install --store redis://127.0.0.1:6379/0
    """
    if store is not None and not install:
        raise click.UsageError("--store is for --install")
    found = [ours.script(one) for one in ([name] if name else ours.names())]
    if install:
        from limiter.client import install as load

        with by_exit_code():
            load(found, needs_store(store, environment()))
    if as_json:
        rows = [{"name": one.name, "sha1": one.sha} for one in found]
        if name and not install:
            rows = [{**rows[0], "source": found[0].source.decode()}]
        click.echo(json.dumps(rows))
    elif name and not install:
        click.echo(found[0].source, nl=False)
    else:
        for one in found:
            click.echo(f"{one.sha}  {one.name}{'  installed' if install else ''}")
