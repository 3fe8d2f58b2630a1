"""Every broken script is caught by the check that names it, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from tests.mutants import scripts

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
    assert len({mutant.name for mutant in scripts.MUTANTS}) == len(scripts.MUTANTS) >= 16
    assert all(re.fullmatch(r"H\d+b?", mutant.hazard) for mutant in scripts.MUTANTS)
