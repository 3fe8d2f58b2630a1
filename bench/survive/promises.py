"""What the README promises, each with its figure of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.survive.application import ONCE
from bench.survive.events import SCRIPT_CALLS


def rows(events: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the promises, in the README's order, and what was found over all events."""
    every = list(events)
    figures = [event["figures"] for event in every]

    def total(name: str) -> int:
        return sum(int(figure[name]) for figure in figures)

    def charges(name: str) -> int:
        return sum(int(figure["charges"][name]) for figure in figures)

    calls, undecided = total("calls"), total("undecided_there") + total("undecided_elsewhere")
    lossless = [
        worst for event in every if not event["losses"] for worst in event["figures"]["worst"]
    ]
    clocks = [
        worst
        for event in every
        if "clock steps back" in event["name"]
        for worst in event["figures"]["worst"]
    ]
    counted = [
        figure["extra"][SCRIPT_CALLS] for figure in figures if SCRIPT_CALLS in figure["extra"]
    ]
    scripts = f"{max(counted):.2f}" if counted else "(not measured)"
    slowest = 1e3 * max((figure["slowest"] for figure in figures), default=0)
    return [
        (
            "1. All or none, in one round trip",
            f"{scripts} script calls of the store for a decision (equal calls of one loop share one). "
            f"{charges('in_part'):,} of {calls:,} calls were charged by some of their limits alone; half "
            f"of them have {len(ONCE)} limits",
        ),
        (
            "2. A denied request consumes nothing",
            f"{total('denied'):,} calls were denied. Counters beside the limits show "
            f"{charges('twice'):,} units more than the allowed and the undecided calls",
        ),
        (
            "3. One clock, and nothing early if it steps back",
            f"most admitted in a window while the clock stepped back, and bound: {_worst(clocks)}"
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
            "no event of this run: `tests/rolling` puts old and new versions on one store",
        ),
        (
            "6. Each algorithm keeps its bound",
            f"most admitted in a window, and bound: {_worst(lossless)}. Events in which the store can lose "
            "state are left out",
        ),
    ]


def share(worst: dict[str, Any]) -> float:
    """Return how much of its bound a limiter admitted."""
    return float(worst["admitted"] / worst["bound"])


def _worst(found: list[dict[str, Any]]) -> str:
    """Write the worst figure of each limiter."""
    by_limiter: dict[str, dict[str, Any]] = {}
    for worst in sorted(found, key=share):
        by_limiter[worst["limiter"]] = worst
    return ", ".join(
        f"`{name}` {worst['admitted']} / {worst['bound']}" for name, worst in by_limiter.items()
    )
