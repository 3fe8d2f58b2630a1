"""A run with ``--against`` has the figures of two libraries, and each is measured in its own process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

import pytest

from bench.against import Library, NoLibrary, Side, calls_of, library, made
from bench.effort import QUICK
from bench.memory import cases
from bench.other_side import CASES
from bench.ratios import Cost, Ratios
from bench.sections import Failed, Section, Spread, compare
from service.demo.servers import Cluster, Server
from tests.bench.test_bench import CHECKOUT, run

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra bench)")


@pytest.fixture(scope="module")
def revision() -> str:
    """A revision with a library; a copy of the code without its history has none."""
    git = ["git", "-C", str(CHECKOUT), "rev-parse", "--verify", "--short", "HEAD^{commit}"]
    ran = subprocess.run(git, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip("this folder is no git checkout")
    return ran.stdout.strip()


@pytest.fixture
def other(tmp_path: Path) -> Library:
    """A copy of the checkout's library, also of what is not committed, so it can make every case."""
    for folder in ("limiter", "lua"):
        shutil.copytree(CHECKOUT / folder, tmp_path / folder)
    return Library("a copy", tmp_path)


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that no other test uses, since the part ``memory`` empties it."""
    with Server() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("part", CASES)
def test_each_part_makes_its_cases_with_the_other_library(
    part: str, other: Library, own: Server, cluster: Cluster
) -> None:
    """All cases of the checkout are there, and each returns what the part expects."""
    stores = [cluster.url, own.url] if part == "cluster" else [own.url]
    side = Side.here(stores, [own])
    effort = QUICK._replace(calls=2, entries=(1_000,))
    module, function = CASES[part]
    notes: list[str] = []
    with own.client() as client, ExitStack() as stack:
        client.flushall()
        calls = calls_of(other, part, side, effort, stack, notes)
        results = [call() for call in calls.values()]

        assert notes == []
        assert list(calls) == list(getattr(import_module(module), function)(side, effort, stack))
        # Of `server`, each call is one hit, and returns whether it was allowed.
        expected = {"server": bool, "memory": Spread}.get(part, Cost)
        assert {type(result) for result in results} == {expected}


def test_quotients_are_taken_in_each_repetition() -> None:
    """A repetition in which everything was slow changes no quotient."""
    before = {"case": [Cost(2, 4), Cost(20, 40), Cost(200, 400)]}
    now = {"case": [Cost(1, 1), Cost(10, 10), Cost(100, 100)], "peer": [Cost(5, 5)] * 3}
    ratios = Ratios(now, before, Spread(1, 1, 1), 1)
    ratios.divide("case / peer", "case", "peer")
    section = Section("hit", "", "")

    ratios.record(section, "Redis")

    assert section.compared["Redis"].before["case"] == Spread(20, 2, 200)
    assert section.compared["Redis"].quotients["case"] == Spread(0.5, 0.5, 0.5)
    assert section.compared_checks["Redis"].quotients["case"] == Spread(0.25, 0.25, 0.25)
    # The other library is divided by the same peer, which is measured once.
    assert section.figures["Redis"]["case / peer"] == Spread(2, 0.2, 20)
    assert section.compared["Redis"].before["case / peer"] == Spread(4, 0.4, 40)
    table = compare("", "decision", section.figures, section.compared)
    assert table.columns == ["decision", "Redis: before", "now", "now / before"]
    assert table.rows[0][0] == "case"
    assert table.rows[0][3] == "0.50"


def test_the_command_with_a_revision_that_does_not_exist(tmp_path: Path) -> None:
    """It reports it before it measures anything."""
    ran = run(tmp_path, "--quick", "--only", "memory", "--against=--quick")

    assert ran.returncode == 2
    assert "--against: --quick is no revision: expected a commit, branch or tag" in ran.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["", "no-such-revision", "HEAD:README.md", "HEAD HEAD"])
def test_a_revision_that_does_not_exist(revision: str, wrong: str) -> None:
    """A file or several words are no revision."""
    with pytest.raises(NoLibrary, match="is no revision: expected"), library(wrong):
        pass


def test_the_library_of_a_revision_is_extracted_and_removed(revision: str) -> None:
    """The folder has what is committed, and nothing else of the checkout."""
    with library("HEAD") as extracted:
        assert extracted.commit == revision
        assert sorted(path.name for path in extracted.folder.iterdir()) == ["limiter", "lua"]
        assert (extracted.folder / "lua" / "v1" / "SHA1SUMS").is_file()
    assert not extracted.folder.exists()


def test_a_revision_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names what is missing."""
    monkeypatch.setattr("bench.against._CHECKOUT", CHECKOUT / "docs")

    with pytest.raises(NoLibrary, match="HEAD has no library"), library("HEAD"):
        pass


def test_a_folder_that_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names git's reason."""
    monkeypatch.setattr("bench.against._CHECKOUT", tmp_path)

    with pytest.raises(NoLibrary, match="not a git repository"), library("HEAD"):
        pass


def test_a_case_that_the_other_library_lacks(other: Library, own: Server) -> None:
    """It is left out with the reason, and the other cases are measured with the other library."""
    side = Side.here([own.url], [own])
    notes: list[str] = []
    with ExitStack() as stack:
        policies = other.folder / "limiter" / "policies"
        log = policies / "sliding_log.py"
        log.write_text(log.read_text() + "\n\ndel SlidingLog.script\n")
        calls = calls_of(other, "memory", side, QUICK, stack, notes)
        now = made(cases(side, QUICK, stack))

        assert set(now) - set(calls) == {name for name in now if name.startswith("sliding_log")}
        assert all("AttributeError" in note and other.commit in note for note in notes)
        assert len(notes) == len(now) - len(calls)
        same = "fixed_window, bytes a subject"
        assert calls[same]().median == pytest.approx(now[same]().median, rel=0.2)


def test_a_library_that_cannot_be_imported(other: Library, own: Server) -> None:
    """The part fails with the reason; it does not fall back to the checkout's library."""
    side = Side.here([own.url], [own])
    with ExitStack() as stack:
        (other.folder / "limiter" / "__init__.py").write_text("raise ImportError('too old')\n")
        with pytest.raises(Failed, match=f"{other.commit}: ImportError: too old"):
            calls_of(other, "memory", side, QUICK, stack, [])
