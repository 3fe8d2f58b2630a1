"""The limiter: plan a call, run it, decode the reply. Only ``run`` touches the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from limiter import settings
from limiter.decision import Decision
from limiter.errors import InvalidPolicy, InvalidSetting, StoreUnavailable
from limiter.grammar import algorithm_named, parse_limits
from limiter.keys import Key, KeySpeller
from limiter.plan import SERVER_CLOCK, Call, Plan
from limiter.policies import Policy
from limiter.transport import connect

_Own = TypeVar("_Own", bound="Limiter")

#: What ``limits`` may be.
Limits = str | Policy | Iterable[Policy]


class _Base:
    """Everything about a limiter but the round trip."""

    def __init__(
        self,
        limits: Limits,
        *,
        store: object,
        name: str = "default",
        prefix: str = "rl",
        algorithm: str | None = None,
        on_error: str = "raise",
        local_share: int = 1,
        timeout: float = 0.1,
        connect_timeout: float = 2.0,
        key_secret: str | bytes | None = None,
    ) -> None:
        self.policies = _policies(limits, algorithm)
        self.name = name
        self._plan = Plan(self.policies, KeySpeller(prefix, name, key_secret))
        self._on_error = settings.check_on_error(on_error)
        settings.check_share(local_share)
        self._transport = connect(
            store,
            settings.check_seconds("timeout", timeout),
            settings.check_seconds("connect_timeout", connect_timeout),
        )
        #: The time of every call, for tests and simulations; 0: the server's clock.
        self._now_us = SERVER_CLOCK

    def _fallback(self, error: StoreUnavailable) -> Decision:
        """What ``on_error`` makes of a store that does not decide."""
        if self._on_error == "raise":
            raise error
        return Decision.without_store(self.policies, allowed=self._on_error == "allow")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.policies)!r}, name={self.name!r})"


class Limiter(_Base):
    """Limits that hold across all processes that share a store.

    Args:
        limits: A limit string (``"100/minute"``, ``"20/second; 1000/hour"``), a policy, or several;
            a call passes when all of them have room, and is charged to all or none, in one round
            trip.
        store: Where the state is: a URL (``redis://127.0.0.1:6379/0``, ``rediss://``, ``unix://``,
            ``valkey://``, ``redis+cluster://h1:p1,h2:p2``) or a client of redis-py, of which only
            the connection settings are used.
        name: Part of every key; limiters with one name share their state.
        prefix: Begins every key.
        algorithm: Which one the limit string means; without it a sliding log, or a token bucket
            where the string gives a burst.
        on_error: What happens while the store does not decide: ``"raise"`` StoreUnavailable,
            ``"allow"``, or ``"deny"``.
        local_share: How many limiters share the quota where each decides for itself.
        timeout: Seconds within which a call is decided, or its fallback is.
        connect_timeout: Seconds that a connection, made beside the calls, may take.
        key_secret: Hashes every subject with a key, so that none can be read or aimed.

    Threads may share a limiter, and a process may fork with it. It is also a context manager:
    entering opens it, leaving closes it.

    Raises:
        InvalidPolicy: A limit makes no sense.
        InvalidSetting: Another argument is of no use; the message says what is accepted.

    """

    @classmethod
    def from_env(
        cls: type[_Own], environ: Mapping[str, str] | None = None, **defaults: Any
    ) -> _Own:
        """A limiter by ``LIMITER_STORE``, ``LIMITER_LIMITS``, ``LIMITER_ALGORITHM`` and the others.

        ``environ`` stands in for the process's environment; ``defaults`` are the arguments of
        ``Limiter`` that a variable, where it is set and not empty, overrides.

        Raises:
            InvalidSetting: A variable is missing or wrong; the message names it.

        """
        found = settings.from_environment(environ, defaults)
        try:
            return cls(found.pop("limits"), **found)
        except (InvalidSetting, InvalidPolicy) as error:
            raise settings.named(error, environ) from None

    def hit(
        self, key: Key, cost: int = 1, *, at_least: int | None = None, tag: Key | None = None
    ) -> Decision:
        """Take ``cost`` from what ``key`` has left, if every policy has room; else take nothing.

        With ``at_least``, take as many units as there are, from that up to ``cost``; the decision's
        ``granted`` says how many. Subjects with one ``tag`` lie in one slot of a cluster; a tagged
        subject's state is its own. Cost 0 is the same as peeking.

        Raises:
            InvalidKey, InvalidCost: The call makes no sense; the store was not asked.
            StoreUnavailable: The store did not decide, and ``on_error`` is ``"raise"``.
            StoreRefused: The store answered, but not with a decision.

        """
        plan = self._plan
        call = plan.call("hit", key, cost, at_least, tag, self._now_us)
        try:
            reply = self._transport.run(call)
        except StoreUnavailable as error:
            return self._fallback(error)
        return Decision(self.policies, plan.read(reply))

    def peek(self, key: Key, cost: int = 1, *, tag: Key | None = None) -> Decision:
        """Say what ``hit`` would, at this instant; take nothing, write nothing.

        Raises: As ``hit``.
        """
        call = self._plan.call("peek", key, cost, None, tag, self._now_us)
        try:
            return self._decide(call)
        except StoreUnavailable as error:
            return self._fallback(error)

    def reset(self, key: Key, *, tag: Key | None = None) -> Decision:
        """Forget the subject in this limiter; return what a peek would have said just before.

        Raises: As ``hit``; StoreUnavailable whatever ``on_error`` is, since nothing was forgotten.
        """
        return self._decide(self._plan.call("reset", key, 1, None, tag, self._now_us))

    def open(self: _Own) -> _Own:
        """Connect and load the scripts beforehand, within ``connect_timeout``. Optional.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a later call tries again by itself.

        """
        for script in self._plan.scripts:
            self._transport.load(script)
        return self

    def close(self) -> None:
        """Close the idle connections. A later call makes new ones, as does one that is under way."""
        self._transport.close()

    def __enter__(self: _Own) -> _Own:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _decide(self, call: Call) -> Decision:
        return Decision(self.policies, self._plan.read(self._transport.run(call)))


def _policies(limits: Limits, algorithm: str | None) -> tuple[Policy, ...]:
    if isinstance(limits, str):
        return parse_limits(limits, algorithm)
    if algorithm is not None:
        algorithm_named(algorithm)
        raise InvalidSetting(
            f"algorithm is {algorithm!r}: it belongs to a limit string; policies bring their own"
        )
    policies = (limits,) if isinstance(limits, Policy) else limits
    try:
        found = tuple(policies)
    except TypeError:
        found = (limits,)  # type: ignore[assignment]  # named in the error below
    for policy in found:
        if not isinstance(policy, Policy):
            raise InvalidPolicy(
                f"limits hold {policy!r}: accepted are a limit string, a policy, or several policies"
            )
    return found
