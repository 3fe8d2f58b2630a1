"""The benchmarks run, and their reports are complete; their figures are not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import goals
from bench.goals import GOALS, MET, MISSED, WITHIN, Goal
from bench.sections import Failed, Spread
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
        timeout=100,
        check=False,
    )


def written(folder: Path) -> tuple[dict[str, Any], str, Path]:
    """Return the JSON, the report, and the folder of a run."""
    (own,) = folder.iterdir()
    return json.loads((own / "results.json").read_text()), (own / "report.md").read_text(), own


@pytest.mark.slow
def test_a_quick_run_writes_a_complete_report(tmp_path: Path) -> None:
    """It has goals, tables, plots, versions and the command, but no path of the machine."""
    ran = run(tmp_path, "--quick", "--only", "memory", "--server", "valkey", "--json")

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
    assert "`python -m bench --quick --only memory --server valkey --json`" in report
    assert server in report
    for figure in judged:
        assert f"| {figure} |" in report
    for picture in ("memory.png", "entries.png"):
        assert f"({picture})" in report
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
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
        goal.figure for goal in GOALS if goal.part == "server"
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


@pytest.mark.parametrize(
    ("value", "verdict"), [(1.454, MET), (1.456, WITHIN), (1.59, WITHIN), (1.6, MISSED)]
)
def test_a_goal_for_the_server_allows_for_text(value: float, verdict: str) -> None:
    """The figure counts as shown, with two digits; the report marks one within ten percent."""
    goal = Goal("server", "any", 1.45, goals.TEXT_ARGUMENTS)

    assert goal.verdict(Spread(value, value, value)) == verdict
