"""Write the test vectors of the scripts, ``lua/v1/vectors.json``, from the table below.

Every expectation in the table was worked out by hand, from the words of the contract (``lua/README.md``);
this file only spells it for machines: doubles as bytes, lives as ranges. A test runs each vector through
EVALSHA, and another compares the file with what this one writes.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent.parent / "v1" / "vectors.json"

#: A moment of 2026, at a multiple of ten seconds since 1970.
T = 1_790_000_000_000_000
MS, S, HOUR = 1_000, 1_000_000, 3_600_000_000
#: What keys get beyond the time that counts: always up to a second, and an hour under a given time.
GIVEN_MS, SLACK_MS = 3_600_000, 1_000
#: A life that no decision of the table would ask for: longer than each, so it must stay as it is.
LONG_MS = 9_000_000

HASH = "rl:{vector}:api:v1"
OTHER = "rl:{vector}:other:v1"
WINDOW, LOG, BUCKET = "fixed_window:10000000", "sliding_log:10000000", "token_bucket:1000000"
ALIGNED, THIRDS = "fixed_window.aligned:10000000", "token_bucket:10"
SLIDING, LEASES = "sliding_window:10000000", "concurrency"
LIST, SET = f"{HASH}:{LOG}", f"{HASH}:{LEASES}"
#: The longest lease, and so the farthest end that can be true.
FAR = 366 * 24 * HOUR

NAN, INF = float("nan"), float("inf")

State = dict[str, Any]
Vector = dict[str, Any]

vectors: list[Vector] = []


# --- how the table is spelled ---


def debt(full: float, part: float = 0, parts: float = 1, reach: int = 5) -> dict[str, Any]:
    """A bucket's value: when it is full, in how many seconds the largest fills, and a fraction."""
    fraction = struct.pack("<2d", part, parts) if part else b""
    return raw(struct.pack("<dI", full, reach) + fraction)


def doubles(*numbers: float) -> dict[str, Any]:
    """A value of the hash: little-endian doubles; those that JSON knows are shown beside the bytes."""
    value: dict[str, Any] = {"hex": struct.pack(f"<{len(numbers)}d", *numbers).hex()}
    if all(map(math.isfinite, numbers)):
        value["doubles"] = list(numbers)
    return value


def raw(data: bytes) -> dict[str, Any]:
    """A value that is no state at all."""
    return {"hex": data.hex()}


def hash_(fields: dict[str, Any], ttl: Any = LONG_MS, key: str = HASH) -> State:
    """A hash, its fields, and its life in milliseconds; -1: for ever."""
    return {"key": key, "type": "hash", "fields": fields, "ttl_ms": ttl}


def list_(entries: Iterable[int | str], ttl: Any = LONG_MS, key: str = LIST) -> State:
    """A list, oldest entry first."""
    return {"key": key, "type": "list", "entries": [str(e) for e in entries], "ttl_ms": ttl}


def set_(entries: dict[str, float | str], ttl: Any = LONG_MS, key: str = SET) -> State:
    """A sorted set: scores by member; what JSON has no number for is text that the server reads."""
    return {"key": key, "type": "zset", "entries": entries, "ttl_ms": ttl}


def string(text: str, key: str = HASH) -> State:
    """A key of a type that no script uses."""
    return {"key": key, "type": "string", "value": text, "ttl_ms": LONG_MS}


