"""Every broken script fails its check, and the unbroken scripts pass it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from tests.mutants import scripts

CAUGHT = (AssertionError, redis.RedisError)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The unbroken scripts, joined the same way."""
    return scripts.joined(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("mutant", scripts.MUTANTS, ids=[m.name for m in scripts.MUTANTS])
def test_a_broken_script_is_caught(mutant, sound, store, tmp_path):
    """The check passes on the sound scripts, and fails on the broken ones."""
    broken = scripts.joined(tmp_path, mutant)
    with scripts.in_use(sound):
        mutant.check(store)

    with scripts.in_use(broken), pytest.raises(CAUGHT):
        mutant.check(store)


def test_a_mutant_whose_text_is_missing_fails(tmp_path):
    """After a fragment is rewritten, a mutant that changes nothing is an error."""
    stale = scripts.MUTANTS[0]._replace(old="text that no fragment has")

    with pytest.raises(AssertionError, match="so change the mutant too"):
        scripts.joined(tmp_path, stale)


def test_the_unbroken_scripts_are_the_committed_ones(sound):
    """The mutants change the scripts that servers run."""
    for path in sound.glob("*.lua"):
        assert path.read_text() == (scripts.scripts.V1 / path.name).read_text()


def test_every_mutant_stands_for_a_hazard():
    """Names are unique, and each mutant has a number of ``docs/hazards.md``."""
    assert len({mutant.name for mutant in scripts.MUTANTS}) == len(scripts.MUTANTS) >= 16
    assert all(re.fullmatch(r"H\d+b?", mutant.hazard) for mutant in scripts.MUTANTS)
