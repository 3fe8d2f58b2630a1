"""Costs of several policies, reserved and settled for services in any language."""

from __future__ import annotations

from typing import Any

import pytest

from limiter.server.reservation_items import MOST_ITEMS
from service.demo.servers import HOST, Server, free_port
from tests.server.client import Answer, Client
from tests.server.conftest import Make
from tests.server.test_api import PLANS, problem

POLICIES = """
[policies.requests]
limits = "3/minute"
exempt.keys = ["friend"]

[policies.tokens]
limits = "100/minute; 1000/hour"
exempt.keys = ["friend"]

[policies.shadow]
limits = "10/minute"
shadow = true

[policies.jobs]
limits = [{ algorithm = "concurrency", limit = 2, lease = 30 }, "3/minute"]
"""


@pytest.fixture
def client(make_by_file: Make) -> Client:
    return make_by_file(POLICIES).client


def items(tokens: int | None = None, key: Any = "u", **others: int) -> list[dict[str, Any]]:
    """One request of a subject and its tokens; ``others`` are costs of other policies."""
    costs = {"requests": 1, "tokens": tokens, **others}
    return [
        {"policy": policy, "key": key, **({} if cost is None else {"cost": cost})}
        for policy, cost in costs.items()
    ]


def reserve(client: Client, name: str, listed: list[dict[str, Any]], **more: Any) -> Answer:
    return client.post("/v1/reserve", json={"id": name, "items": listed, **more})


def settle(client: Client, name: str, listed: list[dict[str, Any]]) -> Answer:
    return client.post("/v1/settle", json={"id": name, "items": listed})


def cancel(client: Client, name: str, listed: list[dict[str, Any]]) -> Answer:
    bare = [{name: item[name] for name in item if name != "cost"} for item in listed]
    return client.delete("/v1/reserve", json={"id": name, "items": bare})


def left(client: Client, policy: str = "tokens", key: Any = "u") -> list[int]:
    """Return what each limit of a policy has left."""
    answer = client.post(f"/v1/check/{policy}", json={"key": key, "peek": True}).json()
    return [each["remaining"] for each in answer["decision"]["each"]]


def test_a_reservation_is_settled_once(client: Client) -> None:
    answer = reserve(client, "a", items(60))

    reserved = answer.json()
    assert answer.status == 200
    assert {name: reserved[name] for name in ("allowed", "id", "seconds", "repeated")} == {
        "allowed": True,
        "id": "a",
        "seconds": 3600,
        "repeated": False,
    }
    assert [result["policy"] for result in reserved["results"]] == ["requests", "tokens"]
    assert [result["decision"]["granted"] for result in reserved["results"]] == [1, 60]
    assert left(client) == [40, 940]
    for _ in range(2):
        settled = settle(client, "a", items(25))
        assert (settled.status, settled.json()) == (200, {"settled": [True, True]})
        assert (left(client), left(client, "requests")) == ([75, 975], [2])


def test_a_repeated_call_reserves_once(client: Client) -> None:
    """In any order of the items; with other costs it is refused, and with other items it is another one."""
    assert reserve(client, "a", items(60)).json()["repeated"] is False
    again = reserve(client, "a", items(60)[::-1])

    assert again.json()["repeated"] is True
    assert [result["decision"]["granted"] for result in again.json()["results"]] == [60, 1]
    detail = problem(reserve(client, "a", items(61)), 409)["detail"]
    assert detail == "items[1].cost is not the cost reserved under this id."
    for others in (items(60, shadow=1), items(60)[1:], [*items(60)[:1], *items(60, "v")[1:]]):
        problem(settle(client, "a", others), 404)
        problem(reserve(client, "a", others), 409)  # it is settled before it was reserved
    assert reserve(client, "a", items(50, shadow=1)[1:]).status == 429
    assert left(client) == [40, 940]
    assert settle(client, "a", items(60)).status == 200
    assert "settled already" in problem(reserve(client, "a", items(60)), 409)["detail"]
    assert left(client) == [40, 940]


def test_all_items_are_charged_or_none(client: Client) -> None:
    assert reserve(client, "a", items(60)).status == 200
    answer = reserve(client, "b", items(60))

    denied = problem(answer, 429)
    assert [result["decision"]["allowed"] for result in denied["results"]] == [True, False]
    assert denied["violated-policies"] == ["tokens.1"]
    assert 55 < int(answer.headers["Retry-After"]) <= 60
    assert "RateLimit" not in answer.headers
    assert (left(client), left(client, "requests")) == ([40, 940], [2])
    problem(settle(client, "b", items(60)), 404)


