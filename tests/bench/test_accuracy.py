"""The accuracy command counts correctly, finds broken algorithms, and writes a complete report."""

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

from bench.accuracy import bounds, command, contenders, prepaid, realtime, simulated
from bench.accuracy.contenders import Answer, Contender, clock_ahead
from bench.accuracy.counting import (
    Admitted,
    most_in_any_window,
    opens_after,
    under_admission,
)
from bench.accuracy.effort import QUICK, Effort
from bench.accuracy.realtime import Call
from limiter import SlidingLog, SlidingWindow
from limiter.policies import ALGORITHMS
from limiter.policies.sliding_log import SlidingLogStep
from tests import histories
from tests.model import MODELS

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")

CHECKOUT = Path(__file__).parent.parent.parent
TINY = Effort(3, 1_000_000, (), 4, 30, 2, 1_000_000, 0.1)

times = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=25).map(sorted)


@given(times, st.integers(1, 70))
def test_the_most_in_a_window_is_that_of_the_tests(hits, window_us):
    """If every time is known, the count equals that of the concurrency tests."""
    known = [Admitted(at, at, cost) for at, cost in hits]

    assert most_in_any_window(known, window_us) == histories.most_in_any_window(
        [histories.Admitted(at, cost) for at, cost in hits], window_us
    )


def test_only_certain_calls_count():
    """Two calls count in one window only if that is true for each possible time of decision."""
    history = [Admitted(0, 4), Admitted(6, 12)]

    assert most_in_any_window(history, 12) == 1
    assert most_in_any_window(history, 13) == 2


@given(st.integers(1, 100), st.integers(-5, 100), st.integers(100, 200))
def test_the_time_until_a_call_passes_is_found_from_any_guess(opens, told, most):
    """If the guess is right, two tries are enough."""
    tried: list[int] = []

    def passes(at: int) -> bool:
        tried.append(at)
        return at >= opens

    assert opens_after(passes, told, most) == opens
    if told == opens:
        assert len(tried) <= 2


def test_under_admission():
    """It is in percent of the limit, over whole periods, which are half-open."""
    history = [Admitted(at, at) for at in (0, 10, 15, 29, 30)]

    assert under_admission(history, 10, 2, 2, 10) == 25.0
    assert under_admission(history, 10, 2, 1, 10) == -50.0


@pytest.mark.parametrize(
    ("name", "policy"), list(simulated.policies(7, 1_000_000)), ids=lambda value: str(value)
)
def test_the_stated_bound_is_not_above_that_of_the_model(name, policy):
    """Every algorithm that a user may choose has a bound; for one period it is the model's."""
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
    """For calls at any times, and for windows of any length."""
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
def test_our_algorithms_in_simulated_time(name, policy):
    """Under every load the bound holds, and every retry_after is true, for a store in the process too."""
    by_load = simulated.measure("memory://", policy, TINY, lambda: None)

    assert set(by_load) == set(simulated.LOADS)
    assert simulated.violations(name, policy, by_load) == []
    assert all(behaviour.admitted for behaviour in by_load.values())
    assert by_load[simulated.OVERLOAD].under == pytest.approx(
        100 / 3 if isinstance(policy, SlidingWindow) else 0
    )


def test_a_broken_bound_and_an_early_time_are_reported():
    """There is one message for each load and window."""
    policy = SlidingLog(3, 1)
    good = simulated.Behaviour({1_000_000: 3}, None, [0, 0], 3)
    broken = simulated.Behaviour({1_000_000: 4, 2_000_000: 6}, None, [0, -2, 5], 9)

    messages = simulated.violations("log", policy, {"good": good, "bad": broken})

    assert len(messages) == 2
    assert "bad: 4 admitted in a window of 1000000 us, the bound is 3" in messages[0]
    assert "2 us too early" in messages[1]
    assert len(simulated.lease_violations(3, broken._replace(most={0: 4}))) == 2
    assert simulated.lease_violations(3, good._replace(most={0: 3})) == []


@pytest.mark.parametrize(("told", "admits"), [(-1, 0), (-(10**9), 0), (0, 1)])
def test_a_broken_algorithm_is_found(told, admits, monkeypatch):
    """A retry_after a microsecond too early, or of 0, and a unit above the limit, are behaviour."""
    retry_us, begin = SlidingLogStep.retry_us, SlidingLogStep.__init__

    def too_early(step, at_least):
        return max(0, retry_us(step, at_least) + told)

    def too_much(step, *arguments):
        begin(step, *arguments)
        step.room += admits

    monkeypatch.setattr(SlidingLogStep, "retry_us", too_early)
    monkeypatch.setattr(SlidingLogStep, "__init__", too_much)
    policy = SlidingLog(3, 1)

    messages = simulated.violations(
        "log", policy, simulated.measure("memory://", policy, TINY, _done)
    )

    assert any("too early" in message for message in messages) == (told < 0)
    assert any("the bound is 3" in message for message in messages) == (admits > 0)


def _done() -> None:
    """A step is done."""


def test_leases_in_simulated_time():
    """All leases are held at once, no more, and every retry_after is true."""
    leases = simulated.measure_leases("memory://", 4, TINY)

    assert simulated.lease_violations(4, leases) == []
    assert leases.most[0] == 4
    assert set(leases.errors_us) == {0}


