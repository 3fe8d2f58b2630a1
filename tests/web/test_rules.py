"""Whether a rule applies to a request, with which subject and cost."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter import InvalidSetting, Limiter, SlidingLog
from limiter.web.guard import Guard
from limiter.web.identity import Ambiguous, Unidentified
from limiter.web.match import Match, SkipReason, pattern
from limiter.web.plans import CustomerPlan, Plans
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.subjects import identity, meant

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
        ("/a", "/a/", {}),
        ("/a/", "/a", None),
        ("/orgs/{org}", "/orgs/acme/", {"org": "acme"}),
        ("/{a}-{b}-{c}.zip", "/x-y-z-1.zip", {"a": "x", "b": "y", "c": "z-1"}),
        ("/{a}-{b}.zip", "/-y.zip", None),
        ("/**/{n}-*.zip", "/a/b/c-1-2.zip", {"n": "c"}),
        ("/**/a*b/**/z", "/x/a1/ab/y/z", {}),
        ("/**/a*b/**/z", "/x/a1/a/b/y/z", None),
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
        ("/a", "/a\n", {}),
        ("/a", "/a\n\n", None),
        ("/a/**.js", "/a/b/c.js", {}),
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
        "/api//x/../../api/acme",
        "/y//../api/acme",
        "/api/acme/",
        "\\api\\acme",
        "/x/..\\api/acme",
        "/api;v=1/acme;a=b",
        "/x/..;/api/acme",
    ],
)
def test_other_spellings_of_a_path_are_that_path(path: str) -> None:
    """No other spelling of a path gets past its limit, or has a second limit."""
    match = Match(paths=(pattern("/api/{org}"),))
    assert match.parts(request(path)) == {"org": "acme"}


def test_a_path_with_two_readings() -> None:
    """A limit applies if one reading matches; an exemption needs both."""
    api = Match(paths=(pattern("/api/**"),))
    for path in ("/api/../x", "/x/../api/y", "/api/..", "/api/x/../../y"):
        assert api.parts(request(path)) is not None
    for path in ("/x/api/", "/..api/x", "/api.", "/"):
        assert api.parts(request(path)) is None
    exempting = rule(exempt_paths=(pattern("/static/**"),))
    for path in ("/static/x", "/static/./x", "/static/a/../x", "/static//x", "/static/a/.."):
        assert exempting.consider(request(path), ()) is SkipReason.EXEMPT_PATH
    for path in (
        *("/static/../api", "/api/../static/x", "//static/x", "/static/..", "/static//../../api"),
        *("/static/..\\api", "/static/..;/api", "/x/..;/static/x"),
    ):
        assert isinstance(exempting.consider(request(path), ()), Check)


@pytest.mark.parametrize(
    "spelled",
    [
        *("", "a", "*", "/{a}/{a}", "/{1}", "/{a b}", "/{}", "/{a-b}"),
        # No decoded path has these.
        *("/x?y=1", "/a#b", "/caf%C3%A9", "/a//b", "/a/../b", "/a/.", "/..", "/orgs/{org", "/a}"),
        # Matching would search parts of the path repeatedly.
        *("/***", "/a**b*c", "/*a**", "/{a}**", "/**{a}", "/" + "*-" * 41),
    ],
)
def test_wrong_patterns(spelled: str) -> None:
    with pytest.raises(InvalidSetting, match=r"path is .*expected"):
        pattern(spelled)


def plainly(spelled: str) -> re.Pattern[str]:
    """Match a pattern by its definition, which may take very long."""
    meaning = {"**": ".*", "*": "[^/]*"}
    pieces = re.split(r"(\*\*|\*|\{[^{}]*\})", spelled)
    for place, piece in enumerate(pieces):
        known = meaning.get(piece, "[^/]+" if piece.startswith("{") else re.escape(piece))
        pieces[place] = known
    return re.compile("".join(pieces), re.DOTALL)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["a", "b", "/", "/a", "-", "*", "**", "{}"]), max_size=8),
    st.lists(st.text("ab/-", max_size=10), min_size=5, max_size=5),
)
def test_a_pattern_matches_what_it_says(pieces: list[str], paths: list[str]) -> None:
    named = [piece.format(f"{{p{place}}}") for place, piece in enumerate(pieces)]
    try:
        compiled = pattern("/" + "".join(named))
    except InvalidSetting:
        return
    plain = plainly("/" + "".join(named))
    for path in paths:
        assert bool(compiled.fullmatch("/" + path)) == bool(plain.fullmatch("/" + path)), path


@pytest.mark.parametrize(
    ("spelled", "path"),
    [
        ("/**/a/**/b/**/c", "/a/b" * 2_000),
        ("/*-*-*-*.json", "/" + "-" * 8_000),
        ("/{a}-{b}-{c}-{d}.zip", "/" + "-" * 8_000),
        ("/**/x*y/**/z*y", "/x" * 4_000),
        ("/**/{n}-{m}.zip", "/-" * 4_000),
    ],
)
def test_no_path_keeps_a_worker_busy(spelled: str, path: str) -> None:
    """A backtracking match would take from a second to a year; this one takes milliseconds."""
    began = time.process_time()
    assert pattern(spelled).fullmatch(path) is None
    assert time.process_time() - began < 0.5


@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20))
def test_a_text_matches_itself(text: str) -> None:
    """Every path without a star or a brace matches itself."""
    text = re.sub(r"[*{}?#%]|/[/.]*", "", text).lstrip(".")
    assert pattern("/" + text).fullmatch("/" + text)


@pytest.mark.parametrize(
    "path", ["/orgs/acme;1/f", "/orgs/z/../acme/f", "/orgs/acme\\..\\acme/f", "/orgs/z//../acme/f"]
)
def test_a_part_that_differs_between_readings_is_no_subject(path: str) -> None:
    """Else a client could get another limit by another spelling of the same path."""
    by_part = rule(match=Match(paths=(pattern("/orgs/{org}/**"),)), identity=identity("path:org"))

    with pytest.raises(Ambiguous, match="org"):
        by_part.check(request(path), TRUSTED)
    with pytest.raises(Ambiguous):
        replace(by_part, unidentified="skip").check(request(path), TRUSTED)
    assert replace(by_part, identity=identity("global")).check(request(path), TRUSTED)


def test_a_part_that_is_equal_in_all_readings() -> None:
    by_part = rule(match=Match(paths=(pattern("/orgs/{org}/**"),)), identity=identity("path:org"))
    plain = by_part.check(request("/orgs/acme/f"), TRUSTED)

    for path in ("/orgs/acme/./f", "/orgs//acme/f", "/orgs/acme//f;1", "/orgs/acme/f/"):
        assert by_part.check(request(path), TRUSTED) == plain


def test_parts_of_the_framework_s_route_are_kept() -> None:
    match = Match(paths=(pattern("/{a}/*"),))
    routed = replace(request("/x/y"), parts={"a": "old", "b": "1"})
    assert match.parts(routed) == {"a": "x", "b": "1"}
    assert Match().parts(routed) == {"a": "old", "b": "1"}
    check = rule(match=match, identity=identity("path:a")).check(routed, ())
    again = rule(identity=identity("path:a")).check(replace(routed, parts={"a": "x"}), ())
    assert check is not None
    assert again is not None
    assert check.key == again.key


# --- subject and cost ---


def test_the_check_of_a_request() -> None:
    costly = rule(cost=lambda *_: 3)
    assert costly.check(request(), TRUSTED) == Check(costly, "203.0.113.9", 3, None)
    assert costly.name == "r"


def test_an_unknown_cost_is_the_most_that_is_ever_admitted() -> None:
    """The subject's own limits count, if it has some."""
    several = Limiter("9/minute; 5/hour", store="memory://", name="r")
    own = Plans({"203.0.113.9": CustomerPlan((SlidingLog(3, 60),))})
    for plans, cost in [(None, 5), (own, 3)]:
        check = Rule(several, cost=lambda *_: None, plans=plans).check(request(), ())
        assert check is not None
        assert check.cost == cost


