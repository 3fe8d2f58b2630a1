"""Temporary folders that a killed process left are removed, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.demo.folders import Folder, sweep
from tests.service.support import ROOT

HOURS = 7200


@pytest.fixture(autouse=True)
def root(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The test's own folder for temporary files, with a path short enough for a socket."""
    tmp_path_factory.getbasetemp()  # pytest's own folders stay where they are
    with tempfile.TemporaryDirectory() as found:
        monkeypatch.setattr(tempfile, "tempdir", found)
        yield Path(found)


def age(path: Path) -> None:
    """Make a folder look as if no demo had written to it for long."""
    os.utime(path, (time.time() - HOURS,) * 2)


def test_folders_that_a_killed_process_left(root: Path) -> None:
    """The folder and its files are removed by the next start."""
    code = """
import os, signal
from service.demo.folders import Folder
for kind in ("server", "demo"):
    folder = Folder(kind)
    (folder.path / "within").mkdir()
    (folder.path / "within" / "server.log").write_text("x")
print("made", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environ = {**os.environ, "TMPDIR": str(root)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=False)
    left = list(root.iterdir())
    assert len(left) == 2
    for path in left:
        age(path)
    code = 'from service.demo.folders import Folder; Folder("server").remove()'
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, check=True)
    assert list(root.iterdir()) == []


def test_a_young_folder_stays(root: Path) -> None:
    """Its owner may not have locked it yet."""
    path = root / "limiter-server-x"
    path.mkdir()
    sweep()
    assert path.is_dir()


def test_a_folder_in_use_stays(root: Path) -> None:
    """However old it is; a folder that its owner removes is gone."""
    folder = Folder("server")
    age(folder.path)
    sweep()
    assert folder.path.is_dir()
    folder.remove()
    assert list(root.iterdir()) == []


def test_other_files_stay(root: Path, tmp_path: Path) -> None:
    """Other names, files, and links with such a name; and no link is followed."""
    (tmp_path / "kept").mkdir()
    (root / "limiter-server-link").symlink_to(tmp_path)
    (root / "limiter-server-file").touch()
    (root / "limiter-other-folder").mkdir()
    (root / "server-folder").mkdir()
    before = sorted(root.iterdir())
    for path in [tmp_path, *before]:
        age(path)
    sweep()
    assert sorted(root.iterdir()) == before
    assert (tmp_path / "kept").is_dir()


def test_another_user_s_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where we could remove it."""
    path = root / "limiter-server-theirs"
    path.mkdir()
    age(path)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    sweep()
    assert path.is_dir()
