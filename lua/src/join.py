"""Join the files of this folder into the complete scripts of ``lua/v1``.

A rate is one file, ``<algorithm>.lua``: sections that begin with ``--@ name``. ``templates/`` says where
they go: ``rate.lua`` is the script of a rate; ``rate_in_several.lua``, ``rate_in_reservation.lua`` and
``rate_in_few.lua`` are its parts of the scripts for lists. ``hash.lua`` and ``list.lua`` read and write the
two kinds of state, and ``parts.lua`` has what all scripts share. ``concurrency.lua`` is a whole script;
``several.lua`` also uses its parts between ``--@ name`` and ``--@ end``.

``make lua`` runs this file. A test runs it too, and compares the result with the committed files.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from textwrap import dedent, indent

HERE = Path(__file__).parent
#: The folder of ``lua/`` for the scripts, as in ``VERSION`` of ``limiter/keys.py``.
VERSION = "v1"
TEMPLATES = HERE / "templates"
#: The place of ``field``, a policy's first argument: after time, mode and cost in the script of one rate,
#: and after the four words at ``at + 1`` in ``several``.
FIRST, FIRST_IN_SEVERAL = 4, 5
#: The numbers of the algorithms in ``few``; they never change.
IN_FEW = {"fixed_window": 1, "sliding_window": 2, "token_bucket": 3}
#: The column of a header in which the meanings of the arguments begin.
COLUMN = 21


def sections(text: str) -> dict[str, str]:
    """Split a fragment into its sections, each after a line ``--@ name``."""
    parts = re.split(r"^--@ (\w+)\n", text, flags=re.M)[1:]
    return {name: body.strip("\n") for name, body in zip(parts[::2], parts[1::2], strict=True)}


def marked(text: str) -> dict[str, str]:
    """Collect the parts between each line ``--@ name`` and the next ``--@ end``."""
    parts = re.findall(r"^ *--@ (\w+)\n(.*?)\n *--@ end$", text, re.M | re.S)
    return {name: dedent(body) for name, body in parts}


def fill(template: str, values: dict[str, str]) -> str:
    """Replace each ``{{name}}`` by its value, indented as its line if it stands alone in the line.

    A value may contain further ``{{name}}``.
    """

    def value(match: re.Match[str]) -> str:
        name = match[2] or match[3]
        if name not in values:
            sys.exit(f"lua/src/{values['name']}.lua: section {name!r} is missing")
        return indent(fill(values[name], values), match[1] or "")

    return re.sub(r"^( *)\{\{(\w+)\}\}$|\{\{(\w+)\}\}", value, template, flags=re.M)


PARTS = sections((TEMPLATES / "parts.lua").read_text())


def read_rate(path: Path) -> dict[str, str]:
    """Return the value of every ``{{name}}`` that the templates use for this rate."""
    own = sections(path.read_text())
    kind = own.get("key", "").partition(" ")[0].rstrip(",")
    if kind not in ("hash", "list"):
        sys.exit(f"lua/src/{path.name}: key begins with {kind!r}; expected hash, list")
    arguments = re.findall(r"^(\w+) +(.*(?:\n .*)*)", own.get("arguments", ""), re.M)
    names = [name for name, _ in arguments]
    if names[:2] != ["field", "limit"]:
        sys.exit(f"lua/src/{path.name}: the first two arguments must be 'field' and 'limit'")
    values = {**PARTS, **sections((TEMPLATES / f"{kind}.lua").read_text()), **own}

    def numbers(number: str, place: str, first: int) -> str:
        """Write the lines that read the algorithm's own arguments; the templates read field and limit."""
        return "\n".join(
            fill(PARTS[number], {"argument": name, "place": place.format(at)})
            for at, name in enumerate(names[2:], first + 2)
        )

    own_names = ", ".join(names[2:])
    return {
        **values,
        "name": path.stem,
        "type": kind,
        "key": own["key"].replace("\n", "\n" + " " * COLUMN),
        "arguments": "\n".join(
            f"{f'ARGV[{number}] {name}':<{COLUMN}}" + re.sub(r"\n +", "\n" + " " * COLUMN, meaning)
            for number, (name, meaning) in enumerate(arguments, FIRST)
        ),
        "names": own_names,
        "packed": f"now_us, cost, at_least, limit, {own_names}, step",
        "doubles": "d" * (len(names) + 3),
        "read": "\n".join(filter(None, [own.get("before"), values["read"]])),
        "numbers": numbers("number", "{}", FIRST),
        "numbers_in_several": numbers("number_in_several", "at + {}", FIRST_IN_SEVERAL),
        # several.lua does not indent the further lines of an expression; its text stays as it is.
        "flat_save": re.sub(r"\n +", "\n", own.get("save", "")),
        "last": str(FIRST + len(names)),
        "step_place": str(FIRST + len(names) + 1),
        "words_in_several": str(FIRST_IN_SEVERAL + len(names) - 1),
        "number": str(IN_FEW.get(path.stem)),
    }


