"""ForwardAuth: the rate of an upstream behind Traefik, with the limit and without it.

Traefik has the shipped configuration, and the routes of forward_auth.yml: one to the same upstream
without the limit, and other ways to ask the service. Traefik, the upstream, the service, the store and
`wrk` share all cores, so a rate says how much all of them do for a request.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import wrk
from bench.effort import Effort, progress
from bench.processes import worked
from bench.ratios import Chunk, Cost, ratios
from bench.sections import Failed, Section, Spread, Table, shown, tabulate
from bench.services import CHECKOUT, Served, answers, decision_service, served
from bench.stores import Program
from service.demo.checks import dependencies
from service.demo.children import Child
from service.demo.servers import HOST, Server, free_port

#: A limit that denies no request.
OPEN = {"LIMITER_LIMITS": "100000000/hour", "LIMITER_ALGORITHM": "fixed_window"}
#: The decision services that the demo starts.
INSTANCES = 2

#: Ways through Traefik, with the path of each.
BARE = "without a limit"
SHIPPED = "ForwardAuth as shipped"
PATHS = {
    BARE: "/bare",
    SHIPPED: "/demo-service/protected/hello",
    "ForwardAuth with more connections": "/pools",
    "ForwardAuth asks one instance directly": "/directly",
}

_START_TIMEOUT = 30.0
_REQUEST = f"GET {{path}} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: wrk\r\nAccept: */*\r\n\r\n"


class System(NamedTuple):
    """What runs, and the processes whose time is counted."""

    port: int
    """Traefik's."""
    pids: dict[str, tuple[int, ...]]


class Way(NamedTuple):
    """The runs of one way."""

    path: Path
    """The file with the request."""
    rates: list[float]
    times: dict[str, list[float]]
    """Microseconds of processor time of a request, by process."""


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure each way on the first server."""
    section = Section(
        "forward-auth",
        "ForwardAuth through Traefik",
        "Time of a request through Traefik with a limit / without one, to the same upstream: "
        f"{wrk.CONNECTIONS} kept connections of `wrk`, Traefik with the shipped configuration, the demo's "
        f"upstream, {INSTANCES} instances of the decision service with one worker each, a fixed window. "
        "All of them, the store and `wrk` share all cores, unpinned. Each run is between two runs without "
        "a limit, and the figure is the median over the repetitions, in an order that is drawn anew each "
        "time.",
    )
    program = programs[0]
    effort = effort._replace(repetitions=effort.service_repetitions, pairs=1)
    with _system(program, INSTANCES) as system, tempfile.TemporaryDirectory() as folder:
        ways = _ways(system, Path(folder))
        chunks: dict[str, Chunk] = {
            name: partial(_run, system, way, effort.traefik_seconds) for name, way in ways.items()
        }
        floor = chunks.pop(BARE)
        steps = effort.repetitions * len(chunks)
        with progress("ForwardAuth through Traefik", steps) as step:
            measured = ratios(floor, chunks, effort, step)
    measured.record(section, program.name)
    section.tables = [
        tabulate("Ratio to the route without a limit", "route", section.figures, 2),
        tabulate(
            "The same ratio, of the processor time of all processes", "route", section.checks, 2
        ),
        _table(ways),
    ]
    return section


def _table(ways: dict[str, Way]) -> Table:
    """Build the table of rates, and of the processor time of each process."""
    names = list(next(iter(ways.values())).times)
    rows = [
        [
            name,
            *(shown(Spread.of(values), 0) for values in (way.rates, *way.times.values())),
        ]
        for name, way in ways.items()
    ]
    columns = ["route", "requests/s", *(f"{name}, us a request" for name in names)]
    return Table(
        f"Through Traefik, {INSTANCES} instances, {wrk.CONNECTIONS} connections", columns, rows
    )


def _ways(system: System, folder: Path) -> dict[str, Way]:
    ways = {}
    for number, (name, path) in enumerate(PATHS.items()):
        file = wrk.write(folder / f"{number}.requests", [_REQUEST.format(path=path).encode()])
        ways[name] = Way(file, [], {process: [] for process in system.pids})
    return ways


def _run(system: System, way: Way, seconds: int) -> Cost:
    before = _worked(system)
    run = wrk.run(system.port, way.path, seconds)
    after = _worked(system)
    if run.refused:
        raise Failed(f"{run.refused} of {run.requests} requests did not pass: {way.path}")
    times = {name: (after[name] - before[name]) / run.requests * 1e6 for name in before}
    way.rates.append(run.rate)
    for name, us in times.items():
        way.times[name].append(us)
    return Cost(1e6 / run.rate, sum(times.values()))


def _worked(system: System) -> dict[str, float]:
    return {name: sum(map(worked, pids)) for name, pids in system.pids.items()}


@contextmanager
def _system(program: Program, instances: int) -> Iterator[System]:
    """Start everything, and wait until each way leads to the upstream."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limiter-bench-")))
        server = stack.enter_context(Server(program.path))
        environ = {**OPEN, "LIMITER_STORE": server.url, "LIMITER_TIMEOUT": "5"}
        services = [
            stack.enter_context(decision_service(CHECKOUT, environ)) for _ in range(instances)
        ]
        upstream = stack.enter_context(_upstream())
        addresses = [f"{HOST}:{service.port}" for service in services]
        traefik, port = _traefik(stack, folder, addresses, f"{HOST}:{upstream.port}")
        deadline = time.monotonic() + _START_TIMEOUT
        for path in PATHS.values():
            while not answers(port, path):
                if time.monotonic() > deadline or not traefik.alive:
                    raise Failed(f"{path} is not served")
                time.sleep(0.1)
        pids = {
            "Traefik": (traefik.pid,),
            "service": tuple(service.worker for service in services),
            "store": (server.pid,),
            "upstream": (upstream.worker,),
        }
        yield System(port, pids)


