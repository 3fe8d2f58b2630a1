"""``make demo``, or ``python -m service.demo`` in a checkout."""

from __future__ import annotations

import os

import click

from service.demo.checks import DemoError
from service.demo.supervisor import Demo, Options


@click.command()
@click.option(
    "--port",
    default=9000,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Where Traefik listens, on loopback.",
)
@click.option(
    "--nodes",
    default=3,
    show_default=True,
    type=click.IntRange(1, 50),
    help="Primaries of the embedded cluster.",
)
@click.option(
    "--instances",
    default=2,
    show_default=True,
    type=click.IntRange(1, 50),
    help="Flask instances, and decision services that Traefik asks: this many of each.",
)
@click.option("--store", metavar="URL", help="An existing Redis, in place of the cluster.")
def demo(port: int, nodes: int, instances: int, store: str | None) -> None:
    """Run a cluster, Flask instances, decision services and Traefik until Ctrl-C.

    SIGUSR1 restarts all instances, one of each kind at a time.

    The environment chooses the limit, as in LIMITER_ALGORITHM=token_bucket
    LIMITER_LIMITS="20/second" make demo.
    """
    try:
        Demo(Options(port, nodes, instances, store), os.environ).run()
    except DemoError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    demo(prog_name="python -m service.demo")
