"""Join the files of this folder into the complete scripts of ``lua/v1``.

A rate is one file, ``<algorithm>.lua``: sections that begin with ``--@ name``. ``templates/`` says where
they go: ``rate.lua`` is the script of one rate, ``rate_in_several.lua`` its part of ``several.lua``, and
``hash.lua`` and ``list.lua`` read and write the two kinds of state. ``concurrency.lua`` is a whole script;
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
TEMPLATES = HERE / "templates"
#: The place of ``field``, a policy's first argument: after time, mode and cost in the script of one rate,
#: and after the four words at ``at + 1`` in ``several``.
FIRST, FIRST_IN_SEVERAL = 4, 5
#: The column of a header in which the meanings of the arguments begin.
COLUMN = 20


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


def read_rate(path: Path) -> dict[str, str]:
    """Return the value of every ``{{name}}`` that the templates use for this rate."""
    own = sections(path.read_text())
    kind = own.get("key", "").partition(" ")[0].rstrip(",")
    if kind not in ("hash", "list"):
        sys.exit(f"lua/src/{path.name}: key begins with {kind!r}; accepted are hash, list")
    arguments = re.findall(r"^(\w+) +(.*(?:\n .*)*)", own.get("arguments", ""), re.M)
    names = [name for name, _ in arguments]
    if names[:2] != ["field", "limit"]:
        sys.exit(f"lua/src/{path.name}: the first two arguments must be 'field' and 'limit'")
    parts = sections((TEMPLATES / "parts.lua").read_text())
    values = {**parts, **sections((TEMPLATES / f"{kind}.lua").read_text()), **own}

    def numbers(place: str, first: int) -> str:
        """Write the lines that read the algorithm's own arguments; the templates read field and limit."""
        lines = []
        for number, name in enumerate(names[2:], first + 2):
            lines.append(fill(parts["number"], {"argument": name, "place": place.format(number)}))
        return "\n".join(lines)

    return {
        **values,
        "name": path.stem,
        "type": kind,
        "key": own["key"].replace("\n", "\n" + " " * COLUMN),
        "arguments": "\n".join(
            f"{f'ARGV[{number}] {name}':<{COLUMN}}" + re.sub(r"\n +", "\n" + " " * COLUMN, meaning)
            for number, (name, meaning) in enumerate(arguments, FIRST)
        ),
        "numbers": numbers("{}", FIRST),
        "numbers_in_several": numbers("at + {}", FIRST_IN_SEVERAL),
        # several.lua does not indent the further lines of an expression; its text stays as it is.
        "flat_save": re.sub(r"\n +", "\n", own.get("save", "")),
        "last": str(FIRST + len(names)),
        "words_in_several": str(FIRST_IN_SEVERAL + len(names) - 1),
    }


def scripts() -> dict[str, str]:
    """Return the text of every complete script by file name."""
    whole = (HERE / "concurrency.lua").read_text()
    paths = sorted(path for path in HERE.glob("*.lua") if path.stem != "concurrency")
    rates = [read_rate(path) for path in paths]
    rate, in_several, several = (
        (TEMPLATES / f"{name}.lua").read_text() for name in ("rate", "rate_in_several", "several")
    )
    branches = [fill(in_several.rstrip(), values) for values in rates]
    tails = [fill(values["tail"], values) for values in rates if "tail" in values]
    texts = {f"{values['name']}.lua": fill(rate, values) for values in rates}
    texts["concurrency.lua"] = re.sub(r"^ *--@ .*\n", "", whole, flags=re.M)
    texts["several.lua"] = fill(
        several,
        {
            **{f"concurrency_{name}": text for name, text in marked(whole).items()},
            "name": "templates/several",
            "branches": "\n".join(branches),
            "tails": "\n".join(tails),
        },
    )
    return texts


def main() -> None:
    """Write every script of ``lua/v1``, and ``SHA1SUMS``."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "v1"
    sums = []
    for name, text in sorted(scripts().items()):
        (folder / name).write_text(text)
        sums.append(f"{hashlib.sha1(text.encode()).hexdigest()}  {name}\n")  # noqa: S324 (Redis's own id)
    (folder / "SHA1SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
