"""Write the test vectors of the scripts, ``lua/v1/vectors.json``, from the tables in ``vectors/``.

Every expectation in a table was worked out by hand, from the words of the contract (``lua/README.md``);
this file only spells it for machines: doubles as bytes, lives as ranges. A test runs each vector through
EVALSHA, and another compares the file with what this one writes. ``vectors/README.md`` says how a row is
written.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "vectors"
OUT = HERE.parent.parent / "v1" / "vectors.json"
#: In the order in which their vectors stand in the file: the rates by name, and then these.
LAST = ["concurrency", "several"]
TABLES = sorted({path.stem for path in HERE.glob("*.txt")} - {"refusals", *LAST}) + LAST

#: A moment of 2026, and the longest lease, which ends at the farthest end that can be true.
NAMES = {"T": 1_790_000_000_000_000, "FAR": 366 * 24 * 3_600_000_000}
UNITS = {"": 1, "s": 1_000_000, "h": 3_600_000_000}
#: What keys get beyond the time that counts: always up to a second, and an hour under a given time.
GIVEN_MS, SLACK_MS = 3_600_000, 1_000
#: A life that no decision of the tables would ask for: longer than each, so it must stay as it is.
LONG_MS = 9_000_000
#: The hashes of two subjects.
KEY, OTHER = "rl:{vector}:api:v1", "rl:{vector}:other:v1"


@dataclass(frozen=True)
class Policy:
    """A line ``policy``: its script, how its state is spelled, and its arguments by name."""

    script: str
    state: str
    arguments: dict[str, str]

    @property
    def key(self) -> str:
        """The hash that it shares with others, or a key of its own."""
        return KEY if STATES[self.state][0] == "hash" else f"{KEY}:{self.arguments['field']}"

    def words(self, own: dict[str, str]) -> list[str]:
        """Its arguments as the script takes them, some of them replaced."""
        return [spelled(own.get(name, value)) for name, value in self.arguments.items()]


Policies = dict[str, Policy]


# --- words ---


def number(text: str) -> Any:
    """The value of ``T+10s-1``, ``2^53`` or ``nan``; None for what is no number."""
    if text in ("nan", "inf", "-inf"):
        return float(text)
    term = r"([+-]?)(?:(T|FAR)|(\d+(?:\.\d+)?)(?:\^(\d+))?([sh]?))"
    if not re.fullmatch(f"(?:{term})+", text):
        return None
    total: float = 0
    for sign, name, digits, power, unit in re.findall(term, text):
        value = NAMES[name] if name else float(digits) if "." in digits else int(digits)
        value = value ** int(power or 1) * UNITS[unit]
        total += -value if sign == "-" else value
    return total


def spelled(text: str) -> str:
    """An argument or entry as Redis gets it."""
    value = number(text)
    return text.replace(r"\0", "\0") if value is None else str(value)


def options(words: list[str]) -> dict[str, str]:
    """Every ``name=value``."""
    return dict(word.split("=", 1) for word in words)


# --- states ---


def doubles(words: list[str]) -> dict[str, Any]:
    """Little-endian doubles; those that JSON knows are shown beside the bytes."""
    values = [number(word) for word in words]
    shown = {"doubles": values} if all(map(math.isfinite, values)) else {}
    return {"hex": struct.pack(f"<{len(values)}d", *values).hex(), **shown}


def debt(words: list[str]) -> dict[str, Any]:
    """When a bucket is full, a fraction of a microsecond, and in how many seconds the largest fills."""
    reach = int(words.pop()[6:]) if words[-1].startswith("reach=") else 5
    data = struct.pack("<dI", number(words[0]), reach)
    for fraction in words[1:]:
        data += struct.pack("<2d", *map(number, fraction.split("/")))
    return {"hex": data.hex()}


def log(words: list[str]) -> list[str]:
    """Entries of a log, the oldest first."""
    return [spelled(word) for word in words]


def leases(words: list[str]) -> dict[str, Any]:
    """When each unit of a holder ends (``b=T+12s/T+12s``); ``@`` begins a whole member's name."""
    found: dict[str, Any] = {}
    for word in words:
        holder, ends = word.rsplit("=", 1)
        for unit, end in enumerate(ends.split("/"), 1):
            member = holder[1:] if holder.startswith("@") else f"{holder}:{unit}"
            found[member] = end if "inf" in end else number(end)  # JSON has no infinity
    return found


#: The type of the key, and how what it holds for a policy is read.
STATES: dict[str, tuple[str, Callable[[list[str]], Any]]] = {
    "doubles": ("hash", doubles),
    "debt": ("hash", debt),
    "bytes": ("hash", lambda words: {"hex": words[0].encode().hex()}),
    "log": ("list", log),
    "leases": ("zset", leases),
    "text": ("string", lambda words: words[0]),
}
#: The member of a vector's state that holds it.
MEMBERS = {"list": "entries", "zset": "entries", "string": "value"}


def state(text: str, policy: str, policies: Policies) -> list[dict[str, Any]]:
    """Every key of a column; what stands in one hash is put together."""
    keys: dict[str, dict[str, Any]] = {}
    for part in text.split(", ") if text != "-" else []:
        name, _, own = part.rpartition(": ")
        name, _, other = (name or policy).partition("@")
        key = OTHER if other else policies[name].key
        words = shlex.split(own)
        ttl: Any = LONG_MS
        if words[-1].startswith(("ttl=", "life=")):
            kind, value = words.pop().split("=")
            ttl = number(value) if kind == "ttl" else life(number(value))
        kind, read = STATES[words.pop(0) if words[0] in STATES else policies[name].state]
        entry = keys.setdefault(key, {"key": key, "type": kind})
        if kind == "hash":
            entry.setdefault("fields", {})[policies[name].arguments["field"]] = read(words)
        else:
            entry[MEMBERS[kind]] = read(words)
        entry["ttl_ms"] = ttl
    return list(keys.values())


