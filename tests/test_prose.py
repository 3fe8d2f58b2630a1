"""The check of words finds what it is for: ``make check`` runs it over everything that people read."""

from __future__ import annotations

import pytest

from tests import prose

LONG = "word " * 41

#: A text, and how many faults it has.
PAGES = {
    "Nobody reads this.": 1,
    "`nobody` is code, and so is\n\n```\nnobody\n```": 0,
    "[whoever](https://example.com/nobody) reads a link's words": 1,
    "One given back lease, released in the shadows.": 2,
    f"{LONG}.": 1,
    f"{'word ' * 40}. {'word ' * 40}.": 0,
    "The server closes the connection.": 0,
}


@pytest.mark.parametrize("text", PAGES)
def test_a_page(text: str) -> None:
    found = [fault for part in prose.markdown("a.md", text) for fault in prose.faults(part)]
    assert len(found) == PAGES[text], found


def test_a_module() -> None:
    """Docstrings, comments and messages are read; names and short strings are not."""
    source = '''"""Nobody."""
nobody = "nobody"  # whoever
raise ValueError(f"in this text {nobody} is somebody")
'''
    kinds = [part.kind for part in prose.python("a.py", source) for _ in prose.faults(part)]
    assert sorted(kinds) == ["comment", "docstring", "message"]


def test_a_template() -> None:
    (part,) = prose.lua("a.lua", "local nobody = 1 -- so many")
    assert len(list(prose.faults(part))) == 1


def test_a_configuration() -> None:
    """Comments are read, line after line as one; values are not."""
    source = "# A value of so\n# many.\na = 'nobody'\n\n# whoever\n"
    parts = list(prose.hashes("a.toml", source))
    assert [part.line for part in parts] == [1, 5]
    assert sum(len(list(prose.faults(part))) for part in parts) == 2


def test_there_is_something_to_read() -> None:
    """An empty search would find nothing wrong."""
    pages = "README.md CHANGELOG.md docs/policies.md docs/policies.example.toml lua/README.md"
    assert {*pages.split(), "bench/README.md", "limiter/client.py"} <= {*prose.files()}
