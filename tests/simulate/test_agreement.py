"""A log replayed in the process, and on a real server at the same times: the decisions are the same."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from ipaddress import ip_network
from typing import Any

import hiredis
import pytest

from limiter import Limiter, scripts
from limiter.errors import LimiterError
from limiter.keys import Key
from limiter.plan import JointCall
from limiter.policyfile.reading import PolicyFile, read
from limiter.simulate.entry import Entry
from limiter.simulate.replay import Applied, Replay
from limiter.transport.wire import command, encode
from limiter.web.guard import Guard
from limiter.web.paths import path_of_target
from limiter.web.request import Request, bare_host
from service.demo.servers import Server
from tests.simulate.support import POLICIES, entries

TRUSTED = (ip_network("127.0.0.0/8"),)
#: Eight or nine policies decide about most requests.
COUNT = 13_000
_AT_ONCE = 500

#: Of each request, in the order of the file: the policy, the subject, and whether the policy had no room.
Decisions = list[list[tuple[str, Key, bool]]]


class Pipeline:
    """Sends commands to a server, many at once."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection((server.host, server.port), 30)
        self._reader = hiredis.Reader()
        sources = [scripts.script(name).source for name in scripts.names()]
        self.send([command("SCRIPT", "LOAD", source) for source in sources])

    def send(self, commands: Sequence[bytes]) -> list[Any]:
        """Send encoded commands, and return their replies."""
        self._socket.sendall(b"".join(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(2**16))
            else:
                assert not isinstance(reply, Exception), reply
                replies.append(reply)
        return replies

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def in_process(log: Sequence[Entry], file: PolicyFile) -> tuple[Decisions, Replay]:
    """The decisions of a simulation."""
    decisions: Decisions = []
    names = list(file.policies)

    def observe(applied: Applied, _time_us: int, is_denied: bool) -> None:
        decisions[-1].append((names[applied.rule], applied.subject, is_denied))

    replay = Replay(file, TRUSTED, observe)
    for entry in log:
        decisions.append([])
        replay.run((entry,))
    return decisions, replay


def on_server(
    log: Sequence[Entry], file: PolicyFile, pipeline: Pipeline, expected: Decisions
) -> Decisions:
    """The decisions of a server about the checks of the service's own guard.

    ``expected`` says which requests pass, and are settled by their response.
    """
    guard = Guard([named.rule for named in file.policies.values()], TRUSTED)
    decisions: Decisions = []
    for start in range(0, len(log), _AT_ONCE):
        sent: list[Any] = []
        commands = []
        for number, entry in enumerate(log[start : start + _AT_ONCE], start):
            request = Request(
                entry.method,
                bare_host(entry.host),
                path_of_target(entry.target),
                entry.headers,
                entry.address,
                target=entry.target,
            )
            try:
                charges = guard._charges(request, [])
            except LimiterError:
                charges = []
            joint = JointCall([charge.part for charge in charges], None)
            sent.append((charges, joint))
            if not charges:
                continue
            call = joint.call("hit", entry.time_us)
            commands.append(encode(call))
            sent[-1] += (call.template.prepared.decode,)
            shadowed = [named.rule.name for named in file.policies.values() if named.rule.shadow]
            if any(denied and name not in shadowed for name, _, denied in expected[number]):
                continue
            for charge in charges:
                if charge.rule.by_response and entry.status != 401:
                    part = charge.part
                    refund = part.plan.call("refund", part.key, part.cost, now_us=entry.time_us)
                    commands.append(encode(refund))
                    sent[-1] += (None,)
        replies = iter(pipeline.send(commands))
        for charges, joint, *decoders in sent:
            decided = []
            for place, decode in enumerate(decoders):
                reply = next(replies)
                if place == 0:
                    parts = joint.split(decode(reply))
                    for charge, numbers in zip(charges, parts, strict=True):
                        decided.append((charge.rule.name, charge.part.key, any(numbers[2:-1:5])))
            decisions.append(decided)
    return decisions


@pytest.mark.slow(15)
@pytest.mark.usefixtures("unmeasured")
def test_every_decision_is_that_of_a_real_server(server: Server, subject: str) -> None:
    """Of more than 100,000, by all algorithms, with plans, classes, costs, refunds and shadow mode."""
    root = Limiter("1/second", store="memory://")
    file = read(
        POLICIES,
        "policies.toml",
        lambda limits, **given: Limiter(limits, store=root, prefix=subject, **given),
    )
    log = list(entries(COUNT))
    simulated, replay = in_process(log, file)
    with closing(Pipeline(server)) as pipeline:
        decided = on_server(log, file, pipeline, simulated)

    for number, entry in enumerate(log):
        assert simulated[number] == decided[number], (number, entry)
    outcomes: dict[str, set[bool]] = defaultdict(set)
    for decisions in decided:
        for name, _, is_denied in decisions:
            outcomes[name].add(is_denied)
    assert outcomes == {name: {True, False} for name in file.policies}
    assert sum(map(len, decided)) > 100_000
    report = replay.report()
    assert report.requests == COUNT
    assert [policy.requests for policy in report.policies] == [
        sum(name == each for decisions in decided for name, _, _ in decisions)
        for each in file.policies
    ]
    assert [policy.denied for policy in report.policies] == [
        sum(is_denied and name == each for decisions in decided for name, _, is_denied in decisions)
        for each in file.policies
    ]
