"""``docs/hazards.md`` is complete, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mutants import scripts

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "hazards.md").read_text()
ROWS = dict(re.findall(r"^\| (H\d+b?) \| [^|]+ \| ([^|]+) \|$", PAGE, re.M))
ALIASES = set("VSAM")


def test_every_hazard_has_a_row():
    """H01 to H108, and H12b."""
    assert set(ROWS) == {f"H{number:02}" for number in range(1, 109)} | {"H12b"}
    assert PAGE.count("\n| H") == 109


def test_every_row_names_what_covers_it():
    """A row names a test, a part of the project that comes later, or a reason."""
    for number, covered in ROWS.items():
        tests = re.findall(r"`([^`]+)`", covered)
        named = any("::" in name or name in ALIASES for name in tests)
        assert named or re.match(r"\*\*(Later|Not so here)\*\*: \S", covered), number


def test_every_test_that_is_named_exists():
    """It is in the file that the page names."""
    names = set(re.findall(r"`(tests/[^`:]+)::(\w+)`", PAGE))
    assert len(names) > 50
    for path, test in names:
        text = (ROOT / path).read_text()
        assert re.search(rf"^(async )?def {test}\(", text, re.M), f"{path}::{test}"


def test_every_mutant_s_hazard_has_the_mark_m():
    """The row of a mutant's hazard names the test of the mutants."""
    for mutant in scripts.MUTANTS:
        assert "`M`" in ROWS[mutant.hazard], f"{mutant.hazard}: {mutant.name}"
