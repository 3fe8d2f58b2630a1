"""``limiter serve``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import click

from limiter.cli.exit_codes import fail
from limiter.cli.options import Wait

#: Modules that the extra ``server`` installs, without those that the others need.
_SERVER = ("gunicorn", "httptools", "prometheus_client", "starlette", "uvicorn")

#: Seconds of a drain.
_LONGEST_DRAIN = 3_600


class _Address(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no type argument
    """An address in a form that gunicorn takes."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the address."""
        _needs_extra()
        from limiter.server.serve import read_address

        try:
            read_address(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        return str(value)


def _needs_extra() -> None:
    for module in _SERVER:
        if find_spec(module) is None:
            fail(2, f"serve needs {module}: in a checkout of slotgate, pip install '.[server]'")


@click.command(
    epilog="""\b
Exit codes:
  0  stopped by a signal
  1  the service cannot start: a variable is wrong, an address is in use
  2  the command line is wrong
"""
)
@click.option(
    "--bind",
    type=_Address(),
    default="127.0.0.1:8000",
    show_default=True,
    metavar="ADDRESS",
    help="For proxies and services: HOST:PORT, unix:PATH, or fd://N for an open socket.",
)
@click.option(
    "--operators",
    type=_Address(),
    metavar="ADDRESS",
    help="For operators, with another port: /metrics, and the calls with LIMITER_ADMIN_TOKEN.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that serve. One for each processor is enough.",
)
@click.option(
    "--drain",
    type=Wait(),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="Serve on for this long after SIGTERM, while /readyz answers 503.",
)
def serve(bind: str, operators: str | None, workers: int, drain: float) -> None:
    """Run the decision service, until SIGTERM or Ctrl-C stops it.

    LIMITER_STORE, LIMITER_POLICIES and the other variables set it up. On SIGHUP it reads the policy file
    again. Log lines are JSON, on standard error.

    \b
    Examples:
      limiter serve
      limiter serve --bind 0.0.0.0:8000 --operators 127.0.0.1:8001 --workers 2
    """
    _needs_extra()
    from limiter.server.serve import Application

    addresses = [bind] if operators is None else [bind, operators]
    if len({address.startswith("fd://") for address in addresses}) > 1:
        raise click.UsageError("--bind and --operators: expected two addresses, or fd://N for both")
    if operators is not None and operators.startswith("unix:"):
        raise click.UsageError(f"--operators is {operators}: expected an address with a port")
    if operators == bind and not bind.endswith(":0"):  # port 0 is another one each time
        raise click.UsageError(
            f"--bind and --operators are both {bind}: expected two different addresses"
        )
    if drain > _LONGEST_DRAIN:
        raise click.UsageError(f"--drain is {drain:g}: expected up to {_LONGEST_DRAIN} seconds")
    Application(addresses, workers, drain).run()
