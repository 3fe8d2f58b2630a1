"""Checks of a script's text: each raises AssertionError, and names the place."""

from __future__ import annotations

import re
from typing import NamedTuple

#: Text that a script must not contain, and the reason.
BANNED = {
    r"\.\.": "it writes only 14 digits of a number, and a key that is built is not in KEYS",
    r"\btostring\b": "it writes only 14 digits of a number",
    r'string\.format\((?!"%s:%d", id, unit\)|"%\.0f", )': (
        "numbers are passed as numbers, but in a lease's name, and with all digits in a record"
    ),
    r"\bpcall\b": "if an error is caught after a write, half of the decision remains",
    r"^#!": "with a shebang a full store refuses even calls that write nothing",
    r"EVALSHA_RO|no-writes": "peek is the same script, on the primary",
    r'"KEYS"|"SCAN"|"HGETALL"|"LRANGE"|"FLUSH': "work that grows with the store, or with the log",
    r'"ZRANGE", key, (?!far_us, now_us \+ 1, "BYSCORE", "REV",\s+"LIMIT", 0, |dead, dead,)': (
        "work that grows with the set"
    ),
    r'"SET"(?!, key, (?:"-1"|table\.concat\(units, " "\)), (?:"PX", life_ms \+ slack_ms|"KEEPTTL")\))': (
        "a plain SET drops the expiry"
    ),
    r'"HMSET"|"PERSIST"': "state is written as a whole, and always expires",
    r'"INCR|"HINCR|"EXPIRE"|"DECR': "state is written as a whole, and expiries are in milliseconds",
    r"\bos\.|math\.random|\bwhile true\b": "the only clock is TIME, and no decision is random",
    r"redis\.(?!call\b|error_reply\b)": "only call and error_reply are used",
    r"redis\.call\(": "commands are called by the local that names redis.call",
    r"\bcall\((?!\")": "every command is named where it is called",
}

#: Commands that only read: they find a key of another type before any write.
READS = {"GET", "HGET", "HMGET", "LLEN", "LINDEX", "TYPE", "ZCARD", "ZCOUNT", "ZRANGE", "ZSCORE"}


#: The end of every write that may need a new expiry: it never moves one to earlier.
LIFE = r"""
( *)local ttl_ms = math\.floor\(reset_us / 1000\) \+ slack_ms \+ 1000
\1local first, second = "NX", "GT"
\1if in_use then
\1  first, second = "GT", "NX"
\1end
\1if call\("PEXPIRE", key, ttl_ms, first\) == 0 then
\1  call\("PEXPIRE", key, ttl_ms, second\)
\1end
"""

#: The scripts that decide more than one policy. The last knows no text form.
LISTS = ("several", "reservation", "few")


class Argument(NamedTuple):
    """An argument in the header."""

    table: str
    number: int
    name: str


class Header(NamedTuple):
    """The arguments of a script: in text, packed, and the numbers that the first packed one has."""

    keys: list[Argument]
    text: list[Argument]
    packed: list[Argument]
    numbers: list[str]


def header_and_body(text: str) -> tuple[str, str]:
    """Split a script into its header without brackets, and its code without comments."""
    assert text.startswith("--[[\n"), "a script begins with its header"
    header, _, body = text.removeprefix("--[[\n").partition("\n]]\n")
    return header, re.sub(r"--[^\n]*", "", body)


def arguments(text: str) -> Header:
    """Return every numbered KEYS and ARGV of the header, in order."""
    header, _ = header_and_body(text)
    lists: dict[str, list[Argument]] = {"keys": [], "text": [], "packed": []}
    form, numbers = "text", []
    for line in header.splitlines():
        if line.startswith("Packed, little-endian doubles:"):
            form = "packed"
        listed = re.match(r"(KEYS|ARGV)\[(\d+)\] (\w+)  +(\S.*)", line)
        if not listed:
            continue
        table, number, name, meaning = listed.groups()
        packed_only = meaning.startswith("little-endian doubles: ")
        if packed_only:
            form = "packed"
        if name == "numbers" and form == "packed":
            meaning = meaning.removeprefix("little-endian doubles: ").partition(", as ")[0]
            numbers = meaning.split(", ")
        lists["keys" if table == "KEYS" else form].append(Argument(table, int(number), name))
    return Header(lists["keys"], lists["text"], lists["packed"], numbers)


def check_title(name: str, version: str, text: str) -> None:
    """Check that the header begins with the script's name and version."""
    header, _ = header_and_body(text)
    assert header.startswith(f"{name} {version}: "), header.splitlines()[0]


