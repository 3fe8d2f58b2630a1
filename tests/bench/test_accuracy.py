"""The accuracy command counts rightly, sees what is wrong, and writes a whole report."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy import bounds, command, contenders, realtime, simulated
from bench.accuracy.contenders import Answer, Contender, clock_ahead
from bench.accuracy.counting import (
    Admitted,
    most_in_any_window,
    opens_after,
    under_admission,
)
from bench.accuracy.effort import QUICK, Effort
from bench.accuracy.realtime import Asked
from limiter import SlidingLog, SlidingWindow
from limiter.policies import ALGORITHMS
from limiter.policies.sliding_log import SlidingLogStep
from tests import histories
from tests.model import MODELS

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")

CHECKOUT = Path(__file__).parent.parent.parent
TINY = Effort(3, 1_000_000, (), 4, 30, 2, 1_000_000)

times = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=25).map(sorted)


@given(times, st.integers(1, 70))
def test_the_most_in_a_window_is_that_of_the_tests(hits, window_us):
    """Where every time is known, the count is that of the judge of concurrent histories."""
    known = [Admitted(at, at, cost) for at, cost in hits]

    assert most_in_any_window(known, window_us) == histories.most_in_any_window(
        [histories.Admitted(at, cost) for at, cost in hits], window_us
    )


def test_only_what_is_certain_counts():
    """Two calls are in one window only where that is so whenever they were decided."""
    history = [Admitted(0, 4), Admitted(6, 12)]

    assert most_in_any_window(history, 12) == 1
    assert most_in_any_window(history, 13) == 2


@given(st.integers(1, 100), st.integers(-5, 100), st.integers(100, 200))
def test_when_it_opens_is_found_whatever_was_told(opens, told, most):
    """And where the truth was told, with two questions."""
    asked: list[int] = []

    def passes(at: int) -> bool:
        asked.append(at)
        return at >= opens

    assert opens_after(passes, told, most) == opens
    if told == opens:
        assert len(asked) <= 2


def test_under_admission():
    """In percent of the limit, over whole periods, half-open."""
    history = [Admitted(at, at) for at in (0, 10, 15, 29, 30)]

    assert under_admission(history, 10, 2, 2, 10) == 25.0
    assert under_admission(history, 10, 2, 1, 10) == -50.0


@pytest.mark.parametrize(
    ("name", "policy"), list(simulated.policies(7, 1_000_000)), ids=lambda value: str(value)
)
def test_the_stated_bound_is_not_above_that_of_the_model(name, policy):
    """Every algorithm that a user may choose has one, and in one period it is the model's."""
    stated = bounds.BOUNDS[policy.algorithm].most

    assert stated(policy, policy.period_us) == MODELS[policy.algorithm].of_policy(policy).bound
    assert set(bounds.BOUNDS) == set(ALGORITHMS)
    assert name.partition(",")[0] == policy.algorithm


@given(
    st.sampled_from(list(simulated.policies(3, 1_000)) + list(simulated.policies(2, 1_000))),
    st.lists(st.tuples(st.integers(0, 1_200), st.integers(1, 3)), max_size=40),
    st.integers(1, 4_000),
)
def test_the_stated_bound_holds_in_any_window(named, calls, window_us):
    """Whoever calls at whatever moments, and however long the window is."""
    policy = named[1]
    model, now_us, history = MODELS[policy.algorithm].of_policy(policy), 5_000, []
    for gap_us, cost in calls:
        now_us += gap_us
        granted = model.hit(now_us, min(cost, model.most)).granted
        history.append(Admitted(now_us, now_us, granted))

    most = bounds.BOUNDS[policy.algorithm].most(policy, window_us)
    assert most_in_any_window(history, window_us) <= most


@pytest.mark.parametrize(
    ("name", "policy"), list(simulated.policies(3, 1_000_000)), ids=lambda value: str(value)
)
def test_ours_in_simulated_time(name, policy):
    """Every load is answered, within the bound, by the truth; in the process as on a server."""
    found = simulated.measure("memory://", policy, TINY, lambda: None)

    assert set(found) == set(simulated.LOADS)
    assert simulated.violations(name, policy, found) == []
    assert all(one.admitted for one in found.values())
    assert found[simulated.OVERLOAD].under == pytest.approx(
        100 / 3 if isinstance(policy, SlidingWindow) else 0
    )


def test_a_broken_bound_and_an_early_time_are_said():
    """Once for each load and window."""
    policy = SlidingLog(3, 1)
    good = simulated.Found({1_000_000: 3}, None, [0, 0], 3)
    broken = simulated.Found({1_000_000: 4, 2_000_000: 6}, None, [0, -2, 5], 9)

    said = simulated.violations("log", policy, {"good": good, "bad": broken})

    assert len(said) == 2
    assert "bad: 4 in a window of 1000000 us, where at most 3 may be" in said[0]
    assert "2 us too early" in said[1]
    assert len(simulated.lease_violations(3, broken._replace(most={0: 4}))) == 2
    assert simulated.lease_violations(3, good._replace(most={0: 3})) == []