@pytest.mark.parametrize("cost", [-1, 0, 1])
def test_a_request_costs_at_least_one(cost: int) -> None:
    check = rule(cost=lambda *_: cost).check(request(), ())
    assert check is not None
    assert check.cost == 1


def test_why_a_rule_does_not_apply() -> None:
    """``consider`` returns the first reason, and ``check`` returns None."""
    everything = Match(frozenset({"GET"}), frozenset({"h.example"}), (pattern("/a/**"),))
    narrow = rule(
        match=everything,
        exempt_paths=(pattern("/a/healthz"),),
        exempt_networks=(ip_network("10.0.0.0/8"),),
        exempt_keys=meant("free", "header:X-Org"),
        identity=identity("header:X-Org"),
        unidentified="skip",
        preflights=False,
        percent=0,
    )
    matching = request("/a/x", x_org="paying")
    for other, why in [
        (replace(matching, method="PUT"), SkipReason.METHOD),
        (replace(matching, method="OPTIONS"), SkipReason.METHOD),
        (replace(matching, host="other"), SkipReason.HOST),
        (replace(matching, path="/b"), SkipReason.PATH),
        (replace(matching, path="/a/healthz"), SkipReason.EXEMPT_PATH),
        (replace(matching, peer="10.1.1.1"), SkipReason.EXEMPT_NETWORK),
        (request("/a/x", x_org="free"), SkipReason.EXEMPT_KEY),
        (request("/a/x"), SkipReason.UNIDENTIFIED),
        (matching, SkipReason.PERCENT),
    ]:
        assert narrow.consider(other, TRUSTED) is why
        assert narrow.check(other, TRUSTED) is None
    assert replace(narrow, percent=100.0).check(matching, TRUSTED) is not None
    # Applications serve HEAD by GET.
    assert (
        replace(narrow, percent=100.0).check(replace(matching, method="HEAD"), TRUSTED) is not None
    )
    preflight = request(
        "/a/x", "OPTIONS", origin="x", access_control_request_method="PUT", x_org="paying"
    )
    free = replace(narrow, match=Match())
    assert free.consider(preflight, TRUSTED) is SkipReason.PREFLIGHT
    assert replace(free, preflights=True).consider(preflight, TRUSTED) is SkipReason.PERCENT