def test_two_items_of_one_policy(client: Client) -> None:
    """The problem names the policy once."""
    listed = [{"policy": "requests", "key": key, "cost": 3} for key in ("u", ["v", 1])]
    assert reserve(client, "a", listed).status == 200
    assert problem(reserve(client, "b", listed), 429)["violated-policies"] == ["requests"]
    assert settle(client, "a", [{**item, "cost": 1} for item in listed]).status == 200
    assert [left(client, "requests", key) for key in ("u", ["v", 1])] == [[2], [2]]


def test_the_true_cost_may_be_more_than_the_limit(client: Client) -> None:
    reserve(client, "a", items(10))
    assert settle(client, "a", items(500)).status == 200

    assert left(client) == [0, 500]
    problem(reserve(client, "b", items(1)), 429)


def test_a_capped_cost_takes_all_of_each_limit(make_by_file: Make) -> None:
    client = make_by_file('[policies.tokens]\nlimits = "100/minute; 150/hour"\ncap = true\n').client
    item = {"policy": "tokens", "key": "u", "cost": 120}
    for repeated in (False, True):
        answer = reserve(client, "a", [item]).json()
        (result,) = answer["results"]
        granted = [each["granted"] for each in result["decision"]["each"]]
        assert (answer["repeated"], granted) == (repeated, [100, 120])
    assert settle(client, "a", [{**item, "cost": 90}]).status == 200
    assert left(client) == [10, 60]


def test_a_cancelled_reservation_costs_nothing(client: Client) -> None:
    reserve(client, "a", items(60))
    for _ in range(2):
        assert cancel(client, "a", items()).json() == {"settled": [True, True]}
    assert (left(client), left(client, "requests")) == ([100, 1000], [3])


def test_a_reservation_that_arrives_after_its_end_charges_nothing(client: Client) -> None:
    assert cancel(client, "a", items()).json() == {"settled": [False, False]}
    problem(settle(client, "b", items(5)), 404)

    for name in ("a", "b"):
        problem(reserve(client, name, items(60)), 409)
    assert left(client) == [100, 1000]


def test_exempt_subjects_are_settled(client: Client) -> None:
    mixed = [*items(60), {"policy": "tokens", "key": "friend", "cost": 500}]
    for name, listed, settled in (("a", items(999, "friend"), 2), ("b", mixed, 3)):
        assert reserve(client, name, listed).json()["results"][-1]["decision"] is None
        assert settle(client, name, listed).json() == {"settled": [True] * settled}
        assert cancel(client, name, listed).json() == {"settled": [True] * settled}
    assert left(client) == [40, 940]


def test_an_item_names_a_plan_and_a_class(make_by_file: Make) -> None:
    """A settlement needs the plan, and no class."""
    client = make_by_file(PLANS).client
    low = {"policy": "api", "key": "u", "plan": "gold", "cost": 20}
    high = {**low, "class": "high"}

    problem(reserve(client, "a", [low]), 422)
    assert reserve(client, "a", [high]).json()["results"][0]["decision"]["limit"] == 20
    assert settle(client, "a", [{**low, "cost": 15}]).status == 200
    assert problem(reserve(client, "b", [{**low, "cost": 5}]), 429)["violated-policies"] == ["api"]
    assert reserve(client, "b", [{**high, "cost": 5}]).status == 200
    assert cancel(client, "b", [high]).status == 200
    wrong = problem(reserve(client, "c", [{**low, "plan": 1}]), 422)
    assert wrong["detail"].startswith("items[0].plan is no name")


def test_shadow_mode_denies_nothing(client: Client) -> None:
    """A cost without room is not taken, and not settled; one above the limit is settled alone."""
    for name, cost, allowed in (("a", 8, True), ("b", 8, False), ("c", 11, None)):
        for repeated in (False, True):
            answer = reserve(client, name, items(1, shadow=cost)).json()
            decision = answer["results"][2]["decision"]
            assert answer["repeated"] is repeated
            if not repeated or allowed is None:
                assert (decision and decision["allowed"]) is allowed
    for name, cost, remaining in (("b", 3, 2), ("c", 2, 0), ("a", 3, 5)):
        assert settle(client, name, items(1, shadow=cost)).json() == {"settled": [True] * 3}
        assert left(client, "shadow") == [remaining]


