"""What the README promises, each with its figure of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.survive.application import ONCE


def rows(events: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the promises, in the README's order, and what was found over all events."""
    every = list(events)
    figures = [event["figures"] for event in every]

    def total(name: str) -> int:
        return sum(int(figure[name]) for figure in figures)

    def charges(name: str) -> int:
        return sum(int(figure["charges"][name]) for figure in figures)

    calls, undecided = total("calls"), total("undecided_there") + total("undecided_elsewhere")
    lossless = [event["figures"]["worst"] for event in every if not event["losses"]]
    clocks = [event["figures"]["worst"] for event in every if "clock steps back" in event["name"]]
    slowest = 1e3 * max((figure["slowest"] for figure in figures), default=0)
    return [
        (
            "1. All or none, in one round trip",
            f"{charges('in_part'):,} of {calls:,} calls were charged by some of their limits alone "
            f"(half of the calls have {len(ONCE)} limits; those without a reply count too)",
        ),
        (
            "2. A denied request consumes nothing",
            f"{total('denied'):,} calls were denied. Counters beside the limits show "
            f"{charges('twice'):,} units more than the allowed and the undecided calls",
        ),
        (
            "3. One clock, and nothing early if it steps back",
            _worst(clocks) + ", while the clock stepped back"
            if clocks
            else "not measured: a clock that steps needs Valkey and the package libfaketime",
        ),
        (
            "4. A decision within the deadline, and no call twice",
            f"{total('late'):,} of {calls:,} calls were late; the slowest took {slowest:.0f} ms. "
            f"{undecided:,} were undecided, {total('undecided_elsewhere'):,} of them without an outage. "
            f"{charges('twice'):,} were charged twice",
        ),
        (
            "5. A version of scripts and state",
            "no event of this run; tests put old and new versions on one store",
        ),
        (
            "6. Each algorithm keeps its bound",
            _worst(lossless) + ", over all events without a loss of state" if lossless else "-",
        ),
    ]


def _worst(found: list[dict[str, Any]]) -> str:
    worst = max(found, key=lambda each: each["admitted"] / each["bound"])
    return (
        f"at most {worst['admitted']} were admitted in a window where {worst['bound']} may be "
        f"(`{worst['limiter']}`)"
    )
