"""Checks of a script's text: each raises AssertionError, and names the place."""

from __future__ import annotations

import re
from typing import NamedTuple

#: Text that a script must not contain, and the reason.
BANNED = {
    r"\.\.": "it writes only 14 digits of a number, and a key that is built is not in KEYS",
    r"\btostring\b": "it writes only 14 digits of a number",
    r'string\.format\((?!"%s:%d", id, unit\))': "numbers are passed as numbers, but in a lease's name",
    r"\bpcall\b": "if an error is caught after a write, half of the decision remains",
    r"^#!": "with a shebang a full store refuses even calls that write nothing",
    r"EVALSHA_RO|no-writes": "peek is the same script, on the primary",
    r'"KEYS"|"SCAN"|"HGETALL"|"LRANGE"|"FLUSH': "work that grows with the store, or with the log",
    r'"ZRANGE", key, (?!far_us, now_us \+ 1, "BYSCORE", "REV",\s+"LIMIT", 0, |dead, dead,)': (
        "work that grows with the set"
    ),
    r'"SET"|"HMSET"|"PERSIST"': "a plain SET drops the expiry",
    r'"INCR|"HINCR|"EXPIRE"|"DECR': "state is written as a whole, and expiries are in milliseconds",
    r"\bos\.|math\.random|\bwhile true\b": "the only clock is TIME, and no decision is random",
    r"redis\.(?!call\b|error_reply\b)": "only call and error_reply are used",
}

#: Commands that only read: they find a key of another type before any write.
READS = {"HGET", "LLEN", "LINDEX", "TYPE", "ZCARD", "ZCOUNT", "ZRANGE", "ZSCORE"}


class Argument(NamedTuple):
    """An argument in the header."""

    table: str
    number: int
    name: str


def header_and_body(text: str) -> tuple[str, str]:
    """Split a script into its header without brackets, and its code without comments."""
    assert text.startswith("--[[\n"), "a script begins with its header"
    header, _, body = text.removeprefix("--[[\n").partition("\n]]\n")
    return header, re.sub(r"--[^\n]*", "", body)


def arguments(text: str) -> list[Argument]:
    """Return every numbered KEYS and ARGV of the header, in order."""
    header, _ = header_and_body(text)
    listed = re.findall(r"^(KEYS|ARGV)\[(\d+)\] (\w+)  +\S", header, re.M)
    return [Argument(table, int(number), name) for table, number, name in listed]


def check_title(name: str, version: str, text: str) -> None:
    """Check that the header begins with the script's name and version."""
    header, _ = header_and_body(text)
    assert header.startswith(f"{name} {version}: "), header.splitlines()[0]


def check_header(text: str) -> None:
    """Check that numbers have no gap, and that the body binds each argument by the header's name."""
    _, body = header_and_body(text)
    listed = arguments(text)
    for table in ("KEYS", "ARGV"):
        numbers = [argument.number for argument in listed if argument.table == table]
        assert numbers == list(range(1, len(numbers) + 1)), f"{table} in the header: {numbers}"
        used = {int(number) for number in re.findall(rf"\b{table}\[(\d+)\]", body)}
        assert used == set(numbers), f"{table}: the header has {numbers}, the body {sorted(used)}"
    for table, number, name in listed:
        place = re.escape(f"{table}[{number}]")
        line = re.search(rf"^local (?:ARGV, )?(\w+) = (?:ARGV, )?{place}", body, re.M)
        assert line, f"{table}[{number}] is bound to no local"
        assert line[1] == name, f"the header calls {table}[{number}] {name}, the body {line[1]}"


def check_bound_at_the_top(text: str) -> None:
    """Check that the body reads its arguments only in the first block."""
    _, body = header_and_body(text)
    _, _, rest = body.partition("local takes = ")
    assert rest, "the block of arguments ends where the mode is looked at"
    assert not re.search(r"\b(KEYS|ARGV)\b", rest), "an argument is read below the first block"


def check_reply(text: str) -> None:
    """Check that the body returns the integers that the header names; the last is the time."""
    header, body = header_and_body(text)
    named = re.search(r"^Returns \{([^}]*)\}", header, re.M)
    returned = re.findall(r"^return \{([^}]*)\}", body, re.M)
    assert named
    names = re.findall(r"\w+", named[1])
    values = returned[0].split(",")
    assert len(returned) == 1
    assert len(values) == len(names), f"{len(names)} are named, {len(values)} returned"
    assert names[-1] == values[-1].strip() == "now_us"


