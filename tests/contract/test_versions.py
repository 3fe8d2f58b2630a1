"""A released version of the scripts never changes; what changes them is a next version, beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from hashlib import sha1
from pathlib import Path

import pytest
import redis

from tests import scripts

ROOT = Path(__file__).parents[2]
#: The sums of each released version, as its release had them.
RELEASED = Path(__file__).parent / "released"

#: One program with a limit of 5: it makes some hits, and prints how many were allowed.
HITS = """
import json, sys
from limiter import FixedWindow, Limiter
from limiter.scripts import folder

limiter = Limiter(FixedWindow(5, 60), store=sys.argv[1], timeout=10)
allowed = sum(bool(limiter.hit(sys.argv[2])) for _ in range(int(sys.argv[3])))
print(json.dumps([folder().name, allowed, limiter.peek(sys.argv[2]).remaining]))
"""


@pytest.mark.parametrize("released", sorted(RELEASED.iterdir()), ids=lambda path: path.name)
def test_a_released_version_is_frozen(released: Path) -> None:
    """The state of running systems is read by these scripts: CONTRIBUTING says how to begin a version."""
    folder = ROOT / "lua" / released.name
    sums = {
        path.name: sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.glob("*.lua")
    }
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))

    assert text == released.read_text()
    assert text == (folder / "SHA1SUMS").read_text()


def test_the_version_in_use_is_released() -> None:
    assert (RELEASED / scripts.V1.name).is_file()


def replace(path: Path, old: str, new: str) -> None:
    """Replace a text that the file has once."""
    text = path.read_text()
    assert text.count(old) == 1, (path.name, old)
    path.write_text(text.replace(old, new))


def hits(package: Path, store: str, subject: str, count: int) -> list[object]:
    """Hit with the package of a folder: its version of the scripts, what was allowed, what remains."""
    done = subprocess.run(
        [sys.executable, "-c", HITS, store, subject, str(count)],
        cwd=package,
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout))


def test_a_next_version_beside_this_one(store: str, subject: str, tmp_path: Path) -> None:
    """Made as CONTRIBUTING says; programs of both share a store, and none reads the other's state."""
    for name in ("limiter", "lua"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    replace(tmp_path / "limiter/keys.py", 'VERSION = "v1"', 'VERSION = "v2"')
    replace(tmp_path / "lua/src/join.py", 'VERSION = "v1"', 'VERSION = "v2"')
    # The next version keeps its state in another order of bytes, which this one would misread.
    for call in ("unpack", "pack"):
        replace(
            tmp_path / "lua/src/fixed_window.lua", f'struct.{call}("<dd"', f'struct.{call}(">dd"'
        )
    (tmp_path / "lua/v2").mkdir()
    subprocess.run([sys.executable, tmp_path / "lua/src/join.py"], check=True)

    frozen = (tmp_path / "lua/v1/SHA1SUMS").read_text()
    assert frozen == (RELEASED / "v1").read_text()
    assert (tmp_path / "lua/v2/SHA1SUMS").read_text() != frozen

    assert hits(ROOT, store, subject, 3) == ["v1", 3, 2]
    assert hits(tmp_path, store, subject, 4) == ["v2", 4, 1]
    assert hits(ROOT, store, subject, 3) == ["v1", 2, 0]
    assert hits(tmp_path, store, subject, 3) == ["v2", 1, 0]
    with redis.Redis.from_url(store, decode_responses=True) as client:
        keys = sorted(client.scan_iter(f"*{{{subject}}}*", 10_000))
    assert [key.split(":v")[1][0] for key in keys] == ["1", "2"]
