"""The short form of ``make survive``: it keeps every promise, and its checks find broken ones."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import report
from bench.page import fill
from bench.stores import Program, programs
from bench.survive import command, page, promises, stages, trial
from bench.survive import report as survival
from bench.survive.application import HELD_NAME, HOT, KINDS, LOCAL_NAME, Call
from bench.survive.events import EVENTS, Event
from bench.survive.probe import Attempt, Outage, outages
from bench.survive.trial import Charges, Figures, Usage, Worst
from tests.waiting import until

#: Seconds for a decision: on a busy machine, a server may take long without any fault.
PATIENT = 2.0

QUIET = Figures(
    calls=1000,
    denied=10,
    outage=1.0,
    fault=0.0,
    undecided_there=5,
    undecided_elsewhere=0,
    again=0.2,
    late=0,
    slowest=0.1,
    charges=Charges(0, 0, 0),
    worst=[Worst("sliding_log", 10, 10), Worst("gcra", 11, 20)],
    starved=[],
    before=Usage(16, 30 << 20, 1.0),
    after=Usage(16, 30 << 20, 2.0),
    left=0,
    most_connections=5,
    extra={},
    errors=[],
)


def event(words: str) -> Event:
    """Return the one event whose name has these words."""
    (found,) = [each for each in EVENTS if words in each.name]
    return found


@pytest.fixture
def valkey(monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program; a stall of a busy machine makes no call late."""
    monkeypatch.setattr(trial, "GRACE", 2.0)
    (program,) = programs("valkey")
    return program


def lose_replies_and_step_back(stage: stages.Clocked) -> None:
    """Two events at once, which take half as long."""
    event("connections end before replies").fault(stage)
    event("the clock steps back by 0.4 s").fault(stage)


def send_twice(stage: stages.Single) -> None:
    """Send script calls a second time, as a client would that repeats calls without an answer."""
    repeated: list[bytes] = []

    def again(data: bytes) -> bytes:
        if b"EVALSHA" not in data:  # a new connection must get its handshake through
            return data
        repeated.append(data)
        return data + data

    stage.proxy.requests = again
    until(lambda: len(repeated) >= 20)
    stage.proxy.mend()
    stage.proxy.cut_all()


@pytest.mark.slow(9)
@pytest.mark.skipif(find_spec("libfaketime") is None, reason="libfaketime is not installed")
def test_lost_replies_and_clocks_break_no_promise(valkey: Program) -> None:
    """Real servers, threads and coroutines at once."""
    both = Event("both", "wire", stages.Clocked, lose_replies_and_step_back)

    found = trial.run(both, valkey, KINDS, PATIENT)

    assert found.broken == []
    figures = found.figures
    assert figures.undecided_there > 0
    assert figures.outage > 0.5
    assert figures.calls > 50
    assert figures.charges == (0, 0, 0)
    assert {worst.limiter for worst in figures.worst} == {*HOT, HELD_NAME, LOCAL_NAME}
    assert all(0 < worst.admitted <= worst.bound for worst in figures.worst)
    assert sum(found.course["undecided"]) > 0


@pytest.mark.slow
def test_a_call_that_is_sent_twice_is_found(valkey: Program) -> None:
    """By the store's counts."""
    found = trial.run(Event("twice", "wire", stages.Single, send_twice), valkey, KINDS, PATIENT)

    assert found.figures.charges.twice > 0
    assert any("charged twice" in line for line in found.broken)


