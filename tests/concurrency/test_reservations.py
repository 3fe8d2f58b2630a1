"""Reservations that several processes make and settle at once: each is charged once, and settled once."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

from limiter import FixedWindow, Limiter, SlidingLog, TokenBucket
from limiter.plan import Part
from limiter.recorded import State, reserve_flow, settle_flow
from service.demo.servers import Cluster
from tests.parallel import child
from tests.waiting import PATIENCE

PROCESSES, RESERVATIONS = 4, 30
BUDGET = [SlidingLog(10_000, 600), TokenBucket(10_000, 600), FixedWindow(10_000, 600)]


def _reserve_and_settle(store: str, subjects: list[str], pipe: Connection) -> None:
    """Make the same calls as all other processes, and send what became of each."""
    with Limiter(BUDGET, store=store, timeout=PATIENCE) as limiter:
        core = limiter._core

        def parts(cost: int) -> list[Part]:
            return [Part(core.plan, subject, cost) for subject in subjects]

        limiter.open()
        for mode in ("reserve", "settle"):
            pipe.send("ready")
            pipe.recv()
            states: list[Any] = []
            for number in range(RESERVATIONS):
                name = f"r{number}"
                if mode == "reserve":
                    reserved = core.drive(reserve_flow(core, parts(10), name, 60))
                    states.append([result.state for result in reserved])
                else:
                    states.append(core.drive(settle_flow(core, parts(3 + number % 20), name)))
            pipe.send(states)


def test_every_process_makes_the_same_calls(cluster: Cluster, store: str, new_subject: Any) -> None:
    """Each reservation is made by one of them, and settled by one, also in slots of their own."""
    for url in (store, cluster.url):
        subjects = [new_subject() for _ in range(2)]
        with ExitStack() as stack:
            pipes = [
                stack.enter_context(child(_reserve_and_settle, url, subjects))[1]
                for _ in range(PROCESSES)
            ]
            for others in (State.OPEN, State.SETTLED):
                assert [pipe.recv() for pipe in pipes] == ["ready"] * PROCESSES
                for pipe in pipes:
                    pipe.send("go")
                counts = Counter(
                    (number, place, state)
                    for pipe in pipes
                    for number, states in enumerate(pipe.recv())
                    for place, state in enumerate(states)
                )
                for number in range(RESERVATIONS):
                    for place in range(len(subjects)):
                        assert counts[number, place, State.NOW] == 1
                        assert counts[number, place, others] == PROCESSES - 1
        spent = sum(3 + number % 20 for number in range(RESERVATIONS))
        with Limiter(BUDGET, store=url, timeout=PATIENCE) as limiter:
            for subject in subjects:
                log, bucket, window = (one.remaining for one in limiter.peek(subject).each)
                assert (log, window) == (10_000 - spent, 10_000 - spent)
                assert 10_000 - spent <= bucket
