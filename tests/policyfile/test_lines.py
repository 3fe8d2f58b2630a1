"""Every key of a TOML text gets its line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from limiter.policyfile.lines import lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "policies.example.toml"


def paths(value: Any, before: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
    """All places in the parser's result of a text."""
    places = {before} if before else set()
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in pairs:
        places |= paths(inner, (*before, key))
    return places


TEXT = '''\
# a comment = 1
top = 1
"quoted key" = "a # no comment"
'literal' = 'x'
a.b . "c.d" = 2  # dotted

[policies.api] # [not.this]
limits = [
    { algorithm = "gcra", limit = 1 },  # [[ { ]

    { algorithm = "x", "limit" = 2, deep = { er = [1,
      2] } },
    "three",
]
text = """
[no.table]
no = "key"
"""
raw = \'\'\'
again = "'" \'\'\'
date = 1979-05-27 07:32:00
dates = [1979-05-27 07:32:00, 07:32:00]
last = true
[policies."a.b".match]
paths = []
[[list]]
one = 1
[[list]]
two = 2
[list.sub]
three = 3
'''


def test_each_key_has_its_line() -> None:
    lines = lines_of(TEXT)

    assert lines[("top",)] == 2
    assert lines[("quoted key",)] == 3
    assert lines[("literal",)] == 4
    assert lines[("a",)] == lines[("a", "b")] == lines[("a", "b", "c.d")] == 5
    assert lines[("policies",)] == lines[("policies", "api")] == 7
    assert lines[("policies", "api", "limits")] == 8
    assert lines[("policies", "api", "limits", 0, "limit")] == 9
    assert lines[("policies", "api", "limits", 1)] == 11
    assert lines[("policies", "api", "limits", 1, "deep", "er", 1)] == 12
    assert lines[("policies", "api", "limits", 2)] == 13
    assert lines[("policies", "api", "text")] == 15
    assert lines[("policies", "api", "raw")] == 19
    assert lines[("policies", "api", "date")] == 21
    assert lines[("policies", "api", "last")] == 23
    assert lines[("policies", "a.b", "match", "paths")] == 25
    assert lines[("list",)] == lines[("list", 0)] == 26
    assert lines[("list", 1, "two")] == 29
    assert lines[("list", 1, "sub", "three")] == 31


@pytest.mark.parametrize("text", [TEXT, TEXT.replace("\n", "\r\n"), EXAMPLE.read_text()])
def test_all_keys_and_no_others_are_found(text: str) -> None:
    assert set(lines_of(text)) == paths(tomllib.loads(text))


scalars = st.one_of(
    st.integers(-9, 9).map(str),
    st.booleans().map(lambda flag: str(flag).lower()),
    st.text("ab#[]{}=,.' \\n", max_size=6).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace("\n", "\\n") + '"'
    ),
    st.text('ab#[]{}=,." \n', max_size=6).map(lambda text: "'''\n" + text.replace("'", "") + "'''"),
)
keys = st.one_of(
    st.text("abc_-9", min_size=1, max_size=3),
    st.text('a.b#]= "', max_size=3).map(lambda text: '"' + text.replace('"', '\\"') + '"'),
)
gaps = st.sampled_from(["", " ", "\n", "  # x ] }\n", "\n\n"])


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["scalar", "list", "table"] if depth else ["scalar"]))
    if kind == "list":
        inner = draw(st.lists(values(depth=depth - 1), max_size=3))
        return "[" + ",".join(f"{draw(gaps)}{one}{draw(gaps)}" for one in inner) + "]"
    if kind == "table":
        names = draw(st.lists(keys, max_size=3, unique_by=lambda key: key.strip('"')))
        return "{" + ", ".join(f"{n} = {draw(values(depth=depth - 1))}" for n in names) + "}"
    return draw(scalars)


@given(
    st.lists(st.tuples(keys, values(), gaps), max_size=4, unique_by=lambda one: one[0].strip('"'))
)
def test_any_text(pairs: list[tuple[str, str, str]]) -> None:
    """All paths of the parser are found, the top ones on the lines on which they were written."""
    text, written = "", []
    for key, value, gap in pairs:
        text += gap if gap.endswith("\n") or not gap else "\n"
        written.append(text.count("\n") + 1)
        text += f"{key} = {value}\n"
    parsed = tomllib.loads(text)

    lines = lines_of(text)
    assert set(lines) == paths(parsed)
    assert [lines[(key,)] for key in parsed] == written


@example("a=[}")
@given(st.text("ab=\"'[]{}.,# \n\\", max_size=30))
def test_a_text_that_is_not_toml_ends_too(text: str) -> None:
    """The result does not matter, but the function must return."""
    lines_of(text)
