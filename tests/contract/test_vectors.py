"""The test vectors hold on real servers, and match their tables."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from tests import scripts
from tests.contract import checks, vectors
from tests.contract.source import load_module

VECTORS = vectors.load()
FORMS = [form for vector in VECTORS for form in vectors.forms(vector)]


@pytest.fixture(scope="module")
def client(any_store: str) -> Iterator[redis.Redis]:
    """Connect to each kind of server."""
    with redis.Redis.from_url(any_store) as connected:
        yield connected


@pytest.mark.parametrize(("name", "form"), FORMS, ids=[name for name, _ in FORMS])
def test_vector(client, name, form):
    """Reply or error, state and expiry are those of the vector, in both forms."""
    vectors.check_form(client, name, form)


def test_the_file_matches_the_tables():
    """The vectors were not edited by hand, and no table was edited without ``make lua``."""
    table = load_module("vectors")

    assert (scripts.V1 / "vectors.json").read_text() == table.text()


def test_names_are_unique_and_every_script_has_vectors():
    """A failing vector can be found by its name."""
    assert all(count == 1 for count in Counter(v["name"] for v in VECTORS).values())
    tested, every = (
        {form["script"] for _, form in FORMS},
        {path.stem for path in scripts.V1.glob("*.lua")},
    )
    missing = ", ".join(sorted(every - tested))
    assert not missing, f"no vectors for {missing}: add lua/src/vectors/<name>.txt, then make lua"
    assert tested == every


def test_every_call_that_can_be_packed_is():
    """Of a single policy: all but those with a text for a number. Of several: hits of one hash.

    A reservation has no packed form.
    """
    for vector in VECTORS:
        if vector["script"] == "several":
            hashes = not {"sliding_log", "concurrency"} & set(vector["args"])
            assert "packed" not in vector or (vector["args"][1] == "hit" and hashes)
        elif vector["script"] == "reservation":
            assert "packed" not in vector
        else:
            assert ("packed" in vector) != ("many" in vector["args"]), vector["name"]
    few = [form for _, form in FORMS if form["script"] == "few"]
    assert {len(form["args"]) - 1 for form in few} == {2, 3}
    assert len(few) > 35


def test_both_forms_of_a_vector_are_the_same_call():
    """The packed numbers are those of the text, by the names in the script's header."""
    for vector in VECTORS:
        if "packed" not in vector or vector["script"] == "several":
            continue
        header = checks.arguments(scripts.source(vector["script"]))
        given = {"step": "1", "at_least": vector["args"][2]}
        given |= zip([a.name for a in header.text], vector["args"], strict=False)
        packed, *texts = vectors.words_of({**vector, **vector["packed"]})
        numbers = struct.unpack(f"<{len(header.numbers)}d", packed)
        expected = [float(given[name]) for name in header.numbers]
        assert repr(list(numbers)) == repr(expected), vector["name"]
        default = {"mode": "acquire" if vector["script"] == "concurrency" else "hit"}
        named = zip([a.name for a in header.packed[1:]], texts, strict=False)
        expected = {a.name: given[a.name] for a in header.packed[1:]}
        assert {**default, **dict(named)} == expected, vector["name"]


def test_doubles_are_the_bytes_beside_them():
    """The numbers that a vector shows to people are those that programs store."""
    for vector in VECTORS:
        for state in vector["before"] + vector["after"]:
            for value in state.get("fields", {}).values():
                if "doubles" in value:
                    numbers = value["doubles"]
                    packed = struct.pack(f"<{len(numbers)}d", *numbers)
                    assert packed.hex() == value["hex"], vector["name"]