def test_unidentified_requests() -> None:
    """The rule refuses or skips them, or counts by address; they never share a limit."""
    of_header = {"identity": identity("header:X-Org")}
    with pytest.raises(Unidentified):
        rule(**of_header).check(request(), ())
    assert rule(**of_header, unidentified="skip").check(request(), ()) is None
    check = rule(**of_header, unidentified="address").check(request(), ())
    assert check is not None
    assert check.key == "203.0.113.9"
    for how in ("refuse", "address"):
        with pytest.raises(Unidentified):
            rule(**of_header, unidentified=how).check(replace(request(), peer=None), ())


@pytest.mark.parametrize("nobody", [None, "", b"", ()])
def test_an_identity_that_returns_no_subject_lets_no_request_pass(nobody: Any) -> None:
    """Such requests pass only if the rule has ``unidentified="skip"``."""
    anonymous = rule(identity=lambda *_: nobody)

    with pytest.raises(Unidentified):
        anonymous.check(request(), TRUSTED)
    assert replace(anonymous, unidentified="skip").check(request(), TRUSTED) is None
    by_address = replace(anonymous, unidentified="address").check(request(), TRUSTED)
    assert by_address is not None
    assert by_address.key == "203.0.113.9"


def test_an_address_that_cannot_be_parsed_is_not_exempt() -> None:
    """It is in no network."""
    exempting = rule(exempt_networks=(ip_network("0.0.0.0/0"),), identity=identity("global"))
    unreadable = replace(request(x_forwarded_for="nonsense"), peer="127.0.0.1")
    assert exempting.check(unreadable, TRUSTED) is not None
    assert exempting.check(replace(unreadable, peer=None), TRUSTED) is not None


