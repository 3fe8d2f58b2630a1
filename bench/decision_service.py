"""The decision service: its rate by the kind of request, its latency by load, and idle connections.

The service has one worker, which has a core of its own. `wrk`, this process and the store share the others.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any, NamedTuple

from bench import idle, steady, wrk
from bench.against import Library, extract
from bench.effort import Effort, progress
from bench.pinning import on, split
from bench.processes import own_memory, worked
from bench.ratios import Chunk, Cost, ratios
from bench.sections import Curve, Failed, Figures, Section, Spread, Table, compare, tabulate
from bench.service_cases import (
    ALLOWED,
    BATCH_CONNECTIONS,
    BATCHES,
    POLICIES,
    SUBJECTS,
    Load,
    cases,
)
from bench.services import CHECKOUT, Served, decision_service, served
from bench.stores import Program
from service.demo.servers import HOST, Server, free_port

#: The end of a figure's name: the time now / that of the service of ``--against``.
BY_BEFORE = ", time now / before"
PER_DECISION = f"{BATCHES}: us of processor time"
HALF = 50
P99_BY_P50 = "half load: 99 % / 50 %"
IDLE_TIME = "idle connections: time with / without"
IDLE_P99 = "idle connections, half load: 99 % with / without"
IDLE_MEMORY = "idle connections: KiB of the worker for each"

#: The side of this checkout; the other side's name is its commit.
NOW = "now"

#: The columns of absolute figures: the key in a record, the title, and digits.
_ABSOLUTE = (
    ("requests_per_second", "Requests a second", 0),
    ("processor_us", "The worker's processor time, us a request", 1),
    ("decisions_per_core", "Decisions a second and core of the worker", 0),
)


class _Setup(NamedTuple):
    """What all measurements of the part need."""

    section: Section
    column: str
    sides: dict[str, Served]
    bare: Served
    loads: dict[str, Load]
    folder: Path
    effort: Effort


class _Latency(NamedTuple):
    """Milliseconds within which half of the requests were answered, and 99 % of them."""

    p50: float
    p99: float


def measure(programs: list[Program], effort: Effort, before: Library | None) -> Section:
    """Measure the service on the first server, beside that of another revision if there is one."""
    section = Section(
        "service",
        "The decision service",
        "Time of a request / time of a request to a bare ASGI application, which answers 204 under "
        f"uvicorn: `wrk` with {wrk.CONNECTIONS} kept connections (batches: {BATCH_CONNECTIONS}), one "
        "worker, a fixed window, and the header fields of Traefik's ForwardAuth. The worker has a core to "
        "itself; the store, `wrk` and this process have the others. A run of a second is between two runs "
        "of the bare application, and the figure is the median over the repetitions, in an order that is "
        f"drawn anew each time. *Many subjects*: {SUBJECTS:,} in turn. Denials come from the denial cache, "
        "which has its default. *Half load*: at a fixed rate, half of the measured one; latencies count "
        "from the time at which a request should have been sent.",
    )
    idle.allow_all()
    own, others = split()
    program = programs[0]
    with on(others), Server(program.path) as server, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limiter-bench-")))
        policies = folder / "policies.toml"
        policies.write_text(POLICIES)
        environ = {"LIMITER_STORE": server.url, "LIMITER_POLICIES": str(policies)}
        # A busy machine must not turn decisions into fallbacks.
        environ |= {"LIMITER_TRUSTED_PROXIES": "127.0.0.1", "LIMITER_TIMEOUT": "5"}
        with on(own):
            sides = {NOW: stack.enter_context(decision_service(CHECKOUT, environ))}
            if before is not None:
                files = stack.enter_context(extract(before.commit, "limiter", "lua", "service"))
                sides[before.commit] = stack.enter_context(decision_service(files, environ))
            bare = stack.enter_context(_bare())
        setup = _Setup(section, program.name, sides, bare, cases(), folder, effort)
        rates = _rates(setup)
        _latencies(setup, rates)
        _idle(setup, rates[NOW])
    section.tables = [
        tabulate(
            "Ratio to a bare ASGI application, and figures with goals", "", section.figures, 2
        ),
        *_absolute(section.records),
        tabulate("The same ratio, of the worker's processor time alone", "", section.checks, 2),
    ]
    if before is not None:
        title = f"{before.commit}, and now: "
        section.tables += [
            compare(title + "time", "request", section.figures, section.compared),
            compare(title + "processor time", "request", section.checks, section.compared_checks),
        ]
    return section


@contextmanager
def _bare() -> Iterator[Served]:
    port = free_port()
    module = ["uvicorn", "bench.bare_app:app", "--host", HOST, "--port", str(port)]
    module += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
    module += ["--no-access-log", "--log-level", "warning"]
    with served("uvicorn", module, port) as bare:
        yield bare


def _rates(setup: _Setup) -> dict[str, float]:
    """Measure each case of each side; return each side's requests a second of the first case."""
    section, loads, effort = setup.section, setup.loads, setup.effort
    runs: dict[tuple[str, str], list[Cost]] = {
        (side, case): [] for side in setup.sides for case in loads
    }
    files = {
        case: wrk.write(setup.folder / f"{number}.requests", load.requests)
        for number, (case, load) in enumerate(loads.items())
    }
    chunks: dict[str, dict[str, Chunk]] = {
        side: {
            case: partial(_run, service, load, files[case], runs[side, case])
            for case, load in loads.items()
        }
        for side, service in setup.sides.items()
    }
    floor = partial(_run, setup.bare, loads[ALLOWED[0]], files[ALLOWED[0]], [])
    effort = effort._replace(repetitions=effort.service_repetitions, pairs=1)
    with progress("the decision service", effort.repetitions * len(runs)) as step:
        now = chunks.pop(NOW)
        measured = ratios(floor, now, effort, step, *chunks.values())
    if effort.repetitions > 1:
        for costs in runs.values():
            del costs[0]  # the first run is for the caches
    measured.record(section, setup.column)
    figures = section.figures[setup.column]
    for comparison in section.compared.values():
        figures |= {
            f"{case}{BY_BEFORE}": quotient for case, quotient in comparison.quotients.items()
        }
    figures[PER_DECISION] = Spread.of(cost.processor for cost in runs[NOW, BATCHES])
    section.records = [
        _record(side, case, costs, loads[case].decisions) for (side, case), costs in runs.items()
    ]
    return {
        record["side"]: record["requests_per_second"]["median"]
        for record in section.records
        if record["case"] == ALLOWED[0]
    }


