"""The curves have all of their points, and the page is written from them."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from bench import (
    behind,
    coroutine_rates,
    hot_keys,
    many_subjects,
    page,
    peers,
    report,
    shards,
    threads,
)
from bench.effort import QUICK
from bench.sections import Failed
from tests.bench.test_bench import run, written

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")

CURVES = ["threads", "coroutines", "keys", "shards", "subjects"]
MEASURED: dict[str, Any] = {"figures": {"Redis": {"a case": {"median": 1.0}}}, "curves": {}}
NAMES = [
    name
    for name, package in zip(peers.NAMES, ("limits", "throttled", "pyrate_limiter"), strict=True)
    if importlib.util.find_spec(package) is not None
]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The files of a quick run of all curves."""
    folder = tmp_path_factory.mktemp("curves")
    parts = [word for part in CURVES for word in ("--only", part)]
    ran = run(folder, "--quick", "--server", "valkey", *parts)
    assert ran.returncode == 0, ran.stderr
    return written(folder)


@pytest.mark.slow(25)
def test_every_curve_has_all_of_its_points(quick: tuple[dict[str, Any], str, Path]) -> None:
    """Each line, other libraries included, has a figure above zero for each number, and a plot."""
    results, text, folder = quick
    lines = {
        "threads": ([threads.OURS, peers.BARE, *NAMES], QUICK.threads),
        "coroutines": (
            [coroutine_rates.DIFFERENT, coroutine_rates.HOT, peers.BARE, *NAMES],
            QUICK.tasks,
        ),
        "keys": ([*hot_keys.THREADS, *hot_keys.COROUTINES], QUICK.keys),
        "shards": ([shards.ONE_THREAD, shards.MANY_TASKS], QUICK.shards),
    }
    for part, (names, numbers) in lines.items():
        for curve in results["sections"][part]["curves"].values():
            (by_line,) = curve["lines"].values()
            assert set(names) <= set(by_line)
            for points in by_line.values():
                assert list(points) == [str(number) for number in numbers]
        rates = results["sections"][part]["curves"]["rate"]["lines"].values()
        assert all(
            point["low"] > 0 for by in rates for points in by.values() for point in points.values()
        )
        assert f"({part}.png)" in text
        assert (folder / f"{part}.png").read_bytes().startswith(b"\x89PNG")
    subjects = results["sections"]["subjects"]["curves"]
    (sizes,) = subjects["server_memory"]["lines"].values()
    assert list(sizes[many_subjects.ONE]) == [str(number) for number in QUICK.subjects]
    for point in sizes[many_subjects.ONE].values():
        assert 80 < point["median"] < 400
    (times,) = subjects["latency"]["lines"].values()
    for median, longest in zip(
        times[many_subjects.HIT_P50].values(), times[many_subjects.HIT_P99].values(), strict=True
    ):
        assert 0 < median["median"] <= longest["median"]
    assert results["quick"] is True
    assert behind.QUICK.sentence() in text


@pytest.mark.slow
def test_the_page_has_the_figures_of_a_run(quick: tuple[dict[str, Any], str, Path]) -> None:
    """All of its tables and plots are there, and each picture exists."""
    results, _, folder = copy.deepcopy(quick)
    assert page.lacking(results) == ["hit", "async", "flask"]
    (server,) = results["sections"]["threads"]["curves"]["rate"]["lines"]
    for part, case in {
        "hit": "fixed_window: hit, allowed",
        "async": "fixed_window: hit, allowed, one at a time",
        "flask": "fixed_window, allowed",
    }.items():
        results["sections"][part] = {"figures": {server: {case: {"median": 0.625}}}}

    figures = page.block("a-run", results)

    assert f"| call | {server} |" in figures
    assert "| fixed_window: hit, allowed | 0.62 |" in figures
    assert "| fixed_window: hit, allowed, one at a time, coroutines | 0.62 |" in figures
    assert "| fixed_window, allowed | 0.62 |" in figures
    lines = results["sections"]["threads"]["curves"]["client"]["lines"]
    client = lines[server][threads.OURS]["1"]["median"]
    shown = f"{client:.0f}" if client >= 10 else f"{client:.2f}"
    assert f"| `Limiter.hit`, one thread | {shown} |" in figures
    for name in (peers.BARE, *NAMES):
        assert f"| {name}, one thread |" in figures
    assert "| 10,000 |" in figures
    assert "| `Limiter` | " in figures
    for picture in re.findall(r"!\[.*\]\(\.\./bench/results/a-run/(.*)\)", figures):
        assert (folder / picture).exists()


def test_the_page_shows_what_its_run_has() -> None:
    """No figure was changed by hand, and the run is committed with the page."""
    text = page.PAGE.read_text()
    run = re.search(r"\[This run\]\(\.\./bench/results/([^/]+)/report\.md\)", text)
    if run is None:
        assert "No full run is shown yet." in text
        return
    results = json.loads((report.RESULTS / run[1] / "results.json").read_text())

    assert text == page.fill(text, page.block(run[1], results))


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    """Also if it is replaced twice; a page without marks is refused."""
    text = f"before\n\n{page.BEGIN}\nold\n{page.END}\n\nafter\n"

    filled = page.fill(page.fill(text, "one"), "two\n")

    assert filled == f"before\n\n{page.BEGIN}\n\ntwo\n\n{page.END}\n\nafter\n"
    with pytest.raises(click.ClickException, match="lacks one of the marks"):
        page.fill("before", "two")


def test_the_newest_full_run_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick runs, and runs that lack a part, are not."""
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    whole = dict.fromkeys(page.PARTS, MEASURED)
    runs = {
        "lacking": {"date": "2026-12-04", "sections": {"hit": MEASURED}},
        "quick": {"date": "2026-12-03", "sections": whole, "quick": True},
        "newest": {"date": "2026-12-02", "sections": whole},
        "older": {"date": "2026-12-01", "sections": whole},
    }
    with pytest.raises(click.ClickException, match="no full run with all parts"):
        page.newest()
    for name, results in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(results))

    assert page.newest() == tmp_path / "newest"
    shutil.rmtree(tmp_path / "newest")
    assert page.newest() == tmp_path / "older"


def test_the_rule_for_a_million_decisions() -> None:
    """Of cores that are used to 70 %, seventy microseconds need 100; a part of a core is one more."""
    assert page.cores(70) == "100"
    assert page.cores(70.1) == "101"
    assert page.cores(0.01) == "1"


@pytest.mark.parametrize("expected", [True, False])
def test_a_run_of_other_results_fails(expected: bool) -> None:
    """If a limit was used up too early, or not at all, the run would measure something else."""

    async def hit(_: str) -> bool:
        return not expected

    with pytest.raises(Failed, match="a call was"):
        threads.run(lambda _: not expected, ["a", "b"], 10, [], expected)
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(Failed, match="a call was"):
            coroutine_rates.run(loop, hit, ["a", "b"], 10, [], expected)
    finally:
        loop.close()


def test_the_error_of_a_thread_ends_the_run() -> None:
    """It is raised, and the other threads do not wait for that thread."""

    def hit(key: str) -> bool:
        if key == "b":
            raise ZeroDivisionError
        return True

    with pytest.raises(ZeroDivisionError):
        threads.run(hit, ["b", "a", "a"], 10, [])
