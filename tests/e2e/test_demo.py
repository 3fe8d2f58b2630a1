"""The demo: one command, exact limits, and no process or file left."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.policies import ALGORITHMS
from service.demo.servers import HOST
from tests.e2e.support import Counts, Demo, ab, listening, until
from tests.service.support import ROOT, get

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

HELLO = "/demo-service/hello"
PROTECTED = "/demo-service/protected/hello"
#: An option for tests to which the number of instances does not matter: each takes a second of a core.
ONE = "--instances=1"


def test_ab_sees_exact_limits_on_both_ways_and_the_stop_leaves_nothing(tmp_path: Path) -> None:
    """Limits are exact for every algorithm; Flask's route and ForwardAuth share one count."""
    path = tmp_path / "policies.toml"

    def choose(algorithm: str, limit: int) -> None:
        limits = f"limits = '{limit}/minute'\nalgorithm = '{algorithm}'"
        path.write_text(f"[policies.default]\n{limits}\nmatch.paths = ['/demo-service/**']\n")

    choose("fixed_window", 2)
    with Demo(tmp_path, LIMITER_POLICIES=str(path)) as demo:
        demo.wait_for("make demo")
        assert f"{path}: default" in demo.log
        hello, protected = (f"http://localhost:{demo.port}{way}" for way in (HELLO, PROTECTED))
        for command in (f"ab -n 1000 -c 100 {hello}", f"curl -i {hello}", f"curl -i {protected}"):
            assert command in demo.log
        statuses = [get(url).status for url in (hello, protected, hello, protected)]

        counted: dict[str, Counts] = {}
        for limit, algorithm in enumerate(ALGORITHMS, 100):
            choose(algorithm, limit)
            until(lambda: _limits(demo) == {limit}, what=lambda: demo.log)  # noqa: B023
            counted[algorithm] = ab(protected if limit % 2 else hello)

        refused = get(protected)
        instances = {_instance(f"{url}{HELLO}") for url in _urls(demo, "instance")}
        (line,) = [line for line in demo.log.splitlines() if line.startswith("  metrics ")]
        metrics = [get(address.strip(",")).text for address in line.split()[1:]]
        addresses = listening({process.pid for process in demo.look()})
        code = demo.stop(signal.SIGHUP)

    assert statuses == [200, 200, 429, 429]
    for limit, (algorithm, counts) in enumerate(counted.items(), 100):
        used = 2 if algorithm == "fixed_window" else 0  # a changed limit keeps the count
        dripped = counts.seconds * limit / 60 + 1 if ALGORITHMS[algorithm].has_burst else 0
        report = f"{algorithm}: {counts.report}"
        assert counts.complete == 1000
        assert limit - used <= counts.admitted <= limit - used + dripped, report
        # `ab` counts only refusals as failed, since their length differs from that of a 200.
        assert counts.failed == counts.refused, report
    assert refused.status in (200, 429)
    assert instances == {"instance-1", "instance-2"}
    # Both decision services have decided.
    denied = r'^limiter_decisions_total{outcome="denied",policy="default"} ([1-9]\d*)'
    assert all(re.search(denied, text, re.M) for text in metrics)
    assert len(metrics) == 2
    # Nodes, decision services and Traefik have two each.
    assert len(addresses) >= 2 * (3 + 2 + 1) + 2 + 1
    assert all(address.startswith("0100007F:") for address in addresses), addresses
    assert code == 0, demo.log
    assert demo.left_behind() == []
    assert "Traceback" not in demo.log
    assert "WRN" not in demo.log


def _limits(demo: Demo) -> set[int]:
    """Return the limits in the header fields of all instances, for a new client."""
    client = {"X-Forwarded-For": "203.0.113.1"}
    described = {"X-Forwarded-Method": "GET", "X-Forwarded-Host": "x", "X-Forwarded-Uri": HELLO}
    answers = [get(f"{url}{HELLO}", client) for url in _urls(demo, "instance")]
    for url in _urls(demo, "decision"):
        answers.append(get(f"{url}/forward-auth", {**client, **described}))
    fields = [answer.headers["RateLimit-Policy"] for answer in answers]
    return {int(re.search(r"q=(\d+)", field)[1]) for field in fields}  # type: ignore[index]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[Demo]:
    """One demo for the tests that follow each other below; the last one stops it."""
    folder = tmp_path_factory.mktemp("shared")
    with Demo(folder, "--store", store, LIMITER_LIMITS="100/hour") as demo:
        demo.wait_for("make demo")
        yield demo


@pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not installed")
def test_the_printed_lines_can_be_pasted_in_order(shared: Demo) -> None:
    """They are pasted into one shell, all at once; the page at the printed address is served."""
    printed = shared.log.partition("Try in another terminal:\n\n")[2].partition("\n\n")[0]
    done = subprocess.run(
        ["bash", "-ec", printed], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    (page,) = re.findall(r"In a browser, (\S+) shows", shared.log)
    shown = get(page)

    assert re.findall(r"^HTTP/1.1 (\d+)", done.stdout, re.M) == ["200", "200"]
    assert '"upstream": "upstream"' in done.stdout
    counts = Counts(done.stdout)
    assert (counts.complete, counts.admitted) == (1000, 98)
    assert page == f"http://localhost:{shared.port}/"
    assert "<title>Rate limits at work</title>" in shown.text
    assert "#" not in printed  # zsh does not accept a comment in a typed line
    assert "make" not in printed


def test_only_the_routes_of_the_service_are_routed(shared: Demo) -> None:
    for path in ("/healthz/", "/demo-service/hello/", "/demo-service", "/page", "/x"):
        assert get(f"{shared.url}{path}").status == 404
    for path in _INSIDE:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            assert _status(shared, method, path) == 404, (method, path)
    for path in ("/healthz", "/", "/page/state"):
        assert get(f"{shared.url}{path}").status == 200


def test_a_client_cannot_choose_its_address(shared: Demo) -> None:
    """After the client's whole limit is used, each address that it claims is denied, too."""
    while get(f"{shared.url}{HELLO}").status == 200:
        pass
    forged = [
        {"X-Forwarded-For": "203.0.113.1"},
        {"X-Forwarded-For": "203.0.113.1, 203.0.113.2"},
        {"X_Forwarded_For": "203.0.113.3"},
        {"Forwarded": "for=203.0.113.4"},
        {"X-Real-Ip": "203.0.113.5"},
        {"Connection": "X-Forwarded-For", "X-Forwarded-For": "203.0.113.6"},
    ]
    assert [get(f"{shared.url}{HELLO}", headers).status for headers in forged] == [429] * 6


def test_a_second_demo_says_so_and_leaves_the_first_alone(shared: Demo, tmp_path: Path) -> None:
    with Demo(tmp_path, f"--port={shared.port}") as second:
        assert second.process.wait(30) == 1

    assert get(f"{shared.url}/healthz").status == 200
    assert second.log.count("\n") == 1
    assert f"Port {shared.port} is in use" in second.log
    assert "--port" in second.log
    assert second.left_behind() == []


def test_a_repeated_ctrl_c_leaves_no_process(shared: Demo) -> None:
    """The last test of the shared demo, since it stops it."""
    shared.look()
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        shared.process.send_signal(number)

    assert shared.process.wait(30) == 0
    assert shared.left_behind() == []


def _urls(demo: Demo, kind: str) -> list[str]:
    """Return the printed addresses of the instances of a kind."""
    lines = [line.split() for line in demo.log.splitlines() if line.startswith(f"  {kind}-")]
    return [url for _, url in lines]


def _instance(url: str) -> str:
    """Return an instance's name, by a request as from a proxy, for a new client."""
    answer = json.loads(get(url, {"X-Forwarded-For": "203.0.113.1"}).text)
    return str(answer["instance"])


@pytest.mark.parametrize("stage", ["Starting a cluster", "Starting Traefik"])
def test_a_stop_in_the_middle_of_the_start_leaves_nothing(tmp_path: Path, stage: str) -> None:
    with Demo(tmp_path, ONE) as demo:
        demo.wait_for(stage)
        code = demo.stop(signal.SIGINT)

    assert code == 0, demo.log
    assert "Ready" not in demo.log
    assert demo.left_behind() == []


@pytest.mark.parametrize("part", ["valkey-server", "traefik"])
def test_a_part_that_dies_ends_the_demo_with_the_reason(
    tmp_path: Path, part: str, store: str
) -> None:
    options = ["--nodes=1"] if part == "valkey-server" else ["--store", store]
    with Demo(tmp_path, ONE, *options) as demo:
        demo.wait_for("Ready")
        os.kill(demo.child(part), signal.SIGKILL)

        assert demo.process.wait(30) == 1
    assert "SIGKILL" in demo.log.splitlines()[-1]
    assert demo.left_behind() == []


def test_a_killed_demo_leaves_no_process(tmp_path: Path) -> None:
    with Demo(tmp_path, ONE, "--nodes=1") as demo:
        demo.wait_for("Ready")
        demo.look()
        demo.process.kill()
        demo.process.wait()

        until(
            lambda: not any(p.runs for p in demo.seen.values()),
            what=lambda: str(demo.left_behind()),
        )


def test_a_port_that_is_taken_late_is_a_reason_too(tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, ONE, "--store", store) as demo:
        demo.wait_for("Starting 1 Flask")
        with socket.create_server((HOST, demo.port)):
            demo.look()
            assert demo.process.wait(30) == 1

    assert "address already in use" in demo.log.splitlines()[-1]
    assert demo.left_behind() == []


#: Paths for internal proxies, services and operators, in several spellings.
_INSIDE = [
    "/forward-auth",
    "/forward-auth/",
    "/forward-auth/default",
    "/forward-auth/default/demo-service/hello",
    "//forward-auth/default",
    "/demo-service/hello/../../forward-auth/default",
    "/demo-service/protected/hello/../../../forward-auth/default",
    "/%66orward-auth/default",
    "/v1/check/default",
    "/v1/hold/default",
    "/v1/reserve",
    "/v1/settle",
    "/v1/refund/default",
    "/v1/openapi.json",
    "/v1/policies",
    "/v1/keys/127.0.0.1",
    "/v1/reset/127.0.0.1",
    "/metrics",
    "/readyz",
]


def _status(demo: Demo, method: str, path: str) -> int:
    """Send a request whose path is sent unchanged."""
    connection = http.client.HTTPConnection(HOST, demo.port, timeout=10)
    try:
        connection.request(method, path, headers={"Content-Length": "0"})
        return connection.getresponse().status
    finally:
        connection.close()
