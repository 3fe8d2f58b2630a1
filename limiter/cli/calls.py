"""``limiter hit``, ``peek``, ``refund`` and ``reset``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from math import ceil
from typing import Any

import click

from limiter import Decision, Limiter, RateLimited
from limiter.cli.exit_codes import BY_FALLBACK, CODES, CODES_OF_DONE, DENIED, by_exit_code
from limiter.cli.options import Wait, about_limits, limiter_of_strings, optional_tag, subject


def _cost(text: str) -> Callable[[Any], Any]:
    return click.option("--cost", type=int, default=1, show_default=True, help=text)


@click.command(epilog=CODES)
@about_limits
@_cost("Units to take; 0 takes nothing.")
@click.option(
    "--at-least", type=int, metavar="N", help="Take the units that are left, from N up to the cost."
)
@click.option(
    "--wait",
    type=Wait(),
    metavar="SECONDS",
    help="Wait up to this long; if that would not be enough, deny at once.",
)
def hit(
    cost: int, at_least: int | None, wait: float | None, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Take units from KEY, if every LIMIT has room; else take nothing.

    A LIMIT is like 100/minute, 5/30s or "100/minute burst 20"; without one, LIMITER_LIMITS holds.
    KEY is always the last argument. LIMITER_STORE, LIMITER_PREFIX, LIMITER_KEY_SECRET and
    LIMITER_ON_ERROR have the same meaning as in a service.

    \b
    Examples:
      limiter hit 100/minute user:42 --store redis://127.0.0.1:6379/0
      limiter hit -q 1/hour nightly-report && echo report
      limiter hit 20/second 1000/hour org:7 --cost 5 --wait 10
    """
    if wait is not None and at_least is not None:
        raise click.UsageError("--at-least cannot be combined with --wait: it takes what is left")

    def take(limiter: Limiter, key: bytes, tag: bytes | None) -> Decision:
        if wait is None:
            return limiter.hit(key, cost, at_least=at_least, tag=tag)
        try:
            return limiter.wait(key, cost, wait, tag=tag)
        except RateLimited as denied:
            return denied.decision

    decision = _call(take, **options)
    _print_decision(decision, f"took {decision.granted}, ", as_json, quiet)


@click.command(epilog=CODES)
@about_limits
@_cost("Units that would be taken.")
def peek(cost: int, as_json: bool, quiet: bool, **options: Any) -> None:
    """Report what hit would decide, with the same exit codes; take and write nothing.

    Arguments and options are those of hit.

    \b
    Example:
      limiter peek 100/minute user:42 --json
    """
    decision = _call(lambda limiter, key, tag: limiter.peek(key, cost, tag=tag), **options)
    _print_decision(decision, "", as_json, quiet)


@click.command(epilog=CODES_OF_DONE)
@about_limits
def reset(as_json: bool, quiet: bool, **options: Any) -> None:
    """Forget what KEY has used; print what was left before.

    Arguments and options are those of hit.

    \b
    Example:
      limiter reset 100/minute user:42
    """
    decision = _call(lambda limiter, key, tag: limiter.reset(key, tag=tag), **options)
    _print(f"forgotten: {_left(decision)} were left", decision.to_dict(), as_json, quiet)


@click.command(epilog=CODES_OF_DONE)
@about_limits
@_cost("Units to refund.")
def refund(cost: int, as_json: bool, quiet: bool, **options: Any) -> None:
    """Refund units to KEY, but no more than it has used.

    Arguments and options are those of hit.

    \b
    Example:
      limiter refund 100/minute user:42 --cost 5
    """
    _call(lambda limiter, key, tag: limiter.refund(key, cost, tag=tag), **options)
    _print(f"refunded {cost}, or what was used", {"cost": cost}, as_json, quiet)


def _call(
    call: Callable[[Limiter, bytes, bytes | None], Any], key: str, tag: str | None, **options: Any
) -> Any:
    with by_exit_code(), closing(limiter_of_strings(key=key, **options)) as limiter:
        return call(limiter, subject(key), optional_tag(tag))


def _print_decision(decision: Decision, took: str, as_json: bool, quiet: bool) -> None:
    """Print the decision in one line, and exit with 1 if it is a denial."""
    if decision.allowed:
        line = f"allowed: {took}{_left(decision)} left"
        if decision.delay:
            line += f", go on after {_seconds(decision.delay)}"
    else:
        line = f"denied: {_left(decision)} left, retry after {_seconds(decision.retry_after)}"
    if decision.degraded:
        line = f"{line.partition(':')[0]}: {BY_FALLBACK}"
    _print(line, decision.to_dict(), as_json, quiet)
    if not decision.allowed:
        raise SystemExit(DENIED)


def _print(line: str, value: dict[str, Any], as_json: bool, quiet: bool) -> None:
    if not quiet:
        click.echo(json.dumps(value) if as_json else line)


def _left(decision: Decision) -> str:
    return f"{decision.remaining} of {decision.limit}"


def _seconds(seconds: float) -> str:
    """Seconds, rounded up to milliseconds: a caller that sleeps so long is not too early."""
    return f"{ceil(seconds * 1000) / 1000:g} s"
