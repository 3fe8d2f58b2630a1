"""Several subjects in one call: all of them are charged, or none."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from limiter import (
    FixedWindow,
    InvalidCost,
    InvalidKey,
    InvalidPolicy,
    SlidingLog,
    SlidingWindow,
    StoreUnavailable,
    TokenBucket,
)
from limiter.policies import Policy
from service.demo.servers import SLOTS, Cluster, Server
from tests.calls.conftest import Make
from tests.calls.support import NOW_US, RATES, by_algorithm, set_time
from tests.parallel import in_threads
from tests.proxy import Proxy, cut, forward, swallow
from tests.transport.support import scripts_run, until


def lefts(limiter: Any, *subjects: str, **more: Any) -> list[int]:
    """The units that each subject has left."""
    return [limiter.peek(subject, **more).remaining for subject in subjects]


@pytest.mark.parametrize("policy", RATES, ids=by_algorithm)
@pytest.mark.parametrize("tagged", [True, False], ids=["tag", "no tag"])
def test_all_or_none(make: Make, new_subject: Any, policy: Policy, tagged: bool) -> None:
    """Each with its cost; if one is denied, at any place, the others stay unchanged."""
    limiter = make(policy)
    set_time(limiter, NOW_US)
    more = {"tag": new_subject()} if tagged else {}
    a, b, c = subjects = [new_subject() for _ in range(3)]

    decisions = limiter.hit_all([(a, 1), (b, 4), (c, 10)], **more)
    assert [one.granted for one in decisions] == [1, 4, 10]
    assert [one.remaining for one in decisions] == [9, 6, 0]
    assert all(decisions)
    for order in ([a, b, c], [c, a, b], [a, c, b]):
        before = [limiter.peek(subject, **more) for subject in order]
        decisions = limiter.hit_all([(subject, 2) for subject in order], **more)
        assert [one.allowed for one in decisions] == [subject != c for subject in order]
        assert [one.granted for one in decisions] == [0, 0, 0]
        assert [one.remaining for one in decisions] == [one.remaining for one in before]
        assert decisions[order.index(c)] == limiter.peek(c, 2, **more)
    assert lefts(limiter, *subjects, **more) == [9, 6, 0]
    assert limiter.unsettled == 0


def test_limits_of_their_own(make: Make, new_subject: Any) -> None:
    """For all items, and for one: its cost is checked against those limits."""
    limiter = make([SlidingLog(10, 60), TokenBucket(10, 60)])
    a, b, c = (new_subject() for _ in range(3))
    items = [
        (a, 2),
        (b, 30, "30/minute; 40/minute"),
        (c, 1, [SlidingLog(1, 60), TokenBucket(1, 60)]),
    ]

    decisions = limiter.hit_all(items, limits="20/minute; 20/minute")

    assert [one.remaining for one in decisions] == [18, 0, 0]
    assert [len(one.each) for one in decisions] == [2, 2, 2]
    assert [one.limit for one in decisions] == [20, 30, 1]
    assert not all(limiter.hit_all(items, limits="20/minute; 20/minute"))
    assert limiter.peek(a, limits="20/minute; 20/minute").remaining == 18
    with pytest.raises(InvalidCost, match="from 0 to 30,"):
        limiter.hit_all([(a, 2), (b, 31, "30/minute; 40/minute")])


def test_no_items_and_items_that_cost_nothing(make: Make, new_subject: Any) -> None:
    """No item, and items of cost 0; any iterable is accepted."""
    limiter = make(SlidingLog(3, 60))
    a, b, c = (new_subject() for _ in range(3))
    assert limiter.hit_all([]) == []
    assert limiter.hit_all(iter(())) == []
    decisions = limiter.hit_all((subject, cost) for subject, cost in ((a, 0), (b, 2), (c, 0)))
    assert [one.granted for one in decisions] == [0, 2, 0]
    decisions = limiter.hit_all([(a, 0), (b, 2), (c, 3)])
    assert [one.allowed for one in decisions] == [True, False, True]
    assert lefts(limiter, a, b, c) == [3, 1, 3]


def test_in_an_if(make: Make, new_subject: Any) -> None:
    """The list is true if all are allowed, also without ``all(...)``."""
    limiter = make(SlidingLog(2, 60))
    a, b = new_subject(), new_subject()
    passed, denied = [limiter.hit_all([(a, 1), (b, 2)]) for _ in range(2)]
    assert passed
    assert not denied
    assert [bool(one) for one in denied] == [True, False]
    assert isinstance(denied, list)
    assert len(denied) == 2
    assert limiter.hit_all([])


def test_wrong_items(make: Make, subject: str) -> None:
    """Nothing is charged to any subject."""
    limiter = make(SlidingLog(10, 60))
    for wrong in (subject, (subject,), [subject, 1], (subject, 1, None, 1), None, 7):
        with pytest.raises(InvalidKey, match="hit_all was given"):
            limiter.hit_all([(subject, 1), wrong])
    with pytest.raises(InvalidPolicy, match="other numbers"):
        limiter.hit_all([(subject, 1, "20/hour")])
    for twice in (subject, subject.encode()):
        with pytest.raises(InvalidKey, match="named twice"):
            limiter.hit_all([(subject, 1), ("another", 1), (twice, 2)])
    assert limiter.peek(subject).remaining == 10


def test_one_call_for_one_slot(make_on: Make, own: Server, new_subject: Any) -> None:
    """With a tag, and without one on a single server: allowed and denied."""
    limiter, client = make_on(own.url, [SlidingLog(10, 60), TokenBucket(10, 60)]), own.client()
    items = [(new_subject(), cost) for cost in (1, 2, 10)]
    limiter.hit_all(items[:1])
    for more in ({}, {"tag": "one"}, {}, {"tag": "one"}):
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        limiter.hit_all(items, **more)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    client.close()


def test_one_call_for_one_slot_of_a_cluster(
    make_on: Make, cluster: Cluster, new_subject: Any
) -> None:
    """The node that owns the tag's slot decides about all of them."""
    limiter, tag = make_on(cluster.url, SlidingLog(10, 60)), new_subject()
    node = cluster.primary_of(tag)
    clients = [one.client() for one in cluster.nodes]

    limiter.hit_all([(new_subject(), 1) for _ in range(5)], tag=tag)  # it loads the script
    before = [scripts_run(one) for one in clients]
    limiter.hit_all([(new_subject(), 1) for _ in range(5)], tag=tag)
    added = [scripts_run(one) - ran for one, ran in zip(clients, before, strict=True)]
    for one in clients:
        one.close()
    assert added == [1 if one is node else 0 for one in cluster.nodes]


