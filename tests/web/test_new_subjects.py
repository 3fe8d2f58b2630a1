"""The bound on new subjects of a client address: invented keys are bounded, known ones still work."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from limiter import Concurrency, FixedWindow, InvalidSetting
from limiter.web import new_subjects
from limiter.web.new_subjects import NewSubjects, TooManyNewSubjects
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.subjects import identity
from service.demo.servers import Cluster, Server
from tests.parallel import in_threads
from tests.web.test_guard import ADDRESS, HOUR, NOWHERE, AnyGuard, fields, guard, request

__all__ = ["guard"]

API_KEY = identity("api-key")


def by_key(key: str, peer: str = "203.0.113.9") -> Request:
    """A request with an API key."""
    return request(peer=peer, x_api_key=key)


def bounded(**more: Any) -> dict[str, Any]:
    """A rule by API key; an address may begin three keys an hour."""
    return {"identity": API_KEY, "new_subjects": NewSubjects("3/hour"), **more}


def statuses(guard: AnyGuard, keys: list[str], peer: str = "203.0.113.9") -> list[int]:
    return [guard.enter(by_key(key, peer)).status for key in keys]


def test_an_attacker_begins_few_keys_and_known_ones_still_work(
    guard: AnyGuard, own: Server
) -> None:
    """Without the bound, each of a hundred invented keys was served, and stayed in the store for days."""
    guard.opened(own.url, ("api", FixedWindow(5, 2 * 24 * HOUR), bounded()))
    client = own.client()
    statuses(guard, ["known", "other"], "198.51.100.1")
    made_up = statuses(guard, [f"made-up-{number}" for number in range(100)])
    assert made_up == [200] * 3 + [429] * 97
    assert client.dbsize() == 5
    # Keys that it began, or that other addresses began, are counted as before.
    assert statuses(guard, ["made-up-0"] * 6) == [200] * 4 + [429] * 2
    assert statuses(guard, ["known"] * 5 + ["other"]) == [200] * 4 + [429, 200]
    assert client.dbsize() == 5
    assert statuses(guard, ["new"], "198.51.100.2") == [200]
    client.close()


def test_what_is_answered(guard: AnyGuard, store: str) -> None:
    guard.opened(store, ("api", FixedWindow(5, HOUR), bounded()))
    statuses(guard, ["a", "b", "c"])
    verdict = guard.enter(by_key("d"))
    assert (verdict.status, verdict.results) == (429, ())
    assert isinstance(verdict.error, TooManyNewSubjects)
    assert 3_590 <= int(fields(verdict)["Retry-After"]) <= 3_600
    problem = json.loads(verdict.body)
    assert problem["detail"] == "Policy api allows 3 new subjects per 3600 s for one address."
    assert problem["violated-policies"] == ["api"]


def test_known_keys_cost_an_address_nothing(guard: AnyGuard, store: str) -> None:
    """The same holds for requests that another limit denies."""
    guard.opened(store, ("api", FixedWindow(2, HOUR), bounded()))
    known = [f"known-{number}" for number in range(9)]
    for number, key in enumerate(known):
        statuses(guard, [key], f"198.51.100.{number}")
    assert statuses(guard, known * 2) == [200] * 9 + [429] * 9
    assert statuses(guard, ["a", "b", "c", "d"]) == [200] * 3 + [429]


def test_a_key_counts_once_in_a_period(guard: AnyGuard, store: str) -> None:
    """The same holds if the store has removed the key, as after a released lease."""
    guard.opened(store, ("jobs", Concurrency(2), bounded()))
    for _ in range(5):
        verdict = guard.enter(by_key("slow"))
        assert verdict.status == 200
        guard.leave(verdict)
    assert statuses(guard, ["a", "b", "c"]) == [200, 200, 429]


def test_nothing_is_charged_where_a_subject_is_not_begun(guard: AnyGuard, store: str) -> None:
    """All rules of a request are charged, or none."""
    guard.opened(
        store,
        ("each", FixedWindow(9, HOUR), {"identity": ADDRESS}),
        ("api", FixedWindow(5, HOUR), bounded()),
        ("tenant", FixedWindow(5, HOUR), bounded(identity=identity("header:X-Org"))),
    )
    for number in range(5):
        incoming = replace(by_key("same"), headers={"x-api-key": "same", "x-org": f"{number}"})
        assert guard.enter(incoming).status == (200 if number < 3 else 429)
    assert guard.left("each", "203.0.113.9") == 6
    # One unit of the other rule was used.
    for number in range(3):
        incoming = replace(by_key("x"), headers={"x-api-key": f"new-{number}", "x-org": "0"})
        assert guard.enter(incoming).status == (200 if number < 2 else 429)


def test_in_shadow_mode_nothing_is_denied_and_nothing_written(guard: AnyGuard, own: Server) -> None:
    guard.opened(
        own.url,
        ("real", FixedWindow(50, HOUR), {"identity": ADDRESS}),
        ("api", FixedWindow(5, HOUR), bounded(shadow=True)),
    )
    verdicts = [guard.enter(by_key(f"made-up-{number}")) for number in range(9)]
    assert [verdict.status for verdict in verdicts] == [200] * 9
    assert [len(verdict.shadowed) for verdict in verdicts] == [0] * 3 + [1] * 6
    client = own.client()
    assert client.dbsize() == 4
    client.close()


def test_an_address_is_no_subject_that_its_client_chooses(guard: AnyGuard, store: str) -> None:
    """Nor does the client choose the subject of its preflights, so neither counts."""
    guard.opened(store, ("api", FixedWindow(9, HOUR), bounded(unidentified="address")))
    preflight = replace(
        request(origin="https://x.example", access_control_request_method="PUT"), method="OPTIONS"
    )
    statuses(guard, ["a", "b", "c"])
    assert guard.statuses(2, request()) == [200, 200]
    assert guard.statuses(2, preflight) == [200, 200]
    assert guard.enter(replace(by_key("a"), peer=None)).status == 400


@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503), ("local", 200)])
def test_while_the_store_is_away(guard: AnyGuard, on_error: str, status: int) -> None:
    """The fallback decides, and counts no new subject for the address."""
    limit = NewSubjects("3/hour")
    guard.opened(
        NOWHERE, ("api", FixedWindow(99, HOUR), bounded(new_subjects=limit)), on_error=on_error
    )
    assert statuses(guard, [f"key-{number}" for number in range(5)]) == [status] * 5
    for number in range(3):
        assert limit.begins("203.0.113.9", f"full-{number}")
    verdict = guard.enter(by_key("one-more"))
    assert (verdict.status, verdict.error is not None) == (status, True)


def test_on_a_cluster_a_refund_leaves_no_way_around(guard: AnyGuard, cluster: Cluster) -> None:
    """A denied sequential hit counts, since its refund leaves a key in the store."""
    guard.opened(
        cluster.url,
        ("api", FixedWindow(5, HOUR), bounded()),
        ("each", FixedWindow(1, HOUR), {"identity": ADDRESS}),
    )
    assert statuses(guard, [f"made-up-{number}" for number in range(9)]) == [200] + [429] * 8
    (limiter,) = {rule.limiter for rule in guard.current.rules if rule.name == "api"}
    assert len(limiter and guard.current.rules[0].new_subjects._begun["203.0.113.9"]) == 3


# --- the class NewSubjects ---


def test_a_period_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(new_subjects, "monotonic", lambda: now)
    limit = NewSubjects("2 per 10 seconds")
    assert [limit.begins("a", key) for key in "xxy"] == [True, None, True]
    now += 4
    assert limit.begins("a", "z") is False
    assert limit.retry_after("a") == 6
    assert limit.begins("b", "z") is True
    now += 6
    assert [limit.begins("a", key) for key in "zxy"] == [True, True, False]
    limit.take_back("a", "z")
    assert limit.begins("a", "y") is True
    assert limit.retry_after("nobody") == 0


def test_addresses_are_forgotten_beyond_a_bound() -> None:
    limit = NewSubjects("1000/hour")
    for number in range(1_000):
        limit.begins(f"address-{number}", "x")
        limit.begins("2001:db8::/64" if number % 100 else "other", number)
    assert len(limit._begun) <= 200
    limit.take_back("address-999", "x")
    assert "address-999" not in limit._begun


def test_numbers_change_over_what_was_begun() -> None:
    limit, wider = NewSubjects("1/hour"), NewSubjects("2/hour")
    limit.begins("a", "x")
    wider.go_on(limit)
    assert [wider.begins("a", key) for key in "xyz"] == [None, True, False]


def test_threads_begin_no_more_together() -> None:
    limit = NewSubjects("50/hour")
    begun: list[bool | None] = []

    def run(name: int) -> None:
        begun.extend([limit.begins("a", f"{name}-{number}") for number in range(200)])

    in_threads(4, run)
    assert begun.count(True) <= 50
    assert begun.count(None) == 0


@pytest.mark.parametrize(
    "text", ["", "x", "20", "0/hour", "1001/hour", "5/hour burst 3", "5/s; 6/hour", 5, None, True]
)
def test_what_is_no_bound(text: Any) -> None:
    with pytest.raises(InvalidSetting, match="expected one limit of 1 to 1,000"):
        NewSubjects(text)


def test_a_subject_that_a_peer_names_is_not_chosen_by_a_client(store: str) -> None:
    from limiter import Limiter

    rule = Rule(Limiter("5/hour", store=store), **bounded())
    check = rule.consider_subject("u", 1)
    assert isinstance(check, Check)
    assert check.address is None
