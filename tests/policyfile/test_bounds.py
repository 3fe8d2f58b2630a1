"""The memory and time that a file may take, and what messages show of it: never a secret."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest

from limiter.policyfile.faults import MOST_FAULTS, InvalidPolicyFile
from limiter.policyfile.reading import read
from limiter.policyfile.schema import _MOST_PATHS
from limiter.policyfile.text import MOST_BYTES

ONE = "[policies.p]\nlimits = '5/s'\n"


def filled(size: int, unit: Callable[[int], str], head: str = ONE, tail: str = "") -> str:
    """A text of about this size: a unit, repeated."""
    units = (size - len(head) - len(tail)) // len(unit(99_999))
    return head + "".join(map(unit, range(units))) + tail


#: By what is large, a text of that size. Most of them took hundreds of megabytes or many seconds.
HUGE: dict[str, Callable[[int], str]] = {
    "dotted key": lambda size: f"{ONE}a{'.a' * (size // 2)} = 1\n",
    "dotted header": lambda size: f"{ONE}[a{'.a' * (size // 2)}]\n",
    "lists in lists": lambda size: f"{ONE}x = {'[' * (size // 2)}{']' * (size // 2)}\n",
    "tables in tables": lambda size: f"{ONE}x = {'{a=' * (size // 4)}1{'}' * (size // 4)}\n",
    "long list": lambda size: filled(size, lambda _: "1,", f"{ONE}x = [", "]\n"),
    "unknown keys": lambda size: filled(size, lambda at: f"limts{at:x}=1\n"),
    "tables": lambda size: filled(size, lambda at: f"[x{at:x}]\n"),
    "policies": lambda size: filled(size, lambda at: f"[policies.a{at:x}]\nlimits='1/s'\n"),
    "limits": lambda size: filled(size, lambda _: "x;", "[policies.p]\nlimits = '", "'\n"),
    "paths": lambda size: filled(size, lambda at: f"'/{at:x}/*',", f"{ONE}match.paths = [", "]\n"),
    "shared paths": lambda size: (
        filled(size // 2, lambda at: f"'/{at:x}/*',", "[defaults]\nexempt.paths = [", "]\n")
        + filled(size // 2, lambda at: f"[policies.a{at:x}]\nlimits='1/s'\n", "")
    ),
    "shared subjects": lambda size: (
        filled(size // 2, lambda at: f"'{at:x}',", "[defaults]\nexempt.keys = [", "]\n")
        + filled(size // 2, lambda at: f"[policies.a{at:x}]\nlimits='1/s'\n", "")
    ),
    "number": lambda size: f"{ONE}cost = 0x{'f' * size}\n",
    "blanks": lambda size: f"{ONE}{' ' * size}\n",
    "lines": lambda size: ONE + "\n" * size,
}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("what", "size", "megabytes"),
    [
        *((what, 20_000, 20) for what in HUGE),
        *((what, 500_000, 60) for what in ("dotted key", "dotted header", "tables in tables")),
        *((what, 100_000, 60) for what in ("blanks", "lines", "limits", "paths")),
    ],
)
def test_what_a_file_takes(what: str, size: int, megabytes: int) -> None:
    """A key of 10,000 parts took 420 MB; it is now refused before it is parsed."""
    text = HUGE[what](size)
    began = time.monotonic()
    tracemalloc.start()
    try:
        read(text, "policies.toml")
    except InvalidPolicyFile as error:
        refused = error
    else:
        refused = InvalidPolicyFile([])
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < megabytes * 2**20
    assert len(refused.faults) <= MOST_FAULTS + 1
    assert len(str(refused)) < 50_000
    assert time.monotonic() - began < 30  # on a busy machine


def test_thousands_of_overrides_are_no_problem() -> None:
    text = filled(
        300_000,
        lambda at: f"'api-key:{at:032x}' = '{at + 1}/minute'\n",
        f"{ONE.replace('5/s', '5/minute')}key = 'api-key'\n[policies.p.overrides]\n",
    )
    assert len(text) < MOST_BYTES
    assert len(read(text, "policies.toml").policies["p"].rule.plans.by_subject) > 4_000


def test_faults_beyond_a_hundred_are_counted() -> None:
    with pytest.raises(InvalidPolicyFile) as raised:
        read(ONE + "".join(f"x{at} = 1\n" for at in range(250)), "policies.toml")
    lines = str(raised.value).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "policies.toml:1: has 150 more faults, which are left out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]", "1: is nested deeper than 16: expected less"),
        (
            f"{ONE}\na.b.c.d.e.f.g.h.i.j.k.l.m.n.o = 1",
            "4: is nested deeper than 16: expected less",
        ),
        (
            f"{ONE}x = [{'1,' * 100_000}]",
            "3: has more than 100,000 keys and elements: expected fewer",
        ),
        (
            "".join(f"[policies.a{at}]\n" for at in range(1_001)),
            "1: policies has 1001 policies: expected up to 1,000",
        ),
        (
            f"{ONE}match.paths = {['/'] * (_MOST_PATHS + 1)}",
            "3: policies.p.match.paths is one pattern too many: expected 2,000 a file",
        ),
    ],
)
def test_too_large_files(text: str, message: str) -> None:
    with pytest.raises(InvalidPolicyFile) as raised:
        read(text, "policies.toml")
    assert str(raised.value) == f"policies.toml:{message}"


SUBJECT = "sk_live_hunter2"
OF_A_KEY = "[policies.p]\nlimits = '5/s'\nkey = 'api-key'\n"


@pytest.mark.parametrize(
    "text",
    [
        # What the parser complains of, in each way it knows, with a secret near by.
        f"[policies.p.overrides]\n{SUBJECT} = 1\n{SUBJECT} = 2\n",
        f"[policies.p.overrides]\n{SUBJECT} = 1\n{SUBJECT}.a = 2\n",
        f"[policies.p.overrides.{SUBJECT}]\n[policies.p.overrides.{SUBJECT}]\n",
        f"[[policies.p.overrides.{SUBJECT}]]\n[policies.p.overrides.{SUBJECT}]\n",
        f"overrides = {{ {SUBJECT} = 1, {SUBJECT} = 2 }}\n",
        f"overrides = {{ {SUBJECT} = {{ a = 1 }}, {SUBJECT}.a.b = 2 }}\n",
        f"{SUBJECT} = []\n[[{SUBJECT}]]\n",
        f"[x.{SUBJECT}.y]\n[x]\n{SUBJECT}.z = 1\n",
        f"x = '{SUBJECT}\n",
        f'x = "{SUBJECT}\\q"\n',
        f'x = "{SUBJECT}\\ud800"\n',
        f'x = """{SUBJECT}',
        f"x = {SUBJECT}\n",
        f"{SUBJECT}\n",
        f"{SUBJECT} = '{SUBJECT}' {SUBJECT}\n",
        f"'{SUBJECT}' '{SUBJECT}' = 1\n",
        f"x = ['{SUBJECT}' '{SUBJECT}']\n",
        f"x = {{ a = '{SUBJECT}',, }}\n",
        f"x = '{SUBJECT}\x00'\n",
        f"x = 2024-13-45T00:00:00 # {SUBJECT}\n",
        f"[{SUBJECT}\n",
        f"x = 1{'0' * 5_000}\n# {SUBJECT}\n",
        f"= {SUBJECT}\n",
        f"x = 0xg{SUBJECT}\n",
        # What is TOML, and wrong.
        f"{OF_A_KEY}overrides = {{ {SUBJECT} = '9/x' }}\n",
        f"{OF_A_KEY}overrides = ['{SUBJECT}']\n",
        f"{OF_A_KEY}overrides = '{SUBJECT}'\n",
        f"{OF_A_KEY}overrides.{SUBJECT}.a.b = 1\n",
        f"{OF_A_KEY}overrides.{SUBJECT} = [{{ algorithm = 'x' }}]\n",
        f"{OF_A_KEY}overrides.{SUBJECT} = '6/s'\noverrides.'{SUBJECT} ' = '7/s'\n",
        f"{OF_A_KEY}overrides.{SUBJECT} = '6/s'\nexempt.keys = ['{SUBJECT}']\n",
        f"{OF_A_KEY}plans.{SUBJECT} = '6/s'\n",
        f"{OF_A_KEY}plans = ['{SUBJECT}']\n",
        f"{OF_A_KEY}plans.gold = '{SUBJECT}'\n",
        f"{OF_A_KEY}plans.gold = {{ limits = '6/s', {SUBJECT} = 1 }}\n",
        f"{OF_A_KEY}plans.gold = {{ limits = '6/s', keys = '{SUBJECT}' }}\n",
        f"{OF_A_KEY}plans.gold = {{ limits = '6/s', keys = [['{SUBJECT}']] }}\n",
        f"{OF_A_KEY}plans.gold = {{ limits = '6/s', key_prefix = ['{SUBJECT}'] }}\n",
        f"{OF_A_KEY}plans.gold = {{ limits = '6/s', keys = ['{SUBJECT}'] }}\nexempt.keys = ['{SUBJECT}']\n",
        f"{OF_A_KEY}exempt.keys = '{SUBJECT}'\n",
        f"{OF_A_KEY}exempt.keys = [['{SUBJECT}']]\n",
        f"{OF_A_KEY}exempt.keys = {{ {SUBJECT} = 1 }}\n",
        f"{OF_A_KEY}exempt = '{SUBJECT}'\n",
        f"{OF_A_KEY}exempt.{SUBJECT} = 1\n",
        f"{OF_A_KEY}{SUBJECT} = '6/s'\n",
        f"{OF_A_KEY}'{SUBJECT},b' = '6/s'\n",
        f"{OF_A_KEY}exempt.keys = ['{SUBJECT},b']\n",
        f"[defaults]\noverrides.{SUBJECT} = '6/s'\n{OF_A_KEY}",
        f"[defaults]\nexempt = '{SUBJECT}'\n{OF_A_KEY}",
        f"[policies]\nkeys = ['{SUBJECT}']\n",
    ],
)
def test_no_message_holds_a_subject(text: str) -> None:
    """The line and the reason are enough to find the mistake."""
    with pytest.raises(InvalidPolicyFile) as raised:
        read(text, "policies.toml")
    for fault in raised.value.faults:
        assert SUBJECT not in str(fault)
        assert fault.line >= 1
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_the_parser_s_message_about_a_character_is_kept() -> None:
    """One character is not a secret, and shows the mistake."""
    with pytest.raises(InvalidPolicyFile, match="Expected '=' after a key"):
        read("x 1\n", "policies.toml")
    with pytest.raises(InvalidPolicyFile, match=r"an inline table has a key twice \(at line 1"):
        read("x = { a = 1, a = 2 }\n", "policies.toml")