@contextmanager
def _upstream() -> Iterator[Served]:
    port = free_port()
    module = ["gunicorn", "--config", "service/upstream.conf.py", "--bind", f"{HOST}:{port}"]
    with served("the upstream", [*module, "service.upstream:create_app()"], port, path="/") as it:
        yield it


def _traefik(
    stack: ExitStack, folder: Path, services: list[str], upstream: str
) -> tuple[Child, int]:
    """Start Traefik with the shipped files, other addresses, and this module's routes."""
    port, inside = free_port(), free_port()
    static = (CHECKOUT / "traefik/traefik.yml").read_text()
    for shipped, own in (
        ('":9000"', f'"{HOST}:{port}"'),
        (f'"{HOST}:9001"', f'"{HOST}:{inside}"'),
        ("filename: traefik/dynamic.yml", f"directory: {folder}/dynamic"),
    ):
        if static.count(shipped) != 1:
            raise Failed(f"traefik/traefik.yml does not contain {shipped} once")
        static = static.replace(shipped, own)
    (folder / "traefik.yml").write_text(static)
    (folder / "dynamic").mkdir()
    shutil.copy(CHECKOUT / "traefik/dynamic.yml", folder / "dynamic")
    shutil.copy(Path(__file__).with_suffix(".yml"), folder / "dynamic")
    environ = os.environ | {
        "APP_ADDRESSES": services[0],
        "DECISION_ADDRESSES": ",".join(services),
        "UPSTREAM_ADDRESS": upstream,
        "INSIDE_ADDRESS": f"{HOST}:{inside}",
    }
    binary = dependencies(embedded=False)
    # When wrk stops, it closes connections that wait for a response: Traefik logs an error for each.
    child = Child(
        "traefik",
        [binary, f"--configFile={folder}/traefik.yml"],
        env=environ,
        output=subprocess.DEVNULL,
    )
    stack.callback(child.stop)
    return child, port
