"""From a question to the bytes of one script call, and from the reply to an answer: pure."""

from __future__ import annotations

from typing import NamedTuple

from limiter import scripts
from limiter.decision import STRIDE
from limiter.errors import InvalidCost, InvalidPolicy, StoreRefused, shown
from limiter.keys import Key, KeySpeller
from limiter.policies import Policy

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
                    f"name one of them (name=...)"
                )
        self.policies = policies
        self.most_cost = min(policy.most_cost for policy in policies)
        self._keys = keys
        self._layout = _Single(policies[0]) if len(policies) == 1 else _Several(policies)
        self._endings: dict[tuple[str, int, int], bytes] = {}
        self._whole_reply = [int] * (STRIDE * len(policies) + 1)
        self.scripts = (self._layout.script,)

    def call(
        self,
        mode: str,
        key: Key,
        cost: int = 0,
        at_least: int | None = None,
        tag: Key | None = None,
        now_us: int = SERVER_CLOCK,
    ) -> Call:
        """The call that asks ``mode`` of the subject ``key``.

        Raises:
            InvalidCost: ``cost`` could never pass, or ``at_least`` is not in 1 to ``cost``.
            InvalidKey: ``key`` or ``tag`` names nobody.

        """
        if type(cost) is not int or not 0 <= cost <= self.most_cost:
            cost = _whole(
                "cost", cost, 0, self.most_cost, "the most that these limits ever admit at once"
            )
        wanted = cost if at_least is None else _whole("at_least", at_least, 1, cost, "the cost")
        state, tag_bytes = self._keys.state(key, tag)
        ending = self._endings.get((mode, cost, wanted)) if now_us == SERVER_CLOCK else None
        if ending is None:
            ending = self._ending(mode, cost, wanted, now_us)
        layout = self._layout
        command = layout.heads[wanted != cost]
        return Call(command[0], command[1], layout.keys(state) + ending, tag_bytes)

    def read(self, reply: object) -> list[int]:
        """The reply, once it is seen to be one.

        Raises:
            StoreRefused: It has another shape: something that is not our script answered.

        """
        if type(reply) is not list or list(map(type, reply)) != self._whole_reply:
            raise StoreRefused(
                f"the script {self._layout.script.name} answered {reply!r:.200}: accepted are "
                f"{len(self._whole_reply)} integers; see what else uses this key or script"
            )
        return reply

    def _ending(self, mode: str, cost: int, at_least: int, now_us: int) -> bytes:
        ending = b"".join(map(bulk, self._layout.arguments(mode, cost, at_least, now_us)))
        if now_us == SERVER_CLOCK and len(self._endings) < _ENDINGS_KEPT:
            self._endings[mode, cost, at_least] = ending
        return ending


class _Layout:
    """Where keys and arguments stand in the calls of one script."""

    script: scripts.Script
    heads: tuple[tuple[bytes, bytes], tuple[bytes, bytes]]
    """The two commands up to the keys; the second pair for a call with its own at_least."""

    def keys(self, state: bytes) -> bytes:
        raise NotImplementedError

    def arguments(self, mode: str, cost: int, at_least: int, now_us: int) -> list[str]:
        raise NotImplementedError

    def _heads(self, keys: int, arguments: int) -> tuple[bytes, bytes]:
        count = b"*%d\r\n" % (3 + keys + arguments)
        sha, source = self.script.sha, self.script.source
        number = bulk(str(keys))
        return (
            count + bulk("EVALSHA") + bulk(sha) + number,
            count + bulk("EVAL") + bulk(source) + number,
        )


class _Single(_Layout):
    """One policy: the script of its algorithm, on one key."""

    def __init__(self, policy: Policy) -> None:
        self.script = scripts.script(policy.script)
        self._own = [policy.field, *map(str, policy.arguments)]
        self._suffix = f":{policy.field}".encode() if policy.key_type == "list" else b""
        count = len(self.arguments("hit", 1, 1, 0))
        self.heads = (self._heads(1, count), self._heads(1, count + 1))

    def keys(self, state: bytes) -> bytes:
        key = state + self._suffix
        return b"$%d\r\n%b\r\n" % (len(key), key)

    def arguments(self, mode: str, cost: int, at_least: int, now_us: int) -> list[str]:
        some = [str(at_least)] if at_least != cost else []
        return [str(now_us), mode, str(cost), *self._own, *some]


class _Several(_Layout):
    """Any list of policies: the script ``several``, on the subject's hash and lists."""

    def __init__(self, policies: tuple[Policy, ...]) -> None:
        self.script = scripts.script("several")
        suffixes = [f":{p.field}".encode() for p in policies if p.key_type == "list"]
        if len(suffixes) < len(policies):
            suffixes.insert(0, b"")
        self._suffixes = suffixes
        self._blocks = []
        for policy in policies:
            suffix = f":{policy.field}".encode() if policy.key_type == "list" else b""
            key = str(suffixes.index(suffix) + 1)
            self._blocks.append(
                ([policy.script, key, "0"], [policy.field, *map(str, policy.arguments)])
            )
        heads = self._heads(len(suffixes), len(self.arguments("hit", 1, 1, 0)))
        self.heads = (heads, heads)

    def keys(self, state: bytes) -> bytes:
        return b"".join(bulk(state + suffix) for suffix in self._suffixes)

    def arguments(self, mode: str, cost: int, at_least: int, now_us: int) -> list[str]:
        said = [str(now_us), mode, str(at_least if at_least != cost else 0)]
        for before, own in self._blocks:
            said += [*before, str(cost), *own]
        return said


def _whole(what: str, number: object, least: int, most: int, which: str) -> int:
    """The number as an int, which an IntEnum is and a bool is not, where it is in its range."""
    if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
        return int(number)
    raise InvalidCost(
        f"{what} is {shown(number)}: accepted is a whole number from {least} to {most}, {which}"
    )


def bulk(text: str | bytes) -> bytes:
    """One argument of a command, as the protocol spells it."""
    raw = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%b\r\n" % (len(raw), raw)
