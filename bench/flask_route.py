"""Cost of a limiter before a Flask route under gunicorn: ours, and Flask-Limiter."""

from __future__ import annotations

import importlib.util
import random
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench import flask_process
from bench.effort import Effort, progress
from bench.processes import worked
from bench.sections import Failed, Section, Spread, tabulate
from bench.services import Served, served
from bench.stores import Program
from bench.through_traefik import parse
from service.demo.servers import HOST, Server, free_port

BARE = "bare()"
#: With one limit; these have goals.
OURS = {
    "fixed_window": "ours('fixed_window')",
    "sliding_log": "ours('sliding_log')",
    "token_bucket": "ours('token_bucket')",
}
#: One round trip, and nothing else of a limiter.
RAW_HOOK = "a raw socket's evalsha of `return 1` alone"
#: The end of a figure's name: the time / that of the route with this round trip.
BY_RAW_HOOK = ", allowed, by the raw socket"
#: Steps between a bare route and a limited one.
_BETWEEN = {
    RAW_HOOK: "raw_hook()",
    "redis-py's evalsha of `return 1` alone": "round_trip()",
    "the library's hit alone": "hit()",
}
_SEVERAL = {
    "three limits": "ours('fixed_window', '50000/minute; 100000/hour; 1000000/day')",
    "application and route": "ours_on_top()",
}
#: With the means against hot keys; these have goals. No other application here has the second one's period,
#: so its first request passes, which shows that it serves.
PREPAID = "fixed_window, allowed, prepaid 100"
DENIED = "fixed_window, denied, from the denial cache"
_HOT = {
    PREPAID: "ours('fixed_window', prepaid=100)",
    DENIED: "ours('fixed_window', '1/90 minutes')",
}
_PEER = {
    "fixed window": "peer('fixed-window')",
    "moving window": "peer('moving-window')",
    "fixed window, three limits": "peer('fixed-window', '50000/minute; 100000/hour; 1000000/day')",
}

_CONNECTIONS = 16


class Cost(NamedTuple):
    """Microseconds of one request."""

    time: float
    processor: float
    """Processor time of the worker."""


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure every application, each between two runs of the route without a limiter."""
    section = Section(
        "flask",
        "A Flask route, with and without a limiter",
        "Time per request of the route with a limiter / without one: gunicorn's gthread, one worker, "
        f"16 threads, `ab -k -c {_CONNECTIONS}`, unpinned, {effort.route_requests} requests a run, "
        f"{effort.route_pairs} in each of {effort.repetitions} repetitions. Each is between two runs of "
        "the route without a limiter. The figure is the median over the repetitions, in an order that is "
        "drawn anew each time. 1.25 is four fifths of the requests a second. For comparison: a hook that "
        "calls a script on a raw socket, which is what one round trip costs a route; a call of redis-py; "
        "a hit of the library alone; and Flask-Limiter, if it is installed, with its header fields. "
        "`by the raw socket` is the quotient of two ratios of one repetition. In process, the store is a "
        "stub, and there is no server: time / time without a limiter, each request timed by itself.",
    )
    floors = {}
    by_server = {}
    for program in programs:
        figures, processor, floor = _on(program, effort)
        by_server[program.name] = figures
        section.checks[program.name] = processor
        floors[program.name] = {"without a limiter, us a request": floor}
    in_process = {flask_process.COLUMN: flask_process.measure(effort)}
    section.figures = by_server | in_process
    section.tables = [
        tabulate("Ratio to the route without a limiter", "limiter", by_server, 2),
        tabulate("Ratio to the request without a limiter, in process", "limiter", in_process, 2),
        tabulate(
            "The same ratio, of the worker's processor time alone", "limiter", section.checks, 2
        ),
        tabulate("The route itself", "", floors, 0),
    ]
    if importlib.util.find_spec("flask_limiter") is None:
        section.notes.append("Flask-Limiter is not installed (`pip install flask-limiter`).")
    return section


def _cases() -> dict[str, str]:
    cases = _BETWEEN | {f"{name}, allowed": app for name, app in (OURS | _SEVERAL).items()}
    cases |= _HOT
    if importlib.util.find_spec("flask_limiter") is not None:
        cases |= {f"Flask-Limiter, {name}": app for name, app in _PEER.items()}
    return cases


def _on(program: Program, effort: Effort) -> tuple[dict[str, Spread], dict[str, Spread], Spread]:
    cases = _cases()
    costs_by_case: dict[str, list[Cost]] = {name: [] for name in cases}
    floors: list[float] = []
    steps = effort.repetitions * len(cases)
    with (
        Server(program.path) as server,
        ExitStack() as stack,
        progress(f"Flask on {program.name}", steps) as step,
    ):
        bare = stack.enter_context(_served(BARE, server.url))
        served = {
            name: stack.enter_context(_served(app, server.url)) for name, app in cases.items()
        }
        for _ in range(effort.repetitions):
            for name in random.sample(list(cases), len(cases)):
                with server.client() as client:
                    client.flushall()
                beside, own = [_run(bare, effort)], []
                for _ in range(effort.route_pairs):
                    own.append(_run(served[name], effort, denied=name == DENIED))
                    beside.append(_run(bare, effort))
                floors += [cost.time for cost in beside]
                costs_by_case[name].append(
                    Cost(
                        _ratio([cost.time for cost in own], [cost.time for cost in beside]),
                        _ratio(
                            [cost.processor for cost in own], [cost.processor for cost in beside]
                        ),
                    )
                )
                step()
    times = {name: [cost.time for cost in costs] for name, costs in costs_by_case.items()}
    for name in OURS:
        by_raw = map(float.__truediv__, times[f"{name}, allowed"], times[RAW_HOOK])
        times[f"{name}{BY_RAW_HOOK}"] = list(by_raw)
    return (
        {name: Spread.of(values) for name, values in times.items()},
        {
            name: Spread.of(cost.processor for cost in costs)
            for name, costs in costs_by_case.items()
        },
        Spread.of(floors),
    )


def _ratio(own: list[float], beside: list[float]) -> float:
    around = [(before + after) / 2 for before, after in pairwise(beside)]
    return statistics.median(time / base for time, base in zip(own, around, strict=True))


def _run(service: Served, effort: Effort, denied: bool = False) -> Cost:
    """Run `ab` once; fail unless all of its requests pass, or all but one are denied."""
    before = worked(service.worker)
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as folder:
        percentages = Path(folder, "percentages.csv")
        words = ["ab", "-q", "-k", "-s", "30", "-n", str(effort.route_requests)]
        words += ["-c", str(_CONNECTIONS), "-e", str(percentages)]
        words += [f"http://{HOST}:{service.port}/hello"]
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
        if ran.returncode:
            raise Failed(f"`ab` failed: {ran.stderr.strip() or ran.stdout.strip()}")
        result = parse(ran.stdout, percentages.read_text())
    if not (result["ok"] <= 1 if denied else result["ok"] == effort.route_requests):
        raise Failed(f"{result['ok']} of {effort.route_requests} requests passed: {result}")
    processor = (worked(service.worker) - before) / effort.route_requests * 1e6
    return Cost(1e6 / result["requests_per_second"], processor)


@contextmanager
def _served(app: str, store: str) -> Iterator[Served]:
    port = free_port()
    module = ["gunicorn", "--bind", f"{HOST}:{port}", "--workers", "1", "--worker-class", "gthread"]
    module += ["--threads", "16", "--keep-alive", "75", "--no-control-socket"]
    module += [f"bench.flask_apps:{app}"]
    environ = {"BENCH_STORE": store}
    with served("gunicorn", module, port, environ=environ, path="/hello") as service:
        yield service