def test_numbers_of_a_subject_s_own() -> None:
    ten = (SlidingLog(50, 60),)

    def check_of(spec: str | list[str], name: str, org: str) -> Check:
        plans = Plans(dict.fromkeys(meant(name, spec), CustomerPlan(ten)))
        check = rule(identity=identity(spec), plans=plans).check(request(x_org=org), ())
        assert check is not None
        return check

    org, both = "header:X-Org", ["address", "header:X-Org"]
    assert check_of(org, "acme", "acme").limits == ten
    assert check_of(org, "acme", "other").limits is None
    assert check_of(both, "203.0.113.9,acme", "acme").limits == ten
    assert check_of(both, "203.0.113.8,acme", "acme").limits is None


# --- roll-out ---


def reached(partial: Rule, subjects: int = 2_000) -> set[int]:
    """Return to which of many subjects the rule applies."""
    return {
        number
        for number in range(subjects)
        if partial.check(request(x_org=str(number)), ()) is not None
    }


def share(percent: float, name: str = "r") -> set[int]:
    return reached(rule(name, percent=percent, identity=identity("header:X-Org")))


@pytest.mark.parametrize("percent", [1, 10, 25, 50, 90])
def test_a_percentage_is_about_right(percent: float) -> None:
    """The share is within five standard deviations of that number of coin tosses."""
    expected = 2_000 * percent / 100
    tolerance = 5 * (expected * (1 - percent / 100)) ** 0.5
    assert abs(len(share(percent)) - expected) < tolerance


def test_a_percentage_is_stable() -> None:
    """Each process has the same subjects, and a larger percentage includes all of them."""
    assert share(0) == set()
    assert share(100) == set(range(2_000))
    assert share(10) == share(10)
    assert share(10) < share(20) < share(70)
    # Fixed here: other processes and later releases must include the same subjects.
    assert sorted(share(1))[:5] == [17, 123, 228, 326, 381]
    # Two rules begin with different subjects: else the same few would get every new rule first.
    assert len(share(50) & share(50, "other")) < 0.6 * len(share(50))


def test_with_a_secret_no_client_can_choose_a_name_outside_of_a_roll_out() -> None:
    """Without a secret it can, since it can compute the digest that decides."""
    by_name = identity("header:X-Org")
    limiters = [
        Limiter("5/minute", store="memory://", name="r", key_secret=secret)
        for secret in (None, "one", "two")
    ]
    found = [reached(Rule(one, percent=50, identity=by_name), 400) for one in limiters]
    for one, other in ((0, 1), (1, 2)):
        assert 120 < len(found[one] ^ found[other]) < 280


# --- preflights ---

PREFLIGHT = {"origin": "https://x.example", "access_control_request_method": "PUT"}


def test_a_preflight_takes_nothing_from_its_client_s_limit() -> None:
    """It is counted by address, in the limits of the same rule."""
    counted = rule(identity=identity("global"))
    guard = Guard([counted])
    preflight = request("/", "OPTIONS", **PREFLIGHT)
    assert [guard.enter(preflight).status for _ in range(6)] == [200] * 5 + [429]
    assert [guard.enter(request()).status for _ in range(6)] == [200] * 5 + [429]
    assert guard.enter(replace(preflight, peer="198.51.100.7")).status == 200
    nobody = replace(preflight, peer=None)
    assert guard.enter(nobody).status == 400
    assert replace(counted, unidentified="skip").consider(nobody, ()) is SkipReason.UNIDENTIFIED
