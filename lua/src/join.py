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
from typing import Any, NamedTuple

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
        """What Redis calls the type of the key that holds the state: hash, list or zset."""
        return re.match(r"\w+", self.sections["key"])[0]  # type: ignore[index]

    @property
    def is_rate(self) -> bool:
        """Whether it counts what passes; else it counts what is held."""
        return "refund" in self.sections

    @property
    def modes(self) -> list[str]:
        """What else than peek and reset it can be asked; the first one takes."""
        return ["hit", "refund", "settle"] if self.is_rate else ["acquire", "renew", "release"]

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
    needed += [] if fragment.sections.get("key", "").startswith("hash") else ["carry"]
    needed += ["refund"] if fragment.is_rate else ["renew", "release"]
    for section in needed:
        if not fragment.sections.get(section):
            sys.exit(f"{where}: section {section!r} is missing; accepted are {', '.join(needed)}")
    if fragment.key_type not in LOADS:
        sys.exit(f"{where}: key begins with {fragment.key_type!r}; accepted are {', '.join(LOADS)}")
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


#: By type of the key: the name under which a fragment finds its state, none of it, and how it is read.
LOADS = {
    "hash": ("state", "nil", 'redis.call("HGET", key, field)'),
    "list": ("size", "0", 'redis.call("LLEN", key)'),
    "zset": ("size", "0", 'redis.call("ZCARD", key)'),
}


def load(fragment: Fragment) -> str:
    """Read the policy's state; a reset of a key of another type reads nothing, and mends it."""
    kind = fragment.key_type
    name, empty, command = LOADS[kind]
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


#: What both kinds of algorithm say of themselves in the header of a script, where they differ.
SAID = {
    True: {
        "modes": [
            "hit: take; peek: only say what hit would; reset: say it, then forget the subject;",
            "refund: give back; settle: take without asking, up to a debt of limit",
        ],
        "cost": "units wanted, or given back; 0 looks without taking",
        "granted": "units taken, or given back",
        "writes": (
            "Only a hit that passes, refund and settle where they change something, and reset.\n"
            "        (And a hit that does not pass, where it finds a key without expiry, or a time\n"
            "        too far ahead to be true: it mends that.)"
        ),
    },
    False: {
        "modes": [
            "acquire: take a lease, or say that it is held already; renew: let it last from now;",
            "release: give it back; peek: only say what acquire would; reset: say it, then",
            "forget the subject",
        ],
        "cost": "units that the lease holds; 0 looks without taking",
        "granted": "units of this lease that were taken, renewed (all or 0), or given back",
        "writes": (
            "Only an acquire that passes, renew and release of a lease that lives, and reset. (And any\n"
            "        of them, where it finds a key without expiry: it mends that.)"
        ),
    },
}


def otherwise(fragment: Fragment) -> str:
    """What a script does for the modes that ask nobody."""
    if fragment.is_rate:
        return (
            'if mode == "refund" then\n'
            f"{indent(fragment['refund'], 1)}\n"
            "  room = room + granted\n"
            "else\n"
            "  granted = math.max(0, math.min(cost, room + limit))\n"
            "  if granted > 0 then\n"
            f"{indent(fragment['charge'], 2)}\n"
            "  end\n"
            "  room = room - granted\n"
            "end"
        )
    return (
        'if mode == "renew" then\n'
        f"{indent(fragment['renew'], 1)}\n"
        "else\n"
        f"{indent(fragment['release'], 1)}\n"
        "end"
    )


def single(template: str, fragment: Fragment) -> str:
    """The complete script for one policy."""
    own, (take, *others) = fragment.arguments, fragment.modes
    said: dict[str, Any] = SAID[fragment.is_rate]
    if fragment.key_type == "hash":
        changed, save = (
            "granted > 0 or heal",
            (f'local saved = {fragment["save"]}\nredis.call("HSET", key, field, saved)'),
        )
    else:
        changed, save = "granted > 0 or heal", fragment["save"]
    return fill(
        template,
        {
            "name": fragment.name,
            "summary": fragment["summary"],
            "key": fragment["key"].replace("\n", "\n" + " " * 20),
            "type": fragment.key_type,
            "modes": headed("ARGV[2] mode", said["modes"]),
            "cost": said["cost"],
            "granted": said["granted"],
            "writes": said["writes"],
            "arguments": "\n".join(
                headed(f"ARGV[{n}] {a.name}", a.meaning) for n, a in enumerate(own, FIRST_ARGUMENT)
            ),
            "bind": bind(own, "ARGV[{}]", FIRST_ARGUMENT),
            "last": str(FIRST_ARGUMENT + len(own)),
            "take": take,
            "others": "".join(f' or mode == "{mode}"' for mode in others),
            "check": "and " + fragment["check"],
            "load": load(fragment),
            "ask": fragment["ask"],
            "denied": "room < at_least" + ("" if fragment.is_rate else " and held == 0"),
            "unless": "" if fragment.is_rate else " and held == 0",
            "retry": fragment["retry"],
            "charge": fragment["charge"],
            "held": "" if fragment.is_rate else "elseif takes then\n  granted = held",
            "otherwise": otherwise(fragment),
            "save": f"if {changed} then\n{indent(save, 1)}\nend",
        },
    )


