"""The store in the process passes the scripts' test vectors, too."""

from __future__ import annotations

from typing import Any

import pytest

from limiter import StoreRefused
from limiter.memory import MemoryStore
from tests.contract import vectors
from tests.memory.support import LISTS, leases, look, number, plant, read_call
from tests.scripts import argument_names


def is_call(vector: vectors.Vector) -> bool:
    """Whether a limiter makes such a call; of the scripts for lists, all are such calls."""
    if vector["script"] in LISTS:
        return True
    given = dict(zip(argument_names(vector["script"]), vector["args"], strict=False))
    for_nothing = given.get("at_least") == "0" != given["cost"]
    return given.get("hold_us", "0") == "0" and not for_nothing


VECTORS = vectors.load()
#: A call in the process has numbers for arguments, and no text that could be wrong.
ABOUT_TEXT = [v for v in VECTORS if not v.get("error", "WRONGTYPE").startswith("WRONGTYPE")]
#: And it has no key without expiry, to which a call would give one.
GIVES_EXPIRY = [
    vector
    for vector in VECTORS
    if any(state["ttl_ms"] == -1 for state in vector["before"])
    and any(state["ttl_ms"] != [-1, -1] for state in vector["after"])
]
#: And no limiter makes a call with a hold, or one for nothing or more units.
NO_CALL = [v for v in VECTORS if not is_call(v)]
OURS = [v for v in VECTORS if v not in ABOUT_TEXT + GIVES_EXPIRY + NO_CALL]


def contents(state: dict[str, Any]) -> Any:
    """The value of a key of a vector, as the store holds it."""
    if state["type"] == "hash":
        return {name: bytes.fromhex(v["hex"]) for name, v in sorted(state["fields"].items())}
    if state["type"] == "list":
        return [number(entry) for entry in state["entries"]]
    if state["type"] == "zset":
        return {member: number(end) for member, end in sorted(state["entries"].items())}
    return state["value"]


@pytest.mark.parametrize("vector", OURS, ids=[vector["name"] for vector in OURS])
def test_vector(vector: vectors.Vector) -> None:
    """Reply or error, state and remaining life are those of the vector."""
    store = MemoryStore()
    for state in vector["before"]:
        value = contents(state)
        if state["type"] == "zset":
            value = leases(value)
        ttl = state["ttl_ms"]
        plant(store, state["key"], state["type"], value, ttl if isinstance(ttl, int) else ttl[0])
    asked = read_call(vector["script"], vector["keys"], vector["args"])

    if "error" in vector:
        with pytest.raises(StoreRefused, match="reset the subject"):
            store.run(asked)
    else:
        assert store.run(asked) == vector["reply"]

    found = look(store, vector["keys"])
    after = {state["key"]: state for state in vector["after"]}
    assert set(found) == set(after)
    for key, (kind, held, life_ms) in found.items():
        state = after[key]
        # Compare texts: a NaN is not equal to itself.
        assert (kind, repr(held)) == (state["type"], repr(contents(state)))
        least, most = state["ttl_ms"]
        assert life_ms == -1 if most == -1 else least - 1_000 <= life_ms <= most


def test_only_vectors_about_text_are_left_out() -> None:
    """Every other vector runs here: those left out have an argument that is missing or wrong."""
    assert len(OURS) > 400
    assert len(GIVES_EXPIRY) < 25
    assert len(NO_CALL) < 30
    for vector in ABOUT_TEXT:
        assert vector["error"].startswith(("LIMITER ", "ERR"))
        assert vector["after"] == [
            {**state, "ttl_ms": [state["ttl_ms"]] * 2} for state in vector["before"]
        ]
