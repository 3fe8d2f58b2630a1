"""The test vectors hold on real servers, and match their tables."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from tests import scripts
from tests.contract import vectors
from tests.contract.source import load_module

VECTORS = vectors.load()


@pytest.fixture(scope="module")
def client(any_store: str) -> Iterator[redis.Redis]:
    """Connect to each kind of server."""
    with redis.Redis.from_url(any_store) as connected:
        yield connected


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(client, vector):
    """Reply or error, state and expiry are those of the vector."""
    vectors.check(client, vector)


def test_the_file_matches_the_tables():
    """The vectors were not edited by hand, and no table was edited without ``make lua``."""
    table = load_module("vectors")

    assert (scripts.V1 / "vectors.json").read_text() == table.text()


def test_names_are_unique_and_every_script_has_vectors():
    """A failing vector can be found by its name."""
    assert all(count == 1 for count in Counter(v["name"] for v in VECTORS).values())
    tested, every = {v["script"] for v in VECTORS}, {path.stem for path in scripts.V1.glob("*.lua")}
    missing = ", ".join(sorted(every - tested))
    assert not missing, f"no vectors for {missing}: add lua/src/vectors/<name>.txt, then make lua"
    assert tested == every


def test_doubles_are_the_bytes_beside_them():
    """The numbers that a vector shows to people are those that programs store."""
    for vector in VECTORS:
        for state in vector["before"] + vector["after"]:
            for value in state.get("fields", {}).values():
                if "doubles" in value:
                    numbers = value["doubles"]
                    packed = struct.pack(f"<{len(numbers)}d", *numbers)
                    assert packed.hex() == value["hex"], vector["name"]
