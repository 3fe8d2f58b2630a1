"""``limiter acl``."""

from __future__ import annotations

import json

import click

from limiter import acl as least_rights


@click.command()
@click.option("--user", default="limiter", show_default=True, help="Name of the ACL user.")
@click.option("--prefix", default="rl", show_default=True, help="Prefix of every key.")
@click.option("--redis-7.0", "is_7_0", is_flag=True, help="Without client|setinfo, new in 7.2.")
@click.option("--json", "as_json", is_flag=True, help="The commands and the key pattern as JSON.")
def acl(user: str, prefix: str, is_7_0: bool, as_json: bool) -> None:
    """Print an ACL rule with the least rights that the limiter needs, for redis-cli.

    Example: limiter acl --user api | redis-cli; then set a password with ACL SETUSER api '>secret'.
    """
    for option, word in (("--user", user), ("--prefix", prefix)):
        if not least_rights.is_safe(word):
            raise click.BadParameter(
                f"{word!r}: expected 1 to 64 of A-Z a-z 0-9 _ . -", param_hint=option
            )
    commands = least_rights.COMMANDS_OF_7_0 if is_7_0 else least_rights.COMMANDS
    if as_json:
        click.echo(json.dumps({"user": user, "keys": f"{prefix}:*", "commands": commands}))
    else:
        click.echo(least_rights.rule(user, prefix, commands))
