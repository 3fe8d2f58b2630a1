"""Write the test vectors of the scripts, ``lua/v1/vectors.json``, from the tables in ``vectors/``.

Every expected value in a table was worked out by hand from the contract (``lua/README.md``). This program
only converts it: numbers to doubles in bytes, expiries to ranges, and each call to its packed form, too. A
test runs both forms of each vector through EVALSHA; another compares ``vectors.json`` with this program's
output. ``vectors/README.md`` explains the tables.
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
from typing import Any, NamedTuple

HERE = Path(__file__).parent / "vectors"
OUT = HERE.parent.parent / "v1" / "vectors.json"
#: The order of the vectors in the file: the rates by name, and then these.
LAST = ["concurrency", "several", "reservation"]
TABLES = sorted({path.stem for path in HERE.glob("*.txt")} - {"refusals", *LAST}) + LAST

#: A time in 2026, and the length of the longest lease, beyond which no stored end can be true.
NAMES = {"T": 1_790_000_000_000_000, "FAR": 366 * 24 * 3_600_000_000}
UNITS = {"": 1, "s": 1_000_000, "h": 3_600_000_000}
#: How much longer a key lives than its state counts: up to a second, and an hour if time is given.
GIVEN_MS, SLACK_MS = 3_600_000, 1_000
#: A remaining life longer than any decision of the tables sets, so no call may change it.
LONG_MS = 9_000_000
#: The scripts that ``few`` knows, and their numbers there.
IN_FEW = {"fixed_window": "1", "sliding_window": "2", "token_bucket": "3"}
#: The hashes of two subjects.
KEY, OTHER = "rl:{vector}:api:v1", "rl:{vector}:other:v1"


@dataclass(frozen=True)
class Policy:
    """A line ``policy``: its script, the notation of its state, and its arguments by name."""

    script: str
    state: str
    arguments: dict[str, str]

    @property
    def key(self) -> str:
        """The key of its state: the subject's hash, or a key of its own."""
        return KEY if STATES[self.state][0] == "hash" else f"{KEY}:{self.arguments['field']}"

    @property
    def own(self) -> list[str]:
        """The names of the algorithm's own arguments, behind ``field`` and ``limit``."""
        return [name for name in self.arguments if name not in ("field", "limit", "id")]

    def words(self, own: dict[str, str]) -> list[str]:
        """Return its arguments in the script's order; ``own`` replaces some of them."""
        return [spelled(own.get(name, value)) for name, value in self.arguments.items()]


Policies = dict[str, Policy]


class Call(NamedTuple):
    """A script's name, keys and arguments as text; and the same call packed, if there is such a form."""

    script: str
    keys: list[str]
    args: list[str]
    packed: dict[str, Any] | None


# --- words ---


def number(text: str) -> Any:
    """Return the value of ``T+10s-1``, ``2^53`` or ``nan``; None if the text is no number."""
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
    """Write an argument or entry in the form that Redis gets."""
    value = number(text)
    return text.replace(r"\0", "\0") if value is None else str(value)


def options(words: list[str]) -> dict[str, str]:
    """Split words of the form ``name=value``."""
    return dict(word.split("=", 1) for word in words)


# --- states ---


def doubles(words: list[str]) -> dict[str, Any]:
    """Pack numbers as little-endian doubles; show them beside the bytes if JSON can write them."""
    values = [number(word) for word in words]
    shown = {"doubles": values} if all(map(math.isfinite, values)) else {}
    return {"hex": struct.pack(f"<{len(values)}d", *values).hex(), **shown}


def debt(words: list[str]) -> dict[str, Any]:
    """Pack a bucket: when it is full, a fraction of a microsecond, and ``reach=`` its ``reach_s``."""
    reach = int(words.pop()[6:]) if words[-1].startswith("reach=") else 5
    data = struct.pack("<dI", number(words[0]), reach)
    for fraction in words[1:]:
        data += struct.pack("<2d", *map(number, fraction.split("/")))
    return {"hex": data.hex()}


def log(words: list[str]) -> list[str]:
    """Convert the entries of a log, the oldest first."""
    return [spelled(word) for word in words]


def leases(words: list[str]) -> dict[str, Any]:
    """Read when each unit of a holder expires (``b=T+12s/T+12s``); ``@`` begins a full member name."""
    ends_by_member: dict[str, Any] = {}
    for word in words:
        holder, ends = word.rsplit("=", 1)
        for unit, end in enumerate(ends.split("/"), 1):
            member = holder[1:] if holder.startswith("@") else f"{holder}:{unit}"
            ends_by_member[member] = end if "inf" in end else number(end)  # JSON has no infinity
    return ends_by_member


