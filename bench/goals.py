"""The goals, and whether they are met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from bench import flask_route
from bench.coroutines import BY_JOINING, HOT, MANY, ONE
from bench.decision_service import BY_BEFORE, IDLE_P99, IDLE_TIME, P99_BY_P50, PER_DECISION
from bench.flask_process import ADDED, DENIED
from bench.flask_route import BY_RAW_HOOK, OURS
from bench.forward_auth import SHIPPED
from bench.hits import BY_CLIENT, BY_SINGLE, CACHE_ON_OFF, FROM_CACHE, WITH_PREPAID
from bench.memory import ONE_LOG
from bench.sections import Section, Spread, Table
from bench.server_time import LENGTHS, LONG_LOG
from bench.service_cases import ALLOWED
from bench.service_cases import DENIED as SERVICE_DENIED

MET, MISSED = "met", "not met"


class Goal(NamedTuple):
    """The largest value that a figure may have."""

    part: str
    figure: str
    most: float
    server: str = ""
    """The server whose columns are judged: `Redis` or `Valkey`; without it, those of both."""

    def judges(self, column: str) -> bool:
        """Return whether the goal is for this column, whose name begins with a server."""
        return column.startswith(self.server)

    def verdict(self, spread: Spread) -> str:
        """Judge the figure, rounded as the report shows it."""
        return MET if round(spread.median, 2) <= self.most else MISSED


def _script(figure: str, redis: float, valkey: float) -> tuple[Goal, Goal]:
    return Goal("server", figure, redis, "Redis"), Goal("server", figure, valkey, "Valkey")


_IN_MEMORY = ("fixed_window", "sliding_window", "token_bucket")
_ALGORITHMS = (
    "fixed_window",
    "token_bucket",
    "gcra",
    "leaky_bucket",
    "sliding_window",
    "sliding_log",
)
_OF_COROUTINES = (
    "fixed_window: hit, allowed",
    "fixed_window: hit, denied",
    "token_bucket: hit, allowed",
)
GOALS = (
    *(Goal("hit", f"{name}: hit, allowed", 0.72) for name in _ALGORITHMS),
    Goal("hit", "sliding_log, entries leaving: hit, allowed", 0.72),
    *(Goal("hit", f"{name}: hit, denied", 0.70) for name in _ALGORITHMS),
    Goal("hit", "three limits: hit, allowed", 0.85),
    Goal("hit", FROM_CACHE, 0.03),
    Goal("hit", CACHE_ON_OFF, 1.02),
    Goal("hit", f"fixed_window: {WITH_PREPAID}", 0.045),
    *(
        Goal("async", f"{name}, {tasks.name}", most)
        for name in _OF_COROUTINES
        for tasks, most in ((ONE, 1.10), (MANY, 0.26))
    ),
    Goal("async", f"fixed_window: hit, allowed, {HOT.name}", 0.10),
    Goal("async", f"fixed_window: hit, denied, {HOT.name}", 0.10),
    Goal("async", BY_JOINING, 1.05),
    # 1.25: four fifths of the requests a second of the route without a limiter.
    *(Goal("flask", f"{name}, allowed", 1.25) for name in OURS),
    # 0.95 of the requests a second of the route with one round trip on a raw socket.
    *(Goal("flask", f"{name}{BY_RAW_HOOK}", 1 / 0.95) for name in OURS),
    Goal("flask", flask_route.PREPAID, 1 / 0.88),
    Goal("flask", flask_route.DENIED, 1 / 0.8),
    Goal("flask", ADDED, 0.5),
    Goal("flask", DENIED, 2.0),
    *(Goal("cluster", f"{name}: hit, allowed", 1.18) for name in _ALGORITHMS),
    *(Goal("cluster", f"{name}{BY_CLIENT}", 0.50) for name in _ALGORITHMS),
    Goal("cluster", BY_SINGLE, 1.03),
    *_script("fixed_window: allowed", 1.30, 1.25),
    *_script("fixed_window: denied", 1.08, 1.00),
    *(
        goal
        for name in ("token_bucket", "gcra")
        for goal in (
            *_script(f"{name}: allowed", 1.38, 1.35),
            *_script(f"{name}: denied", 1.12, 1.02),
        )
    ),
    *_script("token_bucket, a token every 30 s: allowed", 1.38, 1.35),
    *_script("sliding_window: allowed", 1.38, 1.32),
    *_script("sliding_window: denied", 1.18, 1.08),
    *_script("sliding_log: allowed", 1.70, 1.70),
    *_script("sliding_log, entries leaving: allowed", 1.70, 1.70),
    *_script("sliding_log: denied", 1.52, 1.45),
    *_script(f"sliding_log, {LONG_LOG:,} entries: denied", 1.52, 1.45),
    *_script("three limits: allowed", 2.20, 2.05),
    *_script("three limits: denied", 1.75, 1.52),
    Goal("server", LENGTHS, 1.15),
    *(Goal("memory", f"{name}, bytes a subject", 112) for name in _IN_MEMORY),
    Goal("memory", "three limits, bytes a subject", 190),
    *(Goal("memory", f"{ONE_LOG} at {entries:,}", 12) for entries in (1_000, 10_000, 100_000)),
    # Four and five times the requests a second of the service of --against.
    *(Goal("service", f"{name}{BY_BEFORE}", 0.25) for name in ALLOWED),
    *(Goal("service", f"{name}{BY_BEFORE}", 0.20) for name in SERVICE_DENIED),
    # 20,000 decisions a second and core.
    Goal("service", PER_DECISION, 50),
    Goal("service", P99_BY_P50, 5),
    Goal("service", IDLE_TIME, 1.1),
    Goal("service", IDLE_P99, 1.5),
    # 0.6 of the requests a second without a limit.
    Goal("forward-auth", SHIPPED, 1 / 0.6),
)

_PARTS = {
    "hit": "library, ratio to redis-py's `evalsha`",
    "async": "library for coroutines, ratio to redis-py's `evalsha`",
    "cluster": "library on a cluster, ratio to redis-py's `evalsha`",
    "flask": "Flask route, ratio to the route without a limiter",
    "server": "server, multiple of the reference script",
    "memory": "memory, bytes",
    "service": "decision service",
    "forward-auth": "through Traefik, ratio to the route without a limit",
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
            "verdict": goal.verdict(figures[goal.figure]),
        }
        for goal in GOALS
        if goal.part in by_part
        for server, figures in by_part[goal.part].figures.items()
        if goal.judges(server) and goal.figure in figures
    ]


def table(judged: list[dict[str, Any]]) -> Table:
    """Build the table of goals, with a column for each server."""
    servers = list(dict.fromkeys(judgement["server"] for judgement in judged))
    rows: dict[tuple[str, str], list[str]] = {}
    for judgement in judged:
        row = rows.setdefault(
            (judgement["part"], judgement["figure"]),
            [_PARTS[judgement["part"]], judgement["figure"], *("-" for _ in servers)],
        )
        verdict = judgement["verdict"]
        digits = 1 if judgement["part"] == "memory" else 2
        row[2 + servers.index(judgement["server"])] = (
            f"{judgement['measured']:.{digits}f} {verdict if verdict == MET else f'**{verdict}**'} "
            f"(<= {judgement['most']:.3g})"
        )
    return Table("Goals", ["what", "case", *servers], list(rows.values()))


def missed(judged: list[dict[str, Any]]) -> list[str]:
    """Describe the goals that are not met."""
    return [
        f"{goal['figure']} on {goal['server']}: {goal['measured']:.2f} > {goal['most']:g}"
        for goal in judged
        if goal["verdict"] == MISSED
    ]
