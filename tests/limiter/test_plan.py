"""A call is prepared before the store is called, and a cost that can never pass raises at once."""

from __future__ import annotations

import json
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from limiter import InvalidCost, InvalidPolicy, SlidingLog, TokenBucket, acl, scripts
from limiter.keys import KeySpeller
from limiter.plan import Plan
from limiter.transport.wire import encode

PLAN = Plan((SlidingLog(100, 60), TokenBucket(50, 60, burst=20)), KeySpeller("rl", "api"))


@pytest.mark.parametrize("cost", [-1, 21, True, 1.0, "1", None])
@pytest.mark.parametrize("mode", ["hit", "peek"])
def test_a_cost_is_at_most_the_smallest_limit(mode: str, cost: Any) -> None:
    """The message has the cost and the maximum."""
    with pytest.raises(InvalidCost) as raised:
        PLAN.call(mode, "u", cost)
    assert str(raised.value).startswith(f"cost is {cost!r}: expected a whole number from 0 to 20")


def test_a_logs_entries_bound_its_cost() -> None:
    """One call writes at most 4,000 entries."""
    plan = Plan((SlidingLog(100_000, 60),), KeySpeller("rl", "api"))
    assert plan.call("hit", "u", 4_000)
    with pytest.raises(InvalidCost, match="from 0 to 4000"):
        plan.call("hit", "u", 4_001)


@pytest.mark.parametrize("at_least", [0, 6, -1, True, 1.0, "1"])
def test_at_least_is_from_1_to_the_cost(at_least: Any) -> None:
    """Less than one unit is no grant; more than the cost cannot be granted."""
    with pytest.raises(InvalidCost, match="expected a whole number from 1 to 5, the cost"):
        PLAN.call("hit", "u", 5, at_least)


def test_many_costs_are_not_all_kept() -> None:
    """The number of call templates is bounded, and further calls give the same results."""
    plan = Plan((TokenBucket(10_000, 60),), KeySpeller("rl", "api"))
    first = [encode(plan.call("hit", "u", cost)) for cost in range(1, 1_000)]
    assert len(plan.templates) < 1_000
    assert [encode(plan.call("hit", "u", cost)) for cost in range(1, 1_000)] == first


def test_scripts_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the broken installation."""
    monkeypatch.setattr(scripts, "_HERE", tmp_path / "limiter")
    with pytest.raises(FileNotFoundError, match="install the distribution again"):
        scripts.folder()
    installed = tmp_path / "limiter" / "lua" / "v1"
    installed.mkdir(parents=True)
    (installed / "SHA1SUMS").touch()
    assert scripts.folder() == installed


def test_the_least_rights_as_json() -> None:
    """For programs that create users of a store."""
    printed = subprocess.run(
        [sys.executable, "-m", "limiter", "acl", "--json", "--prefix", "p"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rights = json.loads(printed)
    assert rights["keys"] == "p:*"
    assert set(scripts.COMMANDS) < set(rights["commands"])
    assert all(f"+{name}" in acl.rule("api") for name in rights["commands"])


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_rights_for_redis_7_0(form: list[str]) -> None:
    """Redis 7.0 refuses a rule with a command that it does not know: one is left out, no other."""
    acl_command = [sys.executable, "-m", "limiter", "acl", *form]
    usual = subprocess.check_output(acl_command, text=True)
    shorter = subprocess.check_output([*acl_command, "--redis-7.0"], text=True)

    left_out = ' "client|setinfo",' if form else " +client|setinfo"
    assert left_out in usual
    assert shorter == usual.replace(left_out, "")


class Size(IntEnum):
    """A cost that is an enum."""

    LARGE = 5


def test_an_int_with_a_name_is_an_int() -> None:
    """The scripts get subclasses of int as digits."""
    assert encode(PLAN.call("hit", "u", Size.LARGE)) == encode(PLAN.call("hit", "u", 5))
    assert encode(PLAN.call("hit", "u", 9, Size.LARGE)) == encode(PLAN.call("hit", "u", 9, 5))
    assert TokenBucket(Size.LARGE, 60) == TokenBucket(5, 60)
    assert str(Size.LARGE.value) in map(str, TokenBucket(Size.LARGE, 60).arguments)


def test_a_number_that_python_does_not_print() -> None:
    """The library raises its own error for every number."""
    with pytest.raises(InvalidCost, match="an int of too many digits"):
        PLAN.call("hit", "u", 10**5000)
    for wrong in ((10**5000, 60), (1, 10**5000)):
        with pytest.raises(InvalidPolicy, match="an int of too many digits"):
            TokenBucket(*wrong)


@pytest.mark.parametrize("words", [["--prefix", "* allkeys"], ["--user", "x on nopass"]])
def test_acl_refuses_names_that_add_rights(words: list[str]) -> None:
    """A name with blanks would add to the rule."""
    command = [sys.executable, "-m", "limiter", "acl", *words]
    run = subprocess.run(command, capture_output=True, text=True)

    assert run.returncode == 2
    assert run.stdout == ""
    assert "expected" in run.stderr
