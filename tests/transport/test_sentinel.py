"""A store whose primary sentinels name: failovers are followed, and no old primary is believed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from limiter import InvalidSetting, Limiter, LimiterError, StoreRefused, StoreUnavailable
from limiter.transport.sentinels import PrimaryTable
from limiter.transport.store import ASYNC, SYNC, Address, masked, read_store
from service.demo.servers import HOST, Certificates, Server, Watched
from tests.transport.conftest import MakeLimiter, Maker
from tests.transport.support import PLENTY, decides_within, scripts_run
from tests.waiting import STALL, until

#: Seconds after the sentinels name a new primary; for a machine that is not busy.
GOAL = 0.5


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """A primary with one replica, and three sentinels, with passwords of their own."""
    with Watched(password="hush", sentinel_password="quiet") as running:  # noqa: S106
        yield running


@pytest.fixture
def both() -> Iterator[list[Maker]]:
    """Makers of both kinds, so that one failover serves for both."""
    with ExitStack() as stack:
        yield [Maker(kind, stack) for kind in ("threads", "asyncio")]


def charges_reach(server: Server, limiter: Any, seconds: float) -> None:
    """The limiter's calls come to that server within this time."""
    with server.client() as client:
        before = scripts_run(client)

        def arrives() -> bool:
            try:
                limiter.hit("u")
            except StoreUnavailable:
                return False
            return scripts_run(client) > before

        until(arrives, seconds)


def test_by_url(make_any: Maker, watched: Watched, subject: str) -> None:
    """The user and password are those of the servers; the sentinels have their own."""
    for url in (watched.url, watched.url.replace("redis+", "valkey+").replace("/main", "/main/3")):
        with make_any(url) as limiter:
            assert limiter.hit(subject).remaining == PLENTY.limit - 1


def test_by_a_client_of_a_sentinel(make_any: Maker, watched: Watched, subject: str) -> None:
    """Its service, its sentinels and both kinds of settings are used."""
    client = make_any.redis.sentinel.Sentinel(
        [(HOST, each.port) for each in watched.sentinels],
        min_other_sentinels=2,
        sentinel_kwargs={"password": "quiet"},
    ).master_for("main", password="hush", decode_responses=True)  # noqa: S106
    with make_any(client) as limiter:
        assert limiter.hit(subject).remaining == PLENTY.limit - 1


def test_by_tls(
    both: list[Maker], certificates: Certificates, tls_binary: Path, subject: str
) -> None:
    """The sentinels and the servers use it."""
    with Watched(0, binary=tls_binary, tls=certificates) as secure:
        for used, make in enumerate(both, 1):
            limiter = make(secure.url, timeout=10.0)
            assert limiter.hit(subject).remaining == PLENTY.limit - used


@pytest.mark.parametrize(
    ("change", "raised", "said"),
    [
        (("/main", "/other"), StoreRefused, "knows no service other: see the part after the /"),
        (("=quiet", "=loud"), StoreRefused, r"^sentinel .* refused our credentials or rights"),
        ((":hush@", ":loud@"), StoreRefused, r"^store 127.* refused our credentials or rights"),
    ],
)
def test_a_wrong_setting(
    make_any: Maker, watched: Watched, change: tuple[str, str], raised: type[Exception], said: str
) -> None:
    """The message says which server refused what, without a password."""
    with pytest.raises(raised, match=said) as error:
        make_any(watched.url.replace(*change), on_error="allow").hit("u")
    assert "loud" not in str(error.value)


def test_a_server_is_no_sentinel(make_any: Maker, server: Server) -> None:
    with pytest.raises(StoreRefused, match="is no sentinel: give the store as redis://"):
        make_any(f"redis+sentinel://{HOST}:{server.port}/main").hit("u")


def test_a_fork_asks_for_itself(make_limiter: MakeLimiter, watched: Watched, subject: str) -> None:
    """Its parent's connections to sentinels and servers stay the parent's."""
    limiter = make_limiter(watched.url, timeout=10.0).open()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if limiter.hit(subject) and limiter._core.transport.primaries(1e9) else 1)  # type: ignore[attr-defined]
    assert limiter.hit(subject)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.slow
def test_a_primary_that_dies(both: list[Maker], watched: Watched) -> None:
    """Calls are decided again as soon as the sentinels name the replica. No test uses it afterwards."""
    old = watched.primary
    limiters = [make(watched.url, timeout=0.1).open() for make in both]
    old.kill()
    until(lambda: watched.primary is not old)
    for limiter in limiters:
        decides_within(limiter, "u", GOAL)


@pytest.mark.slow
def test_an_old_primary_and_a_stale_sentinel_are_not_believed(both: list[Maker]) -> None:
    """The sentinel was away during the failover, and is the only one that answers afterwards.

    The old primary goes on as one for eight seconds, if its connections live.
    """
    with Watched() as watched:
        old, new = watched.servers
        stale, *others = watched.sentinels
        limiters = [make(watched.url, timeout=0.3).open() for make in both]
        stale.kill()
        watched.failover(others[0])
        until(lambda: others[0].named(watched.service) == new.port)
        for limiter in limiters:
            charges_reach(new, limiter, GOAL + STALL)
        with old.client() as client:
            assert client.info("replication")["role"] == "master"
            client.replicaof(HOST, new.port)
        for sentinel in others:
            sentinel.pause()
        stale.restart()
        assert stale.named(watched.service) == old.port
        time.sleep(GOAL)  # they ask it, and nothing changes
        for limiter in limiters:
            charges_reach(new, limiter, STALL)
        for make in both:  # a new limiter knows no better, but the server itself says what it is
            with pytest.raises(StoreUnavailable, match="it is no primary: its role is replica"):
                make(watched.url_of(stale)).hit("u")
        for sentinel in others:
            sentinel.resume()


