"""A call in the protocol of Redis: the bytes of one script call, and the check of its reply.

It does no I/O. The bytes that do not depend on the keys are prepared once for each call template.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from limiter import scripts
from limiter.call import STRIDE, Call, CallTemplate
from limiter.errors import StoreRefused
from limiter.policies import Policy


class _Prepared(NamedTuple):
    """The parts of a call's bytes that are the same for all keys of a template."""

    by_sha: bytes
    """The command up to its keys, with EVALSHA."""
    by_text: bytes
    """The same with EVAL and the script's text, for a server that does not know the script."""
    ending: bytes
    """The arguments behind the keys."""
    reply: list[type[int]]
    """The types of a reply's items."""
    script: str


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


def checked(call: Call, reply: object) -> list[int]:
    """Return the reply, if it has the form of one.

    Raises:
        StoreRefused: It has another form, so it is not from our script.

    """
    prepared: _Prepared = call.template.prepared
    if type(reply) is list and len(reply) == 6 == len(prepared.reply):  # the most frequent reply
        a, b, c, d, e, f = map(type, reply)
        if a is b is c is d is e is f is int:
            return reply
    if type(reply) is not list or list(map(type, reply)) != prepared.reply:
        raise StoreRefused(
            f"the script {prepared.script} answered {reply!r:.200}: accepted are "
            f"{len(prepared.reply)} integers; see what else uses this key or script"
        )
    return reply


def script_of(policies: tuple[Policy, ...]) -> scripts.Script:
    """The script that decides these policies for one subject."""
    return scripts.script(policies[0].script if len(policies) == 1 else "several")


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
    mode, blocks = template.mode, template.blocks
    first = blocks[0].policy
    # Only ``several`` knows shadow mode, and treats ``acquire`` of a rate as a hit.
    if len(blocks) == 1 and not blocks[0].shadow and (first.leases or mode != "acquire"):
        name, arguments = first.script, _arguments_of_one(template)
    else:
        name, arguments = "several", _arguments_of_several(template)
    by_sha, by_text = _heads(name, keys, len(arguments))
    ending = b"".join(map(bulk, arguments))
    reply = [int] * (STRIDE * len(blocks) + 1)
    template.prepared = prepared = _Prepared(by_sha, by_text, ending, reply, name)
    return prepared


def _arguments_of_one(template: CallTemplate) -> list[str]:
    """The arguments of the script of a single algorithm."""
    (block,) = template.blocks
    arguments = [str(template.now_us), template.mode, str(block.cost), *_own(block.policy)]
    if block.policy.leases:
        arguments.append(block.lease)
    if template.at_least:
        arguments.append(str(template.at_least))
    return arguments


def _arguments_of_several(template: CallTemplate) -> list[str]:
    arguments = [str(template.now_us), template.mode, str(template.at_least)]
    for policy, key, cost, shadow, lease in template.blocks:
        arguments += [policy.script, str(key + 1), str(int(shadow)), str(cost), *_own(policy)]
        if policy.leases:
            arguments.append(lease)
    return arguments


def _own(policy: Policy) -> list[str]:
    return [policy.field, *map(str, policy.arguments)]


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
