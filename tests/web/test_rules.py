"""Whether a rule is about a request, for whom, and for how much."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import InvalidSetting, Limiter, SlidingLog
from limiter.web.identity import Unidentified
from limiter.web.request import Request
from limiter.web.rules import Asked, Match, Passed, Rule, pattern
from limiter.web.subjects import identity

TRUSTED = (ip_network("127.0.0.0/8"),)


def request(path: str = "/", method: str = "GET", **headers: str) -> Request:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, "h.example", path, fields, "203.0.113.9")


def rule(name: str = "r", **more: Any) -> Rule:
    return Rule(Limiter("5/minute", store="memory://", name=name), **more)


# --- paths ---


@pytest.mark.parametrize(
    ("spelled", "path", "parts"),
    [
        ("/", "/", {}),
        ("/", "/a", None),
        ("/a", "/a/", None),
        ("/a", "/A", None),
        ("/a/*", "/a/b", {}),
        ("/a/*", "/a/", {}),
        ("/a/*", "/a/b/c", None),
        ("/a/**", "/a/b/c", {}),
        ("/a/**", "/a", None),
        ("/**", "/", {}),
        ("/*.json", "/x.json", {}),
        ("/*.json", "/xjson", None),
        ("/a+(b)", "/a+(b)", {}),
        ("/orgs/{org}", "/orgs/acme", {"org": "acme"}),
        ("/orgs/{org}", "/orgs/", None),
        ("/orgs/{org}", "/orgs/a/b", None),
        ("/orgs/{org}/{id}.json", "/orgs/a/7.json", {"org": "a", "id": "7"}),
        ("/a/**/z", "/a/b/c/z", {}),
        ("/a/**", "/a/line\nbreak", {}),
        ("/a", "/a\n", None),
    ],
)
def test_patterns(spelled: str, path: str, parts: dict[str, str] | None) -> None:
    assert Match(paths=(pattern(spelled),)).parts(request(path)) == parts


@pytest.mark.parametrize(
    "path",
    [
        "//api/acme",
        "/api//acme",
        "/./api/acme",
        "/api/./acme",
        "/x/../api/acme",
        "/../api/acme",
        "/api/x/../acme",
        "///x/..//../api/./acme",
    ],
)
def test_other_spellings_of_a_path_are_that_path(path: str) -> None:
    """Nobody gets past a limit, or a second one, by them."""
    match = Match(paths=(pattern("/api/{org}"),))
    assert match.parts(request(path)) == {"org": "acme"}


def test_what_an_application_may_take_for_another_path() -> None:
    """A limit is about either of the two; an exemption must be about both."""
    api = Match(paths=(pattern("/api/**"),))
    for path in ("/api/../x", "/x/../api/y", "/api/..", "/api/x/../../y"):
        assert api.parts(request(path)) is not None
    for path in ("/x/api/", "/..api/x", "/api.", "/"):
        assert api.parts(request(path)) is None
    found = rule(exempt_paths=(pattern("/static/**"),))
    for path in ("/static/x", "/static/./x", "/static/a/../x", "/static//x", "/static/a/.."):
        assert found.consider(request(path), ()) is Passed.EXEMPT_PATH
    for path in ("/static/../api", "/api/../static/x", "//static/x", "/static/.."):
        assert isinstance(found.consider(request(path), ()), Asked)


@pytest.mark.parametrize("spelled", ["", "a", "*", "/{a}/{a}", "/{1}", "/{a b}", "/{}", "/{a-b}"])
def test_wrong_patterns(spelled: str) -> None:
    with pytest.raises(InvalidSetting, match=r"path is .*accepted"):
        pattern(spelled)


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_a_text_matches_itself(text: str) -> None:
    """Whatever it is made of, where it has no star and no brace."""
    for one in "*{}":
        text = text.replace(one, "")
    assert pattern("/" + text).fullmatch("/" + text)


def test_parts_of_who_routed_the_request_are_kept() -> None:
    match = Match(paths=(pattern("/{a}/*"),))
    asked = replace(request("/x/y"), parts={"a": "old", "b": "1"})
    assert match.parts(asked) == {"a": "x", "b": "1"}
    assert Match().parts(asked) == {"a": "old", "b": "1"}
    found = rule(match=match, identity=identity("path:a")).ask(asked, ())
    again = rule(identity=identity("path:a")).ask(replace(asked, parts={"a": "x"}), ())
    assert found is not None
    assert again is not None
    assert found.key == again.key


# --- whom it is about ---


def test_what_is_asked() -> None:
    found = rule(cost=lambda *_: 3)
    assert found.ask(request(), TRUSTED) == Asked(found, "203.0.113.9", 3, None)
    assert found.name == "r"


@pytest.mark.parametrize("cost", [-1, 0, 1])
def test_a_request_costs_at_least_one(cost: int) -> None:
    found = rule(cost=lambda *_: cost).ask(request(), ())
    assert found is not None
    assert found.cost == 1


def test_why_not() -> None:
    """The first reason, and ``ask`` says nothing."""
    everything = Match(frozenset({"GET"}), frozenset({"h.example"}), (pattern("/a/**"),))
    found = rule(
        match=everything,
        exempt_paths=(pattern("/a/healthz"),),
        exempt_networks=(ip_network("10.0.0.0/8"),),
        exempt_keys=frozenset({"free"}),
        identity=identity("header:X-Org"),
        unidentified="skip",
        preflights=False,
        percent=0,
    )
    asked = request("/a/x", x_org="paying")
    for other, why in [
        (replace(asked, method="PUT"), Passed.METHOD),
        (replace(asked, host="other"), Passed.HOST),
        (replace(asked, path="/b"), Passed.PATH),
        (replace(asked, path="/a/healthz"), Passed.EXEMPT_PATH),
        (replace(asked, peer="10.1.1.1"), Passed.EXEMPT_NETWORK),
        (request("/a/x", x_org="free"), Passed.EXEMPT_KEY),
        (request("/a/x"), Passed.UNIDENTIFIED),
        (asked, Passed.PERCENT),
    ]:
        assert found.consider(other, TRUSTED) is why
        assert found.ask(other, TRUSTED) is None
    assert replace(found, percent=100.0).ask(asked, TRUSTED) is not None
    preflight = request(
        "/a/x", "OPTIONS", origin="x", access_control_request_method="PUT", x_org="paying"
    )
    free = replace(found, match=Match())
    assert free.consider(preflight, TRUSTED) is Passed.PREFLIGHT
    assert replace(free, preflights=True).consider(preflight, TRUSTED) is Passed.PERCENT


def test_who_cannot_be_identified() -> None:
    """An error, or what the rule says; and never a bucket for all of them."""
    of_header = {"identity": identity("header:X-Org")}
    with pytest.raises(Unidentified):
        rule(**of_header).ask(request(), ())
    assert rule(**of_header, unidentified="skip").ask(request(), ()) is None
    found = rule(**of_header, unidentified="address").ask(request(), ())
    assert found is not None
    assert found.key == "203.0.113.9"
    for how in ("refuse", "address"):
        with pytest.raises(Unidentified):
            rule(**of_header, unidentified=how).ask(replace(request(), peer=None), ())


def test_nobody_gets_exempt_by_what_cannot_be_read() -> None:
    """An address that nobody can tell is in no network."""
    found = rule(exempt_networks=(ip_network("0.0.0.0/0"),), identity=identity("global"))
    asked = replace(request(x_forwarded_for="nonsense"), peer="127.0.0.1")
    assert found.ask(asked, TRUSTED) is not None
    assert found.ask(replace(asked, peer=None), TRUSTED) is not None


def test_numbers_of_a_subject_s_own() -> None:
    """By what the request says, or by its hash; of several parts, with commas between."""
    ten = (SlidingLog(50, 60),)
    org = identity("header:X-Org")

    def asked(overrides: str, said: str) -> Asked:
        found = rule(identity=org, overrides={overrides: ten}).ask(request(x_org=said), ())
        assert found is not None
        return found

    assert asked("acme", "acme").limits == ten
    assert asked("acme", "other").limits is None
    hashed = str(asked("acme", "acme").key)
    assert asked(hashed, "acme").limits == ten
    both = identity(["address", "header:X-Org"])
    for name in ("203.0.113.9,acme", f"203.0.113.9,{hashed}"):
        found = rule(identity=both, overrides={name: ten}).ask(request(x_org="acme"), ())
        assert found is not None
        assert found.limits == ten


# --- roll-out ---


def reached(found: Rule, subjects: int = 2_000) -> set[int]:
    """For which of many subjects the rule holds."""
    return {
        number
        for number in range(subjects)
        if found.ask(request(x_org=str(number)), ()) is not None
    }


def share(percent: float, name: str = "r") -> set[int]:
    return reached(rule(name, percent=percent, identity=identity("header:X-Org")))


@pytest.mark.parametrize("percent", [1, 10, 25, 50, 90])
def test_a_percentage_is_about_right(percent: float) -> None:
    """Within five standard deviations of so many coins."""
    expected = 2_000 * percent / 100
    tolerance = 5 * (expected * (1 - percent / 100)) ** 0.5
    assert abs(len(share(percent)) - expected) < tolerance


def test_a_percentage_is_stable() -> None:
    """The same subjects each time, in each process, and all of them again when it grows."""
    assert share(0) == set()
    assert share(100) == set(range(2_000))
    assert share(10) == share(10)
    assert share(10) < share(20) < share(70)
    # Written down once: another process, or another release, is to reach the same ones.
    assert sorted(share(1))[:5] == [33, 73, 134, 143, 209]
    # Two rules are rolled out to others first: the same few would bear everything.
    assert len(share(50) & share(50, "other")) < 0.6 * len(share(50))
