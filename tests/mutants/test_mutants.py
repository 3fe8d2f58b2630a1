"""Every broken script and client is caught by the check that names it, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from limiter import Limiter
from tests.mutants import clients, scripts

CAUGHT = (AssertionError, redis.RedisError)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The scripts as they are, joined the same way."""
    return scripts.joined(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("mutant", scripts.MUTANTS, ids=[m.name for m in scripts.MUTANTS])
def test_a_broken_script_is_caught(mutant, sound, store, tmp_path):
    """The check passes on the sound scripts, and fails on the broken ones."""
    broken = scripts.joined(tmp_path, mutant)
    with scripts.in_use(sound):
        mutant.check(store)

    with scripts.in_use(broken), pytest.raises(CAUGHT):
        mutant.check(store)


@pytest.mark.parametrize("mutant", clients.MUTANTS, ids=[m.name for m in clients.MUTANTS])
def test_a_broken_client_is_caught(mutant, store):
    """The check passes on our limiter, and fails on the broken one."""
    mutant.check(Limiter, store)

    with pytest.raises(AssertionError):
        mutant.check(mutant.make, store)


def test_a_mutant_whose_text_is_gone_says_so(tmp_path):
    """A fragment that was rewritten must not leave a mutant that breaks nothing."""
    stale = scripts.MUTANTS[0]._replace(old="text that no fragment has")

    with pytest.raises(AssertionError, match="so must the mutant"):
        scripts.joined(tmp_path, stale)


def test_the_scripts_joined_for_mutants_are_those_that_are_shipped(sound):
    """What is broken here is what runs there."""
    for path in sound.glob("*.lua"):
        assert path.read_text() == (scripts.scripts.V1 / path.name).read_text()


def test_every_mutant_stands_for_a_hazard():
    """Names are unique; numbers are those of the catalogue."""
    mutants = [*scripts.MUTANTS, *clients.MUTANTS]

    assert len({mutant.name for mutant in mutants}) == len(mutants) >= 16
    assert all(re.fullmatch(r"H\d+b?", mutant.hazard) for mutant in mutants)
