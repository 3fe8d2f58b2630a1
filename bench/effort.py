"""The extent of a run, and its progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

from limiter.policies import ALGORITHMS

#: Reports that one step is done.
Step = Callable[[], None]


class Effort(NamedTuple):
    """Numbers of repetitions and calls, the same on every machine."""

    repetitions: int
    pairs: int
    """Chunks of each case in one repetition, each between two chunks of the floor."""
    calls: int
    """Calls in a chunk."""
    pipelines: int
    """Pipelines in a chunk of the server's time."""
    rounds: int
    """Runs of each point of a curve."""
    run_calls: int
    """Calls in such a run, of all threads or tasks together."""
    threads: tuple[int, ...]
    """Numbers of threads."""
    tasks: tuple[int, ...]
    """Numbers of tasks."""
    keys: tuple[int, ...]
    """Numbers of hot keys."""
    shards: tuple[int, ...]
    """Numbers of a cluster's shards."""
    subjects: tuple[int, ...]
    """Numbers of subjects in a server."""
    samples: int
    """Hits whose time is measured; a client whose memory is measured hits ten times as many subjects."""
    connections: tuple[int, ...]
    """Connections of `ab`."""
    requests: tuple[int, ...]
    """Requests of `ab`, for each number of connections."""
    route_pairs: int
    """Runs of `ab` against a Flask route in one repetition, each between two of the bare route."""
    route_requests: int
    """Requests in one run of `ab` against a Flask route."""
    algorithms: tuple[str, ...]
    """Algorithms that `ab` measures."""
    entries: tuple[int, ...]
    """Sizes of the logs whose memory is measured."""
    service_repetitions: int
    """Repetitions of a run of `wrk`, which takes a second or more."""
    loads: tuple[int, ...]
    """Percent of the service's rate at which its latency is measured."""
    steady_seconds: float
    """Seconds of such a measurement."""
    idle_connections: int
    """Connections that are held open."""
    traefik_seconds: int
    """Seconds of a run of `wrk` through Traefik."""
    budget_minutes: int
    """Scaled minutes of a run of the proxy with token budgets."""


FULL = Effort(
    repetitions=9,
    pairs=5,
    calls=200,
    pipelines=6,
    rounds=3,
    run_calls=10_000,
    threads=(1, 2, 4, 8, 16, 32, 64),
    tasks=(1, 4, 16, 64, 256, 512),
    keys=(1, 4, 16, 64),
    shards=(1, 2, 3),
    subjects=(1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    samples=10_000,
    connections=(1, 10, 100),
    requests=(400, 3_000, 3_000),
    route_pairs=2,
    route_requests=500,
    algorithms=tuple(ALGORITHMS),
    entries=(1_000, 10_000, 100_000),
    service_repetitions=9,
    loads=(25, 50, 75),
    steady_seconds=3,
    idle_connections=10_000,
    traefik_seconds=2,
    budget_minutes=3,
)
QUICK = Effort(
    repetitions=3,
    pairs=2,
    calls=50,
    pipelines=2,
    rounds=1,
    run_calls=300,
    threads=(1, 8),
    tasks=(1, 64),
    keys=(1, 64),
    shards=(1, 3),
    subjects=(1_000, 10_000),
    samples=300,
    connections=(1, 10),
    requests=(150, 300),
    route_pairs=1,
    route_requests=200,
    algorithms=("sliding_log",),
    entries=(1_000, 10_000),
    service_repetitions=1,
    loads=(25, 50),
    steady_seconds=0.5,
    idle_connections=200,
    traefik_seconds=1,
    budget_minutes=1,
)


@contextmanager
def progress(what: str, steps: int) -> Iterator[Step]:
    """Show a bar on a terminal and a line elsewhere, always on standard error."""
    label = f"{what:46}"
    if not sys.stderr.isatty():
        click.echo(label.rstrip() + " ...", err=True)
        yield lambda: None
        return
    with click.progressbar(length=steps, label=label, file=sys.stderr) as bar:
        yield lambda: bar.update(1)