def check_header(text: str) -> None:
    """Check that numbers have no gap, and that the body binds each argument by the header's name."""
    _, body = header_and_body(text)
    header = arguments(text)
    assert header.text
    assert header.packed
    for listed in (header.keys, header.text, header.packed):
        numbers = [argument.number for argument in listed]
        assert numbers == list(range(1, len(numbers) + 1)), f"in the header: {numbers}"
    assert [argument.name for argument in header.keys] == ["key"]
    forms = re.search(
        r"^local ARGV, key, call = ARGV, KEYS\[1\], redis\.call\n"
        r"local ([\w, ]+)\n"
        r"local packed = #ARGV\[1\] > 20\n"
        r"if packed then\n((?:  .*\n)+)else\n((?:  .*\n)+)end\n",
        body,
        re.M,
    )
    assert forms, "the body does not begin with both forms of its arguments"
    locals_, packed, plain = forms.groups()
    names = [argument.name for argument in header.text]
    assert set(locals_.split(", ")) == set(names), f"the header has {names}, the body {locals_}"
    bound = bindings(plain)
    expected = {argument.name: argument.number for argument in header.text}
    assert bound == expected, f"the header has {expected}, the body {bound}"
    check_packed(header, packed)


def bindings(lines: str) -> dict[str, int]:
    """Return the number of the argument that each name is bound to by these assignments."""
    bound: dict[str, int] = {}
    for left, right in re.findall(r"^ *([\w, ]+) = (.*)$", lines, re.M):
        values = re.findall(
            r"\(?ARGV\[(\d+)\](?: or \w+\))?(?: or \"\w+\")?(?: \+ 0)?(?:, |$)", right
        )
        assert len(values) == len(left.split(", ")), f"{left} = {right}"
        bound |= dict(zip(left.split(", "), map(int, values), strict=True))
    return bound


def check_packed(header: Header, lines: str) -> None:
    """Check that the packed numbers are those of the text, in its order, and unpacked in that order."""
    unpacked = re.match(r' *([\w, ]+) = struct\.unpack\("<(d+)", ARGV\[1\]\)\n', lines)
    assert unpacked, "the packed numbers are unpacked first"
    names = unpacked[1].split(", ")
    assert names == header.numbers, f"the header has {header.numbers}, the body {names}"
    assert len(unpacked[2]) == len(names), f"{len(unpacked[2])} doubles for {names}"
    text = [argument.name for argument in header.text]
    own = [name for name in text[text.index("limit") : text.index("at_least")] if name != "id"]
    assert names == ["now_us", "cost", "at_least", *own, *text[text.index("at_least") + 1 :]]
    bound = bindings(lines[unpacked.end() :])
    expected = {argument.name: argument.number for argument in header.packed[1:]}
    assert bound == expected, f"the header has {expected}, the body {bound}"
    assert {*names, *bound} == set(text), "both forms have the same arguments"


def check_header_of_few(text: str) -> None:
    """Check that each argument is bound by the header's name, and the numbers of each policy in turn."""
    _, body = header_and_body(text)
    header = arguments(text)
    assert header.text == []
    bound = re.findall(r"^local (\w+) = ARGV\[(\d+)\]$", body, re.M)
    assert [(a.name, str(a.number)) for a in header.packed] == bound
    unpacked = re.search(
        r'^local ([\w,\s]+) = struct\.unpack\(three and "<(d+)" or "<(d+)", numbers\)$', body, re.M
    )
    assert unpacked
    policies = [f"{w}{n}" for n in (1, 2, 3) for w in ("algorithm", "limit", "first", "second")]
    assert header.numbers == ["now_us", "cost", "at_least", "step"]
    assert re.split(r",\s+", unpacked[1]) == [*header.numbers, *policies]
    assert (len(unpacked[2]), len(unpacked[3])) == (16, 12)


def check_bound_at_the_top(name: str, text: str) -> None:
    """Check that the body reads its arguments only in the first block."""
    _, body = header_and_body(text)
    _, _, rest = body.partition("if not (" if name == "few" else "local takes = ")
    assert rest, "the block of arguments ends where they are checked"
    assert not re.search(r"\b(KEYS|ARGV)\b", rest), "an argument is read below the first block"


def check_reply(text: str) -> None:
    """Check that both forms return the numbers that the header names, in its order; last the time."""
    header, body = header_and_body(text)
    named = re.search(r"^Returns \{([^}]*)\}", header, re.M)
    assert named
    names = re.findall(r"\w+", named[1])
    returned = re.search(
        r'\nif packed then\n  return struct\.pack\("<(d+)", ([\w, ]+)\)\nend\nreturn \{([^}]*)\}\n*$',
        body,
    )
    assert returned, "the body ends with the reply to a packed call, and that to one in text"
    doubles, packed, plain = returned.groups()
    assert packed == plain, f"packed {packed}, in text {plain}"
    short = {"room": "remaining", "retry_us": "retry_after_us", "reset_us": "reset_after_us"}
    assert [short.get(value, value) for value in plain.split(", ")] == names
    assert len(doubles) == len(names)
    assert names[-1] == "now_us"
    assert len(re.findall(r"\breturn (?!redis\.error_reply\()", body)) == 2


