"""What can be said of a script by reading it: each check raises AssertionError and says where."""

from __future__ import annotations

import re
from typing import NamedTuple

#: How a script must not be written, and why.
BANNED = {
    r"\.\.": "a number in a string has 14 digits, and a key that is built is no key of KEYS",
    r"\btostring\b": "a number in a string has 14 digits",
    r'string\.format\((?!"%s:%d", id, unit\))': "numbers are passed as numbers, but to name a lease",
    r"\bpcall\b": "an error that is caught after a write is half a decision",
    r"^#!": "with a shebang a full store refuses even denials",
    r"EVALSHA_RO|no-writes": "peek is the same script, on the primary",
    r'"KEYS"|"SCAN"|"HGETALL"|"LRANGE"|"FLUSH': "work that grows with the store, or with the log",
    r'"ZRANGE", key, (?!far_us, now_us \+ 1, "BYSCORE", "REV",\s+"LIMIT", 0, |dead, dead,)': (
        "work that grows with the set"
    ),
    r'"SET"|"HMSET"|"PERSIST"': "a plain SET drops the expiry",
    r'"INCR|"HINCR|"EXPIRE"|"DECR': "state is written whole, lives are in milliseconds",
    r"\bos\.|math\.random|\bwhile true\b": "there is one clock, and no chance",
    r"redis\.(?!call\b|error_reply\b)": "only call and error_reply are used",
}

#: What can find a key of another type, or be refused, while nothing has been written yet.
READS = {"HGET", "LLEN", "LINDEX", "TYPE", "ZCARD", "ZCOUNT", "ZRANGE", "ZSCORE"}


class Argument(NamedTuple):
    """A line of the header's table."""

    table: str
    number: int
    name: str


def header_and_body(text: str) -> tuple[str, str]:
    """A script's header, without its brackets, and its code, without its comments."""
    assert text.startswith("--[[\n"), "a script begins with its header"
    header, _, body = text.removeprefix("--[[\n").partition("\n]]\n")
    return header, re.sub(r"--[^\n]*", "", body)


def arguments(text: str) -> list[Argument]:
    """Every numbered KEYS and ARGV of the header, in order."""
    header, _ = header_and_body(text)
    found = re.findall(r"^(KEYS|ARGV)\[(\d+)\] (\w+)  +\S", header, re.M)
    return [Argument(table, int(number), name) for table, number, name in found]


def check_title(name: str, version: str, text: str) -> None:
    """The header begins with the script's identity: its path."""
    header, _ = header_and_body(text)
    assert header.startswith(f"{name} {version}: "), header.splitlines()[0]


def check_header(text: str) -> None:
    """Numbers are contiguous, and the body binds each of them once, under the header's name."""
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
    """Arguments are read and converted in one block, and nowhere below it."""
    _, body = header_and_body(text)
    _, _, rest = body.partition("local takes = ")
    assert rest, "the block of arguments ends where the mode is looked at"
    assert not re.search(r"\b(KEYS|ARGV)\b", rest), "an argument is read below the first block"


def check_reply(text: str) -> None:
    """The body returns as many integers as the header names; the last is the time."""
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
    """A policy's block in ``several`` is its script's own arguments, in their order."""
    _, body = header_and_body(several)
    branches = re.split(r'\b(?:else)?if algorithm == "(\w+)" then\n', body)[1:]
    found = dict(zip(branches[::2], branches[1::2], strict=True))
    assert set(found) == set(singles), f"several decides {sorted(found)}"
    common = re.search(r"local algorithm, index, shadow, cost = (.*)\n", body)
    first = re.search(r"local field, limit, key = (.*)\n", body)
    assert common
    assert first
    assert re.findall(r"at \+ (\d+)", common[1] + first[1]) == ["1", "2", "3", "4", "5", "6"]
    for name, branch in found.items():
        own = [a.name for a in arguments(singles[name]) if a.table == "ARGV"]
        own = own[own.index("cost") : own.index("at_least")]
        bound = re.findall(r"local (\w+) = ARGV\[at \+ (\d+)\]", branch)
        expected = [(word, str(n)) for n, word in enumerate(own, 4)][3:]  # cost, field and limit
        assert bound == expected, f"{name}: {bound}, and its script has {own}"
        (step,) = re.findall(r"\bat = at \+ (\d+)", branch)
        assert int(step) == 3 + len(own), f"{name}: a block has {3 + len(own)} words, not {step}"


def check_words(text: str) -> None:
    """Nothing of what went wrong elsewhere is written here."""
    _, body = header_and_body(text)
    for pattern, reason in BANNED.items():
        assert not (hit := re.search(pattern, body, re.M)), f"{hit and hit[0]!r}: {reason}"


def check_keys(text: str) -> None:
    """Every command works on ``key``, and ``key`` comes out of KEYS as it is."""
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
    """The time is asked for once, in one place, and only where none was given."""
    _, body = header_and_body(text)
    assert body.count('redis.call("TIME")') == 1
    assert re.search(r'if now_us == 0 then\n  local time = redis\.call\("TIME"\)\n', body)
    assert "now_us = time[1] * 1000000 + time[2]" in body


def check_writes(text: str) -> None:
    """What can make a key is followed by what gives it a life."""
    _, body = header_and_body(text)
    last_life = body.rfind('redis.call("PEXPIRE"')
    for write in ("HSET", "RPUSH", "ZADD"):
        assert body.rfind(f'redis.call("{write}"') < last_life, f"no expiry follows {write}"


def check_reads_first(text: str) -> None:
    """Everything is read, and so known to be what it should be, before the first write."""
    _, body = header_and_body(text)
    called = list(re.finditer(r'redis\.call\("(\w+)"', body))
    reads = [one.start() for one in called if one[1] in READS]
    writes = [one.start() for one in called if one[1] not in {*READS, "TIME", "PTTL"}]
    assert max(reads) < min(writes), body[min(writes) :].splitlines()[0]


def commands(text: str) -> set[str]:
    """Every command that a script calls, in lower case."""
    _, body = header_and_body(text)
    direct = re.findall(r'redis\.call\("(\w+)"', body)
    listed = re.findall(r'\{"(\w+)", key\b', body)  # called by unpacking
    return {name.lower() for name in [*direct, *listed]}


def check_text(name: str, text: str) -> None:
    """Every check that a script for one policy or several has to pass by itself."""
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