@pytest.mark.slow(8)
def test_a_failover_breaks_no_promise(tmp_path: Path, valkey: Program) -> None:
    """By the command, which also writes the report that the page shows."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")
    words = ["--only", "orderly failover", "--server", "valkey", "--output", str(tmp_path)]

    done = CliRunner().invoke(
        command.survive, [*words, "--minutes", "0", "--timeout", str(PATIENT)]
    )

    assert done.exit_code == 0, done.output
    (folder,) = tmp_path.iterdir()
    results = json.loads((folder / "results.json").read_text())
    text = (folder / "report.md").read_text()
    assert "| cluster: an orderly failover | " in text
    assert "None." in text
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (folder / picture).stat().st_size > 10_000
    assert "`sliding_log` 10 / 10" in dict(results["promises"])["6. Each algorithm keeps its bound"]
    assert "| 6. Each algorithm keeps its bound | most " in page.block("a-run", results)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"undecided_elsewhere": 1}, "1 calls were undecided without an outage"),
        ({"late": 2}, "2 calls ended more than"),
        ({"charges": Charges(1, 0, 0)}, "1 calls were charged twice"),
        ({"charges": Charges(0, 1, 0)}, "1 calls were charged by some"),
        ({"charges": Charges(0, 0, 1)}, "1 allowed calls were not charged"),
        ({"worst": [Worst("gcra", 21, 20)]}, "gcra admitted 21, and its bound is 20"),
        ({"starved": ["gcra"]}, "1 limits admitted no call again: gcra"),
        ({"after": Usage(22, 30 << 20, 2.0)}, "6 more descriptors are open"),
        ({"after": Usage(16, 50 << 20, 2.0)}, "20480 KiB more memory"),
        ({"left": 1}, "1 descriptors remain open"),
        ({"extra": {"a figure": 3.0}}, "a figure: 3.00, and the goal is 2"),
    ],
)
def test_a_broken_promise_is_named(changes: dict[str, Any], words: str) -> None:
    """Each check, alone; a run without faults breaks none."""
    an_event = Event("an event", "wire", stages.Single, print, most=(("a figure", 2),))

    assert trial.broken(an_event, QUIET) == []
    (line,) = trial.broken(an_event, QUIET._replace(**changes))
    assert line.startswith(words)


def test_a_store_that_loses_state_may_forget_charges() -> None:
    """But not charge twice."""
    an_event = Event("an event", "wire", stages.Single, print, losses=1)

    assert trial.broken(an_event, QUIET._replace(charges=Charges(0, 0, 9))) == []
    assert trial.broken(an_event, QUIET._replace(charges=Charges(1, 0, 9)))


def test_an_outage_lies_between_two_successes() -> None:
    """If the server of the first one failed meanwhile; a replica that refuses makes none."""

    def attempt(server: int, sent: float, executed: bool) -> Attempt:
        return Attempt(server, sent, sent + 0.1, executed)

    up = [attempt(0, 1.0, True), attempt(1, 1.1, False), attempt(0, 1.2, True)]
    assert outages(up, 9.0) == []
    taken_over = [*up, attempt(0, 1.4, False), attempt(1, 2.0, True), attempt(1, 2.2, True)]
    assert outages(taken_over, 9.0) == [Outage(pytest.approx(1.3), 2.0)]
    assert outages([*up, attempt(0, 1.4, False)], 9.0) == [Outage(pytest.approx(1.3), 9.0)]
    assert outages([attempt(0, 1.0, False)], 9.0) == []


def call(began: float, ended: float, result: Any = "allowed", limiter: str = "sliding_log") -> Call:
    return Call("Limiter", limiter, "a-subject", began, ended, result)


def test_undecided_calls_belong_to_an_outage_or_to_none() -> None:
    """Or to the moment at which connections end."""
    outage, cut = Outage(10.0, 11.0), Outage(20.0, 20.0)

    def after(began: float, ended: float) -> float | None:
        return trial._after(call(began, ended, "undecided"), [outage], 1.0, [cut])

    assert after(9.0, 9.9) is None
    assert after(9.9, 10.1) == 0.0
    assert after(11.5, 11.6) == pytest.approx(0.6)
    assert after(12.1, 12.2) is None
    assert after(19.9, 20.0) == 0.0
    assert after(20.2, 20.3) is None


def test_the_worst_window_has_calls_that_lie_in_it_as_a_whole() -> None:
    """A call that may have been decided outside of it does not count."""
    calls = [call(second, second + 0.01) for second in (0.0, 0.5, 0.985, 0.995, 1.2)]

    assert trial.most_within(calls, 1.0) == 4
    assert trial.most_within(calls[:4], 1.0) == 3
    assert trial.most_within([], 1.0) == 0
    eleven = [call(0.01 * number, 0.01 * number + 0.005) for number in range(11)]
    assert trial.worst(eleven, 0)[0] == Worst("sliding_log", 11, 10)
    assert trial.worst(eleven, 1)[0] == Worst("sliding_log", 11, 20)


def test_places_are_counted_at_each_instant() -> None:
    """From the time at which a caller has its place until it releases it."""

    def held(since: float, until: float) -> Call:
        return call(0.0, since, limiter=HELD_NAME)._replace(held_until=until)

    assert trial.most_held([held(1.0, 2.0), held(2.0, 3.0), held(2.5, 4.0)]) == 2
    assert trial.most_held([held(1.0, 3.0), held(2.0, 3.0), held(2.5, 4.0)]) == 3
    assert trial.most_held([]) == 0


def test_the_machine_s_stalls_make_no_call_late() -> None:
    """Only the part of a stall that lies in the call."""
    stalls = [trial.Stall(0.9, 1.2), trial.Stall(1.4, 3.0)]

    assert trial._own_time(call(1.0, 2.0), stalls) == pytest.approx(0.2)


def test_the_page_shows_what_its_run_has() -> None:
    """No figure was changed by hand, and the run is committed with the page; it broke no promise unsaid."""
    text = page.PAGE.read_text()
    (name,) = set(re.findall(r"bench/results/([\w-]+)/", text))
    results = json.loads((report.RESULTS / name / "results.json").read_text())

    assert text == fill(text, page.block(name, results), page.BEGIN)
    assert {found["name"] for found in results["events"]} >= {each.name for each in EVENTS}
    assert len(results["promises"]) == 6


def test_a_run_without_clocks_says_so() -> None:
    """Such a run has no figure for the third promise."""
    one = survival._event(trial.Trial(EVENTS[0], "Redis", QUIET, [], {}))

    rows = dict(promises.rows([one]))

    assert "not measured" in rows["3. One clock, and nothing early if it steps back"]


def test_a_run_in_which_no_event_could_be_made_has_a_report(tmp_path: Path) -> None:
    """With the reason; before, drawing the pictures failed."""
    run = report.Run("2026-11-29", {}, (0.0, 0.0), 1.0)

    folder = survival.write(tmp_path, "survival", run, [], ["an event, a server: a reason."])

    assert "*Not measured*: an event, a server: a reason." in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--only", "nothing such"], "no event"), (["--minutes", "-1"], "--minutes")],
)
def test_mistakes_are_refused(words: list[str], message: str) -> None:
    """With exit code 2, before a server is started."""
    done = CliRunner().invoke(command.survive, words)

    assert done.exit_code == 2
    assert message in done.output
