"""From a question to the bytes of one script call, and from the reply to an answer: pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeVar

from limiter import scripts
from limiter.decision import STRIDE
from limiter.errors import InvalidCost, InvalidPolicy, StoreRefused, shown
from limiter.keys import Key, KeySpeller
from limiter.policies import Policy

_Own = TypeVar("_Own", bound="Plan")

#: Tells a script to read the clock of the server that owns the key, which all clients share.
SERVER_CLOCK = 0

#: So many prepared endings of a call are kept: one for each mode and cost in use.
_ENDINGS_KEPT = 256


class Call(NamedTuple):
    """One script call, fully worked out but not yet sent."""

    by_sha: bytes
    """The command up to its keys, with EVALSHA."""
    by_text: bytes
    """The same with EVAL and the script's text, for a server that does not know it."""
    rest: bytes
    """Keys and arguments."""
    tag: bytes
    """The hash tag, which decides the slot."""


class Plan:
    """Everything that is known about a limiter's calls before a key and a cost are."""

    def __init__(self, policies: tuple[Policy, ...], keys: KeySpeller) -> None:
        if not policies:
            raise InvalidPolicy("limits are empty: accepted is at least one policy")
        fields = [policy.field for policy in policies]
        for policy in policies:
            if fields.count(policy.field) > 1:
                raise InvalidPolicy(
                    f"two policies of one limiter are {policy}: they would share their state; "
                    f"leave one out, or name one of them (name=...)"
                )
        self.policies = policies
        self.leases = tuple(policy for policy in policies if policy.leases)
        self.most_cost = min(policy.most_cost for policy in policies)
        self.keys = keys
        self._layout = _Single(policies[0]) if len(policies) == 1 else _Several(policies)
        self._endings: dict[tuple[str, int, int], bytes] = {}
        self._whole_reply = [int] * (STRIDE * len(policies) + 1)
        self.scripts = (self._layout.script,)

    @cached_property
    def of_rates(self: _Own) -> _Own | None:
        """The plan of the rates alone, which are refunded where leases are given back."""
        rates = tuple(policy for policy in self.policies if not policy.leases)
        if len(rates) == len(self.policies):
            return self
        return type(self)(rates, self.keys) if rates else None

    @cached_property
    def of_leases(self: _Own) -> _Own:
        """The plan of the leases alone, which are renewed and given back without the rates."""
        return (
            self if len(self.leases) == len(self.policies) else type(self)(self.leases, self.keys)
        )

    @cached_property
    def beside_others(self) -> _Several:
        """Where keys and arguments stand when other limiters are asked in the same call."""
        return _Several(self.policies)

    def call(
        self,
        mode: str,
        key: Key,
        cost: int = 0,
        at_least: int | None = None,
        tag: Key | None = None,
        now_us: int = SERVER_CLOCK,
        lease: str = "",
    ) -> Any:
        """The call that asks ``mode`` of the subject ``key``; ``lease`` names the one in question.

        Raises:
            InvalidCost: ``cost`` could never pass, or ``at_least`` is not in 1 to ``cost``.
            InvalidKey: ``key`` or ``tag`` names nobody.
            InvalidPolicy: These policies have no such mode.

        """
        if at_least is None and type(cost) is int and 0 <= cost <= self.most_cost:
            wanted = cost
        else:
            cost, wanted = self.checked(cost, at_least)
        state, tag_bytes = self.keys.state(key, tag)
        ending = None
        if now_us == SERVER_CLOCK and not lease:
            ending = self._endings.get((mode, cost, wanted))
        if ending is None:
            ending = self._ending(mode, cost, wanted, now_us, lease)
        layout = self._layout
        command = layout.heads[wanted != cost]
        return Call(command[0], command[1], layout.keys(state) + ending, tag_bytes)

    def checked(self, cost: int, at_least: int | None = None, least: int = 0) -> tuple[int, int]:
        """The cost, where it can pass, and how much of it would do.

        Raises:
            InvalidCost: It never could, or ``at_least`` is not in 1 to ``cost``.

        """
        if type(cost) is not int or not least <= cost <= self.most_cost:
            which = "the most that these limits ever admit at once"
            cost = _whole("cost", cost, least, self.most_cost, which)
        if at_least is None:
            return cost, cost
        return cost, _whole("at_least", at_least, 1, cost, "the cost")

    def read(self, reply: object) -> list[int]:
        """The reply, once it is seen to be one.

        Raises:
            StoreRefused: It has another shape: something that is not our script answered.

        """
        if type(reply) is not list or list(map(type, reply)) != self._whole_reply:
            raise _misshapen(self._layout.script, reply, len(self._whole_reply))
        return reply

    def state(self, key: Key, tag: Key | None = None) -> tuple[bytes, bytes]:
        """The subject's key, and the tag that decides its slot.

        Raises:
            InvalidKey: ``key`` or ``tag`` names nobody.

        """
        return self.keys.state(key, tag)

    def check_mode(self, mode: str) -> None:
        """Refuse what makes no sense for these policies.

        Raises:
            InvalidPolicy: The message says which call does.

        """
        if self.leases and mode in ("hit", "refund", "settle"):
            raise InvalidPolicy(
                f"{self.leases[0]} counts what is held, not what passes: use hold, which takes a "
                f"lease, and rates with it, and gives the lease back"
            )
        if not self.leases and mode == "acquire":
            raise InvalidPolicy(
                f"hold needs a Concurrency policy among the limits, which are {list(self.policies)}: "
                f"use hit"
            )

    def _ending(self, mode: str, cost: int, at_least: int, now_us: int, lease: str) -> bytes:
        self.check_mode(mode)
        words = self._layout.arguments(mode, cost, at_least, now_us, lease)
        ending = b"".join(map(bulk, words))
        if now_us == SERVER_CLOCK and not lease and len(self._endings) < _ENDINGS_KEPT:
            self._endings[mode, cost, at_least] = ending
        return ending


