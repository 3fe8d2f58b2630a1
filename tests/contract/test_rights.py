"""The rights that ``limiter acl`` prints are enough, and each command in them is needed."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Iterator

import pytest
import redis

from limiter.scripts import COMMANDS, OF_RECORDS, names
from tests.contract import checks, vectors
from tests.scripts import source
from tests.users import rule


@pytest.fixture
def admin(any_store: str) -> Iterator[redis.Redis]:
    """Connect as a user with all rights."""
    with redis.Redis.from_url(any_store) as client:
        yield client


@pytest.fixture
def restricted(admin: redis.Redis) -> Iterator[redis.Redis]:
    """Connect as a user with only the rights of the printed rule."""
    name, password = f"user-{secrets.token_hex(4)}", secrets.token_hex(8)
    admin.execute_command(*shlex.split(rule(admin, name)))
    admin.execute_command("ACL", "SETUSER", name, f">{password}")
    address = admin.connection_pool.connection_kwargs
    with redis.Redis(address["host"], address["port"], username=name, password=password) as client:
        yield client
    admin.acl_deluser(name)


def test_every_vector_runs_with_these_rights(admin, restricted):
    """The vectors reach every path of every script."""
    for vector in vectors.load():
        vectors.check(admin, vector, restricted)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_needed(admin, restricted, command):
    """If the user may not call a command, a vector of a script that calls it fails."""
    name = restricted.connection_pool.connection_kwargs["username"]
    admin.acl_setuser(name, enabled=True, commands=[f"-{command}"])

    if command == "time":  # vectors pass their own time
        with pytest.raises(redis.ResponseError, match=r"(?i)acl|permission|can't run"):
            _call_now(restricted)
        return
    calling = {name for name in names() if command in checks.commands(source(name))}

    def fails(vector: vectors.Vector) -> bool:
        try:
            vectors.check(admin, vector, restricted)
        except AssertionError:
            return True
        return False

    chosen = [
        vector
        for vector in vectors.load()
        if any(form["script"] in calling for _, form in vectors.forms(vector))
    ]
    assert any(map(fails, chosen))


def test_other_keys_and_other_commands_are_refused(restricted):
    """An attacker with these rights can read and change only limits."""
    for command in (["GET", "another's"], ["KEYS", "*"], ["FLUSHALL"], ["CONFIG", "GET", "*"]):
        with pytest.raises(redis.exceptions.NoPermissionError):
            restricted.execute_command(*command)
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|acl"):
        restricted.eval("return redis.call('DEL', KEYS[1])", 1, "another-program-s")


def test_a_missing_right_is_found_before_anything_is_charged(restricted, admin, subject):
    """Scripts read first: a user without the right to read is refused before any write."""
    name = restricted.connection_pool.connection_kwargs["username"]
    admin.acl_setuser(name, enabled=True, commands=["-hget"])

    with pytest.raises(redis.ResponseError):
        _call_now(restricted, subject)
    assert not list(admin.scan_iter(match=f"*{subject}*", count=10_000))


@pytest.mark.parametrize("command", OF_RECORDS)
def test_without_the_rights_of_records_nothing_is_charged(restricted, admin, subject, command):
    """A user who was made for an older version cannot reserve; all other calls work."""
    name = restricted.connection_pool.connection_kwargs["username"]
    admin.acl_setuser(name, enabled=True, commands=[f"-{command}"])
    key = f"rl:{{{subject}}}:api:v1"
    block = ["fixed_window", "1", "0", "1", "fixed_window:9", "5", "9000000", "0"]
    words = ["0", "reserve", "60000", *block]

    with pytest.raises(redis.ResponseError):
        vectors.call(restricted, "reservation", [key, f"{key}:reservation:a1"], words)
    assert not list(admin.scan_iter(match=f"*{subject}*", count=10_000))
    assert _call_now(restricted, subject)


def _call_now(client: redis.Redis, subject: str = "rights") -> object:
    words = ["0", "hit", "1", "fixed_window:60000000", "5", "60000000", "0"]
    return vectors.call(client, "fixed_window", [f"rl:{{{subject}}}:api:v1"], words)