class Member:
    """A node without connections."""

    has_idle = False

    def __init__(self, address: Address) -> None:
        self.address = address
        self.where = f"sentinel {address[0]}"


def table_of(count: int) -> PrimaryTable[Member]:
    """A table with sentinels ``s0``, ``s1`` and so on."""
    hosts = ",".join(f"s{number}" for number in range(count))
    store = read_store(f"redis+sentinel://{hosts}/main")
    return PrimaryTable(store, lambda address, _: Member(address))


def read(table: PrimaryTable[Member], *answers: tuple[int, str] | LimiterError) -> list[str]:
    """Read the table from sentinels that answer so; return those that were asked."""
    by_sentinel = dict(zip(table.sentinels, answers, strict=True))
    reading, asked = table.begin_reading(), []
    for node, _ in reading.nodes(0.0):
        asked.append(node.address[0])
        answer = by_sentinel[node]
        if isinstance(answer, LimiterError):
            reading.fail(node, answer)
        else:
            epoch, host = answer
            fields = {b"num-other-sentinels": b"2", b"config-epoch": b"%d" % epoch}
            reading.add(node, [fields, [host.encode(), b"6379"]])
    table.end_reading(reading)
    return asked


DOWN = StoreUnavailable("down")


@pytest.mark.parametrize(
    ("answers", "primary"),
    [
        ([(4, "old"), (4, "old"), (4, "old")], "old"),
        ([(4, "old"), (5, "new"), (4, "old")], "new"),  # the first sentinel that knows
        ([(4, "old"), (4, "new"), (4, "old")], "old"),  # it ended between the two replies
        ([(4, "new"), DOWN, DOWN], "new"),
        ([(3, "x"), DOWN, DOWN], "old"),  # a stale sentinel alone
        ([DOWN, DOWN, DOWN], "old"),
    ],
)
def test_which_sentinel_is_believed(answers: list[Any], primary: str) -> None:
    """The one with the highest epoch, and no lower epoch than before."""
    table = table_of(3)
    read(table, (4, "old"), (4, "old"), (3, "x"))
    assert table.owner().address == ("old", 6379)
    assert table.agreeing == 2
    read(table, *answers)
    assert table.owner().address == (primary, 6379)


def test_sentinels_that_were_made_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower epochs are believed when most sentinels have had them for long."""
    now = 100.0
    monkeypatch.setattr("limiter.transport.sentinels.monotonic", lambda: now)
    table = table_of(3)
    for after, primary, *answers in [
        (0, "old", (4, "old"), DOWN, DOWN),
        (50, "old", (0, "x"), (0, "x"), DOWN),
        (9, "old", (0, "x"), (0, "x"), DOWN),
        (2, "old", (0, "x"), DOWN, DOWN),
        (0, "x", (0, "x"), (0, "x"), DOWN),
    ]:
        now += after
        read(table, *answers)
        assert table.owner().address == (primary, 6379)


def test_silent_sentinels_are_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that did not answer comes last, and is left out for a second if most others answer."""
    now = 100.0
    monkeypatch.setattr("limiter.transport.sentinels.monotonic", lambda: now)
    table, well = table_of(3), (1, "a")
    assert read(table, DOWN, well, well) == ["s0", "s1", "s2"]
    assert read(table, DOWN, well, well) == ["s1", "s2"]
    now += 1.1
    assert read(table, well, well, well) == ["s1", "s2", "s0"]
    assert read(table, well, DOWN, DOWN)[:3] == ["s0", "s1", "s2"]
    assert read(table, well, DOWN, DOWN)[:3] == ["s0", "s1", "s2"]  # one of three is too few


@pytest.mark.parametrize("kit", [SYNC, ASYNC])
def test_the_parts_of_a_url(kit: Any) -> None:
    """Sentinels, service, database and both logins; TLS is for all servers."""
    store = read_store(
        "rediss+sentinel://u:p%40@a,b:7/main/2?sentinel_username=s&sentinel_password=q&ssl_ca_certs=/c",
        kit,
    )
    assert store.addresses == (("a", 26_379), ("b", 7))
    assert store.service is not None
    assert store.service.name == "main"
    ours, theirs = store.settings, store.service.sentinels.settings
    assert [ours[name] for name in ("username", "password", "db")] == ["u", "p@", 2]
    assert [theirs.get(name) for name in ("username", "password", "db")] == ["s", "q", None]
    assert ours["ssl_ca_certs"] == theirs["ssl_ca_certs"] == "/c"
    assert store.connection_class is store.service.sentinels.connection_class is kit.tls_connection
    assert store.where == "store main of the sentinels a:26379,b:7 (TLS)"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis+sentinel://a:1,b:2", "redis+sentinel://a:1,b:2"),
        ("redis+sentinel://a:1,b:2/", "redis+sentinel://a:1,b:2/"),
        ("redis+sentinel://:p@a:1/main/x", "redis+sentinel://:***@a:1/***"),
        (
            "redis+sentinel://a:1,,b:2/main?sentinel_username=u&sentinel_password=p",
            "redis+sentinel://a:1,,b:2/main?sentinel_username=***&sentinel_password=***",
        ),
        (
            "redis+sentinel://a:x/main?sentinel_username=u&sentinel_password=p",
            "redis+sentinel://a:***",
        ),
    ],
)
def test_a_wrong_url(url: str, shown: str) -> None:
    """The message shows what is certainly no password."""
    with pytest.raises(InvalidSetting, match=r"sentinel://|Sentinel needs"):
        Limiter("1/s", store=url)
    assert masked(url) == shown
