"""The main job: one command, exact limits, and nothing left behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from itertools import cycle
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


@pytest.mark.parametrize(
    ("algorithm", "number"),
    [*zip(ALGORITHMS, cycle([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))],
)
def test_ab_sees_exact_limits_and_the_stop_leaves_nothing(
    tmp_path: Path, algorithm: str, number: int
) -> None:
    variables = {"LIMITER_ALGORITHM": algorithm, "LIMITER_LIMITS": "100/minute"}
    with Demo(tmp_path, **variables) as demo:
        demo.wait_for("make demo")
        assert f"ab -n 1000 -c 100 http://localhost:{demo.port}{HELLO}" in demo.log
        assert f"curl -i http://localhost:{demo.port}{HELLO}" in demo.log

        counts = ab(f"http://localhost:{demo.port}{HELLO}")
        instances = {_instance(f"{url}{HELLO}") for url in _urls(demo)}
        refused = get(f"{demo.url}{HELLO}")
        addresses = listening({process.pid for process in demo.look()})

        code = demo.stop(number)

    assert counts.complete == 1000
    dripped = counts.seconds * 100 / 60 + 1 if ALGORITHMS[algorithm].has_burst else 0
    assert 100 <= counts.admitted <= 100 + dripped, counts.report
    # Nothing failed but by its length, and by that only what is no 200.
    assert counts.failed == counts.refused, counts.report
    assert instances == {"instance-1", "instance-2"}
    assert refused.status in (200, 429) if dripped else refused.status == 429
    assert len(addresses) >= 3 * 2 + 2 + 1
    assert all(address.startswith("0100007F:") for address in addresses), addresses
    assert code == 0, demo.log
    assert demo.left_behind() == []
    assert "Traceback" not in demo.log
    assert "WRN" not in demo.log


def test_the_printed_lines_can_be_pasted_in_order(tmp_path: Path, store: str) -> None:
    """Into one shell, all at once; and the page that is named is there."""
    with Demo(tmp_path, "--store", store) as demo:
        demo.wait_for("make demo")
        printed = demo.log.partition("Try in another terminal:\n\n")[2].partition("\n\n")[0]
        done = subprocess.run(
            ["bash", "-ec", printed],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        (page,) = re.findall(r"In a browser, (\S+) shows", demo.log)
        shown = get(page)
        assert demo.stop() == 0

    assert re.findall(r"^HTTP/1.1 (\d+)", done.stdout, re.M) == ["200", "200"]
    assert '"upstream": "upstream"' in done.stdout
    counts = Counts(done.stdout)
    assert (counts.complete, counts.admitted) == (1000, 98)
    assert page == f"http://localhost:{demo.port}/"
    assert "<title>Rate limits at work</title>" in shown.text
    assert "#" not in printed  # zsh takes no comment that is typed
    assert "make" not in printed


def _urls(demo: Demo) -> list[str]:
    lines = [line.split() for line in demo.log.splitlines() if line.startswith("  instance-")]
    return [url for _, url in lines]


def _instance(url: str) -> str:
    """Ask an instance for its name, as a proxy would for a client that nobody has seen yet."""
    answer = json.loads(get(url, {"X-Forwarded-For": "203.0.113.1"}).text)
    return str(answer["instance"])


@pytest.mark.parametrize("stage", ["Starting a cluster", "Starting 2 service", "Starting Traefik"])
def test_a_stop_in_the_middle_of_the_start_leaves_nothing(tmp_path: Path, stage: str) -> None:
    with Demo(tmp_path) as demo:
        demo.wait_for(stage)
        code = demo.stop(signal.SIGINT)

    assert code == 0, demo.log
    assert "Ready" not in demo.log
    assert demo.left_behind() == []


def test_impatience_is_no_reason_to_leave_anything(tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, "--store", store) as demo:
        demo.wait_for("Ready")
        demo.look()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            demo.process.send_signal(number)

        assert demo.process.wait(30) == 0
    assert demo.left_behind() == []


@pytest.mark.parametrize("part", ["valkey-server", "'instance-1'", "traefik"])
def test_a_part_that_dies_ends_the_demo_with_the_reason(
    tmp_path: Path, part: str, store: str
) -> None:
    options = ["--nodes=1"] if part == "valkey-server" else ["--store", store]
    with Demo(tmp_path, *options) as demo:
        demo.wait_for("Ready")
        os.kill(demo.child(part), signal.SIGKILL)

        assert demo.process.wait(30) == 1
    assert "SIGKILL" in demo.log.splitlines()[-1]
    assert demo.left_behind() == []


def test_a_killed_demo_leaves_no_process(tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, "--nodes=1") as demo:
        demo.wait_for("Ready")
        demo.look()
        demo.process.kill()
        demo.process.wait()

        until(
            lambda: not any(p.runs for p in demo.seen.values()),
            what=lambda: str(demo.left_behind()),
        )


def test_a_second_demo_says_so_and_leaves_the_first_alone(tmp_path: Path, store: str) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with Demo(tmp_path / "first", "--store", store) as first:
        first.wait_for("Ready")
        with Demo(tmp_path / "second", f"--port={first.port}") as second:
            assert second.process.wait(30) == 1
        assert get(f"{first.url}/healthz").status == 200

    assert second.log.count("\n") == 1
    assert f"Port {first.port} is taken" in second.log
    assert "--port" in second.log
    assert second.left_behind() == []


def test_a_port_that_is_taken_late_is_a_reason_too(tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, "--store", store) as demo:
        demo.wait_for("Starting 2 service")
        with socket.create_server((HOST, demo.port)):
            demo.look()
            assert demo.process.wait(30) == 1

    assert "address already in use" in demo.log.splitlines()[-1]
    assert demo.left_behind() == []


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        ({"LIMITER_ALGORITHM": "guess"}, [], "LIMITER_ALGORITHM"),
        ({"LIMITER_LIMITS": "lots"}, [], "LIMITER_LIMITS"),
        ({"LIMITER_TIMEOUT": "soon"}, [], "LIMITER_TIMEOUT"),
        ({"LIMITER_TRUSTED_PROXIES": "all"}, [], "LIMITER_TRUSTED_PROXIES"),
        ({"LIMITER_STORE": "http://x"}, [], "LIMITER_STORE"),
        ({"LIMITER_ADMIN_TOKEN": "short"}, [], "LIMITER_ADMIN_TOKEN"),
        ({"LIMITER_POLICIES": "no.toml"}, [], "no.toml:1: cannot be read"),
        ({}, ["--store", "redis://127.0.0.1:1"], "store"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tmp_path: Path, variables: dict[str, str], options: list[str], said: str
) -> None:
    with Demo(tmp_path, *options, **variables) as demo:
        assert demo.process.wait(30) == 1

    assert said in demo.log
    assert demo.log.count("\n") == 1, demo.log
    assert demo.left_behind() == []


def test_more_of_everything(tmp_path: Path, store: str) -> None:
    """Ten instances have names of one length, and a store that is given is used."""
    with Demo(tmp_path, "--instances=10", "--store", store, LIMITER_LIMITS="20/minute") as demo:
        demo.wait_for("Ready")
        answers = [get(f"{demo.url}{HELLO}") for _ in range(21)]

    assert [answer.status for answer in answers] == [200] * 20 + [429]
    assert len({len(answer.text) for answer in answers[:20]}) == 1
    assert len({answer.text for answer in answers[:20]}) == 10


def test_only_the_routes_of_the_service_are_routed(tmp_path: Path, store: str) -> None:
    """And a client cannot say who it is."""
    with Demo(tmp_path, "--store", store, LIMITER_LIMITS="5/minute") as demo:
        demo.wait_for("Ready")
        for path in ("/healthz/", "/demo-service/hello/", "/demo-service", "/page", "/x"):
            assert get(f"{demo.url}{path}").status == 404
        for path in _INSIDE:
            for method in ("GET", "POST", "DELETE", "OPTIONS"):
                assert _status(demo, method, path) == 404, (method, path)
        for path in ("/healthz", "/", "/page/state"):
            assert get(f"{demo.url}{path}").status == 200
        forged = [
            {"X-Forwarded-For": "203.0.113.1"},
            {"X-Forwarded-For": "203.0.113.1, 203.0.113.2"},
            {"X_Forwarded_For": "203.0.113.3"},
            {"Forwarded": "for=203.0.113.4"},
            {"X-Real-Ip": "203.0.113.5"},
            {"Connection": "X-Forwarded-For", "X-Forwarded-For": "203.0.113.6"},
        ]
        statuses = [get(f"{demo.url}{HELLO}", headers).status for headers in forged]

    assert statuses == [200] * 5 + [429]


#: What the service has for proxies, services and operators inside, and spellings of it.
_INSIDE = [
    "/forward-auth/default",
    "/forward-auth/default/demo-service/hello",
    "//forward-auth/default",
    "/demo-service/hello/../../forward-auth/default",
    "/demo-service/protected/hello/../../../forward-auth/default",
    "/%66orward-auth/default",
    "/v1/check/default",
    "/v1/hold/default",
    "/v1/refund/default",
    "/v1/openapi.json",
    "/v1/policies",
    "/v1/keys/127.0.0.1",
    "/v1/reset/127.0.0.1",
    "/metrics",
    "/readyz",
]


def _status(demo: Demo, method: str, path: str) -> int:
    """Ask by a path that is sent as it stands."""
    connection = http.client.HTTPConnection(HOST, demo.port, timeout=10)
    try:
        connection.request(method, path, headers={"Content-Length": "0"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_ab_sees_the_exact_limit_through_forward_auth(tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, "--store", store, LIMITER_LIMITS="100/minute") as demo:
        demo.wait_for("make demo")
        url = f"http://localhost:{demo.port}/demo-service/protected/hello"
        assert f"curl -i {url}" in demo.log
        counts = ab(url)
        refused = get(url)
        (line,) = [line for line in demo.log.splitlines() if line.startswith("  metrics ")]
        metrics = [get(address.strip(",")).text for address in line.split()[1:]]

    assert counts.complete == 1000
    assert counts.admitted == 100, counts.report
    assert counts.failed == counts.refused, counts.report
    assert refused.status == 429
    assert refused.headers["Content-Type"] == "application/problem+json"
    # Both instances were asked.
    denied = [re.findall(r'{outcome="denied",policy="default"} (\d+)', text) for text in metrics]
    assert sum(int(count) for counts in denied for count in counts) == 901
    assert len([counts for counts in denied if counts]) == 2


def test_a_policy_file_holds_on_both_ways(tmp_path: Path, store: str) -> None:
    path = tmp_path / "policies.toml"
    path.write_text("[policies.default]\nlimits = '2/minute'\nmatch.paths = ['/demo-service/**']\n")
    with Demo(tmp_path, "--store", store, LIMITER_POLICIES=str(path)) as demo:
        demo.wait_for("Ready")
        assert f"{path}: default" in demo.log
        paths = [HELLO, "/demo-service/protected/hello"] * 2
        statuses = [get(f"{demo.url}{path}").status for path in paths]
        path.write_text("[policies.default]\nlimits = '3/minute'\n")
        until(lambda: get(f"{demo.url}{HELLO}").status == 200, what=lambda: demo.log)

    assert statuses == [200, 200, 429, 429]


def test_an_instance_that_hangs_gets_no_requests(tmp_path: Path, store: str) -> None:
    with Demo(tmp_path, "--store", store, LIMITER_LIMITS="1000/minute") as demo:
        demo.wait_for("Ready")
        group = demo.child("'instance-1'")
        os.killpg(group, signal.SIGSTOP)
        try:
            # Traefik notices within its interval and time-out: until then a request may wait.
            time.sleep(4)
            answers = [get(f"{demo.url}{HELLO}") for _ in range(10)]
            behind = [get(f"{demo.url}/demo-service/protected/hello").status for _ in range(10)]
        finally:
            os.killpg(group, signal.SIGCONT)

    assert {json.loads(answer.text)["instance"] for answer in answers} == {"instance-2"}
    assert behind == [200] * 10
