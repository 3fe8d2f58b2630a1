"""Reservations by several instances, with lost answers, in a cluster, and with changed policy files."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.demo.servers import Cluster, Server
from tests.proxy import Proxy, cut
from tests.server.client import Answer, Client
from tests.server.conftest import Make
from tests.server.test_api import problem
from tests.server.test_reservations import cancel, items, left, reserve, settle

POLICIES = """
[policies.requests]
limits = "100/hour"

[policies.tokens]
limits = { algorithm = "fixed_window", limit = 1000000, per = "day" }
"""


@pytest.fixture
def instances(make_by_file: Make, server: Server) -> Iterator[list[tuple[Client, Proxy]]]:
    """Three instances, each with a proxy to the store that may lose calls and answers."""
    proxies = [Proxy((server.host, server.port)) for _ in range(3)]
    yield [
        (make_by_file(POLICIES, STORE=proxy.url, ON_ERROR="raise").client, proxy)
        for proxy in proxies
    ]
    for proxy in proxies:
        proxy.close()


def test_lost_answers_change_nothing(instances: list[tuple[Client, Proxy]]) -> None:
    """Callers repeat each call, at any instance, until they have an answer; none is charged twice."""
    seen = random.Random(16)
    statuses: list[int] = []

    def until_answered(method: str, path: str, body: dict[str, Any]) -> Answer:
        while True:
            client, proxy = seen.choice(instances)
            lost = seen.choice(["", "requests", "replies", "response"])
            if lost in ("requests", "replies"):
                setattr(proxy, lost, cut)
            answer = client.ask(method, path, json=body)
            proxy.mend()
            statuses.append(answer.status)
            if lost != "response" and answer.status != 503:
                return answer

    used = 0
    for number in range(12):
        name, estimate = f"call-{number}", seen.randint(1, 1_500)
        true = seen.choice([0, estimate // 10, estimate, estimate * 10])
        body = {"id": name, "items": items(estimate)}
        assert until_answered("POST", "/v1/reserve", body).status == 200
        body["items"] = items(true)
        for _ in range(seen.randint(1, 3)):
            answer = until_answered("POST", "/v1/settle", body)
            assert answer.json() == {"settled": [True, True]}
        used += true
        for client, _ in instances:
            problem(reserve(client, name, items(estimate)), 409)
    client, _ = instances[0]
    assert statuses.count(503) > 5
    assert (left(client), left(client, "requests")) == ([1_000_000 - used], [88])


def test_equal_calls_at_one_time_are_one(
    instances: list[tuple[Client, Proxy]], loop: asyncio.AbstractEventLoop
) -> None:
    """Whichever instances receive them."""

    def all_at_once(path: str, tokens: int) -> list[Answer]:
        body = {"id": "a", "items": items(tokens)}
        calls = [
            client.answer("POST", path, json=body) for client, _ in instances for _ in range(5)
        ]

        async def gathered() -> list[Answer]:
            return await asyncio.gather(*calls)

        return loop.run_until_complete(gathered())

    client, _ = instances[0]
    reserved = [answer.json()["repeated"] for answer in all_at_once("/v1/reserve", 60)]
    assert sorted(reserved) == [False, *[True] * 14]
    assert left(client) == [999_940]
    assert {answer.status for answer in all_at_once("/v1/settle", 90)} == {200}
    assert (left(client), left(client, "requests")) == ([999_910], [99])


def test_subjects_in_many_slots_of_a_cluster(make_by_file: Make, cluster: Cluster) -> None:
    client = make_by_file(POLICIES, STORE=cluster.url).client
    keys = [["user", number] for number in range(20)]

    def listed(cost: int) -> list[dict[str, Any]]:
        return [{"policy": "requests", "key": key, "cost": cost} for key in keys]

    def everyone() -> set[int]:
        return {number for key in keys for number in left(client, "requests", key)}

    assert reserve(client, "a", listed(60)).json()["repeated"] is False
    assert reserve(client, "a", listed(60)[::-1]).json()["repeated"] is True
    problem(reserve(client, "a", listed(59)), 409)
    assert everyone() == {40}
    assert reserve(client, "alone", listed(1)[:1]).status == 200
    problem(reserve(client, "b", listed(40)), 429)
    assert cancel(client, "alone", listed(1)[:1]).status == 200
    assert everyone() == {40}
    for _ in range(2):
        assert settle(client, "a", listed(10)).json() == {"settled": [True] * 20}
    assert everyone() == {90}
    problem(reserve(client, "a", listed(60)), 409)
    assert everyone() == {90}
    assert cancel(client, "c", listed(1)).json() == {"settled": [False] * 20}
    problem(reserve(client, "c", listed(1)), 409)
    assert everyone() == {90}


@pytest.mark.parametrize(
    ("before", "after", "remaining"),
    [
        ("", 'exempt.keys = ["u"]', 100),
        ('exempt.keys = ["u"]', "", 80),
        ("", "percent = 0.01", 100),
        ("", "shadow = true", 80),
        ("shadow = true", "", 80),
        ("", 'overrides = { u = "50/day" }', 30),
        ('overrides = { u = "50/day" }', "", 80),
        ("", 'limits = "10/day"', 0),
    ],
)
def test_a_policy_file_that_changes_in_between(
    make_by_file: Make, tmp_path: Path, before: str, after: str, remaining: int
) -> None:
    """The record is found, and settled by the limits in force."""

    def text(own: str) -> str:
        limits = "" if own.startswith("limits") else 'limits = "100/day"'
        return f'[policies.requests]\n{limits}\n{own}\n[policies.tokens]\nlimits = "200/day"\n'

    running = make_by_file(text(before))
    client = running.client
    reserve(client, "a", [*items(60, requests=40)])
    (tmp_path / "policies.toml").write_text(text(after))
    assert running.service.policies.reload()

    assert settle(client, "a", items(50, requests=20)).json() == {"settled": [True, True]}
    assert left(client) == [150]
    (tmp_path / "policies.toml").write_text(
        text(after if "limits" in after or "overrides" in after else "")
    )
    assert running.service.policies.reload()
    assert left(client, "requests") == [remaining]


@pytest.mark.parametrize(
    ("old", "new"), [('per = "day"', 'per = "hour"'), ('"100/hour"', '"100/hour; 1000/day"')]
)
def test_a_policy_with_other_limits(make_by_file: Make, tmp_path: Path, old: str, new: str) -> None:
    """What was reserved before stays charged, and is not refunded from the new limits."""
    running = make_by_file(POLICIES)
    reserve(running.client, "a", items(60))
    (tmp_path / "policies.toml").write_text(POLICIES.replace(old, new))
    assert running.service.policies.reload()

    reserve(running.client, "b", items(80))
    before = left(running.client), left(running.client, "requests")
    problem(settle(running.client, "a", items(30)), 404)
    assert (left(running.client), left(running.client, "requests")) == before
    (tmp_path / "policies.toml").write_text(POLICIES.replace("requests", "calls"))
    assert running.service.policies.reload()
    assert "items[0].policy is no" in problem(settle(running.client, "a", items(30)), 422)["detail"]