def check_blocks(several: str, singles: dict[str, str]) -> None:
    """Check that a policy's block in ``several`` has its script's arguments, in their order."""
    _, body = header_and_body(several)
    branches = re.split(r'\b(?:else)?if algorithm == "(\w+)" then\n', body)[1:]
    blocks = dict(zip(branches[::2], branches[1::2], strict=True))
    assert set(blocks) == set(singles), f"several decides {sorted(blocks)}"
    common = re.search(r"local algorithm, index, shadow, cost = (.*)\n", body)
    first = re.search(r"local field, limit, key = (.*)\n", body)
    assert common
    assert first
    assert re.findall(r"at \+ (\d+)", common[1] + first[1]) == ["1", "2", "3", "4", "5", "6"]
    for name, branch in blocks.items():
        own = [a.name for a in arguments(singles[name]) if a.table == "ARGV"]
        own = own[own.index("cost") : own.index("at_least")]
        bound = re.findall(r"local (\w+) = ARGV\[at \+ (\d+)\]", branch)
        expected = [(word, str(n)) for n, word in enumerate(own, 4)][3:]  # cost, field and limit
        assert bound == expected, f"{name}: {bound}, and its script has {own}"
        (step,) = re.findall(r"\bat = at \+ (\d+)", branch)
        assert int(step) == 3 + len(own), f"{name}: a block has {3 + len(own)} words, not {step}"


def check_words(text: str) -> None:
    """Check that the script contains none of ``BANNED``, which lists faults of other limiters."""
    _, body = header_and_body(text)
    for pattern, reason in BANNED.items():
        assert not (hit := re.search(pattern, body, re.M)), f"{hit and hit[0]!r}: {reason}"


def check_keys(text: str) -> None:
    """Check that every command works on ``key``, which is an element of KEYS."""
    _, body = header_and_body(text)
    for command, rest in re.findall(r'redis\.call\("(\w+)"(.)', body):
        assert command == "TIME" or rest == ",", command
    assert body.count("redis.call((") <= body.count('= {"HSET", key') + body.count('= {"DEL", key')
    subjects = re.findall(r'redis\.call\("\w+", (\w+)', body)
    assert set(subjects) == {"key"}
    for names, values in re.findall(r"^ *local ([\w, ]*\bkey\b[\w, ]*) = (.*)$", body, re.M):
        value = values.split(", ")[names.split(", ").index("key")]
        assert re.fullmatch(r"KEYS\[\w+\]", value), f"key is {value}"


def check_clock(text: str) -> None:
    """Check that TIME is called in one place, and only if no time is given."""
    _, body = header_and_body(text)
    assert body.count('redis.call("TIME")') == 1
    assert re.search(r'if now_us == 0 then\n  local time = redis\.call\("TIME"\)\n', body)
    assert "now_us = time[1] * 1000000 + time[2]" in body


def check_writes(text: str) -> None:
    """Check that PEXPIRE follows every command that can make a key."""
    _, body = header_and_body(text)
    last_life = body.rfind('redis.call("PEXPIRE"')
    for write in ("HSET", "RPUSH", "ZADD"):
        assert body.rfind(f'redis.call("{write}"') < last_life, f"no expiry follows {write}"


def check_reads_first(text: str) -> None:
    """Check that all reads, which find keys of another type, come before the first write."""
    _, body = header_and_body(text)
    called = list(re.finditer(r'redis\.call\("(\w+)"', body))
    reads = [match.start() for match in called if match[1] in READS]
    writes = [match.start() for match in called if match[1] not in {*READS, "TIME", "PTTL"}]
    assert max(reads) < min(writes), body[min(writes) :].splitlines()[0]


def commands(text: str) -> set[str]:
    """Return every command that a script calls, in lower case."""
    _, body = header_and_body(text)
    direct = re.findall(r'redis\.call\("(\w+)"', body)
    listed = re.findall(r'\{"(\w+)", key\b', body)  # called by unpacking
    return {name.lower() for name in [*direct, *listed]}


def check_text(name: str, text: str) -> None:
    """Run every check of a single script."""
    check_title(name, "v1", text)
    check_words(text)
    check_keys(text)
    check_clock(text)
    check_writes(text)
    check_reads_first(text)
    if name != "several":
        check_header(text)
        check_bound_at_the_top(text)
        check_reply(text)
