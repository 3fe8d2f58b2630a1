"""What a replay counts, by logs and policies that are small enough to be counted by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from limiter.policyfile.reading import read
from limiter.simulate.caveats import caveats
from limiter.simulate.entry import Entry
from limiter.simulate.logs import Counts
from limiter.simulate.replay import Replay
from limiter.simulate.report import DeniedSubject, Report, Second, Timeline
from limiter.web.subjects import disguised, hashed

BEGIN_US = 1_790_000_000_000_000
ONE = '[policies.default]\nlimits = "2/minute"\n'


def at(second: float, address: str = "192.0.2.1", **changes: Any) -> Entry:
    """A request at this second of the log."""
    usual = Entry(BEGIN_US + round(second * 1e6), "GET", "", "/", address)
    return usual._replace(**changes)


def replayed(policies: str, log: Iterable[Entry], **settings: Any) -> tuple[Replay, Report]:
    """A replay of a log, and its report."""
    file = read(policies, "policies.toml")
    replay = Replay(file, [ip_network("127.0.0.0/8")])
    replay.run(log)
    return replay, replay.report(**settings)


def warnings(policies: str, log: Iterable[Entry], counts: Counts | None = None) -> list[str]:
    """The warnings about a replay."""
    replay, report = replayed(policies, log)
    return list(caveats(read(policies, "policies.toml"), replay, report, counts or Counts()))


def test_one_policy() -> None:
    """Everything that a report says of it."""
    log = [*(at(0) for _ in range(4)), at(1.5, "192.0.2.2"), at(2.25), at(70), at(70), at(70)]
    _, report = replayed(ONE, log)
    (policy,) = report.policies
    assert (report.requests, report.denied, report.refused) == (9, 4, 0)
    assert (report.begin_us, report.end_us) == (BEGIN_US, BEGIN_US + 70_000_000)
    assert (policy.requests, policy.cost, policy.denied) == (9, 9, 4)
    assert (policy.subjects, policy.denied_subjects, policy.seldom_denied) == (2, 1, 0)
    assert policy.worst == [DeniedSubject("192.0.2.1", 8, 4)]
    assert policy.first_denial_us == BEGIN_US
    assert policy.busiest == Second(BEGIN_US, 4)
    assert policy.timeline.begin_us == BEGIN_US
    assert policy.timeline.admitted[:3] == [2, 1, 0]
    assert policy.timeline.denied[:3] == [2, 0, 1]
    assert sum(policy.timeline.denied) == 4
    assert policy.memory.keys == 2
    assert json.loads(json.dumps(report.to_dict()))["policies"][0]["busiest"]["requests"] == 4


def test_reports_may_hide_subjects() -> None:
    """By the hashes that the service's own logs have."""
    _, report = replayed(ONE, [at(0), at(0), at(0)], is_hashed=True)
    assert report.policies[0].worst == [DeniedSubject(disguised("192.0.2.1"), 3, 1)]


