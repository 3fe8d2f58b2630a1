"""``limiter scripts``."""

from __future__ import annotations

import json
from typing import Any

import click

from limiter import scripts as lua
from limiter.cli.decode import decode
from limiter.cli.exit_codes import by_exit_code
from limiter.cli.options import environment, needs_store, store_option


class _Scripts(click.Command):
    """The command, and ``decode`` in the place of a script's name, which has options of its own."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Make the context of ``decode`` if that is the first word."""
        if args[:1] == ["decode"]:
            return decode.make_context(f"{info_name} decode", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=_Scripts)
@click.argument("name", metavar="[NAME]", required=False, type=click.Choice(lua.names()))
@click.option("--install", is_flag=True, help="Load them on the store: all primaries of a cluster.")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Names and SHA-1s; with NAME, the text.")
def scripts(name: str | None, install: bool, store: str | None, as_json: bool) -> None:
    """List the Lua scripts, each with its SHA-1 for EVALSHA; with NAME, print the text of one.

    A limiter loads missing scripts by itself. --install is for clients that call the scripts without
    a limiter, and for a store whose users may not load scripts. Its exit code is 3 if the store does
    not answer, and 4 if the store refuses. `limiter scripts decode` (see its --help) prints a call that
    MONITOR or SLOWLOG shows as bytes.

    \b
    Examples:
      limiter scripts
      limiter scripts token_bucket | sha1sum
      limiter scripts --install --store redis://127.0.0.1:6379/0
    """
    if store is not None and not install:
        raise click.UsageError("--store is accepted only with --install")
    chosen = [lua.script(each) for each in ([name] if name else lua.names())]
    if install:
        from limiter.client import install as load

        with by_exit_code():
            load(chosen, needs_store(store, environment()))
    if as_json:
        rows = [{"name": script.name, "sha1": script.sha} for script in chosen]
        if name and not install:
            rows = [{**rows[0], "source": chosen[0].source.decode()}]
        click.echo(json.dumps(rows))
    elif name and not install:
        click.echo(chosen[0].source, nl=False)
    else:
        for script in chosen:
            click.echo(f"{script.sha}  {script.name}{'  installed' if install else ''}")