def check_reply_of_few(text: str) -> None:
    """Check that it returns five numbers for each of three policies, or of two, and the time."""
    _, body = header_and_body(text)
    returned = re.findall(r'return struct\.pack\("<(d+)", ([\w,\s]+)\)', body)
    assert len(returned) == len(re.findall(r"\breturn (?!redis\.error_reply\()", body)) == 2
    for policies, (doubles, values) in zip((3, 2), returned, strict=True):
        numbers = range(1, policies + 1)
        each = [("granted", f"room{n}", f"retry{n}", f"reset{n}", f"delay{n}") for n in numbers]
        assert re.split(r",\s+", values) == [*(name for five in each for name in five), "now_us"]
        assert len(doubles) == 5 * policies + 1


def check_policies_of_few(few: str, singles: dict[str, str]) -> None:
    """Check that each algorithm of ``few`` takes its script's own two numbers, in their order."""
    header, body = header_and_body(few)
    listed = dict(re.findall(r"\b(\d) (\w+)", header.partition("Returns")[0]))
    branches = re.findall(
        r"elseif algorithm(\d) == (\d) then *\n\s+local ([\w, ]+) = (\w+), (\w+)\n", body
    )
    assert len(branches) == 3 * len(listed)
    for place, number, names, first, second in branches:
        own = arguments(singles[listed[number]]).numbers
        assert names.split(", ") == own[own.index("limit") + 1 : own.index("step")], listed[number]
        assert (first, second) == (f"first{place}", f"second{place}")
    hashes = {name for name, text in singles.items() if "KEYS[1] key          hash" in text}
    # now_us, cost, at_least, limit, two numbers, step
    fit = {name for name in hashes if len(arguments(singles[name]).numbers) == 7}
    assert set(listed.values()) == fit, f"few decides {listed}"


def check_blocks(text: str, singles: dict[str, str]) -> None:
    """Check that a policy's block in a list has its script's arguments, in their order."""
    _, body = header_and_body(text)
    branches = re.split(r'\b(?:else)?if algorithm == "(\w+)" then\n', body)[1:]
    blocks = dict(zip(branches[::2], branches[1::2], strict=True))
    assert set(blocks) == set(singles), f"the list decides {sorted(blocks)}"
    common = re.search(r"local algorithm, index, shadow, cost = (.*)\n", body)
    first = re.search(r"local field, limit, key = (.*)\n", body)
    assert common
    assert first
    assert re.findall(r"at \+ (\d+)", common[1] + first[1]) == ["1", "2", "3", "4", "5", "6"]
    for name, branch in blocks.items():
        own = [argument.name for argument in arguments(singles[name]).text]
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
    for command, rest in re.findall(r'\bcall\("(\w+)"(.)', body):
        assert command == "TIME" or rest == ",", command
    subjects = re.findall(r'\bcall\("\w+", (\w+)', body)
    assert set(subjects) == {"key"}
    assert body.count("redis.call") == 1
    for names, values in re.findall(r"^ *local ([\w, ]*\bkey\b[\w, ]*) = (.*)$", body, re.M):
        bound = dict(zip(names.split(", "), values.split(", "), strict=True))
        assert re.fullmatch(r"KEYS\[\w+\]", bound["key"]), f"key is {bound['key']}"
        assert bound.get("call", "redis.call") == "redis.call"


def check_clock(text: str) -> None:
    """Check that TIME is called in one place, and only if no time is given."""
    _, body = header_and_body(text)
    assert body.count('call("TIME")') == 1
    assert re.search(r'if now_us == 0 then\n  local time = call\("TIME"\)\n', body)
    assert "now_us = time[1] * 1000000 + time[2]" in body


def check_writes(text: str) -> None:
    """Check that PEXPIRE follows every command that can make a key, and only moves expiries to later."""
    _, body = header_and_body(text)
    (life,) = re.finditer(LIFE, body)
    assert body.count('"PEXPIRE"') == 2
    for write in ("HSET", "RPUSH", "ZADD"):
        assert body.rfind(f'call("{write}"') < life.start(), f"no expiry follows {write}"


def check_reads_first(text: str) -> None:
    """Check that all reads, which find keys of another type, come before the first write."""
    _, body = header_and_body(text)
    called = list(re.finditer(r'\bcall\("(\w+)"', body))
    reads = [match.start() for match in called if match[1] in READS]
    writes = [match.start() for match in called if match[1] not in {*READS, "TIME"}]
    assert max(reads) < min(writes), body[min(writes) :].splitlines()[0]


def commands(text: str) -> set[str]:
    """Return every command that a script calls, in lower case."""
    _, body = header_and_body(text)
    return {name.lower() for name in re.findall(r'\bcall\("(\w+)"', body)}


def check_text(name: str, text: str) -> None:
    """Run every check of a single script."""
    check_title(name, "v1", text)
    check_words(text)
    check_keys(text)
    check_clock(text)
    check_writes(text)
    check_reads_first(text)
    if name == "few":
        check_header_of_few(text)
        check_reply_of_few(text)
    elif name not in LISTS:
        check_header(text)
        check_reply(text)
    if name == "few" or name not in LISTS:
        check_bound_at_the_top(name, text)
