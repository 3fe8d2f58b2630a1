"""``limiter doctor``."""

from __future__ import annotations

import json

import click

from limiter import settings
from limiter.cli.exit_codes import by_exit_code
from limiter.cli.options import environment, needs_store, store_option
from limiter.doctor import Level, examine

#: Limits are required, and not used here.
_DEFAULTS = {"limits": "1/second", "prefix": "rl", "timeout": 0.1}
_MARKS = {Level.OK: "ok", Level.WARNING: "warning", Level.FAULT: "fault"}

_CODES = """\b
Exit codes:
  0  the limiter can use this store, perhaps with warnings
  1  a fault: a promise of the limiter does not hold on it
  2  the command line or a variable is wrong
  3  the store did not answer
  4  the store refused: rights, password
"""


@click.command(epilog=_CODES)
@store_option
@click.option("--prefix", help="Prefix of every key.  [default: LIMITER_PREFIX, or rl]")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="The limiter's timeout, for comparison.  [default: LIMITER_TIMEOUT, or 0.1]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def doctor(store: str | None, prefix: str | None, timeout: float | None, as_json: bool) -> None:
    """Check that a store has what the limiter relies on, and say what to change.

    It connects as the limiter would, with the same user, and writes nothing. What this user may not ask
    (the memory, say) is not known: run it as an administrator, too.

    \b
    Example:
      limiter doctor --store redis://127.0.0.1:6379/0
    """
    given = {"store": store, "prefix": prefix, "timeout": timeout}
    given = {name: value for name, value in given.items() if value is not None}
    with by_exit_code():
        environ = environment("limits", "algorithm", *given)
        given["store"] = needs_store(store, environ)
        values = settings.from_environment(environ, {**_DEFAULTS, **given})
        timeout = settings.check_seconds("timeout", values["timeout"])
        report = examine(values["store"], values["prefix"], timeout)
    if as_json:
        rows = [
            {
                "topic": each.topic,
                "level": _MARKS[each.level],
                "found": each.found,
                "advice": each.advice,
            }
            for each in report.findings
        ]
        click.echo(json.dumps({"store": report.where.removeprefix("store "), "checks": rows}))
    else:
        width = max(len(each.topic) for each in report.findings)
        click.echo(report.where)
        for each in report.findings:
            click.echo(f"{_MARKS[each.level]:7}  {each.topic:{width}}  {each}")
    if report.worst is Level.FAULT:
        raise SystemExit(1)