def _run(service: Served, load: Load, requests: Path, costs: list[Cost]) -> Cost:
    """Run `wrk` once; fail unless each response is of the expected kind."""
    before = worked(service.worker)
    run = wrk.run(service.port, requests, load.seconds, load.connections)
    processor = worked(service.worker) - before
    # The first request of each subject passes also where the limit is 1.
    least = run.requests - len(load.requests) if load.denied else 0
    most = run.requests if load.denied else 0
    if not least <= run.refused <= most:
        raise Failed(f"{run.refused} of {run.requests} requests were refused: {load.requests[0]!r}")
    decisions = run.requests * load.decisions
    cost = Cost(run.seconds / decisions * 1e6, processor / decisions * 1e6)
    costs.append(cost)
    return cost


def _record(side: str, case: str, costs: list[Cost], decisions: int) -> dict[str, Any]:
    """Return the absolute figures of a case."""

    def plain(values: Iterable[float]) -> dict[str, float]:
        return Spread.of(values)._asdict()

    return {
        "side": side,
        "case": case,
        "requests_per_second": plain(1e6 / cost.time / decisions for cost in costs),
        "processor_us": plain(cost.processor * decisions for cost in costs),
        "decisions_per_core": plain(1e6 / cost.processor for cost in costs),
    }


def _absolute(records: list[dict[str, Any]]) -> Iterator[Table]:
    """Build the tables of absolute figures, with a column for each side."""
    for key, title, digits in _ABSOLUTE:
        figures: Figures = {}
        for record in records:
            figures.setdefault(record["side"], {})[record["case"]] = Spread(**record[key])
        yield tabulate(title, "request", figures, digits)


def _latencies(setup: _Setup, rates: dict[str, float]) -> None:
    """Measure each side's latency at shares of its own rate."""
    points = [(side, share) for side in setup.sides for share in setup.effort.loads]
    found: dict[tuple[str, int], list[_Latency]] = {point: [] for point in points}
    with progress("latency by load", setup.effort.rounds * len(points)) as step:
        for _ in range(setup.effort.rounds):
            for side, share in random.sample(points, len(points)):
                rate = rates[side] * share / 100
                found[side, share].append(_latency(setup, setup.sides[side], rate))
                step()
    lines = {
        f"{side}, {name}": {
            share: Spread.of(latency[index] for latency in found[side, share])
            for share in setup.effort.loads
        }
        for side in setup.sides
        for index, name in enumerate(("50 %", "99 %"))
    }
    setup.section.curves.append(
        Curve(
            "latency",
            "Latency by load",
            "load, % of the measured rate",
            "ms",
            {setup.column: lines},
            file="service-latency",
        )
    )
    half = found[NOW, HALF]
    setup.section.figures[setup.column][P99_BY_P50] = Spread.of(
        latency.p99 / latency.p50 for latency in half
    )


def _latency(setup: _Setup, service: Served, rate: float) -> _Latency:
    """Measure the latency at a rate of requests that are allowed."""
    requests, seconds = setup.loads[ALLOWED[0]].requests, setup.effort.steady_seconds
    found = steady.latencies(service.port, requests, rate, seconds, wrk.CONNECTIONS, 204)
    return _Latency(*(found[len(found) * share // 100] * 1e3 for share in (50, 99)))


def _idle(setup: _Setup, rate: float) -> None:
    """Measure rate and latency while many connections are open and idle, and while there are none."""
    service, requests = setup.sides[NOW], setup.loads[ALLOWED[0]].requests
    wanted = setup.effort.idle_connections
    count = min(wanted, idle.most())
    if count < wanted:
        setup.section.notes.append(
            f"{wanted:,} idle connections: the system permits {count:,} (RLIMIT_NOFILE)."
        )
    file = wrk.write(setup.folder / "idle.requests", requests)

    def both() -> tuple[float, float]:
        latency = _latency(setup, service, rate * HALF / 100)
        return 1 / wrk.run(service.port, file, 1).rate, latency.p99

    times, p99s, sizes, closed = [], [], [], 0
    with progress(f"{count:,} idle connections", setup.effort.rounds) as step:
        for _ in range(setup.effort.rounds):
            alone = both()
            memory = own_memory(service.worker)
            with idle.held(service.port, count, requests[0]) as held:
                sizes.append((own_memory(service.worker) - memory) / count / 1024)
                beside = both()
            closed += held.closed
            time.sleep(1)  # until the worker has closed its ends
            time_ratio, p99_ratio = map(truediv, beside, alone)
            times.append(time_ratio)
            p99s.append(p99_ratio)
            step()
    if closed:
        setup.section.notes.append(f"the service closed {closed:,} idle connections.")
    setup.section.figures[setup.column] |= {
        IDLE_TIME: Spread.of(times),
        IDLE_P99: Spread.of(p99s),
        # The worker keeps the memory, so the later rounds show less.
        IDLE_MEMORY: Spread.of([max(sizes)]),
    }