def test_a_crowd_never_gets_too_much(make_on: Make, cluster: Cluster, new_subject: Any) -> None:
    """Many calls at once, over the same subjects of several nodes, in any order: every bound holds."""
    limiter = make_on(cluster.url, SlidingWindow(40, "hour"))
    subjects = [new_subject() for _ in range(6)]
    taken = dict.fromkeys(subjects, 0)
    lock = threading.Lock()

    def work(number: int) -> None:
        draw = random.Random(number)
        for _ in range(40):
            some = draw.sample(subjects, 3)
            costs = [draw.randint(1, 3) for _ in some]
            decisions = limiter.hit_all(list(zip(some, costs, strict=True)))
            if all(decisions):
                assert [one.granted for one in decisions] == costs
                with lock:
                    for subject, cost in zip(some, costs, strict=True):
                        taken[subject] += cost
            else:
                assert not any(one.granted for one in decisions)

    in_threads(4, work)
    assert limiter.unsettled == 0
    assert all(count <= 40 for count in taken.values())
    assert lefts(limiter, *subjects) == [40 - taken[subject] for subject in subjects]


class Behind:
    """Two nodes, each behind its own proxy, and a subject on each."""

    def __init__(self, nodes: list[Server], proxies: list[Proxy], subjects: list[str]) -> None:
        self.nodes, self.proxies, self.subjects = nodes, proxies, subjects

    @property
    def url(self) -> str:
        """The address as ``Limiter(store=...)`` takes it."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies)


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """A cluster of two nodes that announce proxies' ports."""
    with Cluster(2) as running:
        yield running


