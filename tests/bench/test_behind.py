"""A run says which figures are worse than in the last committed run of the same machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import behind, command, report
from bench.behind import Past, compare
from bench.sections import Curve, Section, Spread

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")

HERE, ELSEWHERE = "A processor, 2 of 2 cores", "A processor, 4 of 4 cores"
REDIS, VALKEY = "Redis 8.0.2", "Valkey 9.1.2"


def section(figure: Spread, rate: Spread, client: Spread) -> Section:
    """A part with one figure, a curve whose higher values are better, and one whose lower ones are."""
    curves = [
        Curve("rate", "", "threads", "a second", {REDIS: {"hit": {8: rate}}}, more_is_better=True),
        Curve("client", "", "threads", "us", {REDIS: {"hit": {8: client}}}),
    ]
    return Section("threads", "", "", {REDIS: {"ratio": figure}}, curves=curves)


STEADY = Spread(10, 9, 11)
LESS, MORE = Spread(8, 7, 8.7), Spread(12, 11.4, 13)
SAME = section(STEADY, STEADY, STEADY)


def committed(
    folder: Path, name: str, measured: Section, processor: str = HERE, **settings: Any
) -> Path:
    """Write a run's results."""
    run = report.Run("2026-11-25", {"processor": processor}, (0, 0), 1, **settings)
    path = folder / name / "results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(report.as_json(run, [measured])))
    return path


@pytest.mark.parametrize(
    ("now", "figures"),
    [
        (SAME, []),
        (section(LESS, MORE, LESS), []),
        (section(MORE, STEADY, STEADY), ["ratio"]),
        (section(STEADY, LESS, STEADY), ["hit, 8 threads, a second"]),
        (section(STEADY, STEADY, MORE), ["hit, 8 threads, us"]),
        # The best repetition now, and the worst one before, are within 2 %.
        (section(Spread(12, 11.2, 13), STEADY, STEADY), []),
    ],
)
def test_a_figure_falls_behind_by_more_than_the_spread(
    now: Section, figures: list[str], tmp_path: Path
) -> None:
    """In the direction that is worse for this figure, and in no other."""
    past = compare([now], HERE, [committed(tmp_path, "before", SAME)])

    assert [slower.figure for slower in past.slower] == figures
    assert past.runs == {"threads": "before"}
    assert past.sentence().endswith(f"of both runs: {len(figures) or 'none'}.")
    assert len(past.lines()) == len(past.table().rows) == len(figures)


def test_each_part_is_compared_with_the_newest_full_run_of_the_machine(tmp_path: Path) -> None:
    """Not with runs of other machines, quick runs, other forms of results, or runs without the part."""
    other_form = tmp_path / "accuracy" / "results.json"
    other_form.parent.mkdir()
    other_form.write_text(json.dumps({"machine": {"processor": HERE}}))
    results = [
        committed(tmp_path, "elsewhere", SAME, ELSEWHERE),
        committed(tmp_path, "quick", SAME, quick=True),
        other_form,
        committed(tmp_path, "another-part", Section("memory", "", "", {REDIS: {"ratio": LESS}})),
        committed(tmp_path, "newest", SAME),
        committed(tmp_path, "older", section(MORE, LESS, MORE)),
    ]

    past = compare([section(MORE, STEADY, STEADY)], HERE, results)

    assert past.runs == {"threads": "newest"}
    assert [slower.figure for slower in past.slower] == ["ratio"]
    assert compare([SAME], "Another processor", results).runs == {}


def test_figures_without_an_earlier_one(tmp_path: Path) -> None:
    """A new case, and one of another version of the server, are not compared."""
    now = Section("threads", "", "", {REDIS: {"new": MORE}, VALKEY: {"ratio": MORE}})

    assert compare([now], HERE, [committed(tmp_path, "before", SAME)]).slower == []


def test_the_committed_runs() -> None:
    """These are the results in git, and nothing else under bench/results; docs cite each of them."""
    paths = behind.committed()
    if not paths:
        pytest.skip("this folder is no git checkout, or a shallow one")

    assert all(path.parent.parent == report.RESULTS for path in paths)
    pages = "".join(page.read_text() for page in (behind._CHECKOUT / "docs").glob("*.md"))
    cited = set(re.findall(r"bench/results/([\w-]+)", pages))
    assert {path.parent.name for path in paths} == cited


@pytest.mark.parametrize(("strict", "code"), [([], 0), (["--strict"], 1)])
def test_the_command_reports_what_fell_behind(
    strict: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints each figure, the report has a table, the JSON has it too; --strict fails."""
    processor = "measured here"
    now = section(MORE, STEADY, STEADY)
    facts = {"processor": processor}
    monkeypatch.setattr(command.machine, "describe", lambda *_: facts)
    monkeypatch.setitem(command.PARTS, "threads", lambda *_: now)
    before = committed(tmp_path, "before", SAME, processor)
    monkeypatch.setattr(behind, "committed", lambda: [before])
    monkeypatch.setattr(report.plots, "draw", lambda *_: [])

    words = ["--only", "threads", "--output", str(tmp_path / "now"), *strict]
    ran = CliRunner().invoke(command.bench, words)

    assert ran.exit_code == code, ran.output
    line = f"fell behind: threads: ratio on {REDIS}: 10.00 in before, 12.00 now"
    assert line in ran.output
    (folder,) = (tmp_path / "now").iterdir()
    assert "spread of both runs: 1." in (folder / "report.md").read_text()
    written = json.loads((folder / "results.json").read_text())["behind"]
    assert written["compared_with"] == {"threads": "before"}
    assert written["figures"][0]["now"] == MORE._asdict()


def test_nothing_to_compare_with() -> None:
    """The report says so; it does not say that no figure fell behind."""
    assert Past({}, []).sentence().startswith("No run of this machine is committed")
    assert "quick" in behind.QUICK.sentence()
