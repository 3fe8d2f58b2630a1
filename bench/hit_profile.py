"""Time of each layer of a hit: the same call, with one more layer at each step.

This is the only benchmark that uses a limiter's internals, so it changes with them.
"""

from __future__ import annotations

import socket
import timeit
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import hiredis

from bench.effort import Effort, progress
from bench.hits import KEY, TIMEOUT
from bench.pinning import pinned
from bench.ratios import Chunk, ratios, timed
from bench.sections import Figures, Section, Spread, Table, tabulate
from bench.server_time import heard
from bench.stores import FLOOR, Program, load, plain_client
from bench.subjects import ALLOWING, DENYING, THREE, Subject
from limiter import Limiter
from limiter.transport.wire import checked, encode
from service.demo.servers import Server

#: Runs of which the fastest counts: other work only makes pure Python slower.
_ALONE_RUNS = 7

RETURN_1 = "kernel and server, `return 1`"
SCRIPT = "kernel and server, the limiter's script"
PARSED = "+ hiredis"
CONNECTION = "+ redis-py's connection"
TRANSPORT = "+ transport: bytes, connection, deadline, reply checked"
PLANNED = "+ plan: cost, key"
HIT = "+ `Decision` (= `hit`)"
STEPS = (RETURN_1, SCRIPT, PARSED, CONNECTION, TRANSPORT, PLANNED, HIT)


def measure(programs: list[Program], effort: Effort) -> Section:
    """Measure each layer on the first server, and pure Python alone."""
    section = Section(
        "profile",
        "Profile: the time of each layer of a hit",
        "The same decision with one more layer at each step, as a ratio to redis-py's `evalsha` of "
        "`return 1`, pinned to one core, measured as the part `hit` is, in processor time. "
        "`+` is what the layer adds.",
    )
    cases: dict[str, Subject] = {
        "fixed_window, allowed": ALLOWING["fixed_window"],
        "token_bucket, allowed": ALLOWING["token_bucket"],
        "sliding_log, allowed": ALLOWING["sliding_log"],
        "fixed_window, denied": DENYING["fixed_window"],
        "three limits, allowed": THREE,
    }
    program = programs[0]
    alone: Figures = {}
    floor_us = 0.0
    steps = effort.repetitions * len(STEPS) * len(cases)
    with (
        pinned(),
        Server(program.path) as server,
        progress(f"profile on {program.name}", steps) as step,
    ):
        for name, (policies, taken) in cases.items():
            with ExitStack() as stack:
                client = stack.enter_context(plain_client(server))
                floor = partial(client.evalsha, load(client, FLOOR), 0)
                label = name.replace(", ", "-").replace(" ", "-")
                limiter = Limiter(policies, store=server.url, name=label, timeout=TIMEOUT)
                stack.enter_context(limiter).hit(KEY, taken)
                chunks, alone[name] = _layers(server, limiter, effort, stack)
                measured = ratios(timed(floor, effort.calls, [server.pid]), chunks, effort, step)
            # Processor time: in elapsed time, other work on the machine would hide such small differences.
            section.figures[name] = measured.processor
            floor_us = measured.floor_processor
            section.tables.append(_steps(name, measured.processor, floor_us))
    section.tables.append(
        tabulate("Pure Python alone, warm caches, fastest of 7 runs: microseconds", "", alone, 2)
    )
    section.text += f" Server: {program.name}."
    return section


def _steps(name: str, figures: dict[str, Spread], floor_us: float) -> Table:
    rows, before = [], 0.0
    for layer, spread in figures.items():
        added = (spread.median - before) * floor_us
        rows.append(
            [layer, f"{spread.median:.3f}", f"{added:+.2f}", f"{spread.median * floor_us:.1f}"]
        )
        before = spread.median
    title = f"{name} (floor {floor_us:.1f} us)"
    return Table(title, ["layers", "ratio", "+ us", "us"], rows)


def _layers(
    server: Server, limiter: Limiter, effort: Effort, stack: ExitStack
) -> tuple[dict[str, Chunk], dict[str, Spread]]:
    inside: Any = limiter
    plan, transport = inside._core.plan, inside._core.transport
    client: Any = stack.enter_context(plain_client(server))
    connection: Any = client.connection_pool.get_connection()
    stack.callback(client.connection_pool.release, connection)
    wire = stack.enter_context(socket.create_connection((server.host, server.port)))
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    least = b"".join(connection.pack_command("EVALSHA", client.script_load(FLOOR), "0"))
    whole = b"".join(connection.pack_command(*heard(server, partial(limiter.hit, KEY))))
    reader = hiredis.Reader()
    call = plan.call("hit", KEY, 1)
    reply = transport.run(call)

    def raw(command: bytes) -> None:
        wire.sendall(command)
        wire.recv(65536)

    def parsed() -> None:
        wire.sendall(whole)
        reader.feed(wire.recv(65536))
        reader.gets()

    def by_connection() -> None:
        connection.send_packed_command((whole,), check_health=False)
        connection.read_response(disable_decoding=True)

    def planned() -> None:
        transport.run(plan.call("hit", KEY, 1))

    layers: dict[str, Callable[[], object]] = {
        RETURN_1: partial(raw, least),
        SCRIPT: partial(raw, whole),
        PARSED: parsed,
        CONNECTION: by_connection,
        TRANSPORT: partial(transport.run, call),
        PLANNED: planned,
        HIT: partial(limiter.hit, KEY),
    }
    alone = {
        "plan: cost, key": _alone(partial(plan.call, "hit", KEY, 1), effort),
        "call encoded": _alone(partial(encode, call), effort),
        "reply checked": _alone(partial(checked, call, reply), effort),
        "`Decision` made": _alone(
            partial(type(limiter.peek(KEY)), limiter.policies, reply), effort
        ),
        "four fields read": _alone(partial(_fields, limiter.peek(KEY)), effort),
    }
    return {name: timed(layer, effort.calls, [server.pid]) for name, layer in layers.items()}, alone


def _fields(decision: Any) -> object:
    return decision.allowed, decision.remaining, decision.retry_after, decision.reset_after


def _alone(call: Callable[[], object], effort: Effort) -> Spread:
    calls = effort.calls * 10
    runs = timeit.repeat(call, number=calls, repeat=_ALONE_RUNS)
    return Spread.of([min(runs) / calls * 1e6])
