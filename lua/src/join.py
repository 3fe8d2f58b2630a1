"""Join the fragments of this folder into the complete scripts of ``lua/v1``.

Each algorithm is one fragment, ``<algorithm>.lua``: sections that begin with ``--@ name``. The two
templates say where they go: ``single.template.lua`` becomes one script for each algorithm,
``several.template.lua`` the script that decides any list of them. ``make lua`` runs this file; a test
runs it too, and compares what it writes with what is committed.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
#: Where a policy's own arguments begin in a script for one policy: after the time, mode, and cost.
FIRST_ARGUMENT = 4


class Argument(NamedTuple):
    """One line of a fragment's ``arguments``: what a script is told of the policy."""

    name: str
    is_text: bool
    meaning: list[str]


@dataclass(frozen=True)
class Fragment:
    """One algorithm: its text by section."""

    name: str
    sections: dict[str, str]

    def __getitem__(self, section: str) -> str:
        """The text of one section."""
        return self.sections[section]

    @property
    def key_type(self) -> str:
        """What Redis calls the type of the key that holds the state: hash or list."""
        return re.match(r"\w+", self.sections["key"])[0]  # type: ignore[index]

    @property
    def arguments(self) -> list[Argument]:
        """What the algorithm is told beyond cost and time, in order."""
        found: list[Argument] = []
        for line in self.sections["arguments"].splitlines():
            if line.startswith(" "):
                found[-1].meaning.append(line.strip())
            else:
                name, kind, meaning = re.fullmatch(r"(\w+)( text)?\s+(.*)", line).groups()  # type: ignore[union-attr]
                found.append(Argument(name, bool(kind), [meaning]))
        return found


