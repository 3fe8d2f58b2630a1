"""Run the test vectors of ``lua/v1/vectors.json`` by EVALSHA, in both forms, without the library."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from tests import scripts

Vector = dict[str, Any]


def load() -> list[Vector]:
    """Read every vector, as any program would."""
    vectors: list[Vector] = json.loads((scripts.V1 / "vectors.json").read_text())
    return vectors


def plant(client: redis.Redis, vector: Vector) -> None:
    """Store the state of the vector's ``before``, and no other."""
    pipe = client.pipeline(transaction=False)
    pipe.delete(*vector["keys"])
    for state in vector["before"]:
        key = state["key"]
        if state["type"] == "hash":
            fields = {name: bytes.fromhex(v["hex"]) for name, v in state["fields"].items()}
            pipe.hset(key, mapping=fields)
        elif state["type"] == "list":
            pipe.rpush(key, *state["entries"])
        elif state["type"] == "zset":
            pipe.execute_command(
                "ZADD", key, *[x for m, s in state["entries"].items() for x in (s, m)]
            )
        else:
            pipe.set(key, state["value"])
        ttl = state["ttl_ms"]
        if ttl != -1:
            pipe.pexpire(key, ttl if isinstance(ttl, int) else ttl[0])
    pipe.execute()


def look(client: redis.Redis, keys: Iterable[str]) -> dict[str, tuple[str, object, int]]:
    """Return type, contents and remaining life of every existing key."""
    existing = {}
    for key in keys:
        kind = client.type(key).decode()
        if kind == "hash":
            fields = client.hgetall(key)
            contents: object = {name.decode(): value.hex() for name, value in fields.items()}
        elif kind == "list":
            contents = [entry.decode() for entry in client.lrange(key, 0, -1)]
        elif kind == "zset":
            entries = client.zrange(key, 0, -1, withscores=True)
            contents = {member.decode(): score for member, score in entries}
        elif kind == "string":
            value = client.get(key)
            if value is None:  # it has just expired
                continue
            contents = value.decode()
        else:
            continue
        existing[key] = (kind, contents, client.pttl(key))
    return existing


def contents(state: dict[str, Any]) -> object:
    """Return the contents that ``look`` reads from a key with this state."""
    if state["type"] == "hash":
        return {name: value["hex"] for name, value in state["fields"].items()}
    if state["type"] == "zset":
        return {member: float(score) for member, score in state["entries"].items()}
    return state["entries"] if state["type"] == "list" else state["value"]


def forms(vector: Vector) -> Iterator[tuple[str, Vector]]:
    """Yield the vector's call as text, and packed if it has that form, each with its name."""
    yield vector["name"], vector
    if "packed" in vector:
        yield f"{vector['name']}, packed", {**vector, **vector["packed"]}


def words_of(form: Vector) -> list[Any]:
    """Return the arguments as they are sent: the first of a packed call is written in hex."""
    if form["args"] == form.get("packed", {}).get("args"):
        return [bytes.fromhex(form["args"][0]), *form["args"][1:]]
    words: list[Any] = form["args"]
    return words


def integers(reply: Any) -> Any:
    """Return a reply of doubles as the integers that they are; any other reply as it is."""
    if not isinstance(reply, bytes):
        return reply
    numbers = struct.unpack(f"<{len(reply) // 8}d", reply)
    return [int(number) if number.is_integer() else number for number in numbers]


def check(client: redis.Redis, vector: Vector, caller: redis.Redis | None = None) -> None:
    """Fail unless in both forms the script's reply, and the state that it leaves, are the vector's.

    ``caller`` may be a client with fewer rights than ``client``, which stores the state.
    """
    for name, form in forms(vector):
        check_form(client, name, form, caller)


def check_form(
    client: redis.Redis, name: str, vector: Vector, caller: redis.Redis | None = None
) -> None:
    """Check one form of a vector."""
    began = time.monotonic()
    plant(client, vector)
    reply, error = None, ""
    try:
        words = words_of(vector)
        reply = call(caller or client, vector["script"], vector["keys"], words)
    except redis.ResponseError as refusal:
        error = f"{getattr(refusal, 'status_code', '')} {refusal}".strip()
    stored = look(client, vector["keys"])
    passed_ms = (time.monotonic() - began) * 1000 + 1
    client.delete(*vector["keys"])

    if "reply" in vector:
        assert isinstance(reply, bytes) == isinstance(words[0], bytes), f"{name}: {error or reply}"
        assert integers(reply) == vector["reply"], f"{name}: {error or integers(reply)}"
    else:
        assert vector["error"] in error, f"{name}: {error or reply}"
    after = {state["key"]: state for state in vector["after"]}
    assert set(stored) == set(after), f"{name}: keys {sorted(stored)}"
    for key, (kind, held, life_ms) in stored.items():
        state = after[key]
        assert (kind, held) == (state["type"], contents(state)), f"{name}: {key} holds {held}"
        least, most = state["ttl_ms"]
        if most == -1:
            assert life_ms == -1, f"{name}: {key} lives {life_ms} ms"
        else:
            assert least - passed_ms <= life_ms <= most, f"{name}: {key} lives {life_ms} ms"


def call(client: redis.Redis, script: str, keys: list[str], words: list[Any]) -> Any:
    """Call EVALSHA, then EVAL if the server does not have the script."""
    try:
        return client.evalsha(scripts.sha1(script), len(keys), *keys, *words)
    except redis.exceptions.NoScriptError:
        return client.eval(scripts.source(script), len(keys), *keys, *words)


def check_all(url: str, names: str = "") -> None:
    """Run every vector whose name contains ``names``; fail if there is none."""
    chosen = [vector for vector in load() if names in vector["name"]]
    assert chosen, f"no vector is called {names!r}"
    with redis.Redis.from_url(url) as client:
        for vector in chosen:
            check(client, vector)