@pytest.mark.parametrize(
    ("on_error", "status", "granted"),
    [("local", 200, 60), ("allow", 200, 0), ("deny", 503, 0), ("raise", 503, 0)],
)
def test_a_store_that_is_gone(make_by_file: Make, on_error: str, status: int, granted: int) -> None:
    gone = f"redis://{HOST}:{free_port()}/0"
    client = make_by_file(POLICIES, STORE=gone, ON_ERROR=on_error, TIMEOUT="0.2").client
    answer = reserve(client, "a", items(60))
    decision = answer.json()["results"][1]["decision"]

    assert (answer.status, decision["granted"], decision["degraded"]) == (status, granted, True)
    problem(settle(client, "a", items(60)), 503)
    problem(cancel(client, "a", items(60)), 503)
    only_shadow = [{"policy": "shadow", "key": "u"}]
    assert [reserve(client, "b", only_shadow).status for _ in range(20)] == [200] * 20
    assert reserve(client, "c", items(60, "friend")).status == 200


def test_a_store_that_refuses(make_by_file: Make) -> None:
    """Shadow mode denies nothing."""
    with Server(password="secret") as server:  # noqa: S106
        url = f"redis://{HOST}:{server.port}/0"
        client = make_by_file(POLICIES, STORE=url, ON_ERROR="allow").client
        refused = problem(reserve(client, "a", items(60)), 503)
        assert [result["decision"] for result in refused["results"]] == [None, None]
        problem(settle(client, "a", items(60)), 503)
        answer = reserve(client, "b", [{"policy": "shadow", "key": "u"}])
        assert (answer.status, answer.json()["results"][0]["decision"]) == (200, None)


USABLE = {"policy": "requests", "key": "u"}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"items": [USABLE]}, "id is missing"),
        ({"id": None, "items": [USABLE]}, "id is missing"),
        *[
            ({"id": wrong, "items": [USABLE]}, "id is no id")
            for wrong in ("", "a b", "x" * 65, 1, ["a"], "a\n", "é", "a:b", "{a}", "a\x00", True)
        ],
        *[
            ({"id": "a", "items": [USABLE], "seconds": wrong}, "seconds is no whole number")
            for wrong in (0, -1, 86_401, 1.5, "60", True, None, 1e300)
        ],
        ({"id": "a"}, "items is no list"),
        *[
            ({"id": "a", "items": wrong}, f"items is no list of 1 to {MOST_ITEMS}")
            for wrong in ([], None, {}, "x", [{**USABLE, "key": n} for n in range(21)])
        ],
        *[
            ({"id": "a", "items": [USABLE, wrong]}, "items[1] is no object")
            for wrong in (None, 1, "x", [])
        ],
        ({"id": "a", "items": [USABLE, {**USABLE, "lease": 1}]}, "items[1] has an unknown member"),
        ({"id": "a", "items": [USABLE], "key": "u"}, "The body has an unknown member, 'key'"),
        ({"id": "a", "items": [USABLE, {"key": "u"}]}, "items[1].policy is missing"),
        *[
            ({"id": "a", "items": [USABLE, {"policy": wrong, "key": "u"}]}, "items[1].policy is no")
            for wrong in (None, 1, [], {}, "nobody", "")
        ],
        ({"id": "a", "items": [{"policy": "jobs", "key": "u"}]}, "items[0].policy counts leases"),
        ({"id": "a", "items": [USABLE, {"policy": "tokens"}]}, "items[1].key is missing"),
        *[
            ({"id": "a", "items": [USABLE, {"policy": "tokens", "key": wrong}]}, "items[1].key")
            for wrong in (None, "", [], [[]], True, 1.5, {}, "\ud800", "x" * 1025)
        ],
        *[
            ({"id": "a", "items": [USABLE, {**USABLE, "key": "v", "cost": wrong}]}, "items[1].cost")
            for wrong in (0, -1, 1.5, "1", True, None, [1], 2**53, 4)
        ],
        (
            {"id": "a", "items": [{**USABLE, "key": 1}, {**USABLE, "key": "1"}]},
            "items[1].key is the subject of items[0]",
        ),
        ([], "The body is no object"),
    ],
)
def test_invalid_reservations_name_the_field(client: Client, body: Any, named: str) -> None:
    assert named in problem(client.post("/v1/reserve", json=body), 422)["detail"]
    assert left(client, "requests") == [3]


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", True, None, 2**53])
def test_a_true_cost_is_a_whole_number(client: Client, wrong: Any) -> None:
    problem(settle(client, "a", [{**USABLE, "cost": wrong}]), 422)
    assert "cost is missing" in problem(settle(client, "a", [USABLE]), 422)["detail"]
    unknown = client.delete("/v1/reserve", json={"id": "a", "items": [{**USABLE, "cost": 1}]})
    assert "items[0] has an unknown member" in problem(unknown, 422)["detail"]
