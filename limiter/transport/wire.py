"""A call in the protocol of Redis: the bytes of one script call, and the check of its reply.

It does no I/O. What does not depend on the keys is prepared once for each template.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from limiter import scripts
from limiter.call import STRIDE, Call, CallTemplate
from limiter.errors import StoreRefused
from limiter.policies import Policy


class _Prepared(NamedTuple):
    """What a template comes to, whatever the keys are."""

    by_sha: bytes
    """The command up to its keys, with EVALSHA."""
    by_text: bytes
    """The same with EVAL and the script's text, for a server that does not know it."""
    ending: bytes
    """The arguments behind the keys."""
    reply: list[type[int]]
    """The types in a whole reply."""
    script: str


def encode(call: Call) -> bytes:
    """The command that calls the script by its id."""
    template, keys, _ = call
    prepared: _Prepared = template.prepared or _prepare(template, len(keys))
    if len(keys) == 1:  # the shortest way for the most frequent call
        return b"%b$%d\r\n%b\r\n%b" % (prepared.by_sha, len(keys[0]), keys[0], prepared.ending)
    return prepared.by_sha + b"".join(map(bulk, keys)) + prepared.ending


def encode_with_text(call: Call) -> bytes:
    """The command that brings the script's text along."""
    template, keys, _ = call
    prepared: _Prepared = template.prepared or _prepare(template, len(keys))
    return prepared.by_text + b"".join(map(bulk, keys)) + prepared.ending


def checked(call: Call, reply: object) -> list[int]:
    """The reply, if it is one.

    Raises:
        StoreRefused: It has another shape: something that is not our script answered.

    """
    prepared: _Prepared = call.template.prepared
    if type(reply) is not list or list(map(type, reply)) != prepared.reply:
        raise StoreRefused(
            f"the script {prepared.script} answered {reply!r:.200}: accepted are "
            f"{len(prepared.reply)} integers; see what else uses this key or script"
        )
    return reply


def script_of(policies: tuple[Policy, ...]) -> scripts.Script:
    """The script that decides these policies of one subject."""
    return scripts.script(policies[0].script if len(policies) == 1 else "several")


def bulk(text: str | bytes) -> bytes:
    """One argument of a command, as the protocol spells it."""
    raw = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


def command(*words: str | bytes) -> bytes:
    """A whole command, as the protocol spells it."""
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


ASKING = command("ASKING")
CLUSTER_SLOTS = command("CLUSTER", "SLOTS")
HELLO = command("HELLO")


def _prepare(template: CallTemplate, keys: int) -> _Prepared:
    mode, blocks = template.mode, template.blocks
    first = blocks[0].policy
    # ``several`` alone knows shadows, and takes an ``acquire`` of a rate, which is a hit.
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
    """What the script of one algorithm is told."""
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