@pytest.mark.parametrize(("told", "admits"), [(-1, 0), (-(10**9), 0), (0, 1)])
def test_a_broken_algorithm_is_seen(told, admits, monkeypatch):
    """One that sends its callers away a microsecond too early, or at once; one that admits one more."""
    retry_us, begin = SlidingLogStep.retry_us, SlidingLogStep.__init__

    def too_early(step, at_least):
        return max(0, retry_us(step, at_least) + told)

    def too_much(step, *arguments):
        begin(step, *arguments)
        step.room += admits

    monkeypatch.setattr(SlidingLogStep, "retry_us", too_early)
    monkeypatch.setattr(SlidingLogStep, "__init__", too_much)
    policy = SlidingLog(3, 1)

    said = simulated.violations("log", policy, simulated.measure("memory://", policy, TINY, _done))

    assert any("too early" in one for one in said) == (told < 0)
    assert any("where at most 3 may be" in one for one in said) == (admits > 0)


def _done() -> None:
    """A step is done."""


def test_leases_in_simulated_time():
    """All are held at once, no more, and who waits as told gets one."""
    found = simulated.measure_leases("memory://", 4, TINY)

    assert simulated.lease_violations(4, found) == []
    assert found.most[0] == 4
    assert set(found.errors_us) == {0}


def contender(answers, package="limiter", bound=2) -> Contender:
    """One that gives these answers in turn."""
    return Contender("some", "algorithm", bound, "", "", lambda: lambda: next(answers), package)


def test_what_is_judged_in_real_time_is_certain():
    """Between the last denial and the call that passed anything may be true."""
    denied, passed = Answer(False, 100), Answer(True, 0)
    asked = [
        Asked(0, 10, denied),
        Asked(50, 60, Answer(False, 10)),
        Asked(90, 95, Answer(False, 200)),
        Asked(115, 120, passed),
    ]
    found = realtime.Found()
    realtime._judge(asked, found)

    # Told 100 to 110 (true, it opened from 91 to 120); told 70 at most; told 290 at least.
    assert found.errors_us == [0.0, -21.0, 170.0]
    assert found.early_us == 21
    assert found.uncertain_us == 29
    assert found.error_us == (0.0, -21.0, 170.0)
    assert len(realtime.violations(contender(iter(())), found)) == 1
    assert realtime.violations(contender(iter(()), "limits"), found) == []
    found = realtime.Found(most={"overload": 3, "a clock ahead": 2})
    (said,) = realtime.violations(contender(iter(())), found)
    assert "overload, in real time: 3 in one period, where at most 2 may be" in said


def test_a_clock_ahead_is_seen_by_one_package_only(monkeypatch):
    """However it imported the clock, and only while it is asked."""
    package = types.ModuleType("some_peer")
    package.time, package.now, package.ns = time, time.time, time.time_ns
    monkeypatch.setitem(sys.modules, "some_peer", package)
    ahead = clock_ahead("some_peer", 100.0)

    with ahead():
        assert package.time.time() > time.time() + 99
        assert package.now() > time.time() + 99
        assert package.ns() > time.time_ns() + 99 * 10**9
        assert package.time.monotonic() <= time.monotonic()
    assert package.time is time
    assert package.now() < time.time() + 1


def test_it_fails_where_ours_is_wrong(tmp_path, monkeypatch):
    """And says what is."""

    def wrong(program, effort, results):
        policy = SlidingLog(TINY.limit, 1)
        loads = simulated.measure("memory://", policy, TINY, lambda: None)
        results.exact["nowhere"] = [("sliding_log", policy, loads)]
        results.leases["nowhere"] = simulated.measure_leases("memory://", 3, TINY)
        results.violations.append("this is wrong")

    monkeypatch.setattr(command, "FULL", TINY)
    monkeypatch.setattr(command, "_simulated", wrong)
    ran = CliRunner().invoke(
        command.accuracy, ["--only", "simulated", "--server", "valkey", "--output", str(tmp_path)]
    )

    assert ran.exit_code == 1
    assert "wrong: this is wrong" in ran.output
    (text,) = [path.read_text() for path in tmp_path.rglob("report.md")]
    assert "* this is wrong" in text


def test_every_peer_is_in_the_extra():
    """What the command measures beside us, `make accuracy` installs."""
    extra = (CHECKOUT / "setup.cfg").read_text().partition("\nbench =")[2].partition("\ncheck =")[0]

    assert all(f"\n    {name}>=" in extra for name in contenders.PEERS)


@pytest.mark.slow
def test_a_quick_run_measures_everybody(tmp_path: Path) -> None:
    """Ours in both times, the peers that are installed in real time, in a report with plots."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "bench.accuracy", "--quick", "--server", "valkey"),
            *("--json", "--output", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=110,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    (folder,) = tmp_path.iterdir()
    text = (folder / "report.md").read_text()
    results = json.loads((folder / "results.json").read_text())
    assert json.loads(ran.stdout) == results
    assert results["violations"] == []
    ours = [row for row in results["summary"] if row["library"] == "slotgate"]
    assert [row["algorithm"] for row in ours] == [
        name for name, _ in simulated.policies(QUICK.limit, QUICK.period_us)
    ]
    for row in ours:
        assert row["retry_exact_us"] == [0, 0]
        assert row["most_exact"] <= row["bound"]
        assert row["under_real"] is not None
    installed = contenders.versions()
    assert {row["library"] for row in results["summary"]} == {"slotgate", *installed}
    for name, version in installed.items():
        assert f"{name} {version}" in text
    for name in set(contenders.PEERS) - set(installed):
        assert f"the peer {name} is not installed" in text
    for file in ("most.png", "time.png", "retry.png"):
        assert f"({file})" in text
        assert (folder / file).read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in text
    assert str(CHECKOUT) not in json.dumps(results)
