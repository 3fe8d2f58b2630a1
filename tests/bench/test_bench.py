"""The benchmarks run, and their reports are complete; their figures are not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bench.against import Side
from bench.coroutines import BY_JOINING
from bench.effort import QUICK
from bench.goals import GOALS, MET, MISSED, Goal, judge
from bench.hits import BY_CLIENT, BY_SINGLE, CACHE_ON_OFF
from bench.other_side import CASES
from bench.sections import Failed, Section, Spread
from bench.server_time import LENGTHS
from bench.subjects import DENYING
from bench.through_traefik import parse

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")

CHECKOUT = Path(__file__).parent.parent.parent

AB = """
Concurrency Level:      10
Time taken for tests:   0.240 seconds
Complete requests:      300
Failed requests:        2
   (Connect: 0, Receive: 0, Length: 2, Exceptions: 0)
Non-2xx responses:      200
Keep-Alive requests:    300
Requests per second:    1250.00 [#/sec] (mean)
"""
PERCENTAGES = "Percentage served,Time in ms\n0,0.900\n50,7.5\n90,12.0\n95,16.2\n99,20.4\n100,21.1\n"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks like ``make bench``."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *words, "--output", str(folder)],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "WRK_PAUSE_MS": "50"},
        timeout=200,
        check=False,
    )


def written(folder: Path) -> tuple[dict[str, Any], str, Path]:
    """Return the JSON, the report, and the folder of a run."""
    (own,) = folder.iterdir()
    return json.loads((own / "results.json").read_text()), (own / "report.md").read_text(), own


@pytest.mark.slow
def test_a_quick_run_writes_a_complete_report(tmp_path: Path) -> None:
    """It has goals, tables, plots, versions, the command and both libraries, but no path of the machine."""
    words = ["--quick", "--only", "memory", "--server", "valkey", "--against", "HEAD", "--json"]
    ran = run(tmp_path, *words)

    assert ran.returncode == 0, ran.stderr
    results, report, folder = written(tmp_path)
    assert json.loads(ran.stdout) == results
    assert folder.name.startswith(results["date"])
    (server,) = results["sections"]["memory"]["figures"]
    assert server.startswith("Valkey ")
    judged = {goal["figure"] for goal in results["goals"]}
    quickly = {
        goal.figure for goal in GOALS if goal.part == "memory" and "100,000" not in goal.figure
    }
    assert judged == quickly
    assert f"`python -m bench {' '.join(words)}`" in report
    assert server in report
    for figure in judged:
        assert f"| {figure} |" in report
    for picture in ("memory.png", "entries.png"):
        assert f"({picture})" in report
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert results["machine"]["before"].endswith(" (HEAD)")
    assert results["sections"]["memory"]["notes"] == []
    figures = results["sections"]["memory"]["figures"][server]
    compared = results["sections"]["memory"]["against"]["figures"][server]
    assert list(compared["before"]) == list(compared["now_over_before"]) == list(figures)
    for name, quotient in compared["now_over_before"].items():
        assert quotient["median"] == figures[name]["median"] / compared["before"][name]["median"]
    assert f"{server}: before | now | now / before |" in report
    for text in (report, json.dumps(results)):
        assert str(tmp_path) not in text
        assert str(CHECKOUT) not in text


@pytest.mark.slow
def test_every_goal_of_the_scripts_has_its_figure(tmp_path: Path) -> None:
    """If a figure had another name than its goal, the goal would not be in the table."""
    ran = run(tmp_path, "--quick", "--only", "server", "--server", "valkey", "--name", "some words")

    assert ran.returncode == 0, ran.stderr
    results, _, folder = written(tmp_path)
    assert folder.name.endswith("-some-words")
    assert [goal["figure"] for goal in results["goals"]] == [
        goal.figure for goal in GOALS if goal.part == "server" and goal.server != "Redis"
    ]


def test_a_wrong_word_on_the_command_line(tmp_path: Path) -> None:
    """The command reports it, and writes nothing."""
    ran = run(tmp_path, "--only", "everything")

    assert ran.returncode == 2
    assert "'everything' is not one of" in ran.stderr
    assert not list(tmp_path.iterdir())


def test_the_output_of_ab() -> None:
    """Counts come from the output, times from the more precise file."""
    record = parse(AB, PERCENTAGES)

    counts = [record[name] for name in ("requests", "ok", "non_2xx", "failed")]
    assert counts == [300, 100, 200, 2]
    assert record["requests_per_second"] == 1250.0
    assert (record["p50_ms"], record["p99_ms"], record["longest_ms"]) == (7.5, 20.4, 21.1)
    with pytest.raises(Failed, match="Requests per second"):
        parse(AB.replace("Requests per second", "Speed"), PERCENTAGES)


@pytest.mark.parametrize("part", ["hit", "async", "cluster", "server"])
def test_every_goal_of_the_library_has_its_case(part: str) -> None:
    """If a case had another name than its goal, the goal would not be in the table either."""
    module, function = CASES[part]
    side = Side("bench", ("redis://localhost",) * (2 if part == "cluster" else 1), ())
    with ExitStack() as stack:
        cases = getattr(import_module(module), function)(side, QUICK, stack)
    quotients = {
        "hit": {CACHE_ON_OFF},
        "cluster": {f"{name}{BY_CLIENT}" for name in DENYING} | {BY_SINGLE},
        "server": {LENGTHS},
        "async": {BY_JOINING},
    }

    goals = {goal.figure for goal in GOALS if goal.part == part}
    assert goals
    assert goals <= set(cases) | quotients.get(part, set())


@pytest.mark.parametrize(("value", "verdict"), [(1.304, MET), (1.306, MISSED)])
def test_a_goal_has_no_allowance(value: float, verdict: str) -> None:
    """The figure counts as shown, with two digits."""
    assert Goal("server", "any", 1.30).verdict(Spread(value, value, value)) == verdict


def test_the_goals_of_the_scripts_differ_by_server() -> None:
    """The same figure is judged by the goal of its server."""
    figure = "fixed_window: allowed"
    spreads = {figure: Spread(1.28, 1.28, 1.28)}
    section = Section("server", "", "", {"Redis 8.0.2": spreads, "Valkey 8.1.1": spreads})

    judged = judge([section])

    assert [(goal["server"], goal["most"], goal["verdict"]) for goal in judged] == [
        ("Redis 8.0.2", 1.30, MET),
        ("Valkey 8.1.1", 1.25, MISSED),
    ]
