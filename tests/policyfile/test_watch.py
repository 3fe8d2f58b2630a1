"""A file that changes: the old or the new policies apply, never a mixture, and never none."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter import InvalidSetting, LimiterError
from limiter.policyfile import AsyncPolicies, InvalidPolicyFile, Policies, hand_on, watch
from limiter.web.request import Request
from limiter.web.verdict import Verdict
from tests.parallel import in_child
from tests.transport.support import until

REQUEST = Request("GET", "localhost", "/", {}, "203.0.113.9")
NOWHERE = "redis://127.0.0.1:1/0"


def text(limit: int, *names: str) -> str:
    """Policies with these names, each with this limit an hour."""
    return "".join(
        f"[policies.{name}]\nlimits = '{limit}/hour'\nalgorithm = 'fixed_window'\nkey = 'global'\n"
        for name in names or ("p",)
    )


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A valid file."""
    file = tmp_path / "policies.toml"
    file.write_text(text(5))
    yield file
    watch._shared_texts.clear()


def limits(verdict: Verdict) -> dict[str, int]:
    """The limit of each policy."""
    return {result.rule.name: result.decision.limit for result in verdict.results}


def in_force(policies: Policies) -> dict[str, int]:
    return {rule.name: rule.limiter.policies[0].limit for rule in policies.guard.rules}


def test_the_policies_of_a_file(path: Path, store: str, subject: str) -> None:
    """All together, and each alone."""
    path.write_text(text(2, "one", "two"))
    with_prefix = Policies(path, store=store, prefix=subject).open()
    guard = with_prefix.guard_for("one")
    assert guard is not None
    assert with_prefix.guard_for("three") is None
    assert [limits(guard.enter(REQUEST)) for _ in range(2)] == [{"one": 2}] * 2
    assert guard.enter(REQUEST).status == 429
    assert with_prefix.guard.enter(REQUEST).status == 429  # and two was not charged
    assert with_prefix.current.file.default is None
    assert set(with_prefix.current.guards) == {"one", "two"}
    two = with_prefix.guard_for("two")
    assert two is not None
    assert [two.enter(REQUEST).status for _ in range(3)] == [200, 200, 429]
    with_prefix.close()


def test_the_same_for_coroutines(path: Path, store: str, subject: str) -> None:
    path.write_text(text(2))

    async def run() -> None:
        policies = await AsyncPolicies(path, store=store, prefix=subject).open()
        assert [(await policies.guard.enter(REQUEST)).status for _ in range(3)] == [200, 200, 429]
        path.write_text(text(3))
        assert policies.reload()
        assert [(await policies.guard.enter(REQUEST)).status for _ in range(2)] == [200, 429]
        await policies.close()

    asyncio.run(run())