@pytest.fixture
def behind(two: Cluster, new_subject: Callable[[], str]) -> Iterator[Behind]:
    """The nodes behind fresh proxies."""
    found: dict[int, str] = {}
    while len(found) < 2:
        subject = new_subject()
        found[key_slot(subject.encode()) * 2 // SLOTS] = subject
    with (
        Proxy((two.nodes[0].host, two.nodes[0].port)) as one,
        Proxy((two.nodes[1].host, two.nodes[1].port)) as other,
    ):
        clients = [node.client() for node in two.nodes]
        for client, proxy in zip(clients, (one, other), strict=True):
            client.config_set("cluster-announce-port", proxy.port)
        ports = {one.port, other.port}
        until(lambda: all(_announced(client) == ports for client in clients))
        for client in clients:
            client.close()
        yield Behind(two.nodes, [one, other], [found[0], found[1]])


def _announced(client: Any) -> set[int]:
    return {
        owner[1] for _, _, owner, *_ in client.execute_command("CLUSTER SLOTS", NEVER_DECODE="")
    }


def test_a_node_that_is_gone_in_the_middle(make_on: Make, behind: Behind) -> None:
    """Earlier charges are refunded, and the error is raised."""
    limiter, (a, b) = make_on(behind.url, SlidingLog(10, 60)), behind.subjects
    assert all(limiter.hit_all([(a, 1), (b, 1)]))
    behind.proxies[1].requests = cut
    with pytest.raises(StoreUnavailable):
        limiter.hit_all([(a, 2), (b, 2)])
    behind.proxies[1].mend()
    until(lambda: decides(limiter, b))
    assert lefts(limiter, a, b) == [9, 9]
    assert limiter.unsettled == 0


def decides(limiter: Any, subject: str) -> bool:
    """Whether the store decides."""
    try:
        limiter.peek(subject)
    except StoreUnavailable:
        return False
    return True


def test_a_lost_refund(make_on: Make, behind: Behind) -> None:
    """It is counted; until the charge expires, it denies too much and admits nothing too much."""
    limiter, (a, b) = make_on(behind.url, SlidingLog(3, 60)), behind.subjects
    set_time(limiter, NOW_US)
    limiter.hit(b, 3)
    proxy = behind.proxies[0]

    def only_once(data: bytes) -> bytes:
        proxy.requests = cut
        return data

    limiter.peek(a)
    proxy.requests = only_once
    taken, denied = limiter.hit_all([(a, 3), (b, 1)])
    proxy.mend()
    assert (taken.granted, denied.allowed) == (3, False)
    assert limiter.unsettled == 1
    until(lambda: decides(limiter, a))
    assert limiter.peek(a).remaining == 0
    set_time(limiter, NOW_US + 60_000_000)
    assert limiter.peek(a).remaining == 3


def test_one_deadline_for_all_of_it(make_on: Make, behind: Behind) -> None:
    """If a node does not answer, the whole call takes no longer than one, refunds included."""
    timeout = 0.6
    limiter = make_on(behind.url, SlidingLog(10, 60), timeout=timeout)
    sure, (a, b) = make_on(behind.url, SlidingLog(10, 60)), behind.subjects
    until(lambda: decides(limiter, a) and decides(limiter, b))
    took = [60.0]
    while min(took) > 1.25 * timeout + 0.010 and len(took) < 9:  # a busy machine may take long
        behind.proxies[1].requests = swallow
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            limiter.hit_all([(a, 1), (b, 1)])
        took.append(time.monotonic() - began)
        behind.proxies[1].requests = forward
        behind.proxies[1].cut_all()
        until(lambda: decides(limiter, b) and decides(sure, b))
    assert min(took) <= 1.25 * timeout + 0.010, took
    # Charges for which there was no time are refunded in the background.
    until(lambda: lefts(sure, a, b) == [10, 10], 5)
    assert limiter.unsettled == 0


def test_a_fallback_for_all_of_them(make_on: Make, behind: Behind) -> None:
    """One node does not decide: all are answered by on_error, and nothing stays taken."""
    (a, b), policy = behind.subjects, FixedWindow(4, 60)
    sure = make_on(behind.url, policy)
    sure.hit_all([(a, 0), (b, 0)])
    for on_error, expected in (
        ("allow", [(True, 0), (True, 0)]),
        ("deny", [(False, 0), (False, 0)]),
        ("local", [(True, 1), (True, 2)]),
    ):
        limiter = make_on(behind.url, policy, on_error=on_error, local_share=2)
        until(lambda: decides(limiter, a) and decides(limiter, b))  # noqa: B023
        behind.proxies[1].requests = cut
        decisions = limiter.hit_all([(a, 1), (b, 2)])
        behind.proxies[1].mend()
        assert [(one.allowed, one.granted) for one in decisions] == expected, on_error
        assert all(one.degraded for one in decisions)
        assert limiter.unsettled == 0
        until(lambda: decides(sure, b))
        assert lefts(sure, a, b) == [4, 4]