def life(reset_us: int) -> list[int]:
    """The range in which a key's life must lie that counts for ``reset_us`` from now."""
    least = -(-reset_us // MS) + GIVEN_MS
    return [least, least + SLACK_MS]


def vector(
    name: str,
    script: str,
    keys: list[str],
    words: Iterable[object],
    reply: list[int] | str,
    before: list[State],
    after: list[State] | None,
) -> None:
    """Add a vector; ``reply`` as text is how the error begins, ``after`` None is no change at all."""

    def spelled(state: State) -> State:
        ttl = state["ttl_ms"]
        return {**state, "ttl_ms": [ttl, ttl] if isinstance(ttl, int) else ttl}

    vectors.append(
        {
            "name": f"{script}: {name}",
            "script": script,
            "keys": keys,
            "args": [str(word) for word in words],
            "before": before,
            ("error" if isinstance(reply, str) else "reply"): reply,
            "after": [spelled(state) for state in (before if after is None else after)],
        }
    )


def one(
    script: str,
    key: str,
    policy: list[object],
    name: str,
    now: object,
    mode: str,
    cost: object,
    reply: list[int] | str,
    before: list[State] | None = None,
    after: list[State] | None = None,
    at_least: object = None,
) -> None:
    """A vector of a script for one policy; the reply's last integer is the time that was given."""
    words = [now, mode, cost, *policy, *([] if at_least is None else [at_least])]
    said = reply if isinstance(reply, str) else [*reply, int(str(now))]
    vector(name, script, [key], words, said, before or [], after)


def several(
    name: str,
    now: object,
    mode: str,
    at_least: object,
    blocks: list[list[object]],
    reply: list[list[int]] | str,
    before: list[State] | None = None,
    after: list[State] | None = None,
    keys: list[str] | None = None,
) -> None:
    """A vector of ``several``; ``reply`` has five integers for each block."""
    words = [now, mode, at_least, *(word for block in blocks for word in block)]
    said = (
        reply if isinstance(reply, str) else [n for part in reply for n in part] + [int(str(now))]
    )
    vector(name, "several", keys or [HASH, LIST], words, said, before or [], after)


# --- fixed_window: 5 in 10 s. Each row: time, mode, cost, then the five integers of the reply ---
# fmt: off


def window(start: float, used: float, **more: Any) -> list[State]:
    """The hash of a limiter with this one window."""
    return [hash_({WINDOW: doubles(start, used)}, **more)]


def fixed_window(*row: Any, limit: object = 5, **more: Any) -> None:
    """A row under 5 in 10 s."""
    one("fixed_window", HASH, [WINDOW, limit, 10 * S, 0], *row, **more)


def fixed_window_vectors() -> None:
    """Windows that open at the first hit, and on the clock."""
    fw = fixed_window
    fw(
        "the first hit opens the window",
        T, "hit", 1, [1, 4, 0, 10 * S, 0],
        after=window(T, 1, ttl=life(10 * S)),
    )
    fw(
        "a later hit counts in the same window",
        T + 4 * S, "hit", 2, [2, 2, 0, 6 * S, 0],
        before=window(T, 1), after=window(T, 3),
    )
    fw(
        "the last unit passes",
        T + 4 * S, "hit", 2, [2, 0, 0, 6 * S, 0],
        before=window(T, 3), after=window(T, 5),
    )
    fw(
        "beyond the limit is denied, and nothing is written",
        T + 4 * S, "hit", 1, [0, 0, 6 * S, 6 * S, 0],
        before=window(T, 5),
    )
    fw(
        "a cost that does not fit is denied whole",
        T + S, "hit", 3, [0, 2, 9 * S, 9 * S, 0],
        before=window(T, 3),
    )
    fw(
        "the last microsecond of the window still counts",
        T + 10 * S - 1, "hit", 1, [0, 0, 1, 1, 0],
        before=window(T, 5),
    )
    fw(
        "at its end a window is over, and the next one opens",
        T + 10 * S, "hit", 1, [1, 4, 0, 10 * S, 0],
        before=window(T, 5), after=window(T + 10 * S, 1),
    )
    fw("peek says what hit would", T + S, "peek", 2, [0, 2, 0, 9 * S, 0], before=window(T, 3))
    fw(
        "peek says that hit would be denied",
        T + S, "peek", 3, [0, 2, 9 * S, 9 * S, 0],
        before=window(T, 3),
    )
    fw("peek at nothing leaves nothing", T, "peek", 1, [0, 5, 0, 0, 0])
    fw("cost 0 takes nothing and writes nothing", T, "hit", 0, [0, 5, 0, 0, 0])
    fw("cost 0 passes a full window", T + S, "hit", 0, [0, 0, 0, 9 * S, 0], before=window(T, 5))
    fw(
        "at_least takes what is there",
        T + S, "hit", 4, [2, 0, 0, 9 * S, 0],
        before=window(T, 3), after=window(T, 5), at_least=1,
    )
    fw(
        "at_least takes no more than the cost",
        T + S, "hit", 2, [2, 2, 0, 9 * S, 0],
        before=window(T, 1), after=window(T, 3), at_least=1,
    )
    fw(
        "less than at_least is denied",
        T + S, "hit", 5, [0, 2, 9 * S, 9 * S, 0],
        before=window(T, 3), at_least=3,
    )
    fw(
        "reset says what stood there, and forgets",
        T + S, "reset", 3, [0, 2, 9 * S, 9 * S, 0],
        before=window(T, 3), after=[],
    )
    fw("reset of nothing", T, "reset", 1, [0, 5, 0, 0, 0])
    fw(
        "reset forgets the whole subject",
        T + S, "reset", 1, [0, 2, 0, 9 * S, 0],
        before=[hash_({WINDOW: doubles(T, 3), BUCKET: debt(T + S)})], after=[],
    )
    fw(
        "reset mends a key of another type",
        T, "reset", 1, [0, 5, 0, 0, 0],
        before=[string("not ours")], after=[],
    )
    fw(
        "a clock that stepped back is still in the window",
        T - 3 * S, "hit", 1, [1, 2, 0, 13 * S, 0],
        before=window(T, 2), after=window(T, 3),
    )
    fw(
        "a clock that stepped back frees nobody early",
        T - 3 * S, "hit", 1, [0, 0, 13 * S, 13 * S, 0],
        before=window(T, 5),
    )
    fw(
        "a start one period ahead can be true",
        T - 10 * S, "hit", 1, [0, 0, 20 * S, 20 * S, 0],
        before=window(T, 5),
    )
    fw(
        "a start farther ahead heals, even by a denied hit: begun now, with its count",
        T, "hit", 1, [0, 0, 10 * S, 10 * S, 0],
        before=window(T + HOUR, 5), after=window(T, 5),
    )
    fw(
        "a start farther ahead heals by a hit that passes",
        T, "hit", 1, [1, 2, 0, 10 * S, 0],
        before=window(T + 10 * S + 1, 2), after=window(T, 3),
    )
    fw(
        "peek heals nothing",
        T, "peek", 1, [0, 0, 10 * S, 10 * S, 0],
        before=window(T + HOUR, 5),
    )
    for what, value in {
        "of another length": raw(b"not two doubles"),
        "whose start is no number": doubles(NAN, 5),
        "whose start is no integer": doubles(T + 0.5, 5),
        "whose start is infinite": doubles(INF, 5),
        "whose start is beyond 2^53": doubles(2.0**60, 5),
        "whose count is no number": doubles(T, NAN),
        "whose count is no integer": doubles(T, 4.5),
        "whose count is negative": doubles(T, -1),
        "whose count is infinite": doubles(T, INF),
    }.items():
        fw(
            f"a value {what} counts as unused",
            T, "hit", 1, [1, 4, 0, 10 * S, 0],
            before=[hash_({WINDOW: value})], after=window(T, 1),
        )
    fw(
        "a denied hit gives a key without expiry one",
        T + 4 * S, "hit", 1, [0, 0, 6 * S, 6 * S, 0],
        before=window(T, 5, ttl=-1), after=window(T, 5, ttl=life(6 * S)),
    )
    fw(
        "a hit that passes gives a key without expiry one",
        T + 4 * S, "hit", 1, [1, 3, 0, 6 * S, 0],
        before=window(T, 1, ttl=-1), after=window(T, 2, ttl=life(6 * S)),
    )
    fw(
        "peek gives no expiry",
        T, "peek", 1, [0, 4, 0, 10 * S, 0],
        before=window(T, 1, ttl=-1),
    )
    fw(
        "cost 0 gives no expiry",
        T, "hit", 0, [0, 4, 0, 10 * S, 0],
        before=window(T, 1, ttl=-1),
    )
    fw(
        "a life too short for the window is made longer",
        T, "hit", 1, [1, 3, 0, 10 * S, 0],
        before=window(T, 1, ttl=5_000), after=window(T, 2, ttl=life(10 * S)),
    )
    fw(
        "a longer life is another policy's: it and its field stay",
        T, "hit", 1, [1, 4, 0, 10 * S, 0],
        before=[hash_({BUCKET: debt(T + HOUR)})],
        after=[hash_({BUCKET: debt(T + HOUR), WINDOW: doubles(T, 1)})],
    )
    fw(
        "a lowered limit keeps the count",
        T, "hit", 1, [0, 0, 10 * S, 10 * S, 0],
        before=window(T, 5), limit=3,
    )
    fw(
        "a raised limit keeps the count",
        T, "hit", 1, [1, 194, 0, 10 * S, 0],
        before=window(T, 5), after=window(T, 6), limit=200,
    )
    fw(
        "a window of 10^12",
        T, "hit", 10**12, [10**12, 0, 0, 10 * S, 0],
        after=window(T, 10**12, ttl=life(10 * S)), limit=10**12,
    )
    clock = ("fixed_window", HASH, [ALIGNED, 5, 10 * S, 1])
    one(
        *clock, "aligned: a window ends on the clock",
        T + 4 * S, "hit", 1, [1, 4, 0, 6 * S, 0],
        after=[hash_({ALIGNED: doubles(T, 1)}, ttl=life(6 * S))],
    )
    one(
        *clock, "aligned: full until the clock's mark",
        T + 9 * S, "hit", 1, [0, 0, S, S, 0],
        before=[hash_({ALIGNED: doubles(T, 5)})],
    )
    one(
        *clock, "aligned: the next window begins on the mark, not at the hit",
        T + 17 * S, "hit", 2, [2, 3, 0, 3 * S, 0],
        before=[hash_({ALIGNED: doubles(T, 5)})],
        after=[hash_({ALIGNED: doubles(T + 10 * S, 2)})],
    )
    fw(
        "refund gives back what the window has counted",
        T + 4 * S, "refund", 2, [2, 4, 0, 6 * S, 0],
        before=window(T, 3), after=window(T, 1),
    )
    fw(
        "refund gives back no more than that, and the window stays open",
        T + 4 * S, "refund", 4, [3, 5, 0, 6 * S, 0],
        before=window(T, 3), after=window(T, 0),
    )
    fw(
        "a hit in a window that was emptied",
        T + 5 * S, "hit", 1, [1, 4, 0, 5 * S, 0],
        before=window(T, 0), after=window(T, 1),
    )
    fw("refund to a window that is empty", T, "refund", 2, [0, 5, 0, 10 * S, 0], window(T, 0))
    fw("refund to a window that is over", T + 10 * S, "refund", 2, [0, 5, 0, 0, 0], window(T, 3))
    fw("refund to nothing leaves nothing", T, "refund", 2, [0, 5, 0, 0, 0])
    fw("refund of 0 writes nothing", T, "refund", 0, [0, 2, 0, 10 * S, 0], window(T, 3, ttl=-1))
    fw(
        "refund after a clock that stepped back",
        T - 3 * S, "refund", 1, [1, 3, 0, 13 * S, 0],
        before=window(T, 3), after=window(T, 2),
    )
    fw(
        "refund heals a start too far ahead",
        T, "refund", 1, [1, 3, 0, 10 * S, 0],
        before=window(T + HOUR, 3), after=window(T, 2),
    )
    fw(
        "refund does not look at at_least",
        T, "refund", 4, [3, 5, 0, 10 * S, 0],
        before=window(T, 3), after=window(T, 0), at_least=4,
    )
    fw(
        "settle charges what does not fit",
        T + 4 * S, "settle", 4, [4, 0, 0, 6 * S, 0],
        before=window(T, 3), after=window(T, 7),
    )
    fw("who comes next waits", T + 4 * S, "hit", 1, [0, 0, 6 * S, 6 * S, 0], window(T, 7))
    fw(
        "settle makes no more debt than one limit",
        T + 4 * S, "settle", 5, [2, 0, 0, 6 * S, 0],
        before=window(T, 8), after=window(T, 10),
    )
    fw("settle in full debt", T + 4 * S, "settle", 1, [0, 0, 0, 6 * S, 0], window(T, 10))
    fw(
        "refund pays debt",
        T + 4 * S, "refund", 5, [5, 0, 0, 6 * S, 0],
        before=window(T, 10), after=window(T, 5),
    )
    fw(
        "settle opens a window",
        T, "settle", 2, [2, 3, 0, 10 * S, 0],
        after=window(T, 2, ttl=life(10 * S)),
    )
    fw("settle of 0 writes nothing", T, "settle", 0, [0, 2, 0, 10 * S, 0], window(T, 3, ttl=-1))
    fw(
        "settle heals a start too far ahead",
        T, "settle", 5, [2, 0, 0, 10 * S, 0],
        before=window(T + HOUR, 8), after=window(T, 10),
    )
    fw(
        "settle does not look at at_least",
        T, "settle", 4, [4, 0, 0, 10 * S, 0],
        before=window(T, 3), after=window(T, 7), at_least=3,
    )
    one(
        *clock, "aligned: settle opens a window on the mark",
        T + 4 * S, "settle", 2, [2, 3, 0, 6 * S, 0],
        after=[hash_({ALIGNED: doubles(T, 2)}, ttl=life(6 * S))],
    )
    refused("fixed_window", HASH, [WINDOW, 5, 10 * S, 0], window(T, 3))
    for what, policy in {
        "limit 0": [WINDOW, 0, 10 * S, 0],
        "limit 2.5": [WINDOW, 2.5, 10 * S, 0],
        "half a limit and half a microsecond": [WINDOW, 2.5, f"{10 * S}.5", 0],
        "limit 2^53": [WINDOW, 2**53, 10 * S, 0],
        "limit nan": [WINDOW, "nan", 10 * S, 0],
        "period_us 0": [WINDOW, 5, 0, 0],
        "period_us 2^53": [WINDOW, 5, 2**53, 0],
    }.items():
        one(
            "fixed_window", HASH, policy, f"{what} is an error",
            T, "hit", 0, "LIMITER an argument of fixed_window v1 is out of range",
            before=window(T, 3),
        )


def refused(
    script: str, key: str, policy: list[object], before: list[State], takes: str = "hit"
) -> None:
    """The errors that every script for one policy knows; none of them changes anything."""
    out_of_range = f"LIMITER an argument of {script} v1 is out of range"
    rates, leases = ["hit", "refund", "settle"], ["acquire", "renew", "release"]
    own, others = (rates, leases) if takes == "hit" else (leases, rates)
    for what, now, mode, cost, at_least in [
        ("an unknown mode", T, "take", 1, None),
        ("a mode in capitals", T, takes.upper(), 1, None),
        *((f"the mode {mode}", T, mode, 1, None) for mode in others),
        *((f"a cost beyond the limit to {mode}", T, mode, 6, None) for mode in own),
        ("a negative cost", T, takes, -1, None),
        ("half a unit", T, takes, 0.5, None),
        ("a cost that is nan", T, takes, "nan", None),
        ("an infinite cost", T, takes, "inf", None),
        ("at_least beyond the cost", T, takes, 1, 2),
        ("a negative at_least", T, takes, 1, -1),
        ("half of at_least", T, takes, 1, 0.5),
        ("a time before 1970", -T, takes, 1, None),
        ("a time that is nan", "nan", takes, 1, None),
        ("an infinite time", "inf", takes, 1, None),
        ("half a microsecond", f"{T}.5", takes, 1, None),
        ("a time beyond 2^53", 2**53, takes, 1, None),
    ]:
        said = "" if at_least is None else f" ({at_least})"
        one(
            script, key, policy, f"{what}{said} is an error",
            now, mode, cost, out_of_range, before=before, at_least=at_least,
        )
    one(
        script, key, policy, "a cost that is no number is an error of Lua's",
        T, takes, "many", "ERR", before=before,
    )
    for mode in own:
        one(
            script, key, policy, f"a key of another type is an error to {mode}",
            T, mode, 1, "WRONGTYPE", before=[string("not ours", key)],
        )


# --- sliding_log: 3 in 10 s ---


def sliding_log(*row: Any, limit: object = 3, **more: Any) -> None:
    """A row under 3 in 10 s."""
    one("sliding_log", LIST, [LOG, limit, 10 * S], *row, **more)


def sliding_log_vectors() -> None:
    """Every unit counts for exactly one period."""
    sl = sliding_log
    full = [T, T + 4 * S, T + 4 * S]
    sl(
        "the first hit is logged",
        T, "hit", 1, [1, 2, 0, 10 * S, 0],
        after=[list_([T], ttl=life(10 * S))],
    )
    sl(
        "one entry for each unit",
        T + 4 * S, "hit", 2, [2, 0, 0, 10 * S, 0],
        before=[list_([T])], after=[list_(full)],
    )
    sl(
        "denied until the oldest leaves",
        T + 5 * S, "hit", 1, [0, 0, 5 * S, 9 * S, 0],
        before=[list_(full)],
    )
    sl(
        "denied until enough of the oldest have left",
        T + 5 * S, "hit", 2, [0, 0, 9 * S, 9 * S, 0],
        before=[list_(full)],
    )
    sl(
        "a unit counts for the last microsecond of its period",
        T + 10 * S - 1, "hit", 1, [0, 0, 1, 4 * S + 1, 0],
        before=[list_(full)],
    )
    sl(
        "and not a microsecond longer; a hit that passes drops it",
        T + 10 * S, "hit", 1, [1, 0, 0, 10 * S, 0],
        before=[list_(full)], after=[list_([T + 4 * S, T + 4 * S, T + 10 * S])],
    )
    sl(
        "a hit after everything has left",
        T + 60 * S, "hit", 3, [3, 0, 0, 10 * S, 0],
        before=[list_(full)], after=[list_([T + 60 * S] * 3)],
    )
    sl(
        "a denied hit drops nothing, not even what has left",
        T + 9 * S, "hit", 2, [0, 1, 5 * S, 5 * S, 0],
        before=[list_([T - 7 * S, T - 3 * S, T - 2 * S, T + 4 * S, T + 4 * S])],
    )
    sl("peek says what hit would", T + 5 * S, "peek", 1, [0, 0, 5 * S, 9 * S, 0], [list_(full)])
    sl("peek drops nothing", T + 14 * S, "peek", 3, [0, 3, 0, 0, 0], [list_(full)])
    sl("peek at nothing leaves nothing", T, "peek", 1, [0, 3, 0, 0, 0])
    sl("cost 0 takes nothing and writes nothing", T, "hit", 0, [0, 3, 0, 0, 0])
    sl("cost 0 passes a full log", T + 5 * S, "hit", 0, [0, 0, 0, 9 * S, 0], [list_(full)])
    sl(
        "at_least takes what is there",
        T + 10 * S, "hit", 3, [1, 0, 0, 10 * S, 0],
        before=[list_(full)], after=[list_([T + 4 * S, T + 4 * S, T + 10 * S])], at_least=1,
    )
    sl(
        "less than at_least is denied until that much fits",
        T + 10 * S, "hit", 3, [0, 1, 4 * S, 4 * S, 0],
        before=[list_(full)], at_least=2,
    )
    sl("reset", T + 5 * S, "reset", 1, [0, 0, 5 * S, 9 * S, 0], [list_(full)], [])
    sl("reset mends another type", T, "reset", 1, [0, 3, 0, 0, 0], [string("not ours", LIST)], [])
    sl(
        "a clock that stepped back logs at the newest entry's time",
        T - 3 * S, "hit", 1, [1, 1, 0, 13 * S, 0],
        before=[list_([T])], after=[list_([T, T])],
    )
    sl(
        "a clock that stepped back frees nobody early",
        T + S, "hit", 1, [0, 0, 9 * S, 13 * S, 0],
        before=[list_(full)],
    )
    sl(
        "a newest entry one period ahead can be true",
        T, "hit", 1, [0, 0, 20 * S, 20 * S, 0],
        before=[list_([T + 10 * S] * 3)],
    )
    sl(
        "a newest entry farther ahead cannot: the log reads as empty",
        T, "hit", 1, [1, 2, 0, 10 * S, 0],
        before=[list_([T + 10 * S + 1] * 3)], after=[list_([T])],
    )
    sl(
        "peek at a log from the future",
        T, "peek", 1, [0, 3, 0, 0, 0],
        before=[list_([T + HOUR] * 3)],
    )
    for what, entry in {
        "no number": "junk",
        "nan": "nan",
        "infinite": "inf",
        "no integer": f"{T}.5",
    }.items():
        sl(
            f"a newest entry that is {what}: the log reads as empty",
            T, "hit", 1, [1, 2, 0, 10 * S, 0],
            before=[list_([T, T, entry])], after=[list_([T])],
        )
    sl(
        "a denied hit gives a key without expiry one",
        T + 5 * S, "hit", 1, [0, 0, 5 * S, 9 * S, 0],
        before=[list_(full, ttl=-1)], after=[list_(full, ttl=life(9 * S))],
    )
    sl(
        "a life too short for the log is made longer",
        T + 4 * S, "hit", 2, [2, 0, 0, 10 * S, 0],
        before=[list_([T], ttl=2_000)], after=[list_(full, ttl=life(10 * S))],
    )
    sl(
        "a lowered limit waits until enough of the old ones have left",
        T + 4 * S, "hit", 1, [0, 0, 8 * S, 9 * S, 0],
        before=[list_([T, T + S, T + 2 * S, T + 3 * S])], limit=2,
    )
    sl(
        "a raised limit keeps the count",
        T + 5 * S, "hit", 1, [1, 6, 0, 10 * S, 0],
        before=[list_(full)], after=[list_([*full, T + 5 * S])], limit=10,
    )
    sl(
        "two hits in one microsecond are two",
        T, "hit", 1, [1, 1, 0, 10 * S, 0],
        before=[list_([T])], after=[list_([T, T])],
    )
    sl(
        "refund drops the oldest",
        T + 5 * S, "refund", 1, [1, 1, 0, 9 * S, 0],
        before=[list_(full)], after=[list_([T + 4 * S] * 2)],
    )
    sl(
        "refund of all that counts deletes the log",
        T + 5 * S, "refund", 3, [3, 3, 0, 0, 0],
        before=[list_(full)], after=[],
    )
    sl(
        "refund gives back nothing that has left",
        T + 10 * S, "refund", 1, [1, 2, 0, 4 * S, 0],
        before=[list_(full)], after=[list_([T + 4 * S])],
    )
    sl(
        "refund gives back no more than what counts",
        T + 10 * S, "refund", 3, [2, 3, 0, 0, 0],
        before=[list_(full)], after=[],
    )
    sl("refund where nothing counts", T + 60 * S, "refund", 2, [0, 3, 0, 0, 0], [list_(full)])
    sl("refund to nothing leaves nothing", T, "refund", 2, [0, 3, 0, 0, 0])
    sl("refund of 0 writes nothing", T + S, "refund", 0, [0, 2, 0, 9 * S, 0], [list_([T], -1)])
    sl(
        "refund deletes a log that ends too far ahead",
        T, "refund", 1, [0, 3, 0, 0, 0],
        before=[list_([T, T + HOUR])], after=[],
    )
    sl(
        "settle logs what does not fit",
        T + 5 * S, "settle", 2, [2, 0, 0, 10 * S, 0],
        before=[list_(full)], after=[list_([*full, T + 5 * S, T + 5 * S])],
    )
    sl(
        "who comes next waits until enough have left",
        T + 5 * S, "hit", 1, [0, 0, 9 * S, 10 * S, 0],
        before=[list_([*full, T + 5 * S, T + 5 * S])],
    )
    sl(
        "settle makes no more debt than one limit",
        T + 5 * S, "settle", 3, [1, 0, 0, 10 * S, 0],
        before=[list_([T] * 5)], after=[list_([T] * 5 + [T + 5 * S])],
    )
    sl("settle in full debt", T + 5 * S, "settle", 1, [0, 0, 0, 5 * S, 0], [list_([T] * 6)])
    sl(
        "settle drops what has left",
        T + 10 * S, "settle", 1, [1, 0, 0, 10 * S, 0],
        before=[list_(full)], after=[list_([T + 4 * S, T + 4 * S, T + 10 * S])],
    )
    sl(
        "settle begins a log",
        T, "settle", 2, [2, 1, 0, 10 * S, 0],
        after=[list_([T, T], ttl=life(10 * S))],
    )
    sl("settle of 0 writes nothing", T + S, "settle", 0, [0, 2, 0, 9 * S, 0], [list_([T], -1)])
    sl(
        "settle begins a log anew that ends too far ahead",
        T, "settle", 1, [1, 2, 0, 10 * S, 0],
        before=[list_([T, T + HOUR])], after=[list_([T])],
    )
    sl(
        "a cost of more than 4,000 entries is an error",
        T, "hit", 4001, "LIMITER an argument of sliding_log v1 is out of range",
        before=[list_([T])], limit=100_000, at_least=1,
    )
    refused("sliding_log", LIST, [LOG, 5, 10 * S], [list_([T])])


# --- token_bucket: 1 a second, 5 saved; and 3 in 10 microseconds, whose interval is a third ---


def bucket(full: float, reach: int = 5, **more: Any) -> list[State]:
    """The hash of a limiter with this one bucket."""
    return [hash_({BUCKET: debt(full, reach=reach)}, **more)]


def thirds(full: int, part: int, **more: Any) -> list[State]:
    """The same in thirds of a microsecond."""
    return [hash_({THIRDS: debt(full, part, 3, reach=1)}, **more)]


def token_bucket(*row: Any, burst: object = 5, t_us: int = S, **more: Any) -> None:
    """A row under 1 a second, 5 saved."""
    one("token_bucket", HASH, [BUCKET, burst, S, t_us, 0, 1], *row, **more)


def token_bucket_vectors() -> None:
    """Debt as the time at which the bucket is full."""
    tb = token_bucket
    tb(
        "the first hit",
        T, "hit", 1, [1, 4, 0, S, 0],
        after=bucket(T + S, ttl=life(S)),
    )
    tb(
        "a later hit waits behind the first, if anybody queues",
        T, "hit", 4, [4, 0, 0, 5 * S, S],
        before=bucket(T + S), after=bucket(T + 5 * S),
    )
    tb("empty", T, "hit", 1, [0, 0, S, 5 * S, 0], before=bucket(T + 5 * S))
    tb(
        "a cost that does not fit is denied whole",
        T, "hit", 5, [0, 4, S, S, 0],
        before=bucket(T + S),
    )
    tb(
        "a microsecond too early",
        T + S - 1, "hit", 1, [0, 0, 1, 4 * S + 1, 0],
        before=bucket(T + 5 * S),
    )
    tb(
        "at the moment that was promised",
        T + S, "hit", 1, [1, 0, 0, 5 * S, 4 * S],
        before=bucket(T + 5 * S), after=bucket(T + 6 * S),
    )
    tb(
        "however long it rests, a bucket holds its burst",
        T + HOUR, "hit", 5, [5, 0, 0, 5 * S, 0],
        before=bucket(T + S), after=bucket(T + HOUR + 5 * S),
    )
    tb("peek says what hit would", T, "peek", 4, [0, 4, 0, S, S], before=bucket(T + S))
    tb("peek says that hit would be denied", T, "peek", 5, [0, 4, S, S, 0], before=bucket(T + S))
    tb("peek at nothing leaves nothing", T, "peek", 5, [0, 5, 0, 0, 0])
    tb("cost 0 takes nothing and writes nothing", T, "hit", 0, [0, 5, 0, 0, 0])
    tb("cost 0 passes an empty bucket", T, "hit", 0, [0, 0, 0, 5 * S, 5 * S], bucket(T + 5 * S))
    tb(
        "at_least takes what is there",
        T, "hit", 5, [2, 0, 0, 5 * S, 3 * S],
        before=bucket(T + 3 * S), after=bucket(T + 5 * S), at_least=1,
    )
    tb(
        "less than at_least is denied until that much fits",
        T, "hit", 5, [0, 2, S, 3 * S, 0],
        before=bucket(T + 3 * S), at_least=3,
    )
    tb("reset", T, "reset", 5, [0, 2, 3 * S, 3 * S, 0], before=bucket(T + 3 * S), after=[])
    tb("reset mends another type", T, "reset", 1, [0, 5, 0, 0, 0], [string("not ours")], [])
    tb(
        "a clock that stepped back refills nothing",
        T - S, "hit", 1, [0, 0, 2 * S, 6 * S, 0],
        before=bucket(T + 5 * S),
    )
    tb(
        "the most debt that is believed: twice the time to fill and the period",
        T, "hit", 1, [0, 0, 8 * S, 12 * S, 0],
        before=bucket(T + 12 * S),
    )
    tb(
        "more debt heals down to that, even by a denied hit",
        T, "hit", 1, [0, 0, 8 * S, 12 * S, 0],
        before=bucket(T + HOUR), after=bucket(T + 12 * S),
    )
    tb("peek heals nothing", T, "peek", 1, [0, 0, 8 * S, 12 * S, 0], before=bucket(T + HOUR))
    for what, value in {
        "of another length": doubles(T + 5 * S, 5),
        "whose time is no number": debt(NAN),
        "whose time is infinite": debt(INF),
        "whose time is no integer": debt(T + 5 * S + 0.5),
        "whose time is beyond 2^53": debt(2.0**60),
        "whose part is negative": debt(T + 5 * S, -1, 1),
        "whose part is a whole": debt(T + 5 * S, 1, 1),
        "whose part is no integer": debt(T + 5 * S, 0.5, 1),
        "whose part is no number": debt(T + 5 * S, NAN, 1),
    }.items():
        tb(
            f"a value {what} counts as unused",
            T, "hit", 1, [1, 4, 0, S, 0],
            before=[hash_({BUCKET: value})], after=bucket(T + S),
        )
    tb(
        "a denied hit gives a key without expiry one",
        T, "hit", 1, [0, 0, S, 5 * S, 0],
        before=bucket(T + 5 * S, ttl=-1), after=bucket(T + 5 * S, ttl=life(5 * S)),
    )
    tb(
        "a life too short for the debt is made longer",
        T, "hit", 4, [4, 0, 0, 5 * S, S],
        before=bucket(T + S, ttl=4_000), after=bucket(T + 5 * S, ttl=life(5 * S)),
    )
    tb(
        "a part of 0 says the same as none",
        T, "hit", 1, [0, 0, S, 5 * S, 0],
        before=[hash_({BUCKET: raw(struct.pack("<dIdd", T + 5 * S, 5, 0, 1))})],
    )
    tb("a larger burst keeps the debt", T, "hit", 5, [5, 0, 0, 10 * S, 5 * S],
       before=bucket(T + 5 * S), after=bucket(T + 10 * S, 10), burst=10)
    tb(
        "the debt of a larger burst is believed, and stays",
        T, "hit", 1, [0, 0, 96 * S, 100 * S, 0],
        before=bucket(T + 100 * S, 100),
    )
    tb(
        "the most debt of a larger burst, too",
        T, "hit", 1, [0, 0, 198 * S, 202 * S, 0],
        before=bucket(T + HOUR, 100), after=bucket(T + 202 * S, 100),
    )
    tb(
        "and is remembered for as long as there is more than this one holds",
        T, "refund", 1, [1, 0, 0, 8 * S, 0],
        before=bucket(T + 9 * S, 100), after=bucket(T + 8 * S, 100),
    )
    tb(
        "not when there is less",
        T, "refund", 4, [4, 4, 0, S, 0],
        before=bucket(T + 5 * S, 100), after=bucket(T + S),
    )
    tb(
        "a value that takes longer to fill than any bucket counts as unused",
        T, "hit", 1, [1, 4, 0, S, 0],
        before=bucket(T + 100 * S, 3_650 * 86_400 + 1), after=bucket(T + S),
    )
    tb(
        "a faster rate keeps the debt's time",
        T, "hit", 1, [0, 0, S, 3 * S, 0],
        before=bucket(T + 3 * S), t_us=500_000,
    )

    third = ("token_bucket", HASH, [THIRDS, 3, 10, 3, 1, 3])
    one(
        *third, "thirds: three units take ten microseconds",
        T, "hit", 3, [3, 0, 0, 10, 0],
        after=thirds(T + 10, 0, ttl=life(10)),
    )
    one(*third, "thirds: 3 1/3 not yet over", T + 3, "hit", 1, [0, 0, 1, 7, 0], thirds(T + 10, 0))
    one(
        *third, "thirds: full at 13 1/3; times are rounded up",
        T + 4, "hit", 1, [1, 0, 0, 10, 6],
        before=thirds(T + 10, 0), after=thirds(T + 13, 1),
    )
    one(
        *third, "thirds: full at 16 2/3",
        T + 7, "hit", 1, [1, 0, 0, 10, 7],
        before=thirds(T + 13, 1), after=thirds(T + 16, 2),
    )
    one(
        *third, "thirds: full at 20, as if nothing had been rounded",
        T + 10, "hit", 1, [1, 0, 0, 10, 7],
        before=thirds(T + 16, 2), after=thirds(T + 20, 0),
    )
    one(*third, "thirds: and again 3 1/3", T + 13, "hit", 1, [0, 0, 1, 7, 0], thirds(T + 20, 0))
    one(
        "token_bucket", HASH, [THIRDS, 7, 10, 1, 3, 7], "sevenths: a third is rounded up once",
        T, "hit", 1, [1, 3, 0, 6, 4],
        before=thirds(T + 3, 1), after=[hash_({THIRDS: debt(T + 5, 3, 7, reach=1)})],
    )
    # One unit each thousandth of a microsecond.
    big = 10**12
    one(
        "token_bucket", HASH, ["token_bucket:1000000000", big, 1000 * S, 0, 1, 1000],
        "a burst of 10^12",
        T, "hit", big, [big, 0, 0, big // 1000, 0],
        after=[hash_({"token_bucket:1000000000": debt(T + big // 1000, reach=big // 1000 // S)},
                     ttl=life(big // 1000))],
    )

    tb(
        "refund shrinks the debt",
        T, "refund", 1, [1, 3, 0, 2 * S, 0],
        before=bucket(T + 3 * S), after=bucket(T + 2 * S),
    )
    tb(
        "refund leaves less than nothing to nobody",
        T, "refund", 5, [3, 5, 0, 0, 0],
        before=bucket(T + 3 * S), after=bucket(T),
    )
    tb(
        "refund of a unit of which a part had dripped in",
        T, "refund", 3, [3, 5, 0, 0, 0],
        before=bucket(T + 2 * S + 1), after=bucket(T),
    )
    tb(
        "refund of fewer units than that",
        T, "refund", 2, [2, 4, 0, 1, 0],
        before=bucket(T + 2 * S + 1), after=bucket(T + 1),
    )
    tb("refund to a full bucket", T, "refund", 1, [0, 5, 0, 0, 0], bucket(T))
    tb("refund to nothing leaves nothing", T, "refund", 1, [0, 5, 0, 0, 0])
    tb("refund of 0 writes nothing", T, "refund", 0, [0, 2, 0, 3 * S, 0], bucket(T + 3 * S, ttl=-1))
    tb(
        "refund heals a debt that cannot be",
        T, "refund", 1, [1, 0, 0, 11 * S, 0],
        before=bucket(T + HOUR), after=bucket(T + 11 * S),
    )
    tb(
        "settle takes what is not there",
        T, "settle", 4, [4, 0, 0, 7 * S, 0],
        before=bucket(T + 3 * S), after=bucket(T + 7 * S),
    )
    tb("who comes next waits", T, "hit", 1, [0, 0, 3 * S, 7 * S, 0], bucket(T + 7 * S))
    tb(
        "settle makes no more debt than one burst",
        T, "settle", 5, [2, 0, 0, 10 * S, 0],
        before=bucket(T + 8 * S), after=bucket(T + 10 * S),
    )
    tb(
        "settle of whole units only",
        T, "settle", 5, [1, 0, 0, 9 * S + 1, 0],
        before=bucket(T + 8 * S + 1), after=bucket(T + 9 * S + 1),
    )
    tb("settle in full debt", T, "settle", 1, [0, 0, 0, 10 * S, 0], bucket(T + 10 * S))
    tb("settle in deeper debt", T, "settle", 1, [0, 0, 0, 12 * S, 0], bucket(T + 12 * S))
    tb(
        "settle takes from a full bucket",
        T, "settle", 2, [2, 3, 0, 2 * S, 0],
        after=bucket(T + 2 * S, ttl=life(2 * S)),
    )
    tb("settle of 0 writes nothing", T, "settle", 0, [0, 2, 0, 3 * S, 0], bucket(T + 3 * S, ttl=-1))
    tb(
        "settle heals a debt that cannot be",
        T, "settle", 1, [0, 0, 0, 12 * S, 0],
        before=bucket(T + HOUR), after=bucket(T + 12 * S),
    )
    one(
        *third, "thirds: refund of one, full at 6 2/3",
        T, "refund", 1, [1, 1, 0, 7, 0],
        before=thirds(T + 10, 0), after=thirds(T + 6, 2),
    )
    one(
        *third, "thirds: settle of three, full at 13 1/3",
        T, "settle", 3, [3, 0, 0, 14, 0],
        before=thirds(T + 3, 1), after=thirds(T + 13, 1),
    )
    one(
        "token_bucket", HASH, [THIRDS, 7, 10, 1, 3, 7], "sevenths: refund rounds a third up once",
        T, "refund", 1, [1, 1, 0, 8, 0],
        before=thirds(T + 8, 1), after=[hash_({THIRDS: debt(T + 7, 4, 7, reach=1)})],
    )
    for name in ("gcra", "leaky_bucket"):
        field = f"{name}:1000000"
        one(
            "token_bucket", HASH, [field, 5, S, S, 0, 1], f"{name} has a field of its own",
            T, "hit", 2, [2, 3, 0, 2 * S, 0],
            before=bucket(T + 5 * S),
            after=[hash_({BUCKET: debt(T + 5 * S), field: debt(T + 2 * S)})],
        )
        one(
            "token_bucket", HASH, [field, 5, S, S, 0, 1], f"{name} says how long the debt before it takes",
            T, "hit", 2, [2, 0, 0, 5 * S, 3 * S],
            before=[hash_({field: debt(T + 3 * S)})],
            after=[hash_({field: debt(T + 5 * S)})],
        )

    policy = [BUCKET, 5, S, S, 0, 1]
    refused("token_bucket", HASH, policy, bucket(T + 3 * S))
    for what, numbers in {
        "limit 0": [0, S, S, 0, 1],
        "period_us 0": [5, 0, S, 0, 1],
        "an interval of 0": [5, S, 0, 0, 1],
        "t_part as large as parts": [5, S, S, 3, 3],
        "a negative t_part": [5, S, S, -1, 3],
        "half a part": [5, S, S, 0.5, 3],
        "half a part of halves": [5, S, S, 0.5, 3.5],
        "next to no part": [5, S, S, 0, "1e-38"],
        "parts 0": [5, S, S, 0, 0],
        "a bucket too large to be exact": [2**40, S, S, 1, 2**13],
        "a bucket that takes too long to fill": [2**40, S, 2**13, 0, 1],
    }.items():
        one(
            "token_bucket", HASH, [BUCKET, *numbers], f"{what} is an error",
            T, "hit", 0, "LIMITER an argument of token_bucket v1 is out of range",
            before=bucket(T + 3 * S),
        )


# --- sliding_window: 5 in 10 s ---


def sliding(start: float, current: float, previous: float, **more: Any) -> list[State]:
    """The hash of a limiter with this one window, and what the one before it counted."""
    return [hash_({SLIDING: doubles(start, current, previous)}, **more)]


def sliding_window(*row: Any, limit: object = 5, unit_us: object = 1, **more: Any) -> None:
    """A row under 5 in 10 s."""
    one("sliding_window", HASH, [SLIDING, limit, 10 * S, unit_us], *row, **more)


def sliding_window_vectors() -> None:
    """Two counters: of the window that is open, and of the one before it by the share that counts."""
    sw = sliding_window
    sw(
        "the first hit opens the window; it counts in that one and the next",
        T, "hit", 1, [1, 4, 0, 20 * S, 0],
        after=sliding(T, 1, 0, ttl=life(20 * S)),
    )
    sw(
        "a later hit counts in the same window",
        T + 4 * S, "hit", 2, [2, 2, 0, 16 * S, 0],
        before=sliding(T, 1, 0), after=sliding(T, 3, 0),
    )
    sw(
        "a cost that does not fit is denied whole",
        T + 4 * S, "hit", 3, [0, 2, 9_333_334, 16 * S, 0],
        before=sliding(T, 3, 0),  # in the next window, once a third of the three has gone
    )
    sw(
        "full: in the next window, when a fifth of the past has gone",
        T + 9 * S, "hit", 1, [0, 0, 3 * S, 11 * S, 0],
        before=sliding(T, 5, 0),
    )
    sw(
        "a microsecond too early",
        T + 12 * S - 1, "hit", 1, [0, 0, 1, 8 * S + 1, 0],
        before=sliding(T, 5, 0),
    )
    sw(
        "at the moment that was promised; the next window begins where the last one ended",
        T + 12 * S, "hit", 1, [1, 0, 0, 18 * S, 0],
        before=sliding(T, 5, 0), after=sliding(T + 10 * S, 1, 5),
    )
    sw(
        "denied within this window: when enough of the past has gone",
        T + 12 * S, "hit", 2, [0, 1, 2 * S, 8 * S, 0],
        before=sliding(T + 10 * S, 0, 5),
    )
    sw(
        "denied until the next window, when a third of this one has gone, to the microsecond",
        T + 15 * S, "hit", 3, [0, 0, 8_333_334, 15 * S, 0],
        before=sliding(T + 10 * S, 3, 5),
    )
    sw(
        "denied until all has gone: beside any past there is no room for a whole limit",
        T + 15 * S, "hit", 5, [0, 0, 15 * S, 15 * S, 0],
        before=sliding(T + 10 * S, 3, 5),
    )
    sw(
        "the share of the past is rounded up",
        T + 31 * S, "hit", 1, [1, 0, 0, 19 * S, 0],
        before=sliding(T + 20 * S, 4, 1), after=sliding(T + 30 * S, 1, 4),
    )
    sw(
        "the last microsecond of the past counts for a unit",
        T + 20 * S - 1, "hit", 4, [4, 0, 0, 10 * S + 1, 0],
        before=sliding(T, 5, 0), after=sliding(T + 10 * S, 4, 5),
    )
    sw(
        "then nothing counts, and a window opens at the hit",
        T + 23 * S, "hit", 5, [5, 0, 0, 20 * S, 0],
        before=sliding(T, 5, 0), after=sliding(T + 23 * S, 5, 0),
    )
    sw(
        "nor does it where the last window was empty",
        T + 13 * S, "hit", 5, [5, 0, 0, 20 * S, 0],
        before=sliding(T, 0, 5), after=sliding(T + 13 * S, 5, 0),
    )
    sw("peek says what hit would", T + 15 * S, "peek", 1, [0, 1, 0, 15 * S, 0], sliding(T + 10 * S, 1, 5))
    sw(
        "peek says that hit would be denied, and begins no window",
        T + 12 * S, "peek", 2, [0, 1, 2 * S, 8 * S, 0],
        before=sliding(T, 5, 0),
    )
    sw("peek at nothing leaves nothing", T, "peek", 1, [0, 5, 0, 0, 0])
    sw("cost 0 takes nothing and writes nothing", T, "hit", 0, [0, 5, 0, 0, 0])
    sw("cost 0 passes a full window", T, "hit", 0, [0, 0, 0, 20 * S, 0], sliding(T, 5, 0))
    sw(
        "at_least takes what is there",
        T + 15 * S, "hit", 4, [1, 0, 0, 15 * S, 0],
        before=sliding(T + 10 * S, 1, 5), after=sliding(T + 10 * S, 2, 5), at_least=1,
    )
    sw(
        "less than at_least is denied until that much fits",
        T + 15 * S, "hit", 4, [0, 1, S, 15 * S, 0],
        before=sliding(T + 10 * S, 1, 5), at_least=2,
    )
    sw("reset", T + 4 * S, "reset", 2, [0, 2, 0, 16 * S, 0], sliding(T, 3, 0), [])
    sw("reset mends another type", T, "reset", 1, [0, 5, 0, 0, 0], [string("not ours")], [])
    sw(
        "a clock that stepped back is at the beginning of the window",
        T - 3 * S, "hit", 1, [1, 1, 0, 23 * S, 0],
        before=sliding(T, 2, 1), after=sliding(T, 3, 1),
    )
    sw(
        "a clock that stepped back frees nobody early",
        T - 3 * S, "hit", 1, [0, 0, 15 * S, 23 * S, 0],
        before=sliding(T, 5, 0),
    )
    sw(
        "a start one period ahead can be true",
        T - 10 * S, "hit", 1, [0, 0, 22 * S, 30 * S, 0],
        before=sliding(T, 5, 0),
    )
    sw(
        "a start farther ahead heals, even by a denied hit: begun now, with its counts",
        T, "hit", 1, [0, 0, 10 * S, 20 * S, 0],
        before=sliding(T + HOUR, 4, 5), after=sliding(T, 4, 5),
    )
    sw(
        "a start farther ahead heals by a hit that passes",
        T, "hit", 1, [1, 1, 0, 20 * S, 0],
        before=sliding(T + 10 * S + 1, 2, 1), after=sliding(T, 3, 1),
    )
    sw("peek heals nothing", T, "peek", 1, [0, 0, 12 * S, 20 * S, 0], sliding(T + HOUR, 5, 0))
    sw("both counters 0 is unused", T, "peek", 5, [0, 5, 0, 0, 0], sliding(T, 0, 0))
    for what, value in {
        "of another length": doubles(T, 5),
        "whose start is no number": doubles(NAN, 5, 0),
        "whose start is no integer": doubles(T + 0.5, 5, 0),
        "whose start is infinite": doubles(INF, 5, 0),
        "whose start is negative": doubles(-1, 5, 0),
        "whose start is beyond 2^53": doubles(2.0**60, 5, 0),
        "whose count is no number": doubles(T, NAN, 0),
        "whose count is no integer": doubles(T, 4.5, 0),
        "whose count is negative": doubles(T, -1, 6),
        "whose count is infinite": doubles(T, INF, 0),
        "whose count is beyond 2^53": doubles(T, 2.0**60, 0),
        "whose past is no number": doubles(T, 5, NAN),
        "whose past is no integer": doubles(T, 4, 0.5),
        "whose past is negative": doubles(T, 5, -1),
        "whose past is infinite": doubles(T, 5, INF),
        "whose past is beyond 2^53": doubles(T, 0, 2.0**60),
    }.items():
        sw(
            f"a value {what} counts as unused",
            T, "hit", 1, [1, 4, 0, 20 * S, 0],
            before=[hash_({SLIDING: value})], after=sliding(T, 1, 0),
        )
    sw(
        "a denied hit gives a key without expiry one",
        T + 9 * S, "hit", 1, [0, 0, 3 * S, 11 * S, 0],
        before=sliding(T, 5, 0, ttl=-1), after=sliding(T, 5, 0, ttl=life(11 * S)),
    )
    sw(
        "a life too short for both windows is made longer",
        T + 4 * S, "hit", 1, [1, 3, 0, 16 * S, 0],
        before=sliding(T, 1, 0, ttl=5_000), after=sliding(T, 2, 0, ttl=life(16 * S)),
    )
    sw(
        "a lowered limit keeps the count; more than the limit is read in larger units",
        T, "hit", 1, [0, 0, 16 * S, 20 * S, 0],
        before=sliding(T, 5, 0), limit=3,  # 5 x 2/5 = 3 - 1
    )
    sw(
        "a lowered limit keeps the past, in units of two microseconds",
        T + 14 * S + 1, "hit", 1, [0, 0, 2 * S - 1, 6 * S - 1, 0],
        before=sliding(T + 10 * S, 0, 5), limit=3,
    )
    sw(
        "a raised limit keeps the count",
        T, "hit", 1, [1, 194, 0, 20 * S, 0],
        before=sliding(T, 5, 0), after=sliding(T, 6, 0), limit=200,
    )
    big = {"limit": 10**12, "unit_us": 2221}  # 10^19 / 2^52, rounded up: 4,503 units in a period
    sw(
        "a window of 10^12",
        T, "hit", 10**12, [10**12, 0, 0, 20 * S, 0],
        after=sliding(T, 10**12, 0, ttl=life(20 * S)), **big,
    )
    sw(
        "a window of 10^12: a microsecond before the first unit of time has passed",
        T + 10 * S + 2220, "hit", 1, [0, 0, 1, 10 * S - 2220, 0],
        before=sliding(T, 10**12, 0), **big,
    )
    sw(
        "a window of 10^12: and then",
        T + 10 * S + 2221, "peek", 1, [0, 222_074_172, 0, 10 * S - 2221, 0],
        before=sliding(T, 10**12, 0), **big,
    )
    sw(
        "refund takes from this window, then from the past",
        T + 15 * S, "refund", 3, [3, 3, 0, 5 * S, 0],
        before=sliding(T + 10 * S, 2, 4), after=sliding(T + 10 * S, 0, 3),
    )
    sw(
        "refund of less than this window counts",
        T + 15 * S, "refund", 1, [1, 2, 0, 15 * S, 0],
        before=sliding(T + 10 * S, 2, 4), after=sliding(T + 10 * S, 1, 4),
    )
    sw(
        "refund of all that counts leaves nothing used",
        T + 15 * S, "refund", 5, [3, 5, 0, 0, 0],
        before=sliding(T + 10 * S, 1, 2), after=sliding(T + 10 * S, 0, 0),
    )
    sw(
        "refund in a window that no hit has begun",
        T + 15 * S, "refund", 2, [2, 4, 0, 5 * S, 0],
        before=sliding(T, 4, 1), after=sliding(T + 10 * S, 0, 2),
    )
    sw("refund where nothing counts", T + 20 * S, "refund", 2, [0, 5, 0, 0, 0], sliding(T, 4, 1))
    sw("refund to nothing leaves nothing", T, "refund", 2, [0, 5, 0, 0, 0])
    sw("refund of 0 writes nothing", T, "refund", 0, [0, 2, 0, 20 * S, 0], sliding(T, 3, 0, ttl=-1))
    sw(
        "refund heals a start too far ahead",
        T, "refund", 2, [2, 2, 0, 20 * S, 0],
        before=sliding(T + HOUR, 4, 1), after=sliding(T, 2, 1),
    )
    sw(
        "settle charges what does not fit",
        T, "settle", 4, [4, 0, 0, 20 * S, 0],
        before=sliding(T, 3, 0), after=sliding(T, 7, 0),
    )
    sw(
        "settle makes no more debt than one limit, the share of the past included",
        T + 15 * S, "settle", 5, [4, 0, 0, 15 * S, 0],
        before=sliding(T + 10 * S, 3, 5), after=sliding(T + 10 * S, 7, 5),
    )
    sw("settle in full debt", T, "settle", 1, [0, 0, 0, 20 * S, 0], sliding(T, 10, 0))
    sw(
        "who comes next waits until the debt has gone",
        T, "hit", 1, [0, 0, 16 * S, 20 * S, 0],
        before=sliding(T, 10, 0),  # 10 x 4/10 = 5 - 1
    )
    sw(
        "settle opens a window",
        T, "settle", 2, [2, 3, 0, 20 * S, 0],
        after=sliding(T, 2, 0, ttl=life(20 * S)),
    )
    sw("settle of 0 writes nothing", T, "settle", 0, [0, 2, 0, 20 * S, 0], sliding(T, 3, 0, ttl=-1))
    sw(
        "settle heals a start too far ahead",
        T, "settle", 5, [2, 0, 0, 20 * S, 0],
        before=sliding(T + HOUR, 8, 0), after=sliding(T, 10, 0),
    )
    refused("sliding_window", HASH, [SLIDING, 5, 10 * S, 1], sliding(T, 3, 0))
    for what, policy in {
        "limit 0": [SLIDING, 0, 10 * S, 1],
        "limit 2.5": [SLIDING, 2.5, 10 * S, 1],
        "limit 2^53": [SLIDING, 2**53, 10 * S, 2**40],
        "limit nan": [SLIDING, "nan", 10 * S, 1],
        "period_us 0": [SLIDING, 5, 0, 1],
        "half a microsecond of a period": [SLIDING, 5, f"{10 * S}.5", 1],
        "period_us 2^53": [SLIDING, 5, 2**53, 2**40],
        "unit_us 0": [SLIDING, 5, 10 * S, 0],
        "unit_us 1.5": [SLIDING, 5, 10 * S, 1.5],
        "unit_us nan": [SLIDING, 5, 10 * S, "nan"],
        "a unit in which products are not exact": [SLIDING, 10**12, 10 * S, 2220],
    }.items():
        one(
            "sliding_window", HASH, policy, f"{what} is an error",
            T, "hit", 0, "LIMITER an argument of sliding_window v1 is out of range",
            before=sliding(T, 3, 0),
        )


# --- concurrency: 3 at once, for 10 s each ---


def leases(ttl: Any = LONG_MS, **ends_us: Any) -> list[State]:
    """The set of these holders' leases: when the units of each end."""
    entries = {
        f"{holder}:{unit}": end
        for holder, ends in ends_us.items()
        for unit, end in enumerate(ends, 1)
    }
    return [set_(entries, ttl)]


def concurrency(
    name: str, now: object, mode: str, cost: object, holder: str, *row: Any,
    limit: object = 3, lease_us: object = 10 * S, **more: Any,
) -> None:
    """A row under 3 leases of 10 s."""
    policy = [LEASES, limit, lease_us, holder]
    one("concurrency", SET, policy, name, now, mode, cost, *row, **more)


def concurrency_vectors() -> None:
    """Leases, by the time at which each of their units ends."""
    c = concurrency
    late = [T + 12 * S] * 2
    full = leases(a=[T + 10 * S], b=late)
    c(
        "the first lease",
        T, "acquire", 1, "a", [1, 2, 0, 10 * S, 0],
        after=leases(a=[T + 10 * S], ttl=life(10 * S)),
    )
    c(
        "a member for each unit",
        T + 2 * S, "acquire", 2, "b", [2, 0, 0, 10 * S, 0],
        before=leases(a=[T + 10 * S]), after=full,
    )
    c("denied until the first one ends", T + 3 * S, "acquire", 1, "c", [0, 0, 7 * S, 9 * S, 0], full)
    c("denied until enough have ended", T + 3 * S, "acquire", 2, "c", [0, 0, 9 * S, 9 * S, 0], full)
    c(
        "a cost that does not fit is denied whole",
        T + 3 * S, "acquire", 3, "c", [0, 2, 7 * S, 7 * S, 0],
        before=leases(a=[T + 10 * S]),
    )
    c(
        "a lease is held for its last microsecond",
        T + 10 * S - 1, "acquire", 1, "c", [0, 0, 1, 2 * S + 1, 0],
        before=full,
    )
    c(
        "and not a microsecond longer; who takes the place removes it",
        T + 10 * S, "acquire", 1, "c", [1, 0, 0, 10 * S, 0],
        before=full, after=leases(b=late, c=[T + 20 * S]),
    )
    c(
        "when all have ended, the key keeps its life",
        T + 60 * S, "acquire", 1, "c", [1, 2, 0, 10 * S, 0],
        before=full, after=leases(c=[T + 70 * S]),
    )
    c(
        "the same id again is the same lease",
        T + 3 * S, "acquire", 2, "b", [2, 0, 0, 9 * S, 0],
        before=full,
    )
    c(
        "the same id again, of whose units one has ended",
        T + 11 * S, "acquire", 2, "b", [1, 2, 0, S, 0],
        before=leases(b=[T + 10 * S, T + 12 * S]),
    )
    c(
        "the same id again, when it has ended, is another lease",
        T + 10 * S, "acquire", 1, "a", [1, 0, 0, 10 * S, 0],
        before=full, after=leases(a=[T + 20 * S], b=late),
    )
    c(
        "an id that looks like a unit of another is none",
        T, "acquire", 1, "a:1", [1, 1, 0, 10 * S, 0],
        before=leases(a=[T + 10 * S]),
        after=[set_({"a:1": T + 10 * S, "a:1:1": T + 10 * S})],
    )
    c("peek says what acquire would", T, "peek", 2, "c", [0, 2, 0, 10 * S, 0], leases(a=[T + 10 * S]))
    c("peek is told what a stranger is", T + 3 * S, "peek", 2, "b", [0, 0, 9 * S, 9 * S, 0], full)
    c("peek needs no id", T + 3 * S, "peek", 1, "", [0, 0, 7 * S, 9 * S, 0], full)
    c("peek removes nothing", T + 60 * S, "peek", 3, "", [0, 3, 0, 0, 0], full)
    c("peek at nothing leaves nothing", T, "peek", 1, "", [0, 3, 0, 0, 0])
    c("cost 0 takes nothing and writes nothing", T, "acquire", 0, "a", [0, 3, 0, 0, 0])
    c("cost 0 passes where all is held", T + 3 * S, "acquire", 0, "c", [0, 0, 0, 9 * S, 0], full)
    c(
        "at_least takes what is there",
        T, "acquire", 3, "c", [2, 0, 0, 10 * S, 0],
        before=leases(a=[T + 10 * S]), after=leases(a=[T + 10 * S], c=[T + 10 * S] * 2), at_least=1,
    )
    c(
        "less than at_least is denied until that much is free",
        T + 3 * S, "acquire", 3, "c", [0, 1, 9 * S, 9 * S, 0],
        before=leases(b=late), at_least=2,
    )
    c("reset", T + 3 * S, "reset", 1, "", [0, 0, 7 * S, 9 * S, 0], full, [])
    c("reset of nothing", T, "reset", 1, "", [0, 3, 0, 0, 0])
    c("reset mends another type", T, "reset", 1, "", [0, 3, 0, 0, 0], [string("not ours", SET)], [])

    c(
        "renew lets every unit last from now, and nobody else's",
        T + 4 * S, "renew", 2, "b", [2, 0, 0, 10 * S, 0],
        before=full, after=leases(a=[T + 10 * S], b=[T + 14 * S] * 2),
    )
    c(
        "renew removes what has ended",
        T + 11 * S, "renew", 2, "b", [2, 1, 0, 10 * S, 0],
        before=full, after=leases(b=[T + 21 * S] * 2),
    )
    c("renew of a lease that has ended", T + 10 * S, "renew", 1, "a", [0, 1, 0, 2 * S, 0], full)
    c(
        "renew of a lease of which a unit has ended",
        T + 11 * S, "renew", 2, "b", [0, 2, 0, S, 0],
        before=leases(b=[T + 10 * S, T + 12 * S]),
    )
    c("renew of more than is held", T, "renew", 2, "a", [0, 2, 0, 10 * S, 0], leases(a=[T + 10 * S]))
    c("renew of somebody else's", T, "renew", 1, "c", [0, 2, 0, 10 * S, 0], leases(a=[T + 10 * S]))
    c("renew of nothing leaves nothing", T, "renew", 1, "a", [0, 3, 0, 0, 0])
    c("renew of 0 units", T, "renew", 0, "a", [0, 2, 0, 5 * S, 0], leases(a=[T + 5 * S]))
    c(
        "renew makes nothing shorter",
        T, "renew", 2, "a", [2, 1, 0, 10 * S, 0],
        before=leases(a=[T + 10 * S, T + 1]), after=leases(a=[T + 10 * S, T + S]), lease_us=S,
    )
    c(
        "renew of more than there may be now",
        T, "renew", 2, "a", [2, 0, 0, 10 * S, 0],
        before=leases(a=[T + 5 * S] * 3), after=leases(a=[T + 10 * S] * 2 + [T + 5 * S]), limit=2,
    )

    c(
        "release",
        T + 3 * S, "release", 2, "b", [2, 2, 0, 7 * S, 0],
        before=full, after=leases(a=[T + 10 * S]),
    )
    c(
        "release of the last one leaves nothing",
        T, "release", 1, "a", [1, 3, 0, 0, 0],
        before=leases(a=[T + 10 * S]), after=[],
    )
    c(
        "release of the lease that would have ended first",
        T, "release", 1, "a", [1, 1, 0, 12 * S, 0],
        before=full, after=leases(b=late),
    )
    c(
        "release of fewer units than are held",
        T, "release", 1, "a", [1, 2, 0, 10 * S, 0],
        before=leases(a=[T + 5 * S, T + 10 * S]), after=[set_({"a:2": T + 10 * S})],
    )
    c(
        "release of more units than are held",
        T, "release", 3, "a", [1, 3, 0, 0, 0],
        before=leases(a=[T + 10 * S]), after=[],
    )
    c(
        "release of a lease of which a unit has ended",
        T + 11 * S, "release", 2, "b", [1, 3, 0, 0, 0],
        before=leases(b=[T + 10 * S, T + 12 * S]), after=[],
    )
    c("release again", T, "release", 2, "b", [0, 2, 0, 10 * S, 0], leases(a=[T + 10 * S]))
    c("release too late", T + 10 * S, "release", 1, "a", [0, 1, 0, 2 * S, 0], full)
    c("release of nothing leaves nothing", T, "release", 1, "a", [0, 3, 0, 0, 0])
    c("release of 0 units", T, "release", 0, "a", [0, 2, 0, 10 * S, 0], leases(a=[T + 10 * S]))

    c(
        "a clock that stepped back ends nothing early",
        T - 5 * S, "acquire", 3, "c", [0, 2, 15 * S, 15 * S, 0],
        before=leases(a=[T + 10 * S]),
    )
    c("a lease of 366 days", T, "peek", 3, "", [0, 2, FAR, FAR, 0], leases(a=[T + FAR]))
    c(
        "an end farther ahead cannot be true: it counts as gone",
        T, "peek", 3, "", [0, 3, 0, 0, 0],
        before=leases(a=[T + FAR + 1], b=["inf"]),
    )
    c(
        "who takes a place removes it",
        T, "acquire", 1, "c", [1, 1, 0, 10 * S, 0],
        before=leases(a=[T + FAR + 1], b=["inf"], c=["inf"], d=["-inf"], e=[T + 5 * S]),
        after=leases(e=[T + 5 * S], c=[T + 10 * S]),
    )
    c("nobody can renew it", T, "renew", 1, "a", [0, 3, 0, 0, 0], leases(a=[T + FAR + 1]))
    c("nor give it back", T, "release", 1, "a", [0, 3, 0, 0, 0], leases(a=["inf"]))
    c(
        "an end that is no integer is rounded down",
        T, "peek", 3, "", [0, 2, 10 * S, 10 * S, 0],
        before=leases(a=[T + 10 * S + 0.5]),
    )
    c("and so it has ended", T, "peek", 3, "", [0, 3, 0, 0, 0], leases(a=[T + 0.5]))
    c(
        "a member that nobody can name is a lease until it ends",
        T, "acquire", 3, "c", [0, 2, 5 * S, 5 * S, 0],
        before=[set_({"not ours": T + 5 * S})],
    )
    c(
        "a denied acquire gives a key without expiry one",
        T + 3 * S, "acquire", 1, "c", [0, 0, 7 * S, 9 * S, 0],
        before=leases(a=[T + 10 * S], b=late, ttl=-1),
        after=leases(a=[T + 10 * S], b=late, ttl=life(9 * S)),
    )
    c(
        "an acquire that passes gives a key without expiry one",
        T, "acquire", 1, "c", [1, 1, 0, 20 * S, 0],
        before=leases(a=[T + 20 * S], ttl=-1),
        after=leases(a=[T + 20 * S], c=[T + 10 * S], ttl=life(20 * S)),
    )
    c("peek gives no expiry", T, "peek", 1, "", [0, 2, 0, S, 0], leases(a=[T + S], ttl=-1))
    c(
        "a life too short for the lease is made longer",
        T, "renew", 1, "a", [1, 2, 0, 10 * S, 0],
        before=leases(a=[T + S], ttl=2_000), after=leases(a=[T + 10 * S], ttl=life(10 * S)),
    )
    c(
        "a lowered limit waits until enough of the old ones have ended",
        T, "acquire", 1, "d", [0, 0, 2 * S, 3 * S, 0],
        before=leases(a=[T + S, T + 2 * S, T + 3 * S]), limit=2,
    )
    c(
        "a raised limit keeps what is held",
        T, "acquire", 1, "d", [1, 96, 0, 10 * S, 0],
        before=leases(a=[T + S] * 3), after=leases(a=[T + S] * 3, d=[T + 10 * S]), limit=100,
    )
    c(
        "a cost of more than 4,000 units is an error",
        T, "acquire", 4001, "a", "LIMITER an argument of concurrency v1 is out of range",
        before=full, limit=100_000, at_least=1,
    )
    refused("concurrency", SET, [LEASES, 5, 10 * S, "a"], full, takes="acquire")
    for what, mode, policy in [
        ("limit 0", "acquire", [LEASES, 0, 10 * S, "a"]),
        ("limit 2.5", "acquire", [LEASES, 2.5, 10 * S, "a"]),
        ("limit nan", "acquire", [LEASES, "nan", 10 * S, "a"]),
        ("lease_us 0", "acquire", [LEASES, 3, 0, "a"]),
        ("half a microsecond of a lease", "acquire", [LEASES, 3, 0.5, "a"]),
        ("a lease of more than 366 days", "acquire", [LEASES, 3, FAR + 1, "a"]),
        ("an id that holds a NUL", "acquire", [LEASES, 3, 10 * S, "a\0b"]),
        *((f"no id to {mode}", mode, [LEASES, 3, 10 * S, ""]) for mode in ("acquire", "renew", "release")),
    ]:
        one(
            "concurrency", SET, policy, f"{what} is an error",
            T, mode, 0, "LIMITER an argument of concurrency v1 is out of range",
            before=full,
        )


# --- several ---


def block(
    algorithm: str, cost: object = 1, shadow: object = 0, key: int = 0, **numbers: Any
) -> list[object]:
    """A policy's block: the algorithm, its key's number, shadow, cost, and the policy's arguments."""
    field, own, usual = {
        "fixed_window": (WINDOW, [5, 10 * S, 0], 1),
        "sliding_log": (LOG, [3, 10 * S], 2),
        "sliding_window": (SLIDING, [5, 10 * S, 1], 1),
        "token_bucket": (BUCKET, [5, S, S, 0, 1], 1),
        "concurrency": (LEASES, [3, 10 * S, numbers.get("holder", "a")], 2),
    }[algorithm]
    limit = numbers.get("limit", own[0])
    return [algorithm, key or usual, shadow, cost, numbers.get("field", field), limit, *own[1:]]


def several_vectors() -> None:
    """All or none."""
    fw, sl, tb = (block(name) for name in ("fixed_window", "sliding_log", "token_bucket"))
    window_and_bucket = {WINDOW: doubles(T, 1), BUCKET: debt(T + S)}
    several(
        "two policies of one hash, which lives for as long as the longer one",
        T, "hit", 0, [fw, tb], [[1, 4, 0, 10 * S, 0], [1, 4, 0, S, 0]],
        after=[hash_(window_and_bucket, ttl=life(10 * S))],
    )
    several(
        "a hash and a list",
        T, "hit", 0, [fw, sl], [[1, 4, 0, 10 * S, 0], [1, 2, 0, 10 * S, 0]],
        after=[*window(T, 1, ttl=life(10 * S)), list_([T], ttl=life(10 * S))],
    )
    several(
        "one denies, none is charged: remaining and reset are as they were",
        T + S, "hit", 0, [fw, sl, tb],
        [[0, 3, 0, 9 * S, 0], [0, 0, 9 * S, 9 * S, 0], [0, 5, 0, 0, 0]],
        before=[*window(T, 2), list_([T] * 3)],
    )
    several(
        "the first denies",
        T + S, "hit", 0, [sl, fw], [[0, 0, 9 * S, 9 * S, 0], [0, 3, 0, 9 * S, 0]],
        before=[*window(T, 2), list_([T] * 3)],
    )
    several(
        "a log that has room is not charged for what a window denied",
        T + S, "hit", 0, [fw, sl], [[0, 0, 9 * S, 9 * S, 0], [0, 2, 0, 9 * S, 0]],
        before=[*window(T, 5), list_([T])],
    )
    several(
        "both deny, each with its own time",
        T + S, "hit", 0, [sl, tb], [[0, 0, 9 * S, 9 * S, 0], [0, 0, S, 5 * S, 0]],
        before=[*bucket(T + 6 * S), list_([T] * 3)],
    )
    several(
        "a single policy, as its own script would decide it",
        T, "hit", 0, [sl], [[1, 2, 0, 10 * S, 0]],
        after=[list_([T], ttl=life(10 * S))],
    )
    several(
        "every policy has its own cost",
        T, "hit", 0, [block("fixed_window", 2), block("sliding_log", 3)],
        [[2, 3, 0, 10 * S, 0], [3, 0, 0, 10 * S, 0]],
        after=[*window(T, 2, ttl=life(10 * S)), list_([T] * 3, ttl=life(10 * S))],
    )
    several(
        "a policy of cost 0 passes and keeps what it has",
        T, "hit", 0, [block("fixed_window", 0), tb], [[0, 0, 0, 10 * S, 0], [1, 4, 0, S, 0]],
        before=window(T, 5),
        after=[hash_({WINDOW: doubles(T, 5), BUCKET: debt(T + S)})],
    )
    several(
        "at_least: all grant what fits into each",
        T, "hit", 1, [block("fixed_window", 3), block("sliding_log", 3)],
        [[1, 2, 0, 10 * S, 0], [1, 0, 0, 10 * S, 0]],
        before=[*window(T, 2), list_([T, T])], after=[*window(T, 3), list_([T, T, T])],
    )
    several(
        "at_least: the scarcest may come first",
        T, "hit", 1, [block("sliding_log", 3), block("fixed_window", 3)],
        [[1, 0, 0, 10 * S, 0], [1, 2, 0, 10 * S, 0]],
        before=[*window(T, 2), list_([T, T])], after=[*window(T, 3), list_([T, T, T])],
    )
    several(
        "at_least: less than that in one of them denies",
        T, "hit", 2, [block("fixed_window", 3), block("sliding_log", 3)],
        [[0, 3, 0, 10 * S, 0], [0, 1, 10 * S, 10 * S, 0]],
        before=[*window(T, 2), list_([T, T])],
    )
    several(
        "a shadow policy counts what passes",
        T, "hit", 0, [block("fixed_window", shadow=1), tb],
        [[1, 4, 0, 10 * S, 0], [1, 4, 0, S, 0]],
        after=[hash_(window_and_bucket, ttl=life(10 * S))],
    )
    several(
        "a shadow policy without room does not deny, and is not charged",
        T, "hit", 0, [block("fixed_window", shadow=1), tb],
        [[0, 0, 10 * S, 10 * S, 0], [1, 4, 0, S, 0]],
        before=window(T, 5),
        after=[hash_({WINDOW: doubles(T, 5), BUCKET: debt(T + S)})],
    )
    several(
        "a shadow policy is not charged for what another denied",
        T, "hit", 0, [block("fixed_window", shadow=1), sl],
        [[0, 4, 0, 10 * S, 0], [0, 0, 10 * S, 10 * S, 0]],
        before=[*window(T, 1), list_([T] * 3)],
    )
    several(
        "two subjects of one slot",
        T, "hit", 0, [fw, block("fixed_window", key=2)],
        [[1, 4, 0, 10 * S, 0], [1, 1, 0, 10 * S, 0]], keys=[HASH, OTHER],
        before=window(T, 3, key=OTHER),
        after=[*window(T, 1, ttl=life(10 * S)), *window(T, 4, key=OTHER)],
    )
    several(
        "two subjects of one slot, one without room",
        T, "hit", 0, [fw, block("fixed_window", key=2)],
        [[0, 5, 0, 0, 0], [0, 0, 10 * S, 10 * S, 0]], keys=[HASH, OTHER],
        before=window(T, 5, key=OTHER),
    )
    several(
        "peek says what hit would",
        T + S, "peek", 0, [fw, sl], [[0, 3, 0, 9 * S, 0], [0, 0, 9 * S, 9 * S, 0]],
        before=[*window(T, 2), list_([T] * 3)],
    )
    several(
        "peek at nothing leaves nothing",
        T, "peek", 0, [fw, sl, tb], [[0, 5, 0, 0, 0], [0, 3, 0, 0, 0], [0, 5, 0, 0, 0]],
    )
    several(
        "cost 0 takes nothing and writes nothing",
        T, "hit", 0, [block("fixed_window", 0), block("sliding_log", 0)],
        [[0, 5, 0, 0, 0], [0, 3, 0, 0, 0]],
    )
    several(
        "reset says what stood there, and forgets every key",
        T + S, "reset", 0, [fw, sl, tb],
        [[0, 3, 0, 9 * S, 0], [0, 0, 9 * S, 9 * S, 0], [0, 5, 0, 0, 0]],
        before=[*window(T, 2), list_([T] * 3)], after=[],
    )
    several(
        "reset mends keys of other types",
        T, "reset", 0, [fw, sl], [[0, 5, 0, 0, 0], [0, 3, 0, 0, 0]],
        before=[string("not ours"), string("not ours", LIST)], after=[],
    )
    several(
        "a decision shortens no life",
        T, "hit", 0, [tb], [[1, 4, 0, S, 0]],
        before=window(T, 2, ttl=life(10 * S)[1]),
        after=[hash_({WINDOW: doubles(T, 2), BUCKET: debt(T + S)}, ttl=life(10 * S)[1])],
    )
    several(
        "a life too short for one of them is made longer",
        T, "hit", 0, [tb, fw], [[1, 4, 0, S, 0], [1, 2, 0, 10 * S, 0]],
        before=window(T, 2, ttl=3_000),
        after=[hash_({WINDOW: doubles(T, 3), BUCKET: debt(T + S)}, ttl=life(10 * S))],
    )
    several(
        "a denied hit heals an impossible time, and charges nothing",
        T, "hit", 0, [fw, tb], [[0, 0, 10 * S, 10 * S, 0], [0, 4, 0, S, S]],
        before=[hash_({WINDOW: doubles(T + HOUR, 5), BUCKET: debt(T + S)})],
        after=[hash_({WINDOW: doubles(T, 5), BUCKET: debt(T + S)})],
    )
    several(
        "a denied hit deletes a log that ends too far ahead, and charges nothing",
        T, "hit", 0, [fw, sl], [[0, 0, 10 * S, 10 * S, 0], [0, 3, 0, 0, 0]],
        before=[*window(T, 5), list_([T, T + HOUR])], after=window(T, 5),
    )
    several(
        "a denied hit gives keys without expiry one, for as long as they count",
        T + S, "hit", 0, [sl, fw, tb],
        [[0, 0, 9 * S, 9 * S, 0], [0, 0, 9 * S, 9 * S, 0], [0, 4, 0, S, S]],
        before=[
            hash_({WINDOW: doubles(T, 5), BUCKET: debt(T + 2 * S)}, ttl=-1),
            list_([T] * 3, ttl=-1),
        ],
        after=[
            hash_({WINDOW: doubles(T, 5), BUCKET: debt(T + 2 * S)}, ttl=life(9 * S)),
            list_([T] * 3, ttl=life(9 * S)),
        ],
    )
    several(
        "a hit that passes gives keys without expiry one",
        T + S, "hit", 0, [sl, tb], [[1, 1, 0, 10 * S, 0], [1, 3, 0, 2 * S, S]],
        before=[*bucket(T + 2 * S, ttl=-1), list_([T], ttl=-1)],
        after=[*bucket(T + 3 * S, ttl=life(2 * S)), list_([T, T + S], ttl=life(10 * S))],
    )
    several(
        "peek gives no expiry",
        T + S, "peek", 0, [sl, tb], [[0, 2, 0, 9 * S, 0], [0, 4, 0, S, S]],
        before=[*bucket(T + 2 * S, ttl=-1), list_([T], ttl=-1)],
    )
    several(
        "a time beyond 2^53 is an error",
        2**53, "hit", 0, [fw], "LIMITER an argument of several v1 is out of range",
        before=window(T, 1),
    )
    several(
        "a key of another type is an error, and the key before it is not charged",
        T, "hit", 0, [fw, sl], "WRONGTYPE",
        before=[*window(T, 2), string("not ours", LIST)],
    )
    out_of_range = "LIMITER an argument of several v1 is out of range"
    for what, blocks, mode, at_least, error in [
        ("an unknown mode", [fw], "take", 0, out_of_range),
        ("a negative at_least", [fw], "hit", -1, out_of_range),
        ("half of at_least", [fw], "hit", 0.5, out_of_range),
        ("a cost beyond the second limit", [fw, block("sliding_log", 4)], "hit", 0, out_of_range),
        ("a negative cost", [fw, block("token_bucket", -1)], "hit", 0, out_of_range),
        ("half a unit", [fw, block("token_bucket", 0.5)], "hit", 0, out_of_range),
        (
            "a cost of more than 4,000 entries",
            [fw, block("sliding_log", 4001, limit=100_000)],
            "hit",
            1,
            out_of_range,
        ),
        ("limit nan", [fw, block("token_bucket", 0, limit="nan")], "hit", 0, out_of_range),
        ("shadow 2", [fw, block("token_bucket", shadow=2)], "hit", 0, out_of_range),
        (
            "an unknown algorithm",
            [fw, ["leaky_bucket", *tb[1:]]],
            "hit",
            0,
            "LIMITER several v1 knows no such algorithm",
        ),
        ("a key that was not given", [fw, block("token_bucket", key=3)], "hit", 0, "ERR"),
        ("a block cut short", [fw, tb[:-2]], "hit", 0, "ERR"),
    ]:
        several(
            f"{what} is an error", T, mode, at_least, blocks, error,
            before=[*window(T, 2), list_([T])],
        )


def several_corrections_vectors() -> None:
    """What gives back, charges without asking, or holds: each policy by itself, or all or none."""
    fw, sl, sw, tb = (
        block(name) for name in ("fixed_window", "sliding_log", "sliding_window", "token_bucket")
    )
    several(
        "a sliding window and a window of one hash",
        T + 15 * S, "hit", 0, [sw, fw], [[1, 1, 0, 15 * S, 0], [1, 3, 0, 5 * S, 0]],
        before=[hash_({SLIDING: doubles(T, 5, 0), WINDOW: doubles(T + 10 * S, 1)})],
        after=[hash_({SLIDING: doubles(T + 10 * S, 1, 5), WINDOW: doubles(T + 10 * S, 2)})],
    )
    several(
        "a denied hit heals a sliding window, and charges nothing",
        T, "hit", 0, [sw, fw], [[0, 0, 12 * S, 20 * S, 0], [0, 4, 0, 10 * S, 0]],
        before=[hash_({SLIDING: doubles(T + HOUR, 5, 0), WINDOW: doubles(T, 1)})],
        after=[hash_({SLIDING: doubles(T, 5, 0), WINDOW: doubles(T, 1)})],
    )
    gcra = block("token_bucket", field="gcra:1000000")
    leaky = block("token_bucket", field="leaky_bucket:1000000")
    several(
        "three buckets of one hash",
        T, "hit", 0, [tb, gcra, leaky], [[1, 4, 0, S, 0], [1, 2, 0, 3 * S, 2 * S], [1, 4, 0, S, 0]],
        before=[hash_({"gcra:1000000": debt(T + 2 * S)})],
        after=[hash_({"gcra:1000000": debt(T + 3 * S), BUCKET: debt(T + S),
                      "leaky_bucket:1000000": debt(T + S)})],
    )

    several(
        "refund: to each what it counts",
        T + 5 * S, "refund", 0,
        [block("fixed_window", 4), block("sliding_log", 2), block("token_bucket", 1)],
        [[3, 5, 0, 5 * S, 0], [2, 2, 0, 9 * S, 0], [1, 3, 0, 2 * S, 0]],
        before=[
            hash_({WINDOW: doubles(T, 3), BUCKET: debt(T + 8 * S)}),
            list_([T, T + 4 * S, T + 4 * S]),
        ],
        after=[
            hash_({WINDOW: doubles(T, 0), BUCKET: debt(T + 7 * S)}),
            list_([T + 4 * S]),
        ],
    )
    several(
        "refund of a log's last entry deletes it",
        T, "refund", 0, [fw, sl], [[1, 5, 0, 10 * S, 0], [1, 3, 0, 0, 0]],
        before=[*window(T, 1), list_([T])], after=window(T, 0),
    )
    several(
        "refund to nothing leaves nothing",
        T, "refund", 0, [fw, sl, sw, tb],
        [[0, 5, 0, 0, 0], [0, 3, 0, 0, 0], [0, 5, 0, 0, 0], [0, 5, 0, 0, 0]],
    )
    several(
        "refund heals, and deletes a log that ends too far ahead",
        T, "refund", 0, [fw, sl], [[1, 3, 0, 10 * S, 0], [0, 3, 0, 0, 0]],
        before=[*window(T + HOUR, 3), list_([T, T + HOUR])], after=window(T, 2),
    )
    several(
        "refund of 0 writes nothing",
        T, "refund", 0, [block("fixed_window", 0), block("sliding_log", 0)],
        [[0, 2, 0, 10 * S, 0], [0, 2, 0, 10 * S, 0]],
        before=[*window(T, 3, ttl=-1), list_([T], ttl=-1)],
    )
    several(
        "settle: from each, down to its own debt",
        T + 5 * S, "settle", 0,
        [block("fixed_window", 4), block("sliding_log", 3), block("sliding_window", 1)],
        [[4, 0, 0, 5 * S, 0], [1, 0, 0, 10 * S, 0], [1, 0, 0, 15 * S, 0]],
        before=[hash_({WINDOW: doubles(T, 3), SLIDING: doubles(T, 5, 0)}), list_([T] * 5)],
        after=[
            hash_({WINDOW: doubles(T, 7), SLIDING: doubles(T, 6, 0)}),
            list_([T] * 5 + [T + 5 * S]),
        ],
    )
    several(
        "settle where nothing was used",
        T, "settle", 0, [tb, sl], [[1, 4, 0, S, 0], [1, 2, 0, 10 * S, 0]],
        after=[*bucket(T + S, ttl=life(S)), list_([T], ttl=life(10 * S))],
    )
    several(
        "refund and settle do not look at at_least, or at shadows",
        T, "settle", 1, [block("fixed_window", 4, shadow=1)], [[4, 0, 0, 10 * S, 0]],
        before=window(T, 4), after=window(T, 8),
    )

    places = [HASH, SET]
    lease, own, other = block("concurrency"), leases(a=[T + 10 * S]), leases(b=[T + 10 * S] * 3)
    several(
        "acquire hits the rate and takes the lease",
        T, "acquire", 0, [fw, lease], [[1, 4, 0, 10 * S, 0], [1, 2, 0, 10 * S, 0]], keys=places,
        after=[*window(T, 1, ttl=life(10 * S)), *leases(a=[T + 10 * S], ttl=life(10 * S))],
    )
    several(
        "acquire: where the lease is denied, the rate is not charged",
        T + S, "acquire", 0, [fw, lease], [[0, 3, 0, 9 * S, 0], [0, 0, 9 * S, 9 * S, 0]], keys=places,
        before=[*window(T, 2), *other],
    )
    several(
        "acquire: where the rate is denied, no lease is taken",
        T + S, "acquire", 0, [lease, fw], [[0, 3, 0, 0, 0], [0, 0, 9 * S, 9 * S, 0]], keys=places,
        before=window(T, 5),
    )
    several(
        "acquire: what is held already is not charged again, and gets no longer",
        T + S, "acquire", 0, [fw, lease], [[1, 0, 0, 9 * S, 0], [1, 2, 0, 9 * S, 0]], keys=places,
        before=[*window(T, 5), *own],
    )
    several(
        "acquire: one of two leases is held still, and the other is taken again",
        T + S, "acquire", 0,
        [fw, lease, block("concurrency", key=3, field="concurrency:other")],
        [[1, 3, 0, 9 * S, 0], [1, 2, 0, 9 * S, 0], [1, 2, 0, 10 * S, 0]],
        keys=[*places, f"{SET}:other"], before=[*window(T, 1), *own],
        after=[*window(T, 2), *own, set_({"a:1": T + 11 * S}, ttl=life(10 * S), key=f"{SET}:other")],
    )
    several(
        "acquire: what is held does not bound what at_least leaves to the others",
        T, "acquire", 1,
        [
            block("fixed_window", 3), block("concurrency", 3),
            block("concurrency", 3, key=3, field="concurrency:other", holder="a"),
        ],
        [[2, 0, 0, 10 * S, 0], [3, 0, 0, 10 * S, 0], [2, 1, 0, 10 * S, 0]],
        keys=[*places, f"{SET}:other"], before=[*window(T, 3), *leases(a=[T + 10 * S] * 3)],
        after=[
            *window(T, 5), *leases(a=[T + 10 * S] * 3),
            set_({"a:1": T + 10 * S, "a:2": T + 10 * S}, ttl=life(10 * S), key=f"{SET}:other"),
        ],
    )
    several(
        "acquire: at_least takes as many leases as fit into each",
        T, "acquire", 1, [block("fixed_window", 3), block("concurrency", 3)],
        [[2, 0, 0, 10 * S, 0], [2, 1, 0, 10 * S, 0]], keys=places,
        before=window(T, 3), after=[*window(T, 5), *leases(a=[T + 10 * S] * 2, ttl=life(10 * S))],
    )
    several(
        "acquire: a lease of no units holds nothing, so the rate is charged",
        T, "acquire", 0, [fw, block("concurrency", 0)], [[1, 4, 0, 10 * S, 0], [0, 3, 0, 0, 0]],
        keys=places, after=window(T, 1, ttl=life(10 * S)),
    )
    several(
        "acquire: a shadow lease that is denied denies nothing",
        T, "acquire", 0, [fw, block("concurrency", shadow=1)],
        [[1, 4, 0, 10 * S, 0], [0, 0, 10 * S, 10 * S, 0]], keys=places,
        before=other, after=[*window(T, 1, ttl=life(10 * S)), *other],
    )
    several(
        "acquire where there are no leases is hit",
        T, "acquire", 0, [fw], [[1, 4, 0, 10 * S, 0]],
        after=window(T, 1, ttl=life(10 * S)),
    )
    several(
        "peek sees rates and leases",
        T + S, "peek", 0, [fw, lease], [[0, 3, 0, 9 * S, 0], [0, 0, 9 * S, 9 * S, 0]], keys=places,
        before=[*window(T, 2), *other],
    )
    several(
        "reset forgets rates and leases",
        T + S, "reset", 0, [fw, lease], [[0, 3, 0, 9 * S, 0], [0, 2, 0, 9 * S, 0]], keys=places,
        before=[*window(T, 2), *own], after=[],
    )
    several(
        "renew: each lease by itself",
        T + S, "renew", 0, [lease, block("concurrency", key=3, field="concurrency:other")],
        [[1, 2, 0, 10 * S, 0], [0, 3, 0, 0, 0]], keys=[*places, f"{SET}:other"],
        before=own, after=leases(a=[T + 11 * S]),
    )
    several(
        "release: each lease by itself",
        T + S, "release", 0, [lease, block("concurrency", key=3, field="concurrency:other")],
        [[1, 3, 0, 0, 0], [0, 3, 0, 0, 0]], keys=[*places, f"{SET}:other"],
        before=own, after=[],
    )
    several(
        "release: a later key of another type is an error, and nothing is given back",
        T, "release", 0, [lease, block("concurrency", key=1)], "WRONGTYPE", keys=places,
        before=[*window(T, 2), *own],
    )
    several(
        "refund: a later key of another type is an error, and nothing is given back",
        T, "refund", 0, [fw, sl], "WRONGTYPE",
        before=[*window(T, 2), string("not ours", LIST)],
    )
    for mode, wrong in [
        *((mode, lease) for mode in ("hit", "refund", "settle")),
        *((mode, fw) for mode in ("renew", "release")),
    ]:
        blocks = [fw, lease] if wrong is lease else [lease, fw]
        several(
            f"{mode} of {wrong[0]} is an error",
            T, mode, 0, blocks, "LIMITER several v1 knows no such mode here", keys=places,
            before=[*window(T, 2), *own],
        )


# fmt: on


def text() -> str:
    """The file: a vector is an object, and each of its members a line."""
    vectors.clear()
    for write in (
        fixed_window_vectors,
        sliding_log_vectors,
        sliding_window_vectors,
        token_bucket_vectors,
        concurrency_vectors,
        several_vectors,
        several_corrections_vectors,
    ):
        write()
    objects = []
    for item in vectors:
        members = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in item.items()]
        objects.append("  {\n" + ",\n".join(members) + "\n  }")
    return "[\n" + ",\n".join(objects) + "\n]\n"


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else OUT).write_text(text())