def test_a_report_in_the_middle_and_at_the_end() -> None:
    """An interrupted replay has a report, too."""
    file = read(ONE, "policies.toml")
    replay = Replay(file)

    def interrupted() -> Iterator[Entry]:
        yield from [at(0), at(0), at(0)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay.run(interrupted())
    assert (replay.report().requests, replay.report().denied) == (3, 1)
    assert Replay(file).report().begin_us is None


def test_all_policies_of_a_request_or_none() -> None:
    """A policy that denies keeps the others from being charged; one in shadow mode does not."""
    policies = """
    [policies.small]
    limits = "1/minute"
    match = {paths = ["/a"]}
    [policies.large]
    limits = "3/minute"
    key = "global"
    [policies.shadow]
    limits = "1/minute"
    shadow = true
    """
    log = [at(0, target="/a"), *(at(1, target="/a") for _ in range(5))]
    log += [at(2, "192.0.2.2"), at(3, "192.0.2.3"), at(4, "192.0.2.4")]
    _, report = replayed(policies, log)
    small, large, shadow = report.policies
    assert (small.requests, small.denied) == (6, 5)
    assert (large.requests, large.denied) == (9, 1)
    assert (shadow.requests, shadow.denied, shadow.shadow) == (9, 5, True)
    assert report.denied == 6


def test_requests_without_a_key() -> None:
    """They are refused, once the log is known to have keys; else, and in shadow mode, they are left out."""
    policies = """
    [policies.keyed]
    limits = "100/minute"
    key = "header:X-Key"
    [policies.all]
    limits = "100/minute"
    """
    without, keyed = at(0), at(1, headers={"x-key": "a"})
    _, report = replayed(policies, [without, keyed, without._replace(time_us=keyed.time_us)])
    first, second = report.policies
    assert (first.requests, first.unidentified, second.requests) == (1, 2, 2)
    assert (report.requests, report.refused) == (3, 1)

    shadowed = policies.replace('"header:X-Key"', '"header:X-Key"\nshadow = true')
    _, report = replayed(shadowed, [keyed, keyed, without._replace(time_us=keyed.time_us)])
    assert (report.policies[1].requests, report.refused) == (3, 0)


def test_ambiguous_requests_and_large_costs_are_refused() -> None:
    """As the service refuses them; a policy in shadow mode refuses none."""
    policies = """
    [policies.keyed]
    limits = "2/minute"
    key = "header:X-Key"
    cost = {body = "1KiB"}
    """
    log = [
        at(0, headers={"x-key": "a, b"}),
        at(1, headers={"x-key": "a", "content-length": "9000"}),
        at(2, headers={"x-key": "a", "content-length": "2000"}),
    ]
    _, report = replayed(policies, log)
    (policy,) = report.policies
    assert (policy.unidentified, policy.too_large, policy.requests, policy.cost) == (1, 1, 1, 2)
    assert report.refused == 2
    _, report = replayed(policies + "shadow = true\n", log)
    assert report.refused == 0


def test_the_same_view_means_the_same_checks() -> None:
    """Queries do not matter; methods, hosts, paths and their parts do."""
    policies = """
    [policies.hosts]
    limits = "100/minute"
    key = "host"
    [policies.orgs]
    limits = "100/minute"
    key = ["path:org", "address"]
    match = {paths = ["/orgs/{org}"], methods = ["GET"]}
    exempt = {paths = ["/orgs/free"]}
    """
    log = [
        at(0, target="/orgs/a?page=1", host="A.example.com:80"),
        at(1, target="/orgs/a?page=2", host="a.example.com"),
        at(2, target="/orgs/b", host="b.example.com"),
        at(3, target="/orgs/free", host="b.example.com"),
        at(4, target="/orgs/b", host="b.example.com", method="HEAD"),
        at(5, target="/orgs/b", host="b.example.com", method="POST"),
        at(6, target="/orgs/" + "%2f" * 9, host="b.example.com"),
        at(7, target="*", host="b.example.com", method="OPTIONS"),
    ]
    _, report = replayed(policies, log)
    hosts, orgs = report.policies
    assert (hosts.requests, hosts.subjects) == (8, 2)
    assert (orgs.requests, orgs.subjects) == (5, 3)


def test_statuses_refund() -> None:
    """Only responses of these statuses count; a request that was turned away already costs nothing."""
    policies = '[policies.logins]\nlimits = "2/minute"\nrefund_unless = ["401"]\n'
    log = [at(0, status=200), at(0, status=429), at(0, status=401), at(0, status=401)]
    replay, report = replayed(policies, [*log, at(0, status=401), at(0)])
    assert report.denied == 2
    assert replay.turned_away == 1


def test_expired_state_is_dropped() -> None:
    """Memory follows the subjects of the present; the report has the most that there were."""
    log = [at(second, f"198.51.{second // 250}.{second % 250}") for second in range(1_000)]
    replay, report = replayed('[policies.default]\nlimits = "5/10s"\n', log)
    states = replay._tallies[0].states[0]
    assert len(states._young) + len(states._old) < 30
    assert report.policies[0].subjects == 1_000
    assert 10 <= report.policies[0].memory.keys <= 12
    _, report = replayed('[policies.default]\nlimits = "5/day"\n', log)
    assert report.policies[0].memory.keys == 1_000


def test_a_long_pause_expires_all() -> None:
    """Both generations at once."""
    _, report = replayed(ONE, [at(0), at(0), at(1), at(1_000), at(1_000), at(1_000)])
    assert report.denied == 2


def test_a_timeline_has_few_bins() -> None:
    """They become wider when the log goes on; no request is lost."""
    timeline = Timeline(most=4)
    for second in (0, 1, 2, 3, 9, 40):
        timeline.add(BEGIN_US + second * 1_000_000, 2, 1)
    assert timeline.width_us == 16_000_000
    assert timeline.admitted == [10, 0, 2]
    assert timeline.denied == [5, 0, 1]


KEYED = '[policies.keyed]\nlimits = "100/minute"\nkey = "header:X-Key"\n'
PLANS = """
plan = {header = "X-Plan"}
cost = {header = "X-Cost"}
class = {header = "X-Class", low = 0.5, high = 1.0}
true_cost = {header = "X-Spent"}
refund_unless = ["2xx"]
new_subjects = "20/hour"
match = {hosts = ["a.example.com"]}
[policies.keyed.plans.gold]
limits = "200/minute"
"""
COMPLETE = "a log does not say whether it is complete"


@pytest.mark.parametrize(
    ("policies", "log", "expected"),
    [
        ('[policies.default]\nlimits = "2/20s"\n', [at(0), at(20.5)], []),
        (ONE, [], None),
        (ONE, [at(0), at(9)], ["the log lasts 9 s, less than its period of 60 s"]),
        (ONE.replace("minute", "second"), [at(0), at(9)], ["the log has whole seconds only"]),
        (ONE, [at(0), at(60, status=429)], ["1 requests (50.0%) had the status 429 already"]),
        (
            KEYED,
            [at(0), at(60)],
            [
                "policy keyed: key = header:X-Key: the log has no field x-key; such requests are left"
            ],
        ),
        (
            KEYED + 'unidentified = "address"',
            [at(0), at(60)],
            ["the log has no field x-key; such requests count by their address"],
        ),
        (KEYED.replace("header:X-Key", "cookie:id"), [at(0), at(60)], ["no field cookie"]),
        (KEYED.replace("header:X-Key", "api-key"), [at(0), at(60)], ["x-api-key or authorization"]),
        (KEYED, [at(0, headers={"x-key": "a"}), at(60)], []),
        (
            ONE,
            [at(0, headers={"x-forwarded-for": "203.0.113.9"}), at(60)],
            ["no proxy in LIMITER_TRUSTED_PROXIES: this field does not count"],
        ),
        (ONE, [at(0, "127.0.0.1", headers={"x-forwarded-for": "203.0.113.9"}), at(60)], []),
        (
            KEYED + PLANS,
            [at(0, headers={"x-key": "a"}), at(60)],
            [
                "cost by header: the log has no field x-cost; each request costs 1",
                "plan: the log has no field x-plan",
                "class: the log has no field x-class",
                "it has hosts, and the log has none",
                "its bound on new subjects is not simulated",
                "its true_cost is not in the log",
                "the log has no status; nothing is refunded",
            ],
        ),
        (
            '[policies.default]\nlimits = [{algorithm = "concurrency", limit = 2}]\n',
            [at(0), at(60)],
            ["its leases are not simulated"],
        ),
        (ONE + "prepaid = 5\n", [at(0), at(60)], ["its prepaid units are not simulated"]),
    ],
)
def test_warnings(policies: str, log: list[Entry], expected: list[str] | None) -> None:
    """Of what the log does not show, and of nothing else; without requests there is nothing to warn of."""
    found = warnings(policies, log)
    if expected is None:
        assert found == []
        return
    found = [text for text in found if not text.startswith(COMPLETE)]
    assert len(found) == len(expected), found
    for text, part in zip(found, expected, strict=True):
        assert part in text


def test_warnings_about_reading() -> None:
    """Missing lines, by the proxy's own numbers, and lines that are too late."""
    counts = Counts(late=3)
    for number in (1, 5, 9):
        counts.numbered.add(number)
    log = [at(0), at(60)]
    assert [text.partition(",")[0].partition(":")[0] for text in warnings(ONE, log, counts)] == [
        "the log has 3 of 9 requests that the proxy counted",
        "3 lines were left out",
    ]
    (text,) = warnings(ONE, log)
    assert text.startswith(COMPLETE)


def test_subjects_are_those_of_the_service() -> None:
    """What clients choose is hashed, and IPv6 counts by its network."""
    policies = KEYED + '[policies.all]\nlimits = "1/minute"\nshadow = true\n'
    entry = at(0, "2001:db8::1", headers={"x-key": "secret"})
    log = [entry, entry._replace(address="2001:db8::2")]
    seen = []
    file = read(policies, "policies.toml")
    replay = Replay(file, (), lambda *check: seen.append(check))
    replay.run(log)
    assert [(applied[:3], *rest) for applied, *rest in seen] == [
        ((0, hashed("header", "secret"), 1), BEGIN_US, False),
        ((1, "2001:db8::/64", 1), BEGIN_US, False),
        ((0, hashed("header", "secret"), 1), BEGIN_US, False),
        ((1, "2001:db8::/64", 1), BEGIN_US, True),
    ]
