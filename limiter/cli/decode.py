"""``limiter scripts decode``: calls that a server shows as bytes, in the words of the scripts' headers.

It reads what redis-cli prints of MONITOR and SLOWLOG, and knows the scripts of this version alone.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import click

from limiter import scripts

#: A text that redis-cli wrote in quotes.
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
#: A line of SLOWLOG: the numbers of lists in lists, and one text.
_NUMBERED = re.compile(rb'(?: *\d+\) )+(?=")')
#: A line of MONITOR: time, database and client, and then the command.
_MONITORED = re.compile(rb"\d+\.\d+ \[[^\]]*\] ")
#: An argument of a header.
_ARGUMENT = re.compile(r"ARGV\[\d+\] (\w+) +(.*)")
#: The longest first argument of a call in text.
_LONGEST_NUMBER = 20
_PLAIN = re.compile(r"[!-~]+")


class Undecodable(Exception):
    """The words are no call of a script, or not a whole one."""


class _Header(NamedTuple):
    text: list[str]
    """The arguments of a call in text."""
    numbers: list[str]
    """The numbers in the first argument of a packed call."""
    packed: list[str]
    """The other arguments of a packed call."""


class Decoded(NamedTuple):
    """A call, with the names of its script's header."""

    script: str
    mode: str
    keys: list[str]
    arguments: dict[str, Any]
    policies: list[dict[str, Any]]

    def line(self) -> str:
        """Write the call in one line; the policies of a list follow a semicolon each."""
        name = "key" if len(self.keys) == 1 else "keys"
        arguments = {name: ",".join(self.keys), **self.arguments}
        now = " (the server's clock)" if arguments.get("now_us") == 0 else ""
        parts = [f"{self.script} {self.mode} {_listed(arguments)}{now}"]
        for policy in self.policies:
            own = {name: value for name, value in policy.items() if name != "algorithm"}
            parts.append(f"{policy['algorithm']} {_listed(own)}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """The same as an object."""
        policies = {"policies": self.policies} if self.policies else {}
        arguments = {name: _finite(value) for name, value in self.arguments.items()}
        return {
            "script": self.script,
            "mode": self.mode,
            "keys": self.keys,
            "arguments": arguments,
            **policies,
        }


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each call, in one line.")
def decode(words: tuple[str, ...], as_json: bool) -> None:
    """Print calls of the scripts in words: those that MONITOR and SLOWLOG show as bytes.

    WORD... is one line of MONITOR, or the words of one command. Without it, standard input is read: any
    lines of MONITOR, or of SLOWLOG GET as redis-cli prints it at a terminal (--no-raw elsewhere). Other
    commands in them are left out. The exit code is 2 if a call cannot be decoded, or if there is none.

    \b
    Examples:
      redis-cli MONITOR | limiter scripts decode
      redis-cli --no-raw SLOWLOG GET | limiter scripts decode --json
    """
    decoded = failed = 0
    for command in _from_words(words) if words else commands(sys.stdin.buffer):
        try:
            call = read(command)
        except Undecodable as error:
            click.echo(f"limiter: {error}", err=True)
            failed += 1
            continue
        if call is not None:
            decoded += 1
            click.echo(json.dumps(call.to_json()) if as_json else call.line())
    if failed:
        raise SystemExit(2)
    if not decoded:
        raise click.UsageError(
            "no call of a script of this version: expected is EVALSHA or EVAL in a line of MONITOR or "
            "SLOWLOG; see the SHA-1s that `limiter scripts` lists"
        )


def _from_words(words: Sequence[str]) -> Iterator[list[bytes]]:
    given = [word.encode(errors="surrogateescape") for word in words]
    if len(given) == 1:
        yield from commands(given[0].splitlines())
    else:
        yield [unescape(word.removeprefix(b'"').removesuffix(b'"')) for word in given]


def commands(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield each command in the lines of MONITOR or SLOWLOG."""
    listed: list[bytes] = []
    column = 0
    for line in lines:
        numbered = _NUMBERED.match(line)
        if numbered is None or numbered.end() != column:
            # The list of SLOWLOG's command ended: its texts stand in one column.
            if listed:
                yield listed
            listed, column = [], 0
        if numbered is not None:
            text = _QUOTED.match(line, numbered.end())
            if text is not None and (listed or re.search(rb"\b1\) $", numbered[0])):
                listed.append(unescape(text[1]))
                column = numbered.end()
        elif _MONITORED.match(line) or line.startswith(b'"'):
            yield [unescape(text) for text in _QUOTED.findall(line)]
    if listed:
        yield listed


def unescape(text: bytes) -> bytes:
    """Return the bytes for which redis-cli wrote this text."""

    def value(match: re.Match[bytes]) -> bytes:
        escaped = match[1]
        if len(escaped) == 3:
            return bytes.fromhex(escaped[1:].decode())
        return _LETTERS.get(escaped, escaped)

    return _ESCAPED.sub(value, text)


def read(command: Sequence[bytes]) -> Decoded | None:
    """Read the words of a command; None if it is no call of a script of this version.

    Raises:
        Undecodable: It is one, but has other arguments.

    """
    if len(command) < 3 or command[0].upper() not in (b"EVALSHA", b"EVAL"):
        return None
    name = _script(command[1])
    if name is None:
        return None
    try:
        count = int(command[2])
    except ValueError:
        raise Undecodable(
            f"the number of keys is {_text(command[2])!r}: expected a number"
        ) from None
    keys, arguments = command[3 : 3 + count], command[3 + count :]
    if len(keys) < count or not arguments:
        raise _wrong(name, arguments, "one or more")
    shown = [_text(key) for key in keys]
    if name in ("several", "reservation"):
        return _list(name, shown, [_text(word) for word in arguments])
    if name == "few":
        return _few(shown, arguments)
    header = _header(name)
    values: dict[str, Any]
    if len(arguments[0]) > _LONGEST_NUMBER:
        numbers = _numbers(name, arguments[0], len(header.numbers))
        values = dict(zip(header.numbers, numbers, strict=True))
        values |= zip(header.packed, map(_text, arguments[1:]), strict=False)
        least, most = len(header.packed), 1 + len(header.packed)
        # The mode is optional, and last.
        values.setdefault("mode", "acquire" if "id" in header.text else "hit")
    else:
        values = dict(zip(header.text, map(_number, arguments), strict=False))
        least, most = header.text.index("at_least"), len(header.text)
    if not least <= len(arguments) <= most:
        raise _wrong(name, arguments, f"{least} to {most}")
    own = {argument: values[argument] for argument in header.text if argument in values}
    now_us, mode = own.pop("now_us"), own.pop("mode")
    return Decoded(name, str(mode), shown, {**own, "now_us": now_us}, [])


def _list(script: str, keys: list[str], words: list[str]) -> Decoded:
    first = _header(script).text
    values = {name: _number(word.encode()) for name, word in zip(first, words, strict=False)}
    policies, at = [], len(first)
    while at < len(words):
        if words[at] not in scripts.names():
            raise Undecodable(
                f"{script} has a block of {words[at]!r}: expected is the name of a script; SLOWLOG "
                f"leaves out what follows the 31st word"
            )
        header = _header(words[at]).text
        names = ["algorithm", "key", "shadow", *header[2 : header.index("at_least")]]
        block = words[at : at + len(names)]
        if (
            len(block) < len(names)
            or not block[1].isdecimal()
            or not 0 < int(block[1]) <= len(keys)
        ):
            raise Undecodable(
                f"{script} has {len(block)} words for a block of {words[at]}: expected are {len(names)}, "
                f"the second of them the number of a key; SLOWLOG leaves out what follows the 31st word"
            )
        policy = {name: _number(word.encode()) for name, word in zip(names, block, strict=True)}
        policies.append({**policy, "key": keys[int(block[1]) - 1]})
        at += len(names)
    if not policies:
        raise _wrong(script, words, "more")
    now_us, mode = values.pop("now_us"), values.pop("mode")
    return Decoded(script, str(mode), keys, {**values, "now_us": now_us}, policies)


def _few(keys: list[str], arguments: Sequence[bytes]) -> Decoded:
    header, count = _header("few"), len(arguments) - 1
    if count not in (2, 3):
        raise _wrong("few", arguments, "3 or 4")
    numbers = _numbers("few", arguments[0], len(header.numbers) + 4 * count)
    values = dict(zip(header.numbers, numbers, strict=False))
    algorithms = dict(re.findall(r"\b(\d) (\w+)", _header_text("few")))
    policies = []
    for place, field in enumerate(arguments[1:]):
        number, *own = numbers[len(header.numbers) + 4 * place :][:4]
        algorithm = algorithms.get(str(number))
        if algorithm is None:
            raise Undecodable(
                f"few has the algorithm {number}: expected are {', '.join(algorithms)}"
            )
        names = _header(algorithm).numbers
        named = zip(names[names.index("limit") : -1], own, strict=True)
        policies.append({"algorithm": algorithm, "field": _text(field), **dict(named)})
    now_us = values.pop("now_us")
    return Decoded("few", "hit", keys, {**values, "now_us": now_us}, policies)


def _wrong(name: str, arguments: Sequence[object], expected: str) -> Undecodable:
    return Undecodable(
        f"{name} has {len(arguments)} arguments: expected are {expected}; copy the whole command"
    )


def _script(text: bytes) -> str | None:
    """Find the script of a SHA-1, or of a text, of which SLOWLOG shows only the beginning."""
    for name in scripts.names():
        if text.lower() == scripts.script(name).sha.encode():
            return name
        if text.startswith(f"--[[\n{name} {scripts.folder().name}: ".encode()):
            return name
    return None


def _header_text(name: str) -> str:
    return scripts.script(name).source.decode().partition("]]")[0]


@cache
def _header(name: str) -> _Header:
    """Read the names of a script's arguments from its header."""
    header = _Header([], [], [])
    packed = False
    for line in _header_text(name).splitlines():
        match = _ARGUMENT.match(line)
        if match is None:
            continue
        argument, meaning = match.groups()
        if argument == "numbers":
            packed = True
            names = meaning.removeprefix("little-endian doubles: ").partition(", as ")[0]
            header.numbers.extend(names.split(", "))
        else:
            (header.packed if packed else header.text).append(argument)
    return header


def _numbers(name: str, data: bytes, count: int) -> list[int | float]:
    """Unpack the numbers of a packed call."""
    if len(data) != 8 * count:
        raise Undecodable(
            f"the numbers of {name} have {len(data)} bytes: expected are {8 * count}; copy the whole "
            f"command, with the escapes of redis-cli"
        )
    return [_whole(number) for number in struct.unpack(f"<{count}d", data)]


def _whole(number: float) -> int | float:
    return int(number) if number.is_integer() else number


def _number(word: bytes) -> Any:
    """Return a word of a call in text as a number, if it is one."""
    return int(word) if re.fullmatch(rb"-?[0-9]{1,18}", word) else _text(word)


def _text(word: bytes) -> str:
    return word.decode(errors="backslashreplace")


def _finite(value: Any) -> Any:
    """JSON has no numbers for infinity and NaN."""
    return value if not isinstance(value, float) or value - value == 0 else str(value)


def _listed(arguments: dict[str, Any]) -> str:
    return " ".join(f"{name}={_shown(value)}" for name, value in arguments.items())


def _shown(value: Any) -> str:
    """Write a value; a text with blanks or control characters in quotes."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