def life(reset_us: int) -> list[int]:
    """The range in which a key's life must lie that counts for ``reset_us`` from now."""
    least = -(-reset_us // 1000) + GIVEN_MS
    return [least, least + SLACK_MS]


# --- rows ---


def call(text: str, policies: Policies) -> tuple[str, list[str], list[str]]:
    """The script, the keys and the arguments of a call of one policy."""
    policy, *words = shlex.split(text)
    own = options(words[3:])
    at_least = [spelled(own.pop("at_least"))] if "at_least" in own else []
    words = [spelled(word) for word in words[:3]] + policies[policy].words(own) + at_least
    return policies[policy].script, [policies[policy].key], words


def call_of_several(text: str, asked: str, policies: Policies) -> tuple[str, list[str], list[str]]:
    """The keys and the arguments of a call of several policies."""
    now, mode, *rest = text.split()
    own = {"at_least": "0", "keys": "window,log", **options(rest)}
    keys = [OTHER if "@" in name else policies[name].key for name in own["keys"].split(",")]
    arguments = [spelled(now), mode, own["at_least"]]
    for one in asked.split(", "):
        name, *changes = one.split()
        changed = {"shadow": "0", "cost": "1", **options(changes)}
        policy = policies[name.partition("@")[0]]
        key = OTHER if "@" in name else policy.key
        block = [changed.get("script", policy.script)]
        block += [
            changed.get("key") or str(keys.index(key) + 1),
            changed["shadow"],
            changed["cost"],
        ]
        block += policy.words(changed)
        arguments += block[: len(block) - int(changed.get("cut", "0"))]
    return "several", keys, arguments


def vector(row: str, first: str, policies: Policies) -> dict[str, Any]:
    """The vector of a row; ``first`` is the policy that it is about if it names none."""
    asked, *columns, reply, before, after, name = row.split(" | ")
    policy = asked.split()[0]
    if policy not in policies:
        policy, asked = first, f"{first} {asked}"
    if columns:
        script, keys, words = call_of_several(asked.removeprefix(f"{first} "), columns[0], policies)
    else:
        script, keys, words = call(asked, policies)
    found: dict[str, Any] = {"name": f"{script}: {name}", "script": script}
    found |= {"keys": keys, "args": words, "before": state(before, policy, policies)}
    if reply[0].isdigit():
        found["reply"] = [*map(number, reply.replace(",", "").split()), int(words[0])]
    else:
        said = f"LIMITER an argument of {script} v1 is out of range"
        found["error"] = said if reply == "out of range" else reply
    left = found["before"] if after == "=" else state(after, policy, policies)
    found["after"] = [
        {**key, "ttl_ms": ttl if isinstance(ttl := key["ttl_ms"], list) else [ttl, ttl]}
        for key in left
    ]
    return found


def refusals(changes: str, before: str, takes: str) -> Iterator[str]:
    """The rows of ``refusals.txt`` for one policy, of which ``changes`` are made."""
    rates, of_leases = ["hit", "refund", "settle"], ["acquire", "renew", "release"]
    own, others = (rates, of_leases) if takes == "hit" else (of_leases, rates)
    for line in lines("refusals"):
        for mode in own if "{own}" in line else others if "{other}" in line else [takes]:
            row = line.format(takes=takes, TAKES=takes.upper(), own=mode, other=mode)
            asked, reply, name = row.split(" | ")
            there = "text 'not ours'" if reply == "WRONGTYPE" else before
            yield f"{asked}{changes} | {reply} | {there} | = | {name}"


def lines(table: str) -> list[str]:
    """The rows of a table, each in one line; no comments."""
    text = re.sub(r"^#.*\n", "", (HERE / f"{table}.txt").read_text(), flags=re.M)
    text = re.sub(r"\n +", " ", text)
    return [re.sub(r" *\| *", " | ", line).strip() for line in text.splitlines() if line]


def read_policies(table: str) -> Policies:
    """The policies that a table names, in their order."""
    found = {}
    for line in lines(table):
        if line.startswith("policy "):
            name, script, kind, *arguments = line.split()[1:]
            found[name] = Policy(script, kind, options(arguments))
    return found


def vectors() -> Iterator[dict[str, Any]]:
    """Every vector of every table."""
    own = {table: read_policies(table) for table in TABLES}
    policies = {name: policy for of_table in own.values() for name, policy in of_table.items()}
    for table in TABLES:
        first = next(iter(own[table]))
        for line in lines(table):
            if line.startswith("refusals "):
                changes, before = line.removeprefix("refusals").split(" | ")
                takes = "acquire" if policies[first].state == "leases" else "hit"
                for row in refusals(changes, before, takes):
                    yield vector(row, first, policies)
            elif not line.startswith("policy "):
                yield vector(line, first, policies)


def text() -> str:
    """The file: a vector is an object, and each of its members a line."""
    objects = []
    for item in vectors():
        members = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in item.items()]
        objects.append("  {\n" + ",\n".join(members) + "\n  }")
    return "[\n" + ",\n".join(objects) + "\n]\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_text(text())
