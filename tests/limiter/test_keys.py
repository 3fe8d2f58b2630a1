"""Each subject has its own key, readable where possible; with a secret no client can predict it."""

from __future__ import annotations

import doctest
import enum
import itertools
import operator
import re
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from limiter import (
    Concurrency,
    FixedWindow,
    InvalidKey,
    InvalidSetting,
    SlidingLog,
    TokenBucket,
    keys,
)
from limiter.keys import KeySpeller
from limiter.plan import Plan, own_suffix
from tests.ids import plain

SPELL = KeySpeller("rl", "api")
SECRET = KeySpeller("rl", "api", "secret")

#: Characters and pieces that an attacker would try.
pieces = st.sampled_from(["a", "b", "{", "}", "{}", ":", ",", "~", "\0", "\r\n", "\xe9", "v1", "-"])
hostile_text = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=80),
    st.lists(pieces, min_size=1, max_size=8).map("".join),
)
parts = st.one_of(
    hostile_text,
    st.binary(min_size=1, max_size=80),
    st.integers(),
    st.sampled_from(["a" * 64, "a" * 65, "a,b", "a,", b"a,b", "1", 1, b"1", b"\xff"]),
)
subjects = st.one_of(parts, st.lists(parts, min_size=1, max_size=5).map(tuple))


def meaning(key: Any) -> tuple[bytes, ...] | bytes:
    """The meaning of a key by definition: its bytes, or a tuple of the bytes of its parts."""
    if isinstance(key, tuple):
        return tuple(meaning(part) for part in key)  # type: ignore[misc]
    if isinstance(key, int):
        return str(key).encode()
    return key.encode() if isinstance(key, str) else key


def test_the_examples_of_the_module_are_true() -> None:
    """The three keys in its docstring."""
    assert doctest.testmod(keys) == doctest.TestResults(failed=0, attempted=4)


@given(one=subjects, other=subjects)
@example(("a", "b"), "a,b")
@example(("a",), "a")
@example(("a",), "a,")
@example(("ab", "c"), ("a", "bc"))
@example(("a,b", "c"), ("a", "b,c"))
@example(42, "42")
@example(b"42", 42)
@example((42,), ("42",))
@example("a{b}", b"a{b}")
def test_two_subjects_share_a_key_only_if_they_are_one(one: Any, other: Any) -> None:
    """``42``, ``"42"`` and ``b"42"`` are one; nothing else is."""
    for spell in (SPELL, SECRET):
        same = spell.state(one) == spell.state(other)
        assert same == (meaning(one) == meaning(other))
        assert same == (spell.state("a", tag=one) == spell.state("a", tag=other))
        assert same == (spell.state(one, tag="t") == spell.state(other, tag="t"))


@given(key=subjects, tag=st.one_of(st.none(), subjects))
def test_a_key_has_one_hash_tag_and_a_bounded_length(key: Any, tag: Any) -> None:
    """Redis finds the same tag as the library, and it is never empty."""
    for spell in (SPELL, SECRET):
        state, hash_tag = spell.state(key, tag)
        assert 1 <= len(hash_tag) <= 64
        assert len(state) <= len("rl:{}::api:v1") + 128
        assert state.startswith(b"rl:{" + hash_tag + b"}:")
        assert state.endswith(b":api:v1" if tag is None else b"|api:v1")
        assert state.count(b"{") == state.count(b"}") == 1
        assert not set(state) & set(b"\0\r\n ")
        assert key_slot(state) == key_slot(hash_tag)


#: Names of limiters and policies that look like other parts of a key.
names = st.sampled_from(
    ["a", "v1", "jobs", "concurrency", "sliding_log", "60000000", "a.v1", "-", "A"]
)
plain_subjects = st.sampled_from(
    ["a", "v1", "jobs:v1", "jobs:v1:concurrency", "a:v1:sliding_log:60000000", ":", "a/b", "1"]
)
policies = st.builds(
    lambda kind, name: kind(5, 60, name=name and name.lower()),
    st.sampled_from([FixedWindow, SlidingLog, Concurrency]),
    st.none() | names,
)


