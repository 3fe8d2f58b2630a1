"""Random faults, one after the other, for as long as one wants."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.survive import events, stages
from bench.survive.events import Event
from bench.survive.stages import Stage
from service.demo.servers import Server
from tests.waiting import until

#: Seconds between two faults.
_PAUSE = (0.1, 1.0)


def events_of(seconds: float, seed: int) -> list[Event]:
    """Return the two halves of a soak: on one server behind a proxy, and on a cluster."""
    halves: list[tuple[str, type[Stage], list[Callable[[Any], None]], int]] = [
        ("soak: one server, random faults", stages.Single, list(_of_one_server()), 0),
        ("soak: a cluster, random faults", stages.Clustered, list(_OF_A_CLUSTER), 1),
    ]
    return [
        Event(
            name,
            "soak",
            stage,
            partial(_faults, faults, seconds / 2, seed),
            again=events.HANDSHAKE,
            losses=losses,
        )
        for name, stage, faults, losses in halves
    ]


def _faults(faults: list[Callable[[Any], None]], seconds: float, seed: int, stage: Stage) -> None:
    drawn, end = random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        drawn.choice(faults)(stage)
        time.sleep(drawn.uniform(*_PAUSE))  # calls must be decided meanwhile


def _of_one_server() -> list[Callable[[Any], None]]:
    """Return the faults of one server that lose no state."""
    return [
        event.fault
        for event in events.EVENTS
        if event.stage is stages.Single and not event.losses and not event.most
    ]


def _shard(stage: stages.Clustered) -> tuple[Server, Server]:
    """Return the primary and the replica of a shard; each shard has its turn."""
    number = int(stage.extra.get("faults of the cluster", 0)) % stage.cluster.primaries
    stage.extra["faults of the cluster"] = stage.extra.get("faults of the cluster", 0) + 1
    pair = events.pair(stage, number)
    primary, replica = sorted(pair, key=lambda node: events.role(node) != "master")
    return primary, replica


def _fail_over(stage: stages.Clustered) -> None:
    primary, replica = _shard(stage)
    events.fail_over(replica)
    until(lambda: _follows(primary))


def _kill(stage: stages.Clustered) -> None:
    """Kill a primary, and let it come back as the replica of its successor."""
    primary, replica = _shard(stage)
    primary.kill()
    until(lambda: events.role(replica) == "master")
    primary.restart()
    until(lambda: _follows(primary))


def _pause(stage: stages.Clustered) -> None:
    primary, _ = _shard(stage)
    primary.pause()
    time.sleep(0.7)  # shorter than the time after which the others would fail over
    primary.resume()


def _flush_scripts(stage: stages.Clustered) -> None:
    for admin in stage.admins:
        admin.script_flush()


def _follows(server: Server) -> bool:
    with server.client() as client:
        found = client.info("replication")
        return bool(found["role"] == "slave" and found["master_link_status"] == "up")


_OF_A_CLUSTER = (_fail_over, _kill, _pause, _flush_scripts)