def contender(answers, package="limiter", bound=2) -> Contender:
    """Make a contender that gives these answers in turn."""
    return Contender("some", "algorithm", bound, "", "", lambda: lambda: next(answers), package)


def test_only_certain_errors_count_in_real_time():
    """The true time may be any between the last denial and the call that passed."""
    denied, passed = Answer(False, 100), Answer(True, 0)
    calls = [
        Call(0, 10, denied),
        Call(50, 60, Answer(False, 10)),
        Call(90, 95, Answer(False, 200)),
        Call(115, 120, passed),
    ]
    behaviour = realtime.Behaviour()
    realtime._judge(calls, behaviour)

    # The true time is 91 to 120. The answers were 100 to 110 (no error), at most 70, and at least 290.
    assert behaviour.errors_us == [0.0, -21.0, 170.0]
    assert behaviour.early_us == 21
    assert behaviour.uncertain_us == 29
    assert behaviour.error_us == (0.0, -21.0, 170.0)
    assert len(realtime.violations(contender(iter(())), behaviour)) == 1
    assert realtime.violations(contender(iter(()), "limits"), behaviour) == []
    behaviour = realtime.Behaviour(most={"overload": 3, "a clock ahead": 2})
    (message,) = realtime.violations(contender(iter(())), behaviour)
    assert "overload, in real time: 3 admitted in one period, the bound is 2" in message


def test_a_clock_ahead_is_seen_by_one_package_only(monkeypatch):
    """The package sees it in each way to import the clock, and only within the context."""
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


def test_the_command_fails_if_our_algorithms_fail(tmp_path, monkeypatch):
    """The output and the report name the failure."""

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


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=30), st.integers(1, 20))
def test_the_most_of_several_processes(calls, window_us):
    """The same as by trying every window: only calls that lie in it for certain count."""
    spans = [(sent, sent + length) for sent, length in calls]
    expected = max(
        (
            sum(begin <= sent and answered < begin + window_us for sent, answered in spans)
            for begin in range(-1, 50)
        ),
        default=0,
    )
    own = max(
        sum(begin <= sent and answered < begin + window_us for sent, answered in spans)
        for begin in range(0, 60, window_us)
    )
    assert prepaid.most_certain(spans, window_us) == expected
    assert prepaid.most_of_own(spans, window_us) == own


def test_a_broken_bound_of_prepaid_units_is_reported():
    """The message has the policy, the setting and the load; own windows are judged, too."""
    named = dict(prepaid.policies())
    right = prepaid.Behaviour(4_000, 1_000, 10, 1_000, 1_000)
    results = {
        (name, "overload", most): (policy, right)
        for name, policy in named.items()
        for most in (0, 100)
    }
    assert prepaid.violations(results) == []
    for name, most, bound in [
        ("sliding_log", 100, 1_000),
        ("sliding_window", 100, 1_998),
        ("token_bucket", 0, 1_300),
        ("token_bucket", 100, 1_700),
        ("fixed_window, aligned", 100, 2_000),
    ]:
        wrong = right._replace(most=bound + 1)
        case = {(name, "overload", most): (named[name], wrong)}
        assert prepaid.violations(case) == [
            f"{name}, 4 processes, prepaid={most}, overload: {bound + 1} in one period, "
            f"the bound is {bound}"
        ]
    case = {
        ("fixed", "overload", 100): (
            named["fixed_window, aligned"],
            right._replace(most_of_own=1_001),
        )
    }
    assert prepaid.violations(case) == [
        "fixed, 4 processes, prepaid=100, overload: 1001 in one window, the limit is 1000"
    ]


def test_every_other_library_is_in_the_extra():
    """`make accuracy` installs all libraries that the command measures."""
    extra = (CHECKOUT / "setup.cfg").read_text().partition("\nbench =")[2].partition("\ncheck =")[0]

    assert all(f"\n    {name}>=" in extra for name in contenders.PEERS)


@pytest.mark.slow(40)
def test_a_quick_run_measures_all_libraries(tmp_path: Path) -> None:
    """The report has our algorithms in both kinds of time, and installed libraries in real time."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "bench.accuracy", "--quick", "--server", "valkey"),
            *("--json", "--output", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        timeout=200,
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
    cases = results["prepaid"]["cases"]
    assert len(cases) == prepaid.steps()
    assert "## Prepaid units, on" in text
    for without, with_units in zip(cases[::2], cases[1::2], strict=True):
        assert (without["prepaid"], with_units["prepaid"]) == (0, 100)
        assert without["admitted"] > 0
        assert without["scripts"] >= without["calls"]
        assert with_units["admitted"] > 0
        if with_units["load"] == "below the limit":
            assert with_units["scripts"] < without["scripts"] / 2
    installed = contenders.versions()
    assert {row["library"] for row in results["summary"]} == {"slotgate", *installed}
    for name, version in installed.items():
        assert f"{name} {version}" in text
    for name in set(contenders.PEERS) - set(installed):
        assert f"the library {name} is not installed" in text
    for file in ("most.png", "time.png", "retry.png"):
        assert f"({file})" in text
        assert (folder / file).read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in text
    assert str(CHECKOUT) not in json.dumps(results)
