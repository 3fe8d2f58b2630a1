"""A call in the protocol of Redis: the bytes of one script call, and the check of its reply.

It does no I/O. The bytes that do not depend on the keys are prepared once for each call template. Numbers
are packed as doubles, which the server reads faster than text; only the scripts ``several`` and
``reservation`` take text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from limiter import scripts
from limiter.call import STRIDE, Call, CallTemplate, Reply
from limiter.errors import StoreRefused
from limiter.policies import Policy

#: The algorithms that the script ``few`` decides, by their numbers in its arguments.
_IN_FEW = {"fixed_window": 1, "sliding_window": 2, "token_bucket": 3}


class _Prepared(NamedTuple):
    """The parts of a call's bytes that are the same for all keys of a template."""

    by_sha: bytes
    """The command up to its keys, with EVALSHA."""
    by_text: bytes
    """The same with EVAL and the script's text, for a server that does not know the script."""
    ending: bytes
    """The arguments behind the keys."""
    decode: Callable[[Any], Reply]
    """Reads a reply; raises struct.error or TypeError if it has another form."""
    script: str
    numbers: int
    """The number of integers in a reply."""


def encode(call: Call) -> bytes:
    """Encode a call as EVALSHA, which names the script by its SHA-1; the call keeps the bytes."""
    template, keys = call.template, call.keys
    prepared: _Prepared = template.prepared or _prepare(template, len(keys))
    if len(keys) == 1:  # the most frequent call, without a loop
        head, (key,), end = prepared.by_sha, keys, prepared.ending
        encoded = b"%b$%d\r\n%b\r\n%b" % (head, len(key), key, end)
    else:
        encoded = prepared.by_sha + b"".join(map(bulk, keys)) + prepared.ending
    call.encoded = encoded
    return encoded


def encode_with_text(call: Call) -> bytes:
    """Encode a call as EVAL, which has the script's text in it."""
    template, keys = call.template, call.keys
    prepared: _Prepared = template.prepared or _prepare(template, len(keys))
    return prepared.by_text + b"".join(map(bulk, keys)) + prepared.ending


def checked(call: Call, reply: object) -> Reply:
    """Return the numbers of a reply, if it has the form of one.

    Raises:
        StoreRefused: It has another form, so it is not from our script.

    """
    prepared: _Prepared = call.template.prepared
    try:
        return prepared.decode(reply)
    except (struct.error, TypeError):
        raise StoreRefused(
            f"the script {prepared.script} answered {reply!r:.200}: expected {prepared.numbers} "
            f"numbers; see what else uses this key or script"
        ) from None


def scripts_of(policies: tuple[Policy, ...]) -> list[scripts.Script]:
    """The script that decides a hit, or takes a lease, for one subject; then that of other modes."""
    keys = len({policy.field for policy in policies if policy.key_type != "hash"}) or 1
    mode = "acquire" if any(policy.leases for policy in policies) else "hit"
    names = dict.fromkeys(_script_name(each, policies, keys) for each in (mode, "peek"))
    return [scripts.script(name) for name in names]


def bulk(text: str | bytes) -> bytes:
    """One argument of a command, encoded."""
    raw = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def command(*words: str | bytes) -> bytes:
    """A whole command, encoded."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


ASKING = command("ASKING")
CLUSTER_SLOTS = command("CLUSTER", "SLOTS")
HELLO = command("HELLO")


def _prepare(template: CallTemplate, keys: int) -> _Prepared:
    blocks = template.blocks
    count = STRIDE * len(blocks) + 1
    if template.record_ms is not None:
        name, count = "reservation", count + 1
    elif any(block.shadow or block.cost != blocks[0].cost for block in blocks):
        name = "several"
    else:
        name = _script_name(template.mode, [block.policy for block in blocks], keys)
    decode: Callable[[Any], Reply] = _doubles(count).unpack
    arguments: Sequence[str | bytes]
    if name in ("several", "reservation"):
        arguments, decode = _arguments_of_list(template), _integers(count)
    elif name == "few":
        arguments = _arguments_of_few(template)
    else:
        arguments = _arguments_of_one(template)
    by_sha, by_text = _heads(name, keys, len(arguments))
    ending = b"".join(map(bulk, arguments))
    template.prepared = prepared = _Prepared(by_sha, by_text, ending, decode, name, count)
    return prepared


def _script_name(mode: str, policies: Sequence[Policy], keys: int) -> str:
    """Choose the script: that of a single algorithm, ``few``, or ``several`` for all other calls."""
    # Only ``several`` treats ``acquire`` of a rate as a hit.
    if len(policies) == 1 and (policies[0].leases or mode != "acquire"):
        return policies[0].script
    if (
        mode == "hit"
        and keys == 1
        and len(policies) in (2, 3)
        and _IN_FEW.keys() >= {policy.script for policy in policies}
    ):
        return "few"
    return "several"


def _arguments_of_one(template: CallTemplate) -> list[str | bytes]:
    """The arguments of the script of a single algorithm."""
    (block,) = template.blocks
    policy, cost = block.policy, block.cost
    own = policy.arguments_ahead(template.hold_us)
    numbers = [template.now_us, cost, template.at_least or cost, *own]
    usual = "acquire" if policy.leases else "hit"
    return [
        _packed(numbers if policy.leases else [*numbers, template.step]),
        policy.field,
        *([block.lease] if policy.leases else []),
        *([template.mode] if template.mode != usual else []),
    ]


def _arguments_of_few(template: CallTemplate) -> list[str | bytes]:
    """The arguments for two or three policies of one hash."""
    cost = template.blocks[0].cost
    numbers = [template.now_us, cost, template.at_least or cost, template.step]
    for block in template.blocks:
        numbers += [_IN_FEW[block.policy.script], *block.policy.arguments]
    return [_packed(numbers), *[block.policy.field for block in template.blocks]]


def _arguments_of_list(template: CallTemplate) -> list[str | bytes]:
    """The arguments for any list of policies, with a record or without."""
    own = [template.at_least, template.step] if template.record_ms is None else [template.record_ms]
    arguments = [str(template.now_us), template.mode, *map(str, own)]
    for policy, key, cost, shadow, lease in template.blocks:
        arguments += [policy.script, str(key + 1), str(int(shadow)), str(cost)]
        arguments += [policy.field, *map(str, policy.arguments_ahead(template.hold_us))]
        if policy.leases:
            arguments.append(lease)
    return [*arguments]


def _packed(numbers: Sequence[int]) -> bytes:
    return _doubles(len(numbers)).pack(*numbers)


@lru_cache(maxsize=256)
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}d")


def _integers(count: int) -> Callable[[object], list[int]]:
    """Make the reader of a reply that is a list of ``count`` integers."""
    types = [int] * count

    def decode(reply: object) -> list[int]:
        if type(reply) is not list or list(map(type, reply)) != types:
            raise TypeError
        return reply

    return decode


@lru_cache(maxsize=256)
def _heads(name: str, keys: int, arguments: int) -> tuple[bytes, bytes]:
    """The command up to its keys, with EVALSHA and with EVAL."""
    script = scripts.script(name)
    count = b"*%d\r\n" % (3 + keys + arguments)
    number = bulk(str(keys))
    return (
        count + bulk("EVALSHA") + bulk(script.sha) + number,
        count + bulk("EVAL") + bulk(script.source) + number,
    )
