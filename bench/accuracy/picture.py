"""The picture of docs/algorithms.md: all algorithms under one load, in simulated time.

``python -m bench.accuracy.picture`` draws it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.accuracy.plots import OURS, in_last_period
from bench.accuracy.simulated import policies
from bench.plots import COLOURS, GOAL, style
from limiter import Concurrency, LeakyBucket, Limiter, RateLimited
from limiter.client import Lease
from limiter.policies import Policy
from limiter.testing import set_time

FILE = Path(__file__).parent.parent.parent / "docs" / "algorithms.png"

LIMIT, PERIOD_US = 10, 10_000_000
#: Duration of a request, for ``Concurrency``.
TAKES_US = 3_000_000
_END_S = 50
#: Aligned windows end seven seconds after this, and then every ten seconds.
_BEGIN_US = 1_790_000_003_000_000


class Outcome(NamedTuple):
    """The result of one request."""

    at_us: int
    admitted: bool
    delay_us: int = 0


def load() -> list[int]:
    """Return the times of requests: few, a burst around a window's end, overload, a pause, a burst."""
    times = [number * 1_000_000 for number in (0, 3, 6)]
    times += [9_500_000 + number * 40_000 for number in range(12)]
    times += [10_100_000 + number * 40_000 for number in range(12)]
    times += [12_000_000 + number * 250_000 for number in range(64)]
    times += [41_000_000 + number * 40_000 for number in range(16)]
    return times


def kinds() -> list[tuple[str, Policy]]:
    """List every algorithm of the library."""
    return [*policies(LIMIT, PERIOD_US), ("concurrency", Concurrency(LIMIT // 2))]


def outcomes(policy: Policy, times_us: Sequence[int]) -> list[Outcome]:
    """Send the requests in simulated time; return their results."""
    results = []
    with Limiter(policy, store="memory://") as limiter:
        held: list[tuple[int, Lease]] = []
        for at_us in times_us:
            if policy.leases:
                while held and held[0][0] <= at_us:
                    ends_us, lease = held.pop(0)
                    set_time(limiter, _BEGIN_US + ends_us)
                    lease.release()
            set_time(limiter, _BEGIN_US + at_us)
            if not policy.leases:
                decision = limiter.hit("user:42")
                results.append(Outcome(at_us, decision.allowed, round(decision.delay * 1e6)))
                continue
            lease = limiter.hold("user:42")
            try:
                lease.__enter__()
            except RateLimited:
                results.append(Outcome(at_us, False))
            else:
                held.append((at_us + TAKES_US, lease))
                results.append(Outcome(at_us, True))
        for _, lease in held:
            lease.release()
    return results


def draw(file: Path = FILE) -> None:
    """Draw a panel for each algorithm."""
    style(9, title=9)
    from matplotlib import pyplot

    every = kinds()
    figure, grid = pyplot.subplots(
        -(-len(every) // 2), 2, figsize=(9, 7.6), layout="constrained", sharex=True, sharey=True
    )
    bins = [number / 2 for number in range(2 * _END_S + 1)]
    for (name, policy), axes in zip(every, grid.flat, strict=True):
        results = outcomes(policy, load())
        sent = [result.at_us / 1e6 for result in results]
        admitted_us = [result.at_us for result in results if result.admitted]
        first = axes is grid.flat[0]
        axes.hist(sent, bins, color="#c9ced6", label="requests, in half a second" if first else "_")
        axes.hist(
            [at_us / 1e6 for at_us in admitted_us],
            bins,
            color=OURS,
            label="admitted, in half a second" if first else "_",
        )
        lasts_us, what = (TAKES_US, "held") if policy.leases else (PERIOD_US, "in the last 10 s")
        xs, ys = in_last_period(admitted_us, lasts_us)
        axes.step(xs, ys, where="post", color=COLOURS[1], lw=1.2, label=what if first else "_")
        axes.axhline(policy.limit, color=GOAL, lw=0.8, ls=":", label="limit" if first else "_")
        if isinstance(policy, LeakyBucket):
            leaves = [
                (result.at_us + result.delay_us) / 1e6 for result in results if result.admitted
            ]
            axes.plot(leaves, [-1.4] * len(leaves), "|", color=COLOURS[2], ms=5, mew=1)
            axes.text(
                _END_S, 2.2, "after delay", fontsize=7, color=COLOURS[2], va="center", ha="right"
            )
        title = f"{name} ({what})" if policy.leases else name
        axes.set_title(f"{title}: {len(admitted_us)} of {len(results)}, at most {max(ys)}")
        axes.set_xlim(0, _END_S)
        axes.set_ylim(-2.5, 26)
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(file, dpi=90, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    draw()
