"""``SECURITY.md``: each claim names a test, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
#: Rows of the page's tables, without their heads.
ROWS = [
    row
    for table in re.findall(r"^\|[- |]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    for row in table.splitlines()
]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_claim_names_a_test() -> None:
    """The last column has nothing else; only the application is trusted with everything."""
    assert len(ROWS) >= 30
    for row in ROWS:
        tests = row.rstrip("| ").rpartition("|")[2]
        named = _TEST.findall(tests)
        assert named or row.startswith("| the application that uses the library | everything"), row
        if named:
            assert not _TEST.sub("", tests).strip(" ,"), row


def test_every_test_that_is_named_exists() -> None:
    for path, test in _TEST.findall(PAGE):
        text = (ROOT / path).read_text()
        assert re.search(rf"^(async )?def {test}\(", text, re.M), f"{path}::{test}"
    assert PAGE.count("tests/") - PAGE.count("`tests/attacks/attacks.toml`") == len(
        _TEST.findall(PAGE)
    )


def test_the_pages_lead_to_it() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "docs/operate.md"):
        assert re.search(r"\]\((\.\./)?SECURITY\.md\)", (ROOT / name).read_text()), name


def test_it_has_no_invented_address() -> None:
    """The project has no address for reports: the page names the way of the repository alone."""
    assert not re.search(r"[\w.+-]+@[\w-]+\.\w+|mailto:", PAGE)