#: For each notation of a state: the type of its key, and the function that reads it.
STATES: dict[str, tuple[str, Callable[[list[str]], Any]]] = {
    "doubles": ("hash", doubles),
    "debt": ("hash", debt),
    "bytes": ("hash", lambda words: {"hex": words[0].encode().hex()}),
    "log": ("list", log),
    "leases": ("zset", leases),
    "text": ("string", lambda words: words[0]),
}
#: The member of a key's JSON object that holds the content.
MEMBERS = {"list": "entries", "zset": "entries", "string": "value"}


def state(text: str, policy: str, policies: Policies) -> list[dict[str, Any]]:
    """Read a column into its keys; the fields of one hash become one key."""
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
    """Return the range of the remaining life of a key whose state counts for ``reset_us`` from now."""
    least = -(-reset_us // 1000) + GIVEN_MS
    return [least, least + SLACK_MS]


# --- rows ---


def packed(script: str, key: str, numbers: list[str], words: list[str]) -> dict[str, Any] | None:
    """Return a call in packed form; None if one of its numbers is no number."""
    try:
        values = [float(spelled(number)) for number in numbers]
    except ValueError:
        return None
    data = struct.pack(f"<{len(values)}d", *values).hex()
    return {"script": script, "keys": [key], "args": [data, *words]}


def call(text: str, policies: Policies) -> Call:
    """Return the call of one policy."""
    name, now, mode, cost, *changes = shlex.split(text)
    policy, own = policies[name], options(changes)
    leases = policy.state == "leases"
    optional = [own.get("at_least", cost), own.get("step", "1")]
    given = 2 if "step" in own else 1 if "at_least" in own else 0
    words = [spelled(now), mode, spelled(cost), *policy.words(own), *map(spelled, optional[:given])]
    changed = {**policy.arguments, **own}
    numbers = [now, cost, optional[0], *(changed[name] for name in ("limit", *policy.own))]
    strings = [changed["field"]]
    if leases:
        strings.append(spelled(changed["id"]))
    else:
        numbers.append(optional[1])
    if mode != ("acquire" if leases else "hit"):
        strings.append(mode)
    key = policy.key
    return Call(policy.script, [key], words, packed(policy.script, key, numbers, strings))


def call_of_several(text: str, blocks: str, policies: Policies) -> Call:
    """Return the call of several policies."""
    now, mode, *rest = text.split()
    own = {"at_least": "0", "step": "1", "keys": "window,log", **options(rest)}
    keys = keys_of(own["keys"], policies)
    arguments = [spelled(now), mode, own["at_least"], own["step"]]
    arguments += words_of(blocks, keys, policies)
    return Call("several", keys, arguments, call_of_few(now, mode, own, blocks, policies))


def call_of_reservation(text: str, blocks: str, policies: Policies) -> Call:
    """Return the call about a reservation of several policies; the record is its last key."""
    now, mode, *rest = text.split()
    own = {"life_ms": "60000", "keys": "window,log", **options(rest)}
    keys = keys_of(own["keys"], policies)
    arguments = [spelled(now), mode, spelled(own["life_ms"]), *words_of(blocks, keys, policies)]
    return Call("reservation", [*keys, policies["record"].key], arguments, None)


def keys_of(names: str, policies: Policies) -> list[str]:
    """Return the keys of these policies; ``@`` follows the name of one whose hash is another subject's."""
    return [OTHER if "@" in name else policies[name].key for name in names.split(",")]


def words_of(blocks: str, keys: list[str], policies: Policies) -> list[str]:
    """Return the arguments of a list of policies."""
    arguments: list[str] = []
    for block_text in blocks.split(", ") if blocks != "-" else []:
        name, *changes = block_text.split()
        changed = {"shadow": "0", "cost": "1", **options(changes)}
        policy = policies[name.partition("@")[0]]
        key = OTHER if "@" in name else policy.key
        block = [changed.get("script", policy.script)]
        block += [
            changed.get("key") or str(keys.index(key) + 1),
            changed["shadow"],
            spelled(changed["cost"]),
        ]
        block += policy.words(changed)
        arguments += block[: len(block) - int(changed.get("cut", "0"))]
    return arguments


def call_of_few(
    now: str, mode: str, own: dict[str, str], blocks: str, policies: Policies
) -> dict[str, Any] | None:
    """Return the call in which ``few`` decides the same; None if it does not decide such calls."""
    names = [block.split()[0] for block in blocks.split(", ")]
    changes = [{"cost": "1", **options(block.split()[1:])} for block in blocks.split(", ")]
    costs = {changed["cost"] for changed in changes}
    if mode != "hit" or len(names) not in (2, 3) or len(costs) > 1 or any("@" in n for n in names):
        return None
    if any({"shadow", "script", "key", "cut"} & set(changed) for changed in changes):
        return None
    chosen = [policies[name] for name in names]
    if any(policy.script not in IN_FEW for policy in chosen):
        return None
    (cost,) = costs
    # several takes 0 for all, and more than a policy's cost for its cost.
    at_least = float(own["at_least"])
    numbers = [now, cost, cost if at_least == 0 else str(min(at_least, float(cost))), own["step"]]
    for policy, changed in zip(chosen, changes, strict=True):
        values = {**policy.arguments, **changed}
        numbers += [IN_FEW[policy.script], *(values[name] for name in ("limit", *policy.own))]
    return packed("few", KEY, numbers, [policy.arguments["field"] for policy in chosen])


def vector(row: str, first: str, policies: Policies) -> dict[str, Any]:
    """Make the vector of a row; ``first`` is its policy if the row names none."""
    request, *columns, reply, before, after, name = row.split(" | ")
    policy = request.split()[0]
    if policy not in policies:
        policy, request = first, f"{first} {request}"
    if columns:
        of_list = call_of_reservation if first == "record" else call_of_several
        asked = of_list(request.removeprefix(f"{first} "), columns[0], policies)
    else:
        asked = call(request, policies)
    result: dict[str, Any] = {"name": f"{asked.script}: {name}", "script": asked.script}
    result |= {"keys": asked.keys, "args": asked.args}
    if asked.packed:
        result["packed"] = asked.packed
    result["before"] = state(before, policy, policies)
    if reply[0].isdigit():
        result["reply"] = [*map(number, reply.replace(",", "").split()), int(asked.args[0])]
    else:
        message = (
            "LIMITER an argument of {} v1 is out of range" if reply == "out of range" else reply
        )
        result["error"] = message.format(asked.script)
        if asked.packed:
            asked.packed["error"] = message.format(asked.packed["script"])
    stored = result["before"] if after == "=" else state(after, policy, policies)
    result["after"] = [
        {**key, "ttl_ms": ttl if isinstance(ttl := key["ttl_ms"], list) else [ttl, ttl]}
        for key in stored
    ]
    return result


def refusals(changes: str, before: str, takes: str) -> Iterator[str]:
    """Write the rows of ``refusals.txt`` for one policy, with ``changes`` to its arguments."""
    rates, of_leases = ["hit", "refund", "settle"], ["acquire", "renew", "release"]
    own, others = (rates, of_leases) if takes == "hit" else (of_leases, rates)
    for line in lines("refusals"):
        if "{rate}" in line and takes != "hit":
            continue
        for mode in own if "{own}" in line else others if "{other}" in line else [takes]:
            row = line.format(takes=takes, rate=takes, TAKES=takes.upper(), own=mode, other=mode)
            request, reply, name = row.split(" | ")
            stored = "text 'not ours'" if reply == "WRONGTYPE" else before
            yield f"{request}{changes} | {reply} | {stored} | = | {name}"


def lines(table: str) -> list[str]:
    """Read the rows of a table, each in one line, without comments."""
    text = re.sub(r"^#.*\n", "", (HERE / f"{table}.txt").read_text(), flags=re.M)
    text = re.sub(r"\n +", " ", text)
    return [re.sub(r" *\| *", " | ", line).strip() for line in text.splitlines() if line]


def read_policies(table: str) -> Policies:
    """Read the policies of a table, in their order."""
    policies = {}
    for line in lines(table):
        if line.startswith("policy "):
            name, script, kind, *arguments = line.split()[1:]
            policies[name] = Policy(script, kind, options(arguments))
    return policies


def vectors() -> Iterator[dict[str, Any]]:
    """Make every vector of every table."""
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
    """Write the file: an object for each vector, with a line for each member."""
    objects = []
    for item in vectors():
        members = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in item.items()]
        objects.append("  {\n" + ",\n".join(members) + "\n  }")
    return "[\n" + ",\n".join(objects) + "\n]\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_text(text())
