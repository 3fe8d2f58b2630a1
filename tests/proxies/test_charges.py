"""What one request of a client is charged, where something on the way asks more than once."""

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
from tests.e2e.support import until
from tests.proxies.support import MARKS, TRUSTED, Behind, Front, behind, front, run_traefik
from tests.proxy import Cut, Proxy
from tests.service.support import gunicorn, post

pytestmark = MARKS

LIMIT = 100_000


def environment(store: str) -> dict[str, str]:
    """LIMITER_* of a service with one limit for each client, above all that is asked here."""
    return {
        "LIMITER_STORE": store,
        "LIMITER_PREFIX": f"traefik-{secrets.token_hex(4)}",
        "LIMITER_ALGORITHM": "fixed_window",
        "LIMITER_LIMITS": f"{LIMIT}/hour",
        "LIMITER_TIMEOUT": "5",
        "LIMITER_TRUSTED_PROXIES": TRUSTED,
    }


def charged(port: int, client: str) -> int:
    """So much of its limit the client has used."""
    answer = post(f"http://{HOST}:{port}/v1/check/default", {"key": client, "peek": True})
    return LIMIT - int(json.loads(answer.text)["decision"]["remaining"])


def retrying(found: Behind) -> dict[str, Any]:
    """Two routes to an upstream that is dead: what sends again stands around the limit, or behind it."""
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


def test_sending_again_is_charged_again_where_it_stands_around_the_limit(
    tmp_path: Path, store: str
) -> None:
    """Why ours says that such a middleware belongs behind it."""
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


def test_an_answer_that_is_lost_on_its_way_is_asked_for_again(tmp_path: Path, store: str) -> None:
    """Go's client does so where a connection that was kept ends; what it costs is one charge more."""
    variables = environment(store)
    lost = 0

    def lose(data: bytes) -> bytes:
        nonlocal lost
        if b" 204 " in data[:20] and lost < 1:
            lost += 1
            raise Cut
        return data

    with (
        gunicorn(tmp_path / "other.log", **variables) as (_, url),
        Proxy((HOST, int(url.rpartition(":")[2]))) as between,
        front(tmp_path, "traefik", [f"{HOST}:{between.port}"], **variables) as proxy,
    ):
        for _ in range(4):  # so that there are connections to keep
            assert proxy.ask("127.21.0.1", path="/x").status == 200
        between.replies = lose
        statuses = [proxy.ask("127.21.0.1", path="/x").status for _ in range(6)]
        cost = charged(int(url.rpartition(":")[2]), "127.21.0.1")

    assert lost == 1
    assert statuses == [200] * 6
    assert cost == 4 + 6 + 1


def test_workers_that_are_killed_cost_no_more_than_what_they_were_asked(
    tmp_path: Path, store: str
) -> None:
    """One of the two instances loses its only worker, again and again, under load."""
    variables = environment(store)
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    with (
        gunicorn(tmp_path / "other.log", **variables) as (other, url),
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
        # Whatever has happened, all is as before.
        assert [proxy.ask("127.22.0.2", path="/x").status for _ in range(4)] == [200] * 4
        cost = charged(int(url.rpartition(":")[2]), "127.22.0.1")

    refused = sum(count for status, count in statuses.items() if status not in (200, 429))
    # Each kill meets what each thread asks, once; Traefik asks again where it may.
    assert refused <= kills * len(threads), statuses
    assert statuses[200] <= cost <= min(LIMIT, statuses[200] + kills * len(threads)), statuses


def _load(proxy: Front, client: str, statuses: Counter[int], stop: threading.Event) -> None:
    while not stop.is_set():
        statuses[proxy.ask(client, path="/x").status] += 1


def _workers(master: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
