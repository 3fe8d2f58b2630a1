"""``limiter scripts decode``: what MONITOR and SLOWLOG show of calls, in words."""

from __future__ import annotations

import json
import shlex
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from limiter import FixedWindow, Limiter, TokenBucket
from limiter.cli import decode
from limiter.command import cli
from limiter.scripts import script
from service.demo.servers import Server
from tests.cli.support import run, shell
from tests.contract import vectors
from tests.service.support import ROOT

#: A line of MONITOR, as Redis 8.0 sent it; the SHA-1 is the script's of today.
LINE = (
    r'1795896792.407436 [0 127.0.0.1:54344] "EVALSHA" "<sha>" "1" "rl:{user:42}:default:v1" '
    r'"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xf0?\x00\x00\x00\x00\x00\x00\xf0?'
    r"\x00\x00\x00\x00\x00\x00\x1c@\x00\x00\x00\x00\x80\x84.A\x00\x00\x00\x00\x00\x00\x1c@"
    r'\x00\x00\x00\x00\x00\x00\xf0?" "token_bucket:1000000"'
).replace("<sha>", script("token_bucket").sha)
WORDS = (
    "token_bucket hit key=rl:{user:42}:default:v1 cost=1 field=token_bucket:1000000 limit=7 "
    "interval_us=1000000 parts=7 at_least=1 step=1 now_us=0 (the server's clock)\n"
)


def piped(text: str | bytes, *options: str) -> Any:
    """Run the command with this standard input."""
    return CliRunner().invoke(cli, ["scripts", "decode", *options], input=text, prog_name="limiter")


def test_a_line_of_monitor() -> None:
    """On the command line, on standard input, and as the words of the command."""
    assert run(f"scripts decode {shlex.quote(LINE)}").stdout == WORDS
    assert piped(LINE + "\n").stdout == WORDS
    assert shell(f"limiter scripts decode {LINE.partition('] ')[2]}").stdout == WORDS
    decoded = json.loads(piped(LINE, "--json").stdout)
    assert decoded == {
        "script": "token_bucket",
        "mode": "hit",
        "keys": ["rl:{user:42}:default:v1"],
        "arguments": {
            "cost": 1,
            "field": "token_bucket:1000000",
            "limit": 7,
            "interval_us": 1_000_000,
            "parts": 7,
            "at_least": 1,
            "step": 1,
            "now_us": 0,
        },
    }


def test_a_line_of_text() -> None:
    """Words that a person typed have the same names."""
    line = f"EVALSHA {script('fixed_window').sha} 1 'a b' 5 peek 3 f 10 60000000 1"
    assert run(f"scripts decode {line}").stdout == (
        'fixed_window peek key="a b" cost=3 field=f limit=10 period_us=60000000 aligned=1 now_us=5\n'
    )


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that no other test calls, and that writes every call to its slow log."""
    with Server() as server, server.client() as client:
        client.config_set("slowlog-log-slower-than", 0)
        yield server


def test_what_a_server_shows(own: Server) -> None:
    """MONITOR and SLOWLOG of real calls, through redis-cli."""
    monitor = subprocess.Popen(
        ["redis-cli", "-p", str(own.port), "MONITOR"], stdout=subprocess.PIPE, text=True
    )
    assert monitor.stdout
    assert monitor.stdout.readline() == "OK\n"
    policies = [FixedWindow(5, per=60), TokenBucket(7, per=1)]
    with Limiter(policies, store=own.url, name="api", timeout=5.0) as limiter:
        limiter.hit("user:42", cost=2)
        limiter.peek("user:42")
        limiter.hit(b'\x00"\\\n')
    slow = subprocess.run(
        ["redis-cli", "--no-raw", "-p", str(own.port), "SLOWLOG", "GET", "100"],
        capture_output=True,
        check=True,
    ).stdout
    with own.client() as client:
        client.echo("last call")
    lines = []
    while "last call" not in (line := monitor.stdout.readline()):
        lines.append(line)
    monitor.terminate()
    monitor.communicate()

    hit = (
        "few hit key=rl:{user:42}:api:v1 cost=2 at_least=2 step=1 now_us=0 (the server's clock); "
        "fixed_window field=fixed_window:60000000 limit=5 period_us=60000000 aligned=0; "
        "token_bucket field=token_bucket:1000000 limit=7 interval_us=1000000 parts=7"
    )
    peek = (
        "several peek key=rl:{user:42}:api:v1 at_least=0 step=1 now_us=0 (the server's clock); "
        "fixed_window key=rl:{user:42}:api:v1 shadow=0 cost=1 "
        "field=fixed_window:60000000 limit=5 period_us=60000000 aligned=0; "
        "token_bucket key=rl:{user:42}:api:v1 shadow=0 cost=1 "
        "field=token_bucket:1000000 limit=7 interval_us=1000000 parts=7"
    )
    by_monitor = piped("".join(lines))
    by_slow_log = piped(slow)
    assert (by_monitor.stderr, by_slow_log.stderr) == ("", "")
    # A call that is sent again with the script's text, as EVAL, is the same call.
    assert list(dict.fromkeys(by_monitor.stdout.splitlines()))[:2] == [hit, peek]
    assert set(by_slow_log.stdout.splitlines()) == set(by_monitor.stdout.splitlines())


def test_every_vector_can_be_read() -> None:
    """Both forms of a vector are the same call, with the same names."""
    for vector in vectors.load():
        error = vector.get("error", "")
        if (
            "ERR" in error
            or ": an unknown alg" in vector["name"]
            or ": no policy" in vector["name"]
        ):
            continue
        forms = []
        for _, form in vectors.forms(vector):
            words = [*form["keys"], *vectors.words_of(form)]
            command = ["EVALSHA", script(form["script"]).sha, len(form["keys"]), *words]
            decoded = decode.read([w if isinstance(w, bytes) else str(w).encode() for w in command])
            assert decoded is not None
            assert (decoded.script, decoded.keys) == (form["script"], form["keys"])
            forms.append(decoded)
        if len(forms) == 2 and vector["script"] != "several":
            text, packed = forms
            assert text.mode == packed.mode
            for name, value in text.arguments.items():
                assert str(packed.arguments[name]) == str(_number(value)), vector["name"]


def _number(value: Any) -> Any:
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def test_escapes() -> None:
    """As redis-cli writes them."""
    assert decode.unescape(rb"\x00\xfF\"\\\n\r\t\a\b?\x") == b'\x00\xff"\\\n\r\t\a\b?x'


def test_a_text_of_a_script() -> None:
    """EVAL has the script's text, of which SLOWLOG shows the beginning."""
    text = script("fixed_window").source.decode()
    packed = struct.pack("<7d", 0, 1, 1, 5, 60, 0, 1)
    for shown in (text, text[:100]):
        decoded = decode.read([b"EVAL", shown.encode(), b"1", b"k", packed, b"f", b"settle"])
        assert decoded is not None
        assert (decoded.script, decoded.mode) == ("fixed_window", "settle")