def test_a_valid_file_replaces_another(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """State stays, and so do leases that were taken before."""
    path.write_text(
        "[policies.p]\nlimits = { algorithm = 'concurrency', limit = 1 }\nkey = 'global'"
    )
    policies = Policies(path, store="memory://")
    held = policies.guard.enter(REQUEST)
    assert (held.status, policies.guard.enter(REQUEST).status) == (200, 429)

    path.write_text(path.read_text() + "\nheaders = 'none'")
    before = policies.guard
    with caplog.at_level(logging.INFO, "limiter.policies"):
        assert policies.reload()
    assert policies.guard is not before
    assert "policies.toml was read: p" in caplog.text
    assert policies.guard.enter(REQUEST).status == 429
    policies.guard.leave(held)
    assert policies.guard.enter(REQUEST).status == 200

    now = policies.guard
    assert policies.reload()
    assert policies.guard is now  # nothing had changed


@pytest.mark.parametrize(
    "broken", ["", "[policies.p]", "[policies.p]\nlimits = '5/x'\nkey = 7", None]
)
def test_a_broken_file_is_refused(
    path: Path, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Every fault is logged; the policies in force stay until the file is valid."""
    policies = Policies(path, store="memory://")
    before = policies.guard
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    assert not policies.reload()
    assert not policies.reload()
    assert policies.guard is before
    assert policies.refusals == 2
    assert policies.refused is not None
    assert f"{path} is refused, the policies in force stay:\n{policies.refused}" in caplog.text
    assert all(record.levelno == logging.ERROR for record in caplog.records)

    caplog.clear()
    path.write_text(text(5))
    with caplog.at_level(logging.INFO, "limiter.policies"):
        assert policies.reload()
        assert policies.reload()
    assert policies.refused is None
    assert caplog.messages == [f"{path} has its earlier text again: the policies in force stay"]
    path.write_text(text(7))
    assert policies.reload()
    assert in_force(policies) == {"p": 7}


@pytest.mark.parametrize("broken", ["", "[policies.p]\nlimits = '5/x'"])
def test_a_first_start_with_a_bad_file_stops(path: Path, broken: str) -> None:
    path.write_text(broken)
    for start in (lambda: Policies(path, store="memory://"), lambda: hand_on(path)):
        with pytest.raises(InvalidPolicyFile):
            start()


def test_a_change_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a signal; a refusal is logged once, for any number of requests."""
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.02)
    policies = Policies(path, store="memory://")
    path.write_text(text(6))
    until(lambda: in_force(policies) == {"p": 6})
    path.write_text("nonsense")
    until(lambda: policies.guard is not None and policies.refusals == 1)
    for _ in range(20):
        assert in_force(policies) == {"p": 6}
        time.sleep(0.01)
    assert policies.refusals == 1
    other = path.with_suffix(".new")  # as editors and deployments do it
    other.write_text(text(7))
    os.replace(other, path)
    until(lambda: in_force(policies) == {"p": 7})
    path.unlink()
    until(lambda: policies.guard is not None and policies.refusals == 2)
    assert in_force(policies) == {"p": 7}


def save(path: Path, content: str, seconds_ago: float) -> None:
    """Write the file, with an age in seconds."""
    path.write_text(content)
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_the_first_request_after_an_idle_time_reads_the_file(path: Path) -> None:
    """The new text decides about it, however old the text in force is; a wrong file is read once."""
    policies = Policies(path, store="memory://")
    for seconds, said, expected, refusals in (
        (3, text(6), 6, 0),
        (86_400, text(7, "p"), 7, 0),
        (3, "nonsense", 7, 1),
        (4, "more nonsense", 7, 2),
        (3, text(8), 8, 2),
    ):
        save(path, said, seconds)
        policies._look_at = 0.0
        assert in_force(policies) == {"p": expected}
        policies._look_at = 0.0
        assert in_force(policies) == {"p": expected}
        assert policies.refusals == refusals
    path.unlink()
    policies._look_at = 0.0
    assert in_force(policies) == {"p": 8}


def slow_reading(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make reading wait for the second event; the first one shows that it has begun."""
    entered, done = threading.Event(), threading.Event()
    text_of = watch.text_of

    def slowly(path: str) -> str:
        entered.set()
        done.wait(20)
        return text_of(path)

    monkeypatch.setattr(watch, "text_of", slowly)
    return entered, done


def test_other_requests_do_not_wait_for_a_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of several requests reads; the others use the policies in force."""
    policies = Policies(path, store="memory://")
    save(path, text(6), seconds_ago=3)
    entered, done = slow_reading(monkeypatch)
    policies._look_at = time.monotonic()
    seen: list[dict[str, int]] = []
    reader = threading.Thread(target=lambda: seen.append(in_force(policies)))
    reader.start()
    assert entered.wait(20)
    policies._look_at = time.monotonic()
    assert in_force(policies) == {"p": 5}
    done.set()
    reader.join(20)
    assert seen == [{"p": 6}]


def test_requests_after_an_idle_time_wait_for_a_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is old enough to be in force: the new text decides about each of them."""
    policies = Policies(path, store="memory://")
    save(path, text(6), seconds_ago=3)
    entered, done = slow_reading(monkeypatch)
    policies._look_at = 0.0
    seen: list[dict[str, int]] = []
    askers = [threading.Thread(target=lambda: seen.append(in_force(policies))) for _ in range(8)]
    for asker in askers:
        asker.start()
    assert entered.wait(20)
    time.sleep(0.05)  # the others have to come
    assert seen == []
    done.set()
    for asker in askers:
        asker.join(20)
    assert seen == [{"p": 6}] * 8


def test_an_event_loop_never_waits_for_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls would time out: the first requests of an idle worker use the old policies."""
    policies = AsyncPolicies(path, store="memory://")
    save(path, text(6), seconds_ago=3)
    _, done = slow_reading(monkeypatch)

    def number() -> int:
        (named,) = policies.current.file.policies.values()
        return int(named.description["limits"][0]["limit"])

    for _ in range(3):
        policies._look_at = 0.0
        assert number() == 5
    done.set()
    until(lambda: number() == 6)


def look(policies: Policies) -> None:
    """Check the file now, and wait for the thread that may read it."""
    policies._look_at = 0.0
    _ = policies.guard
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "reload" in thread.name:
            thread.join(20)


def test_a_file_that_is_being_written_is_not_read(path: Path) -> None:
    """It must not have changed between two checks, by whatever clock."""
    policies = Policies(path, store="memory://")
    for size in (10, 40, 70, 90):
        path.write_text(text(6, "a", "b")[:size])
        os.utime(path, (time.time() + 1000,) * 2)
        look(policies)
        assert in_force(policies) == {"p": 5}
    assert policies.refusals == 0
    path.write_text(text(6, "a", "b"))
    os.utime(path, (time.time() + 1000,) * 2)
    look(policies)
    assert in_force(policies) == {"p": 5}
    look(policies)
    until(lambda: in_force(policies) == {"a": 6, "b": 6})


def test_the_file_is_checked_once_in_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no thread is started for it."""
    looks: list[str] = []
    monkeypatch.setattr(watch, "_stamp", lambda path: looks.append(path) or (0, 0, 0))
    policies = Policies(path, store="memory://")
    before = threading.active_count()
    looks.clear()
    policies._look_at = 0.0
    for _ in range(1_000):
        _ = policies.guard
    assert len(looks) == 1
    assert threading.active_count() == before


@pytest.mark.slow
def test_no_request_sees_a_mixture(path: Path) -> None:
    """Two policies with equal limits: in each of many requests both are old or both new."""
    path.write_text(text(1_000_000, "a", "b"))
    policies = Policies(path, store="memory://")
    seen: list[dict[str, int]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            verdict = policies.guard.enter(REQUEST)
            assert verdict.allowed
            seen.append(limits(verdict))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 60):
        path.write_text(text(1_000_000 + number, "a", "b") if number % 3 else "broken")
        assert policies.reload() == bool(number % 3)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert len(seen) > 60
    assert all(set(one) == {"a", "b"} and len(set(one.values())) == 1 for one in seen)
    assert len({one["a"] for one in seen}) > 5


def test_the_local_share_is_not_reset_by_a_reload(path: Path) -> None:
    """A process that decides in the fallback ``local`` admits no second limit."""
    path.write_text(text(3))
    policies = Policies(path, store=NOWHERE, on_error="local", timeout=0.05)
    assert [policies.guard.enter(REQUEST).status for _ in range(3)] == [200] * 3
    path.write_text(text(3) + "headers = 'none'\n")
    assert policies.reload()
    assert policies.guard.enter(REQUEST).status == 429


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_the_file(path: Path) -> None:
    """A lock that a thread of the parent held would stay locked in the child."""
    policies = Policies(path, store="memory://")
    entered, done = threading.Event(), threading.Event()

    def hold() -> None:
        with policies._lock, policies._looking:
            entered.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(20)

    def child() -> None:
        path.write_text(text(9))
        assert policies.reload()
        assert in_force(policies) == {"p": 9}

    try:
        assert in_child(child) == 0
    finally:
        done.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_that_start_while_the_file_is_broken(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They begin with the last valid text, whichever process read it."""
    hand_on(path)

    def reads_a_better_one() -> None:
        policies = Policies(path, store="memory://")
        path.write_text(text(8, "much", "longer"))
        assert policies.reload()

    assert in_child(reads_a_better_one) == 0
    path.write_text("[policies.p]\nlimits = 'x'")

    def begins() -> None:
        policies = Policies(path, store="memory://")
        assert in_force(policies) == {"much": 8, "longer": 8}
        assert policies.refused is not None
        assert policies.refusals == 1

    assert in_child(begins) == 0
    policies = Policies(path, store="memory://")
    assert "is refused, the policies in force stay" in caplog.text
    hand_on(path)  # not the first start: the same goes on
    path.write_text(text(4))
    assert policies.reload()
    assert in_force(policies) == {"p": 4}
    path.write_text("")
    assert in_force(Policies(path, store="memory://")) == {"p": 4}  # shorter than the one before


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_worker_that_missed_the_last_valid_text(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another one read it before the file became invalid: both use it. An unusable text stays out."""
    caplog.set_level(logging.INFO, "limiter.policies")
    hand_on(path)
    policies = Policies(path, store="memory://")

    def reads_it() -> None:
        other = Policies(path, store="memory://")
        path.write_text(text(8))
        assert other.reload()

    assert in_child(reads_it) == 0
    path.write_text("[policies.p]\nlimits = 'x'")
    assert not policies.reload()
    assert in_force(policies) == {"p": 8}
    assert policies.refused is not None
    assert "which another process read" in caplog.text
    watch._shared_texts[str(path)].put("a key of a later release")
    assert not policies.reload()
    assert in_force(policies) == {"p": 8}


def test_a_shared_text_that_is_being_written_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = watch._SharedText()
    monkeypatch.setattr(watch.time, "sleep", lambda _: None)
    assert kept.get() is None
    kept.put("some text")
    assert kept.get() == "some text"
    os.pwrite(kept._file, b"X", 30)
    assert kept.get() is None


def test_without_anonymous_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems without memfd_create, a temporary file without a name is used."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    kept = watch._SharedText()
    kept.put("ü" * 10_000)
    assert kept.get() == "ü" * 10_000


def test_from_the_environment(path: Path) -> None:
    environ = {
        "LIMITER_POLICIES": str(path),
        "LIMITER_STORE": "memory://",
        "LIMITER_PREFIX": "mine",
        "LIMITER_ON_ERROR": "deny",
        "LIMITER_TIMEOUT": "0.5",
        "LIMITER_TRUSTED_PROXIES": "10.0.0.0/8",
        "LIMITER_NAME": "of-no-use",
    }
    policies = Policies.from_env(environ, local_share=3)
    (rule,) = policies.guard.rules
    assert rule.name == "p"
    assert rule.limiter.timeout == 0.5
    assert rule.limiter.on_error == "deny"
    assert rule.limiter._core.plan.state("x")[0].startswith(b"mine:")
    assert [str(network) for network in policies.guard.trusted] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"LIMITER_POLICIES": ""},
            "LIMITER_POLICIES is not set: give it, for example policies.toml",
        ),
        ({"LIMITER_LIMITS": "5/s"}, "LIMITER_LIMITS is '5/s' beside LIMITER_POLICIES, which is "),
        ({"LIMITER_STORE": ""}, "LIMITER_STORE is not set"),
        ({"LIMITER_STORE": "http://x"}, "LIMITER_STORE: store is "),
        ({"LIMITER_TRUSTED_PROXIES": "x"}, "LIMITER_TRUSTED_PROXIES is 'x'"),
    ],
)
def test_a_wrong_environment(path: Path, change: dict[str, str], message: str) -> None:
    environ = {"LIMITER_POLICIES": str(path), "LIMITER_STORE": "memory://", **change}
    with pytest.raises(InvalidSetting) as raised:
        Policies.from_env(environ)
    assert str(raised.value).startswith(message)


def test_a_wrong_file_of_the_environment(path: Path) -> None:
    path.write_text("[policies.p]\nlimits = '5/x'")
    environ = {"LIMITER_POLICIES": str(path), "LIMITER_STORE": "memory://"}
    with pytest.raises(LimiterError, match=rf"{path}:2: policies.p.limits: limit is '5/x'"):
        Policies.from_env(environ)
