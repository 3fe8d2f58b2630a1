"""The goals, and whether they are met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bench.coroutines import MANY, ONE
from bench.flask_route import OURS
from bench.memory import ONE_LOG
from bench.sections import Section, Spread, Table
from bench.server_time import LENGTHS, LONG_LOG

#: Factor by which the server may take longer since arguments are decimal text, readable in `redis-cli`.
TEXT_ARGUMENTS = 1.10

MET, WITHIN, MISSED = "met", "within 10 %", "**not met**"


class Goal(NamedTuple):
    """The largest value that a figure may have."""

    part: str
    figure: str
    most: float
    allowance: float = 1.0
    """Factor by which the figure may exceed ``most`` for a stated reason; the report marks it."""

    def verdict(self, spread: Spread) -> str:
        """Judge the figure, rounded as the report shows it."""
        value = round(spread.median, 2)
        if value <= self.most:
            return MET
        return WITHIN if value <= self.most * self.allowance else MISSED


def _script(figure: str, most: float) -> Goal:
    return Goal("server", figure, most, TEXT_ARGUMENTS)


_COUNTERS = ("fixed_window", "token_bucket", "gcra")
_IN_MEMORY = ("fixed_window", "sliding_window", "token_bucket")
_ALGORITHMS = (*_COUNTERS, "leaky_bucket", "sliding_window", "sliding_log")
_OF_COROUTINES = (
    "fixed_window: hit, allowed",
    "fixed_window: hit, denied",
    "token_bucket: hit, allowed",
)
GOALS = (
    *(Goal("hit", f"{name}: hit, allowed", 0.80) for name in _ALGORITHMS),
    Goal("hit", "sliding_log, entries leaving: hit, allowed", 0.80),
    *(Goal("hit", f"{name}: hit, denied", 0.77) for name in _ALGORITHMS),
    Goal("hit", "three limits: hit, allowed", 1.00),
    *(
        Goal("async", f"{name}, {how}", most)
        for name in _OF_COROUTINES
        for how, most in ((ONE, 1.20), (MANY, 0.28))
    ),
    # 1.25: four fifths of the requests a second of the route without a limiter.
    *(Goal("flask", f"{name}, allowed", 1.25) for name in OURS),
    *(Goal("cluster", f"{name}: hit, allowed", 1.05) for name in _ALGORITHMS),
    *(_script(f"{name}: allowed", 1.45) for name in _COUNTERS),
    _script("token_bucket, a token every 30 s: allowed", 1.45),
    *(_script(f"{name}: denied", 1.05) for name in _COUNTERS),
    _script("sliding_window: allowed", 1.60),
    _script("sliding_window: denied", 1.20),
    _script("sliding_log: allowed", 2.00),
    _script("sliding_log, entries leaving: allowed", 2.00),
    _script("sliding_log: denied", 1.70),
    _script(f"sliding_log, {LONG_LOG:,} entries: denied", 1.70),
    _script("three limits: allowed", 2.70),
    _script("three limits: denied", 2.20),
    Goal("server", LENGTHS, 1.15),
    *(Goal("memory", f"{name}, bytes a subject", 112) for name in _IN_MEMORY),
    Goal("memory", "three limits, bytes a subject", 190),
    *(Goal("memory", f"{ONE_LOG} at {entries:,}", 12) for entries in (1_000, 10_000, 100_000)),
)

_PARTS = {
    "hit": "library, ratio to redis-py's `evalsha`",
    "async": "library for coroutines, ratio to redis-py's `evalsha`",
    "cluster": "library on a cluster, ratio to redis-py's `evalsha`",
    "flask": "Flask route, ratio to the route without a limiter",
    "server": "server, multiple of the reference script",
    "memory": "memory, bytes",
}


def judge(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Judge every goal of the measured parts, on every server."""
    by_part = {section.part: section for section in sections}
    return [
        {
            "part": goal.part,
            "figure": goal.figure,
            "most": goal.most,
            "server": server,
            "measured": figures[goal.figure].median,
            "verdict": goal.verdict(figures[goal.figure]).strip("*"),
        }
        for goal in GOALS
        if goal.part in by_part
        for server, figures in by_part[goal.part].figures.items()
        if goal.figure in figures
    ]


def table(judged: list[dict[str, Any]]) -> Table:
    """Build the table of goals, with a column for each server."""
    servers = list(dict.fromkeys(judgement["server"] for judgement in judged))
    rows: dict[tuple[str, str], list[str]] = {}
    for judgement in judged:
        row = rows.setdefault(
            (judgement["part"], judgement["figure"]),
            [
                _PARTS[judgement["part"]],
                judgement["figure"],
                f"<= {judgement['most']:g}",
                *("-" for _ in servers),
            ],
        )
        verdict = judgement["verdict"]
        if verdict == MISSED.strip("*"):
            verdict = MISSED
        digits = 1 if judgement["part"] == "memory" else 2
        row[3 + servers.index(judgement["server"])] = (
            f"{judgement['measured']:.{digits}f} {verdict}"
        )
    return Table("Goals", ["what", "case", "goal", *servers], list(rows.values()))


def missed(judged: list[dict[str, Any]]) -> list[str]:
    """Describe the goals that are not met."""
    return [
        f"{goal['figure']} on {goal['server']}: {goal['measured']:.2f} > {goal['most']:g}"
        for goal in judged
        if goal["verdict"] == MISSED.strip("*")
    ]