class Part(NamedTuple):
    """One subject's part of a call for several."""

    plan: Plan
    key: Key
    cost: int
    shadow: bool = False
    """Whether it only counts what passes, and never denies."""


class Together:
    """Several subjects in one call, all of them charged or none."""

    def __init__(self, parts: Sequence[Part], tag: Key | None) -> None:
        self.parts = parts
        self.states = [part.plan.state(part.key, tag) for part in parts]

    @property
    def tags(self) -> list[bytes]:
        """What decides each subject's slot."""
        return [tag for _, tag in self.states]

    def call(self, mode: str, now_us: int, lease: str = "") -> Any:
        """The one call; ``tags`` must lie in one slot."""
        blocks, keys, count, arguments = [], [], 0, 3
        for part, (state, _) in zip(self.parts, self.states, strict=True):
            layout = part.plan.beside_others
            block, said = layout.block(part.cost, count, lease, part.shadow)
            blocks.append(block)
            arguments += said
            keys.append(layout.keys(state))
            count += layout.count
        by_sha, by_text = _heads_of_several(count, arguments)
        said_first = (bulk(str(now_us)), bulk(mode), bulk("0"))
        return Call(by_sha, by_text, b"".join([*keys, *said_first, *blocks]), self.tags[0])

    def read(self, reply: object) -> list[list[int]]:
        """The reply for each subject, as its own call would have it.

        Raises:
            StoreRefused: As ``Plan.read``.

        """
        sizes = [STRIDE * len(part.plan.policies) for part in self.parts]
        if type(reply) is not list or list(map(type, reply)) != [int] * (sum(sizes) + 1):
            raise _misshapen(scripts.script("several"), reply, sum(sizes) + 1)
        replies, at = [], 0
        for size in sizes:
            replies.append([*reply[at : at + size], reply[-1]])
            at += size
        return replies


class _Layout:
    """Where keys and arguments stand in the calls of one script."""

    script: scripts.Script
    heads: tuple[tuple[bytes, bytes], tuple[bytes, bytes]]
    """The two commands up to the keys; the second pair for a call with its own at_least."""

    def keys(self, state: bytes) -> bytes:
        raise NotImplementedError

    def arguments(
        self, mode: str, cost: int, at_least: int, now_us: int, lease: str = ""
    ) -> list[str]:
        raise NotImplementedError