class Spelled(NamedTuple):
    """All parts of a key."""

    prefix: str
    tag: bytes | None
    subject: bytes
    name: str
    field: str


@st.composite
def spellings(draw: st.DrawFn) -> tuple[bytes, Spelled]:
    """A key as a call template writes it, with its parts."""
    prefix, name = draw(names), draw(names)
    key = draw(st.one_of(plain_subjects, subjects))
    tag = draw(st.one_of(st.none(), plain_subjects, subjects))
    policy = draw(policies)
    speller = KeySpeller(prefix, name, draw(st.sampled_from([None, "secret"])))
    state, _ = speller.state(key, tag)
    field = own_suffix(policy).decode().removeprefix(":")
    subject = speller.state(key)[1]
    shared = None if tag is None else speller.state(tag)[1]
    return state + own_suffix(policy), Spelled(prefix, shared, subject, name, field)


def read_back(key: bytes) -> Spelled:
    """The parts of a key, by the grammar of lua/README.md."""
    match = re.fullmatch(
        rb"([A-Za-z0-9_.-]+):\{([^{}|]+)\}:(?:([^{}|]+)\|)?([A-Za-z0-9_.-]+):v1(?::([a-z0-9_.:-]+))?",
        key,
    )
    assert match is not None
    prefix, first, tagged, name, field = match.groups()
    tag, subject = (None, first) if tagged is None else (first, tagged)
    return Spelled(prefix.decode(), tag, subject, name.decode(), (field or b"").decode())


@given(one=spellings(), other=spellings())
def test_a_key_can_be_read_back_in_one_way_only(
    one: tuple[bytes, Spelled], other: tuple[bytes, Spelled]
) -> None:
    """So two keys are equal only if all of their parts are."""
    for key, parts in (one, other):
        assert read_back(key) == parts
    assert (one[0] == other[0]) == (one[1] == other[1])


def test_a_share_of_the_subjects() -> None:
    """Stable for each subject, different for each limiter, and unpredictable with a secret."""
    shares = {
        name: [speller.share(number, 2) for number in range(200)]
        for name, speller in {
            "own": SPELL,
            "limiter": KeySpeller("rl", "other"),
            "secret": SECRET,
        }.items()
    }
    assert shares["own"] == [SPELL.share(str(number), 2) for number in range(200)]
    for one, other in itertools.combinations(shares.values(), 2):
        assert 60 < sum(map(operator.eq, one, other)) < 140
    assert {SPELL.share("u", shares) for shares in (1, 1)} == {0}


@given(key=subjects, other=subjects, tag=subjects)
def test_all_keys_of_a_subject_lie_in_one_slot(key: Any, other: Any, tag: Any) -> None:
    """The keys of every policy, and of every subject with the same tag."""
    plan = Plan((TokenBucket(5, 1), SlidingLog(5, 1), SlidingLog(9, 60, name="x")), SPELL)
    for tagged in (None, tag):
        call = plan.call("hit", key, 1, tag=tagged)
        assert {key_slot(name) for name in call.keys} == {key_slot(call.tag)}
    assert SPELL.state(key, tag)[1] == SPELL.state(other, tag)[1]


@pytest.mark.parametrize(
    ("key", "spelled"),
    [
        ("user:42", b"user:42"),
        (42, b"42"),
        (-7, b"-7"),
        (b"a@b.c/d", b"a@b.c/d"),
        ("a" * 64, b"a" * 64),
        (("user", 42), b"user,42"),
        (("user",), b"user,"),
        (("a" * 31, "b" * 32), b"a" * 31 + b"," + b"b" * 32),
    ],
)
def test_plain_subjects_stay_readable(key: Any, spelled: bytes) -> None:
    """Up to 64 characters of a plain alphabet."""
    assert SPELL.state(key) == (b"rl:{" + spelled + b"}:api:v1", spelled)
    assert SPELL.state("x", tag=key) == (b"rl:{" + spelled + b"}:x|api:v1", spelled)