def test_the_example_of_the_page() -> None:
    """``docs/operate.md`` shows what the command prints."""
    packed = struct.pack("<7d", 0, 1, 1, 100, 60_000_000, 0, 1)
    field = b"fixed_window:60000000"
    command = [b"EVALSHA", WINDOW.encode(), b"1", b"rl:{user:42}:api:v1", packed, field]
    decoded = decode.read(command)
    assert decoded is not None
    assert f"limiter scripts decode\n{decoded.line()}\n" in (ROOT / "docs/operate.md").read_text()


FEW, WINDOW, SEVERAL, RESERVATION = (
    script(name).sha for name in ("few", "fixed_window", "several", "reservation")
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("GET x", "no call of a script of this version: expected is EVALSHA or EVAL"),
        (f"EVALSHA {'0' * 40} 1 k 0", "no call of a script of this version"),
        (f"EVALSHA {WINDOW} one k 0", "the number of keys is 'one': expected a number"),
        (f"EVALSHA {WINDOW} 2 k", "fixed_window has 0 arguments: expected are one or more"),
        (f"EVALSHA {WINDOW} 1 k 0 hit 1", "fixed_window has 3 arguments: expected are 7 to 9"),
        (f"EVALSHA {WINDOW} 1 k {'x' * 21} f", "fixed_window have 21 bytes: expected are 56"),
        (f"EVALSHA {WINDOW} 1 k {'x' * 56} f hit 1", "4 arguments: expected are 2 to 3"),
        (f"EVALSHA {FEW} 1 k {'x' * 96} f", "few has 2 arguments: expected are 3 or 4"),
        (f"EVALSHA {FEW} 1 k {'x' * 96} f g h", "numbers of few have 96 bytes: expected are 128"),
        (f"EVALSHA {FEW} 1 k {'x' * 96} f g", "few has the algorithm"),
        (f"EVALSHA {SEVERAL} 1 k 0 hit 0 1", "several has 4 arguments: expected are more"),
        (f"EVALSHA {RESERVATION} 2 k r 0 settle 60", "reservation has 3 arguments: expected are"),
        (f"EVALSHA {SEVERAL} 1 k 0 hit 0 1 gcra", "several has a block of 'gcra'"),
        (f"EVALSHA {SEVERAL} 1 k 0 hit 0 1 fixed_window 2 0", "has 3 words for a block of fixed_w"),
    ],
)
def test_a_mistake_is_2(line: str, message: str) -> None:
    """With a line that says what is expected."""
    done = run(f"scripts decode {line}")
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.split())


def test_a_call_that_cannot_be_read_does_not_hide_the_others() -> None:
    """They are printed, and the exit code is 2."""
    cut = LINE.replace(r"\x00\x00\x00\x00\x00\x00\xf0?\" ", '" ').replace(r'\xf0?" "tok', '" "tok')
    done = piped(f"OK\n{cut}\n{LINE}\n")
    assert (done.exit_code, done.stdout) == (2, WORDS)
    assert "the numbers of token_bucket have 54 bytes: expected are 56" in done.stderr


def test_nothing_on_standard_input() -> None:
    """No call is a mistake, too."""
    assert piped("").exit_code == 2
