"""The charge of one request of a client, if a proxy asks more than once."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from service.demo.servers import HOST, free_port
from tests.proxies.support import (
    MARKS,
    TRUSTED,
    Behind,
    Front,
    behind,
    front,
    port_of,
    run_traefik,
)
from tests.proxy import Cut, Proxy
from tests.server.serving import serving
from tests.service.support import post
from tests.waiting import until

pytestmark = MARKS

LIMIT = 100_000


def environment(store: str) -> dict[str, str]:
    """LIMITER_* of a service with a limit for each client that no test reaches."""
    return {
        "LIMITER_STORE": store,
        "LIMITER_PREFIX": f"traefik-{secrets.token_hex(4)}",
        "LIMITER_ALGORITHM": "fixed_window",
        "LIMITER_LIMITS": f"{LIMIT}/hour",
        "LIMITER_TRUSTED_PROXIES": TRUSTED,
    }


def charged(port: int, client: str) -> int:
    """Return how much of its limit the client has used."""
    answer = post(f"http://{HOST}:{port}/v1/check/default", {"key": client, "peek": True})
    return LIMIT - int(json.loads(answer.text)["decision"]["remaining"])


def retrying(found: Behind) -> dict[str, Any]:
    """Two routes to a dead upstream: the middleware that retries is before the limit, or after it."""
    limit = {"address": f"http://{HOST}:{found.service_port}/forward-auth/default"}
    return {
        "routers": {
            "up": {"rule": "Path(`/up`)", "service": "upstream"},
            "around": {
                "rule": "Path(`/around`)",
                "service": "dead",
                "middlewares": ["again", "limit"],
            },
            "behind": {
                "rule": "Path(`/behind`)",
                "service": "dead",
                "middlewares": ["limit", "again"],
            },
        },
        "middlewares": {"again": {"retry": {"attempts": 3}}, "limit": {"forwardAuth": limit}},
        "services": {
            name: {"loadBalancer": {"servers": [{"url": f"http://{HOST}:{port}"}]}}
            for name, port in (("upstream", found.upstream_port), ("dead", free_port()))
        },
    }


def test_a_retry_before_the_limit_is_charged_again(tmp_path: Path, store: str) -> None:
    """Therefore the documents put such a middleware after the limit."""
    with (
        behind(tmp_path, **environment(store)) as found,
        run_traefik(tmp_path, "retrying", retrying(found), found) as proxy,
    ):
        statuses = [
            proxy.ask("127.20.0.1", path="/around").status,
            proxy.ask("127.20.0.2", path="/behind").status,
        ]
        costs = [charged(found.service_port, f"127.20.0.{client}") for client in (1, 2)]

    assert statuses == [502, 502]
    assert costs == [3, 1]


def test_a_lost_response_is_requested_again(tmp_path: Path, store: str) -> None:
    """Go's client repeats a request if a kept connection ends: that costs one more charge."""
    variables = environment(store)
    lost = 0

    def lose(data: bytes) -> bytes:
        nonlocal lost
        if b" 204 " in data[:20] and lost < 1:
            lost += 1
            raise Cut
        return data

    with (
        serving(tmp_path / "other.log", **variables) as (_, url),
        Proxy((HOST, port_of(url))) as between,
        front(tmp_path, "traefik", [f"{HOST}:{between.port}"], **variables) as proxy,
    ):
        for _ in range(4):  # so that there are connections to keep
            assert proxy.ask("127.21.0.1", path="/x").status == 200
        between.replies = lose
        statuses = [proxy.ask("127.21.0.1", path="/x").status for _ in range(6)]
        cost = charged(port_of(url), "127.21.0.1")

    assert lost == 1
    assert statuses == [200] * 6
    assert cost == 4 + 6 + 1


def test_killed_workers_cost_at_most_one_charge_for_each_pending_request(
    tmp_path: Path, store: str
) -> None:
    """One of two instances repeatedly loses its only worker, under load."""
    variables = environment(store)
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    with (
        serving(tmp_path / "other.log", **variables) as (other, url),
        front(tmp_path, "traefik", [url.removeprefix("http://")], **variables) as proxy,
    ):
        threads = [
            threading.Thread(target=_load, args=(proxy, "127.22.0.1", statuses, stop))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        kills = 3
        log = tmp_path / "other.log"
        for kill in range(kills):
            until(lambda n=kill: log.read_text().count("Booting worker") > n, what=log.read_text)  # type: ignore[misc]
            time.sleep(0.5)  # under load, which is what this is about
            os.kill(_workers(other.pid)[0], signal.SIGKILL)
        until(lambda: log.read_text().count("Booting worker") > kills, what=log.read_text)
        stop.set()
        for thread in threads:
            thread.join()
        # Afterwards every request is served again.
        assert [proxy.ask("127.22.0.2", path="/x").status for _ in range(4)] == [200] * 4
        cost = charged(port_of(url), "127.22.0.1")

    refused = sum(count for status, count in statuses.items() if status not in (200, 429))
    # Each kill meets at most one request of each thread; Traefik repeats those that it may.
    assert refused <= kills * len(threads), statuses
    assert statuses[200] <= cost <= min(LIMIT, statuses[200] + kills * len(threads)), statuses


def _load(proxy: Front, client: str, statuses: Counter[int], stop: threading.Event) -> None:
    while not stop.is_set():
        statuses[proxy.ask(client, path="/x").status] += 1


def _workers(master: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