@pytest.mark.parametrize(
    "key",
    ["a" * 65, "a b", "a{b", "}", "~a", "a,b", "\xe9", b"\xff", ("a" * 32, "b" * 32), ("a", "b,c")],
)
def test_any_other_subject_is_a_digest(key: Any) -> None:
    """A tilde, with which no readable subject begins, and 32 hexadecimal digits."""
    spelled = SPELL.state(key)[1]
    assert spelled[:1] == b"~"
    assert len(spelled) == 33
    int(spelled[1:], 16)


class Number(enum.IntEnum):
    """An int in disguise."""

    SEVEN = 7


def test_an_int_is_its_decimal() -> None:
    """Also if its class prints it in another way."""
    assert SPELL.state(Number.SEVEN) == SPELL.state("7")


@pytest.mark.parametrize(
    "key",
    [
        True,
        False,
        None,
        1.5,
        "",
        b"",
        (),
        ("",),
        ("a", b""),
        ("a", True),
        ("a", None),
        ("a", ("b",)),
        ["a"],
        bytearray(b"a"),
        object(),
        "\ud800",
        ("a", "\udfff"),
    ],
    ids=plain,
)
def test_a_key_must_name_a_subject(key: Any) -> None:
    """The InvalidKey shows the value and names what is accepted, for keys and tags."""
    for arguments in ((key,), ("a", key)):
        if arguments == ("a", None):
            continue  # no tag
        with pytest.raises(InvalidKey) as raised:
            SPELL.state(*arguments)
        assert str(raised.value).startswith("key is " if len(arguments) == 1 else "tag is ")
        assert "expected" in str(raised.value)


def test_an_int_of_too_many_digits_is_named() -> None:
    """Python refuses to print it: the library raises its own error."""
    with pytest.raises(InvalidKey, match="more digits than Python prints"):
        SPELL.state(10**5000)


def test_a_secret_hides_and_moves_every_subject() -> None:
    """No part of the subject is in its key, and another secret gives another key."""
    state, tag = SECRET.state("user:42", tag="org:7")
    assert b"user" not in state
    assert b"org" not in state
    assert tag[:1] == b"~"
    others = [KeySpeller("rl", "api", secret) for secret in ("other", b"x", "s" * 65, "s" * 66)]
    assert len({spell.state("user:42") for spell in (SPELL, SECRET, *others)}) == 6
    assert KeySpeller("rl", "api", b"secret").state("user:42") == SECRET.state("user:42")


@pytest.mark.parametrize("secret", ["", b"", 5, True, ["secret"]])
def test_a_wrong_secret_is_not_shown(secret: Any) -> None:
    """The message has its type, never its value."""
    with pytest.raises(InvalidSetting, match="key_secret is a") as raised:
        KeySpeller("rl", "api", secret)
    assert "secret'" not in str(raised.value)


def test_a_secret_of_any_bytes_from_the_environment() -> None:
    """Bytes that are not UTF-8 arrive as lone surrogates, and work as a secret."""
    read, meant = KeySpeller("rl", "api", "\udcff"), KeySpeller("rl", "api", b"\xff")
    assert read.state("u") == meant.state("u")


@pytest.mark.parametrize("value", ["", "a b", "a:b", "{a}", "a" * 65, "\xe9", "a\n", b"a", 5, None])
@pytest.mark.parametrize("setting", ["prefix", "name"])
def test_name_and_prefix_are_plain(setting: str, value: Any) -> None:
    """They are written into every key without a change."""
    names = {"prefix": "rl", "name": "api", setting: value}
    with pytest.raises(InvalidSetting) as raised:
        KeySpeller(**names)
    assert str(raised.value) == (f"{setting} is {value!r}: expected 1 to 64 of A-Z a-z 0-9 _ . -")


def test_prefix_and_name_are_in_the_key() -> None:
    """Limiters with different names share no state."""
    assert KeySpeller("My_1", "x.Y-z").state("u")[0] == b"My_1:{u}:x.Y-z:v1"