def read_fragments() -> list[Fragment]:
    """Every algorithm of this folder, by name."""
    fragments = []
    for path in sorted(HERE.glob("*.lua")):
        if path.name.endswith(".template.lua"):
            continue
        parts = re.split(r"^--@ (\w+)\n", path.read_text(), flags=re.M)[1:]
        sections = {
            name: text.strip("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)
        }
        fragments.append(_checked(Fragment(path.stem, sections)))
    return fragments


def _checked(fragment: Fragment) -> Fragment:
    """The fragment, if nothing is missing; else an end that says what."""
    where = f"lua/src/{fragment.name}.lua"
    needed = ["summary", "key", "arguments", "check", "ask", "retry", "charge", "save"]
    needed += ["carry"] if fragment.sections.get("key", "").startswith("list") else []
    for section in needed:
        if not fragment.sections.get(section):
            sys.exit(f"{where}: section {section!r} is missing; accepted are {', '.join(needed)}")
    if fragment.key_type not in ("hash", "list"):
        sys.exit(f"{where}: key begins with {fragment.key_type!r}; accepted are hash and list")
    for line in fragment["arguments"].splitlines():
        if not re.fullmatch(r"\w+( text)?\s+.*|\s+.*", line):
            sys.exit(
                f"{where}: argument {line!r}; accepted is a name, 'text' or not, and a meaning"
            )
    if [(a.name, a.is_text) for a in fragment.arguments[:2]] != [("field", True), ("limit", False)]:
        sys.exit(f"{where}: the first two arguments must be 'field text' and 'limit'")
    return fragment


def indent(text: str, depth: int) -> str:
    """Move every line that holds something by ``depth`` steps."""
    return "\n".join("  " * depth + line if line else line for line in text.split("\n"))


def fill(template: str, values: dict[str, str]) -> str:
    """Put each value in the place of its ``{name}``; a place alone in its line keeps its indent."""
    for name, value in values.items():
        template = re.sub(
            rf"^( *)\{{{name}\}}$",
            lambda m, v=value: indent(v, len(m[1]) // 2),
            template,
            flags=re.M,
        )
        template = template.replace(f"{{{name}}}", value)
    return re.sub(r"\n +(?=\n)|(?<=\n)\n(?=\n)", "", template)


def headed(name: str, lines: list[str]) -> str:
    """A name, and its meaning beside it in a column."""
    return "\n".join(f"{name if not n else '':<20}{line}" for n, line in enumerate(lines))


def load(fragment: Fragment) -> str:
    """Read the policy's state; a reset of a key of another type reads nothing, and mends it."""
    kind = fragment.key_type
    name, empty, command = {
        "hash": ("state", "nil", 'redis.call("HGET", key, field)'),
        "list": ("size", "0", 'redis.call("LLEN", key)'),
    }[kind]
    return (
        f"local {name} = {empty}\n"
        f'if mode ~= "reset" or redis.call("TYPE", key).ok == "{kind}" then\n'
        f"  {name} = {command}\n"
        "end"
    )


def bind(arguments: list[Argument], place: str, first: int) -> str:
    """Give every argument its name, as text or as a number."""
    return "\n".join(
        f"local {a.name} = " + place.format(n) + ("" if a.is_text else " + 0")
        for n, a in enumerate(arguments, first)
    )


def single(template: str, fragment: Fragment) -> str:
    """The complete script for one policy."""
    own = fragment.arguments
    if fragment.key_type == "hash":
        changed, save = (
            "granted > 0 or heal",
            (f'local saved = {fragment["save"]}\nredis.call("HSET", key, field, saved)'),
        )
    else:
        changed, save = "granted > 0", fragment["save"]
    return fill(
        template,
        {
            "name": fragment.name,
            "summary": fragment["summary"],
            "key": fragment["key"].replace("\n", "\n" + " " * 20),
            "type": fragment.key_type,
            "arguments": "\n".join(
                headed(f"ARGV[{n}] {a.name}", a.meaning) for n, a in enumerate(own, FIRST_ARGUMENT)
            ),
            "bind": bind(own, "ARGV[{}]", FIRST_ARGUMENT),
            "last": str(FIRST_ARGUMENT + len(own)),
            "check": "and " + fragment["check"],
            "load": load(fragment),
            "ask": fragment["ask"],
            "retry": fragment["retry"],
            "charge": fragment["charge"],
            "save": f"if {changed} then\n{indent(save, 1)}\nend",
        },
    )


def several(template: str, fragments: list[Fragment]) -> str:
    """The complete script for any list of policies."""
    branches = []
    for number, fragment in enumerate(fragments):
        own = fragment.arguments
        if fragment.key_type == "hash":
            mend = (
                f"local saved = {fragment['save']}\n"
                'heals[#heals + 1] = {"HSET", key, field, saved}'
            )
            keep = [
                "if granted > 0 or (heal and hit and cost > 0) then",
                f"  local saved = {fragment['save']}",
                "  local write = writes[index]",
                "  if not write then",
                "    writes[index] = {field, saved, nil, nil, nil, nil}",
                "  else",
                "    write[#write + 1], write[#write + 2] = field, saved",
                "  end",
                "end",
            ]
        else:
            mend = 'heals[#heals + 1] = {"DEL", key}'
            keep = [
                "if granted > 0 then",
                "  logs = logs or {}",
                f"  logs[index] = {{granted, {fragment['carry']}}}",
                "end",
            ]
        body = [
            # field and limit, the first two of every algorithm, are bound already
            bind(own[2:], "ARGV[at + {}]", 2 + FIRST_ARGUMENT + 1),
            f"if not ({fragment['check']}) then",
            '  return redis.error_reply("LIMITER an argument of several v1 is out of range")',
            "end",
            load(fragment),
            fragment["ask"],
            "if room < 0 then",
            "  room = 0",
            "end",
            "before[said / 5 + 1] = reset_us",
            "if heal and hit and cost > 0 then",
            "  heals = heals or {}",
            indent(mend, 1),
            "end",
            "if room < at_least then",
            "  delay_us = 0",
            indent(fragment["retry"], 1),
            "elseif hit and cost > 0 then",
            "  granted = wanted",
            "  if room < granted then",
            "    granted = room",
            "  end",
            indent(fragment["charge"], 1),
            "end",
            *keep,
            f"at = at + {len(own) + 4}",
        ]
        head = ("elseif" if number else "if") + f' algorithm == "{fragment.name}" then\n'
        branches.append(head + indent("\n".join(body), 1))
    (log,) = (fragment for fragment in fragments if fragment.key_type == "list")
    return fill(
        template,
        {"branches": "\n".join(branches), "carried": log["carry"], "save_log": log["save"]},
    )


def scripts() -> dict[str, str]:
    """The text of every complete script, by file name."""
    fragments = read_fragments()
    template = (HERE / "single.template.lua").read_text()
    texts = {f"{fragment.name}.lua": single(template, fragment) for fragment in fragments}
    texts["several.lua"] = several((HERE / "several.template.lua").read_text(), fragments)
    return texts


def main() -> None:
    """Write every script of ``lua/v1``, and their sums."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "v1"
    sums = []
    for name, text in sorted(scripts().items()):
        (folder / name).write_text(text)
        sums.append(f"{hashlib.sha1(text.encode()).hexdigest()}  {name}\n")  # noqa: S324 (Redis's own id)
    (folder / "SHA1SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