class _Single(_Layout):
    """One policy: the script of its algorithm, on one key."""

    def __init__(self, policy: Policy) -> None:
        self.script = scripts.script(policy.script)
        self._own = [policy.field, *map(str, policy.arguments)]
        self._leases = policy.leases
        self._suffix = own_suffix(policy)
        count = len(self.arguments("hit", 1, 1, 0))
        self.heads = (_heads(self.script, 1, count), _heads(self.script, 1, count + 1))

    def keys(self, state: bytes) -> bytes:
        key = state + self._suffix
        return b"$%d\r\n%b\r\n" % (len(key), key)

    def arguments(
        self, mode: str, cost: int, at_least: int, now_us: int, lease: str = ""
    ) -> list[str]:
        some = [lease] if self._leases else []
        if at_least != cost:
            some.append(str(at_least))
        return [str(now_us), mode, str(cost), *self._own, *some]


class _Several(_Layout):
    """Any list of policies: the script ``several``, on the subject's hash, lists and sets."""

    def __init__(self, policies: tuple[Policy, ...]) -> None:
        self.script = scripts.script("several")
        self._suffixes = suffixes(policies)
        self._blocks = [
            (
                policy.script,
                self._suffixes.index(own_suffix(policy)) + 1,
                [policy.field, *map(str, policy.arguments)],
                policy.leases,
            )
            for policy in policies
        ]
        self.count = len(self._suffixes)
        heads = _heads(self.script, self.count, len(self.arguments("hit", 1, 1, 0)))
        self.heads = (heads, heads)
        self._prepared: dict[tuple[int, int, bool], tuple[bytes, int]] = {}

    def keys(self, state: bytes) -> bytes:
        return b"".join(bulk(state + suffix) for suffix in self._suffixes)

    def arguments(
        self, mode: str, cost: int, at_least: int, now_us: int, lease: str = ""
    ) -> list[str]:
        enough = str(at_least if at_least != cost else 0)
        return [str(now_us), mode, enough, *self.blocks(cost, 0, lease)]

    def blocks(self, cost: int, before: int, lease: str, shadow: bool = False) -> list[str]:
        """What the script is told of each policy, where ``before`` keys stand before ours."""
        said = []
        for script, key, own, leases in self._blocks:
            said += [script, str(before + key), str(int(shadow)), str(cost), *own]
            if leases:
                said.append(lease)
        return said

    def block(self, cost: int, before: int, lease: str, shadow: bool) -> tuple[bytes, int]:
        """What ``blocks`` says as the protocol spells it, and how many arguments it is."""
        found = None if lease else self._prepared.get((cost, before, shadow))
        if found is None:
            said = self.blocks(cost, before, lease, shadow)
            found = b"".join(map(bulk, said)), len(said)
            if not lease and len(self._prepared) < _ENDINGS_KEPT:
                self._prepared[cost, before, shadow] = found
        return found


def own_suffix(policy: Policy) -> bytes:
    """What the policy's key has behind the subject's: nothing, where its state is a field."""
    return b"" if policy.key_type == "hash" else f":{policy.field}".encode()


def suffixes(policies: tuple[Policy, ...]) -> list[bytes]:
    """The ends of a subject's keys, each once, in the order of their first use; the hash first."""
    return sorted(dict.fromkeys(map(own_suffix, policies)), key=bool)


def _heads(script: scripts.Script, keys: int, arguments: int) -> tuple[bytes, bytes]:
    """The command up to its keys, with EVALSHA and with EVAL."""
    count = b"*%d\r\n" % (3 + keys + arguments)
    number = bulk(str(keys))
    return (
        count + bulk("EVALSHA") + bulk(script.sha) + number,
        count + bulk("EVAL") + bulk(script.source) + number,
    )


@lru_cache(maxsize=256)
def _heads_of_several(keys: int, arguments: int) -> tuple[bytes, bytes]:
    return _heads(scripts.script("several"), keys, arguments)


def _misshapen(script: scripts.Script, reply: object, count: int) -> StoreRefused:
    return StoreRefused(
        f"the script {script.name} answered {reply!r:.200}: accepted are "
        f"{count} integers; see what else uses this key or script"
    )


def _whole(what: str, number: object, least: int, most: int, which: str) -> int:
    """The number as an int, which an IntEnum is and a bool is not, where it is in its range."""
    if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
        return int(number)
    raise InvalidCost.of(
        what, shown(number), f"accepted is a whole number from {least} to {most}, {which}"
    )


def bulk(text: str | bytes) -> bytes:
    """One argument of a command, as the protocol spells it."""
    raw = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%b\r\n" % (len(raw), raw)