def _mended(fragment: Fragment) -> list[str]:
    """How a call that does not pass makes good what cannot be true."""
    mends = {
        "hash": [
            f"local saved = {fragment['save']}",
            'heals[#heals + 1] = {"HSET", key, field, saved}',
        ],
        "list": ['heals[#heals + 1] = {"DEL", key}'],
        "zset": [],
    }[fragment.key_type]
    if not mends:
        return []
    return [
        "  if heal and takes and cost > 0 then",
        "    heals = heals or {}",
        *(f"    {m}" for m in mends),
        "  end",
    ]


def _kept(fragment: Fragment) -> list[str]:
    """How a call that passes remembers what it will write."""
    if fragment.key_type == "hash":
        return [
            "if granted > 0 or (heal and changes and cost > 0) then",
            f"  local saved = {fragment['save']}",
            "  local write = writes[index]",
            "  if not write then",
            "    writes[index] = {field, saved, nil, nil, nil, nil}",
            "  else",
            "    write[#write + 1], write[#write + 2] = field, saved",
            "  end",
            "end",
        ]
    return [
        "if granted > 0 or (heal and changes and cost > 0) then",
        "  tails = tails or {}",
        f'  tails[index] = {{"{fragment.name}", granted, {fragment["carry"]}}}',
        "end",
    ]


def branch(fragment: Fragment) -> str:
    """What ``several`` does for a policy of one algorithm."""
    own, wrong = fragment.arguments, "only_leases" if fragment.is_rate else "only_rates"
    unless = "" if fragment.is_rate else " and held == 0"
    body = [
        # field and limit, the first two of every algorithm, are bound already
        bind(own[2:], "ARGV[at + {}]", 2 + FIRST_ARGUMENT + 1),
        f"if {wrong} then",
        '  return redis.error_reply("LIMITER several v1 knows no such mode here")',
        "end",
        f"if not ({fragment['check']}) then",
        '  return redis.error_reply("LIMITER an argument of several v1 is out of range")',
        "end",
        load(fragment),
        fragment["ask"],
        "if asks then",
        "  if room < 0 then",
        "    room = 0",
        "  end",
        f"  before[kept + 1], before[kept + 2], before[kept + 3] = "
        f"reset_us, room, {'cost' if fragment.is_rate else 'held'}",
        *_mended(fragment),
        *([] if fragment.is_rate else ["  if takes then", "    leases = leases + 1", "  end"]),
        f"  if room < at_least{unless} then",
        "    delay_us, short = 0, true",
        indent(fragment["retry"], 2),
        f"  elseif takes and cost > 0{unless} then",
        "    granted = wanted",
        "    if room < granted then",
        "      granted = room",
        "    end",
        indent(fragment["charge"], 2),
        "    room = room - granted",
        *(
            []
            if fragment.is_rate
            else [
                "  elseif takes and held > 0 then",
                "    granted, holding, mine = held, holding + 1, true",
            ]
        ),
        "  end",
        "else",
        indent(otherwise(fragment), 1),
        "  delay_us, room = 0, math.max(0, math.min(room, limit))",
        "end",
        *_kept(fragment),
        f"at = at + {len(own) + 4}",
    ]
    return f'if algorithm == "{fragment.name}" then\n' + indent("\n".join(body), 1)


def several(template: str, fragments: list[Fragment]) -> str:
    """The complete script for any list of policies."""
    saves = [
        f'if tail[1] == "{fragment.name}" then\n'
        f"  local _, granted, {fragment['carry']} = (unpack or table.unpack)(tail)\n"
        f"{indent(fragment['save'], 1)}"
        for fragment in fragments
        if fragment.key_type != "hash"
    ]
    return fill(
        template,
        {
            "branches": "\nelse".join(branch(fragment) for fragment in fragments),
            "save_tails": "\nelse".join(saves) + "\nend",
        },
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
