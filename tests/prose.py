"""Finds words, phrases and sentences that a reader would have to read twice; ``make check`` runs it.

It reads what people read: pages in Markdown, docstrings, messages, and comments of Python, Lua, TOML and
YAML.
``prose.toml`` beside it lists the terms, and the exceptions with their reasons.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
RULES: dict[str, Any] = tomllib.loads((Path(__file__).parent / "prose.toml").read_text())

#: Code in a text is no prose; a link is its words.
_NO_PROSE = re.compile(r"``.*?``|`[^`]*`|https?://\S+|<[^>\s]*>")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')*_]*\s+|\n\s*\n|\n(?=\s*[*\-|#\d])")


class Passage(NamedTuple):
    """A text that people read."""

    path: str
    line: int
    kind: str
    """``page``, ``docstring``, ``comment`` or ``message``."""
    text: str


def markdown(path: str, source: str) -> Iterator[Passage]:
    """The paragraphs, lists and tables of a page, without its code."""
    lines, start, fenced = [], 1, ""
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        fence = re.match(r"\s*(```+)", line)
        if fence:
            fenced = "" if fenced else fence[1]
        if fence or fenced or not line.strip():
            if lines:
                yield Passage(path, start, "page", "\n".join(lines))
            lines = []
        else:
            start = start if lines else number
            lines.append(line)


def python(path: str, source: str) -> Iterator[Passage]:
    """Docstrings, comments and messages of a module."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):  # a statement comes before what stands in it
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.add(id(node.value))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in docstrings:
                yield Passage(path, node.lineno, "docstring", node.value)
            elif node.value.count(" ") > 1:
                yield Passage(path, node.lineno, "message", node.value)
    previous, lines, start = -1, [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != previous + 1 and lines:
            yield Passage(path, start, "comment", "\n".join(lines))
            lines = []
        start = start if lines else token.start[0]
        lines.append(re.sub(r"noqa.*|type: ignore\S*", "", token.string.lstrip("#: ")))
        previous = token.start[0]
    if lines:
        yield Passage(path, start, "comment", "\n".join(lines))


def lua(path: str, source: str) -> Iterator[Passage]:
    """Comments of a Lua template."""
    for number, line in enumerate(source.splitlines(), start=1):
        if match := re.search(r"--+ ?(.*)", line):
            yield Passage(path, number, "comment", match[1])


def hashes(path: str, source: str) -> Iterator[Passage]:
    """Comments of a configuration file: TOML or YAML."""
    lines: list[str] = []
    start = 0
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        if match := re.match(r"\s*#+ ?(.*)", line):
            start = start if lines else number
            lines.append(match[1])
        else:
            if lines:
                yield Passage(path, start, "comment", "\n".join(lines))
            lines = []


def html(path: str, source: str) -> Iterator[Passage]:
    """The lines of a page, its script included, without tags."""
    for number, line in enumerate(source.splitlines(), start=1):
        yield Passage(path, number, "message", re.sub(r"<[^>]*>", " ", line))


READERS = {
    ".md": markdown,
    ".py": python,
    ".lua": lua,
    ".html": html,
    **dict.fromkeys([".cfg", ".env", ".service", ".toml", ".yml"], hashes),
}


def files() -> list[str]:
    """The paths of the repository's files that are read."""
    listed = subprocess.run(
        ["git", "ls-files", *RULES["read"]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [path for path in listed if Path(path).suffix in READERS and (ROOT / path).is_file()]


def passages() -> Iterator[Passage]:
    """Everything that is read of these files."""
    for path in files():
        yield from READERS[Path(path).suffix](path, (ROOT / path).read_text())


def faults(passage: Passage) -> Iterator[str]:
    """What is wrong with a passage."""
    text = _NO_PROSE.sub("code", _LINK.sub(r"\1", passage.text))
    one_line = " ".join(text.split())  # a term may be broken across two lines
    for term in RULES["terms"]:
        for match in re.finditer(term["pattern"], one_line, re.I):
            yield f"{match[0]!r}: {term['instead']}"
    if passage.kind in ("page", "docstring"):
        for sentence in _SENTENCE_END.split(text):
            count = len(re.findall(r"[A-Za-z][\w'-]*", sentence))
            if count > RULES["longest_sentence"] and not sentence.lstrip().startswith("|"):
                start = " ".join(sentence.split()[:6])
                most = RULES["longest_sentence"]
                yield f"a sentence of {count} words, at most {most} are easy to read: {start} ..."


def main() -> int:
    """Print every fault that no exception allows; 1 if there are any."""
    count = 0
    unused = [(entry["path"], entry["text"]) for entry in RULES["exceptions"]]
    for passage in passages():
        text = passage.text
        for entry in RULES["exceptions"]:
            if entry["path"] == passage.path and entry["text"] in text:
                text = text.replace(entry["text"], "")
                with suppress(ValueError):
                    unused.remove((entry["path"], entry["text"]))
        for fault in faults(passage._replace(text=text)):
            print(f"{passage.path}:{passage.line}: {passage.kind}: {fault}")
            count += 1
    for path, text in unused:
        print(f"tests/prose.toml: the exception {text!r} allows nothing in {path}: remove it")
    return 1 if count or unused else 0


if __name__ == "__main__":
    sys.exit(main())
