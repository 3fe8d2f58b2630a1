"""The commands of docs/runbook.md print what the page shows, each in the situation of its section."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.demo.servers import Cluster, Server
from tests.deploy.serving import Serving, serving
from tests.deploy.support import program
from tests.service.support import ROOT, clean_environment
from tests.waiting import until

PAGE = (ROOT / "docs/runbook.md").read_text()
(POLICIES,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.M | re.S)
(START,) = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
#: The console blocks of each section, in their order.
BLOCKS = {
    section.split("\n", 1)[0]: re.findall(r"^```console\n(.*?)^```$", section, re.M | re.S)
    for section in re.split(r"^##+ ", PAGE, flags=re.M)[1:]
}
WITH_BLOCKS = {title for title, blocks in BLOCKS.items() if blocks}

pytestmark = pytest.mark.slow


class Duty:
    """The service that a person on duty looks at."""

    def __init__(self, service: Serving, folder: Path, ports: Mapping[int, int]) -> None:
        self.service = service
        self.folder = folder
        self.policies = folder / "policies.toml"
        self._ports = {8000: service.port, 8001: service.operators, **ports}

    def read(self, block: str) -> None:
        """Run each command of a block, and compare what it prints."""
        for example in re.split(r"^\$ ", block, flags=re.M)[1:]:
            words, *shown = example.splitlines()
            printed = self._run(words)
            for line in shown:
                assert any(_fits(line, other) for other in printed), (words, line, printed)
            assert len(shown) <= len(printed), (words, printed)

    def _run(self, words: str) -> list[str]:
        for port, own in self._ports.items():
            words = re.sub(rf"\b{port}\b", str(own), words)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = clean_environment(
            PATH=path, MAINPID=str(self.service.process.pid), TERM="dumb"
        )
        done = subprocess.run(
            ["bash", "-c", words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        text = done.stdout + done.stderr
        for port, own in self._ports.items():
            text = re.sub(rf"\b{own}\b", str(port), text)
        return text.splitlines()

    def has(self, line: str) -> Callable[[], bool]:
        """Whether the metrics have this line."""
        return lambda: line in self.service.metrics().splitlines()


def _fits(shown: str, printed: str) -> bool:
    """Whether a line is printed as the page shows it; it may leave out the end."""
    if shown.endswith("..."):
        return printed.startswith(shown.removesuffix("...").rstrip())
    return shown == printed.rstrip()


@contextmanager
def on_duty(folder: Path, store: str, ports: Mapping[int, int], drain: int = 0) -> Iterator[Duty]:
    """Start the service as the page does, on this store."""
    for name, package in (("curl", "curl"), ("jq", "jq"), ("redis-cli", "redis-tools")):
        program(name, package)
    policies = folder / "policies.toml"
    policies.write_text(POLICIES)
    variables = dict(re.findall(r"(LIMITER_\w+)=(\S+)", START))
    variables |= {"LIMITER_STORE": store, "LIMITER_POLICIES": str(policies)}
    with serving(folder, "--drain", str(drain), **variables) as service:
        yield Duty(service, folder, ports)


@pytest.fixture
def duty(own: Server, tmp_path: Path) -> Iterator[Duty]:
    """The service on a server that this test may break."""
    with on_duty(tmp_path, own.url, {6379: own.port}) as found:
        yield found


def test_every_section_with_commands_is_run_here() -> None:
    source = Path(__file__).read_text()

    assert {title for title in WITH_BLOCKS if f'BLOCKS["{title}"]' in source} == WITH_BLOCKS


def test_it_is_well(duty: Duty) -> None:
    (block,) = BLOCKS["Is it well?"]
    duty.read(block)


def test_the_store_is_away(duty: Duty, own: Server) -> None:
    away, back = BLOCKS["The store is away"]
    own.kill()
    duty.read(away)
    own.restart()
    until(lambda: duty._run("curl -s http://127.0.0.1:8000/readyz") == ["ready"])
    duty.read(back)


def test_the_store_refuses_the_service(duty: Duty) -> None:
    refuses, repaired = BLOCKS["The store refuses the service"]
    duty.read(refuses)
    duty.read(repaired)


def test_the_policy_file_is_refused(duty: Duty) -> None:
    refused, corrected = BLOCKS["The policy file is refused"]
    duty.policies.write_text(POLICIES.replace("3/minute", "3/minut"))
    until(duty.has("limiter_policy_file_refused 1.0"))
    duty.read(refused)
    duty.policies.write_text(POLICIES)
    until(duty.has("limiter_policy_file_refused 0.0"))
    duty.read(corrected)


def test_one_subject_floods(duty: Duty) -> None:
    find, who, reset = BLOCKS["One subject floods"]
    assert [duty.service.ask("/forward-auth/default") for _ in range(5)] == [204] * 3 + [429] * 2
    for block in (find, who, reset):
        duty.read(block)
    assert duty.service.ask("/forward-auth/default") == 204


def test_a_failover(tmp_path: Path) -> None:
    check, failover, after = BLOCKS["Failover"]
    with Cluster(3, 1) as cluster:
        primary, replica = cluster.nodes[0].port, cluster.nodes[3].port
        with on_duty(tmp_path, cluster.url, {6379: primary, 6380: replica}) as duty:
            duty.read(check)
            duty.read(failover)
            until(lambda: duty._run("redis-cli -p 6380 ROLE | head -1") == ["master"])
            statuses = {
                duty.service.ask("/forward-auth/default", f"203.0.113.{n}") for n in range(50)
            }
            assert statuses == {204}
            duty.read(after)


def test_a_roll(own: Server, tmp_path: Path) -> None:
    stop, drains = BLOCKS["Roll"]
    with on_duty(tmp_path, own.url, {6379: own.port}, drain=5) as duty:
        duty.read(stop)
        until(lambda: duty.service.ask("/readyz") == 503)
        duty.read(drains)
        assert duty.service.process.process.wait(20) == 0


def test_an_instance_is_down(duty: Duty) -> None:
    (block,) = BLOCKS["An instance is down"]
    duty.read(block)


def test_decisions_are_slow(duty: Duty) -> None:
    (block,) = BLOCKS["Decisions are slow"]
    duty.read(block)
