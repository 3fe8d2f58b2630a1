"""The commands of the console script ``limiter``."""

from __future__ import annotations

import logging

import click

from limiter.cli.lazy import Entry, LazyGroup
from limiter.version import __version__

_ENTRIES = {
    "hit": Entry("limiter.cli.calls", "hit", "Take from what a subject has left, if it has."),
    "peek": Entry("limiter.cli.calls", "peek", "Say what hit would; take nothing."),
    "refund": Entry("limiter.cli.calls", "refund", "Give back what was taken."),
    "reset": Entry("limiter.cli.calls", "reset", "Forget what a subject has used."),
    "hold": Entry("limiter.cli.hold", "hold", "Run a command while holding one of a few leases."),
    "check": Entry("limiter.policyfile.command", "check", "Say whether a policy file is right."),
    "explain": Entry(
        "limiter.policyfile.command", "explain", "Say which policies apply to a request, and why."
    ),
    "scripts": Entry("limiter.cli.scripts", "scripts", "List, print or install the Lua scripts."),
    "acl": Entry("limiter.cli.acl", "acl", "Print the least rights, for redis-cli."),
    "bench": Entry("limiter.cli.bench", "bench", "Measure, from a checkout."),
}


@click.group(
    cls=LazyGroup, entries=_ENTRIES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, package_name="slotgate")
def cli() -> None:
    """Exact distributed rate limits on Redis or Valkey.

    LIMITER_STORE and the other variables of the environment are the defaults of what is asked.
    """
    # Where nobody has set up logging, warnings go to standard error; they say who warns.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("limiter: %(message)s"))
        # A command that finds no decision ends with the reason as its one line.
        logging.lastResort.addFilter(_is_no_outage)


def _is_no_outage(record: logging.LogRecord) -> bool:
    return record.name != "limiter.outage"