def scripts() -> dict[str, str]:
    """Return the text of every complete script by file name."""
    whole = (HERE / "concurrency.lua").read_text()
    paths = sorted(path for path in HERE.glob("*.lua") if path.stem != "concurrency")
    rates = [read_rate(path) for path in paths]
    rate, in_several, several, in_reservation, reservation, in_few, policy_in_few, few = (
        (TEMPLATES / f"{name}.lua").read_text()
        for name in (
            *("rate", "rate_in_several", "several", "rate_in_reservation", "reservation"),
            *("rate_in_few", "policy_in_few", "few"),
        )
    )

    def listed(branch: str, **own: str) -> dict[str, str]:
        """Write what a script for lists has of every rate."""
        branches = [fill(branch.rstrip(), {**values, **own}) for values in rates]
        tails = [fill(values["tail"], {**values, **own}) for values in rates if "tail" in values]
        return {"branches": "\n".join(branches), "tails": "\n".join(tails)}

    hashes = [values for values in rates if values["name"] in IN_FEW]
    texts = {f"{values['name']}.lua": fill(rate, values) for values in rates}
    texts["concurrency.lua"] = fill(
        re.sub(r"^ *--@ .*\n", "", whole, flags=re.M), {**PARTS, "name": "concurrency"}
    )
    texts["several.lua"] = fill(
        several,
        {
            **PARTS,
            **{f"concurrency_{name}": text for name, text in marked(whole).items()},
            "name": "templates/several",
            **listed(in_several, list="several", and_mode=""),
        },
    )
    parts = listed(in_reservation, list="reservation", and_mode=", mode", lowest="lowest")
    # Each part goes on where another one ends, with "elseif"; here one of them comes first.
    first = {name: text.removeprefix("else") for name, text in parts.items()}
    texts["reservation.lua"] = fill(
        reservation, {**PARTS, **first, "name": "templates/reservation"}
    )

    def unrolled(n: int) -> dict[str, str]:
        branches = [fill(in_few.rstrip(), {**values, "n": str(n)}) for values in hashes]
        return {"name": "templates/policy_in_few", "n": str(n), "branches": "\n".join(branches)}

    texts["few.lua"] = fill(
        few,
        {
            **PARTS,
            "name": "templates/few",
            "algorithms": ", ".join(f"{number} {name}" for name, number in IN_FEW.items()),
            **{f"policy{n}": fill(policy_in_few.rstrip(), unrolled(n)) for n in (1, 2, 3)},
        },
    )
    return texts


def main() -> None:
    """Write every script of ``lua/v1``, and ``SHA1SUMS``."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / VERSION
    sums = []
    for name, text in sorted(scripts().items()):
        (folder / name).write_text(text)
        sums.append(f"{hashlib.sha1(text.encode()).hexdigest()}  {name}\n")  # noqa: S324 (Redis's own id)
    (folder / "SHA1SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
