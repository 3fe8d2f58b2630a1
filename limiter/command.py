"""The commands of the console script ``limiter``."""

from __future__ import annotations

import logging

import click

from limiter.cli.lazy import Entry, LazyGroup
from limiter.version import __version__

_ENTRIES = {
    "hit": Entry("limiter.cli.calls", "Take units from a subject, if every limit has room."),
    "peek": Entry("limiter.cli.calls", "Report what hit would decide; take nothing."),
    "refund": Entry("limiter.cli.calls", "Refund units that were taken."),
    "reset": Entry("limiter.cli.calls", "Forget what a subject has used."),
    "hold": Entry("limiter.cli.hold", "Run a command while holding a lease."),
    "check": Entry("limiter.policyfile.command", "Check a policy file."),
    "explain": Entry(
        "limiter.policyfile.command", "Show which policies apply to a request, and why."
    ),
    "simulate": Entry("limiter.cli.simulate", "Replay access logs through policies."),
    "serve": Entry("limiter.cli.serve", "Run the decision service."),
    "shadow": Entry("limiter.cli.shadow", "Show whom policies in shadow mode would have denied."),
    "scripts": Entry(
        "limiter.cli.scripts", "List, print or install the Lua scripts; decode calls."
    ),
    "doctor": Entry("limiter.cli.doctor", "Check a store, and say what to change."),
    "acl": Entry("limiter.cli.acl", "Print an ACL rule with the least rights."),
    "bench": Entry("limiter.cli.bench", "Run the measurements, from a checkout."),
}


@click.group(
    cls=LazyGroup, entries=_ENTRIES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, package_name="slotgate")
def cli() -> None:
    """Exact distributed rate limits on Redis or Valkey.

    LIMITER_STORE and the other variables of the environment are the defaults of the options.
    """
    # If logging is not set up, warnings go to standard error: name the program in them.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("limiter: %(message)s"))
        # A command without a decision prints the reason itself: do not print it twice.
        logging.lastResort.addFilter(_is_not_of_outages)


def _is_not_of_outages(record: logging.LogRecord) -> bool:
    return record.name != "limiter.outage"
