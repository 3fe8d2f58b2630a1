"""What a limiter is but for the round trip: arguments, plans, and every call as a flow of steps."""

from __future__ import annotations

import logging
import os
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial, wraps
from inspect import iscoroutinefunction, signature
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar

from limiter import settings
from limiter.call import SERVER_CLOCK, STRIDE
from limiter.decision import Decision
from limiter.errors import (
    InvalidCost,
    InvalidKey,
    InvalidPolicy,
    InvalidSetting,
    LimiterError,
    RateLimited,
    StoreUnavailable,
    shown,
)
from limiter.flows import Ask, Flow, Pause
from limiter.grammar import algorithm_named, parse_limits, read_limits
from limiter.held import Held, Reserved
from limiter.keys import Key, KeySpeller
from limiter.local import Share, decide_shares
from limiter.log_throttle import log_seldom
from limiter.memory import MemoryStore
from limiter.outage import Outage
from limiter.plan import JointCall, Part, Plan, remember
from limiter.policies import Policy
from limiter.several import Decisions, InTurn

_Own = TypeVar("_Own", bound="Base[Any]")
_Transport = TypeVar("_Transport")
_Init = TypeVar("_Init", bound=Callable[..., None])

#: What ``limits`` may be.
Limits = str | Policy | Iterable[Policy]
#: One subject of ``hit_all``: its key, its cost, and perhaps limits of its own.
Item = tuple[Key, int] | tuple[Key, int, Limits]

MEMORY = "memory://"

#: Sleeping so much longer, at most, keeps those who wait for one moment from coming as one crowd.
_JITTER = 0.05
#: Whoever waits for a lease asks at least so often: it may be given back at any time.
_ASK_EVERY = 1.0
#: So many seconds before a lease ends nobody asks any more for it to be renewed.
_AT_ITS_END = 0.001
#: So many leases that may have been taken are given back at a time; more end by themselves.
_MOST_FORGOTTEN = 16

#: What happens to calls while the store does not decide, by ``on_error``.
_INSTEAD = {
    "raise": "calls raise StoreUnavailable",
    "allow": "calls are allowed (on_error=allow)",
    "deny": "calls are denied (on_error=deny)",
    "local": "this process decides about its share of each limit (on_error=local)",
}

log = logging.getLogger("limiter")


def _speaking_for_its_class(init: _Init) -> _Init:
    """Say wrong arguments of the class that was called, which is not the one that takes them."""
    known = signature(init)
    limits, store, *others = list(known.parameters)[1:]

    @wraps(init)
    def checked(self: object, *given: Any, **named: Any) -> None:
        try:
            known.bind(self, *given, **named)
        except TypeError as error:
            name = type(self).__name__
            raise TypeError(
                f"{name}: {error}; accepted are {limits} and, by name, {store} (redis://host:port/0 or "
                f"another URL, memory:// for this process alone, or a client of redis-py), "
                f"{', '.join(others)}; {name}.from_env() reads them from LIMITER_*"
            ) from None
        init(self, *given, **named)

    return checked  # type: ignore[return-value]  # it takes what init takes


class Base(Generic[_Transport]):
    """Everything about a limiter but the round trip."""

    _transport: _Transport

    @_speaking_for_its_class
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
        #: Settlements, give-backs and releases that did not reach the store, and went with their keys.
        self.unsettled = 0
        self._forgetting_now = 0
        self._keys = KeySpeller(prefix, name, key_secret)
        in_memory = isinstance(store, str) and store == MEMORY
        self._plan = Plan(self.policies, self._keys)
        self._plans: dict[object, Plan] = {}
        self._on_error = settings.check_on_error(on_error)
        share = settings.check_share(local_share)
        self._timeout = settings.check_seconds("timeout", timeout)
        settings.check_seconds("connect_timeout", connect_timeout)
        if isinstance(store, type(self)):
            self._transport = store._transport
            self._transport_timeout: float = store._transport_timeout
            self._shares: MemoryStore = store._shares
            self._outage: Outage = store._outage
        else:
            self._transport = self._connect(store, in_memory, timeout, connect_timeout)
            self._transport_timeout = self._timeout
            #: Where those that share a store decide while it does not: together, as in the store.
            self._shares = MemoryStore()
            self._outage = Outage(self._where())
        self._share = Share(share, self._shares) if on_error == "local" else None
        #: The time of every call, for tests and simulations; 0: the server's clock.
        self._now_us = SERVER_CLOCK

    @classmethod
    def from_env(
        cls: type[_Own], environ: Mapping[str, str] | None = None, **defaults: Any
    ) -> _Own:
        """A limiter by ``LIMITER_STORE``, ``LIMITER_LIMITS``, ``LIMITER_ALGORITHM`` and the others.

        ``environ`` stands in for the process's environment; ``defaults`` are the arguments of
        the class that a variable, where it is set and not empty, overrides.

        Raises:
            InvalidSetting: A variable is missing or wrong; the message names it.

        """
        found = settings.from_environment(environ, defaults)
        try:
            return cls(found.pop("limits"), **found)
        except (InvalidSetting, InvalidPolicy) as error:
            raise settings.named(error, environ) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.policies)!r}, name={self.name!r})"

    def _connect(
        self, store: object, in_memory: bool, timeout: float, connect_timeout: float
    ) -> _Transport:
        """The round trip, to a store in this process or elsewhere."""
        raise NotImplementedError

    def _where(self) -> str:
        """The store, for messages."""
        raise NotImplementedError

    def _one_slot(self, tags: list[bytes]) -> bool:
        """Whether subjects with these hash tags can be decided in one call."""
        raise NotImplementedError

    def _beside(
        self, flow: Flow[None], interrupted: Callable[[str], None] | None = None
    ) -> Callable[[], None]:
        """Run a flow that nobody waits for; what comes back ends it.

        ``interrupted`` is told what else ended it, where the flow itself was not.

        Raises:
            StoreUnavailable: Nobody can run it; it was closed.

        """
        raise NotImplementedError

    # --- what adapters build on: several limiters' parts in one call ---

    def plan(self, limits: Limits | None = None) -> Plan:
        """What is known of a call before its key and cost are; with numbers of its own, or ours.

        Raises:
            InvalidPolicy: The limits are others than ours in more than their numbers.

        """
        return self._plan_for(limits)

    @property
    def timeout(self) -> float:
        """Seconds within which a call is decided, or its fallback is."""
        return self._timeout

    @property
    def on_error(self) -> str:
        """What decides while the store does not: ``raise``, ``allow``, ``deny`` or ``local``."""
        return self._on_error

    @property
    def keeps_store_timeout(self) -> bool:
        """Whether its calls take as long as those of the limiter whose store it shares."""
        return self._timeout == self._transport_timeout

    def deciding(
        self,
        parts: list[Part],
        mode: str = "hit",
        lease: str = "",
        timeout: float | None = None,
    ) -> Flow[list[Decision]]:
        """All parts, of limiters that share this one's store, in one script call where one slot has them.

        Each part is charged, or none is; ``acquire`` under the id ``lease`` takes the leases as well.
        Parts may name one subject several times, as long as their keys or fields differ. ``timeout``
        is in the place of the store's own.
        """
        deadline = None
        if timeout is not None and timeout != self._transport_timeout:
            deadline = monotonic() + timeout
        return self._deciding(parts, None, mode, lease, deadline)

    def fallbacks(
        self, owners: Sequence[Base[Any]], parts: Sequence[Part], mode: str, lease: str = ""
    ) -> list[Decision]:
        """What the ``on_error`` of each part's owner makes of a store that did not decide.

        The owners share this one's store. Those that decide in this process do it together, and
        charge nothing where another one denies; ``raise`` is a denial here.
        """
        decisions = [
            owner._without_store(part.plan) for owner, part in zip(owners, parts, strict=True)
        ]
        local = [place for place, owner in enumerate(owners) if owner._share is not None]
        if local:
            denied = any(
                not (decisions[place].allowed or part.shadow or place in local)
                for place, part in enumerate(parts)
            )
            shares = [share for owner in owners if (share := owner._share) is not None]
            asked = [parts[place] for place in local]
            said = decide_shares(
                shares, asked, None, self._now_us, "peek" if denied else mode, lease
            )
            for place, decision in zip(local, said, strict=True):
                decisions[place] = decision
        return decisions

    def keep(self, part: Part, lease: str, decision: Decision, asked: float) -> Held:
        """The lease that a part took, renewed until ``releasing`` it."""
        held = self._of_part(part, lease)
        self._keep(held, decision, asked)
        return held

    def forget(self, part: Part, lease: str, why: StoreUnavailable) -> None:
        """Give back, later, a lease that the store may have given without our knowing."""
        self._forget(self._of_part(part, lease), why)

    def change_here(self, part: Part, mode: str, lease: str) -> bool:
        """Renew or release what ``on_error="local"`` has given of a lease; whether all of it was there."""
        if self._share is None:
            return False
        plan = part.plan.of_leases
        return self._share.change(plan, mode, part.key, part.cost, None, self._now_us, lease)

    def _of_part(self, part: Part, lease: str) -> Held:
        more = {"cost": part.cost, "tag": None, "lease": lease}
        return Held(part.plan, part.plan.of_leases, part.key, more, 0, None)

    def releasing(self, held: Held) -> Flow[None]:
        """Give the lease back, once; a store that does not answer lets it end by itself."""
        return self._releasing(held)

    def returning(self, part: Part, decision: Decision) -> Flow[Decision | None]:
        """Give back what a part was charged; how things stand then, None where the store was not told."""
        if decision.degraded:
            if self._share is not None and not part.plan.leases:
                self._share.change(part.plan, "refund", part.key, part.cost, None, self._now_us)
            return None
        call = part.plan.call("refund", part.key, part.cost, None, None, self._now_us)
        try:
            return Decision(part.plan.policies, (yield Ask(call)))
        except LimiterError as error:
            self._not_settled("a give-back", error)
            return None

    def clear(self) -> None:
        """Forget every subject of every limiter that shares this ``memory://``; for tests.

        Raises:
            InvalidSetting: The store is another one, in which others may keep counts.

        """
        clear = getattr(self._transport, "clear", None)
        if clear is None:
            raise InvalidSetting(
                f"{self._where()} cannot be cleared: accepted is store='memory://'; reset one subject "
                f"with reset(key), or flush the database that tests have for themselves"
            )
        clear()

    def shares_store(self, other: Base[Any]) -> bool:
        """Whether both ask one store, through the same connections."""
        return self._transport is other._transport

    # --- plans ---

    def _plan_for(self, limits: Limits | None) -> Plan:
        """The plan of a call, with its own numbers where it brings any.

        Raises:
            InvalidPolicy: The limits are others than ours in more than their numbers.

        """
        if limits is None:
            return self._plan
        if not isinstance(limits, (str, Policy)):
            limits = _policies(limits, None)
        found = self._plans.get(limits)
        if found is None:
            found = Plan(self._renumbered(limits), self._keys)
            remember(self._plans, limits, found)
        return found

    def _renumbered(self, limits: Limits) -> tuple[Policy, ...]:
        """Our policies with the numbers of ``limits``."""
        own = self.policies
        if isinstance(limits, str):
            read = read_limits(limits)
            if [one.period_us for one in read] == [policy.period_us for policy in own]:
                pairs = zip(own, read, strict=True)
                return tuple(policy.renumbered(one.limit, one.burst) for policy, one in pairs)
        else:
            others = _policies(limits, None)
            if [(type(policy), policy.field) for policy in others] == [
                (type(policy), policy.field) for policy in own
            ]:
                return others
        raise InvalidPolicy.of(
            "limits",
            repr(limits),
            f"accepted here are those of {list(own)} with other numbers, "
            f"since algorithm, period and name say which state is meant",
        )

    # --- one decision ---

    def _asking(self, plan: Plan, mode: str, key: Key, **more: Any) -> Flow[Decision]:
        """One round trip, or what ``on_error`` makes of a store that does not decide."""
        call = plan.call(mode, key, now_us=self._now_us, **more)
        try:
            reply = yield Ask(call)
        except StoreUnavailable as error:
            return self._fallback(error, plan, mode, key, **more)
        return Decision(plan.policies, reply)

    def _note(self, error: LimiterError) -> None:
        """A call found no decision: say so in the log where the store is away."""
        if isinstance(error, StoreUnavailable):
            self._outage.failed(error, _INSTEAD[self._on_error])

    def _entered(self, error: StoreUnavailable) -> None:
        """Opening failed in a ``with``: the calls find out what ``on_error`` makes of that."""
        if self._on_error == "raise":
            raise error
        self._note(error)

    def _fallback(
        self, error: StoreUnavailable, plan: Plan, mode: str, key: Key, **more: Any
    ) -> Decision:
        """What ``on_error`` makes of a store that does not decide."""
        if self._on_error == "raise":
            raise error
        if self._share is not None:
            with suppress(StoreUnavailable):  # in the middle of a decision of its own
                return self._share.decide(plan, mode, key, now_us=self._now_us, **more)
        return self._without_store(plan)

    def _without_store(self, plan: Plan) -> Decision:
        """What ``on_error`` decides where nobody can."""
        return Decision.without_store(plan.policies, allowed=self._on_error == "allow")

    def _resetting(self, key: Key, limits: Limits | None, tag: Key | None) -> Flow[Decision]:
        plan = self._plan_for(limits)
        reply = yield Ask(plan.call("reset", key, 1, None, tag, self._now_us))
        return Decision(plan.policies, reply)

    def _refunding(self, key: Key, cost: int, limits: Limits | None, tag: Key | None) -> Flow[None]:
        plan = self._plan_for(limits)
        plan.checked(cost, least=1)
        yield Ask(plan.call("refund", key, cost, None, tag, self._now_us))

    def _waiting(
        self, key: Key, cost: int, timeout: float | None, limits: Limits | None, tag: Key | None
    ) -> Flow[Decision]:
        timeout = settings.check_wait(timeout)
        until = inf if timeout is None else monotonic() + timeout
        plan = self._plan_for(limits)
        while True:
            decision = yield from self._asking(plan, "hit", key, cost=cost, tag=tag)
            if decision.allowed:
                if decision.delay:
                    yield Pause(decision.delay)
                return decision
            left = until - monotonic()
            # A call that the store may have run is not made again, whatever answered in its place.
            if decision.degraded or decision.retry_after > left:
                raise RateLimited(decision)
            yield Pause(_jittered(decision.retry_after, left))

    # --- several subjects ---

    def _hitting_all(
        self, items: Iterable[Item], limits: Limits | None, tag: Key | None
    ) -> Flow[Decisions]:
        try:
            listed = list(items)
        except TypeError:
            raise InvalidKey(
                f"hit_all was given {shown(items)}: accepted is a list of tuples of key and cost"
            ) from None
        parts = [self._part(item, limits) for item in listed]
        if not parts:
            return Decisions()
        seen: set[tuple[bytes, bytes]] = set()
        for part in parts:
            state = part.plan.state(part.key, tag)
            if state in seen:
                raise InvalidKey(
                    f"key {part.key!r} stands for a subject that is named twice: name it once, with "
                    f"the sum of its costs"
                )
            seen.add(state)
        try:
            return Decisions((yield from self._deciding(parts, tag)))
        except StoreUnavailable:
            if self._on_error == "raise":
                raise
        if self._share is not None:
            with suppress(StoreUnavailable):  # in the middle of a decision of its own
                return Decisions(self._share.decide_all(parts, tag, self._now_us))
        return Decisions(self._without_store(part.plan) for part in parts)

    def _deciding(
        self,
        parts: list[Part],
        tag: Key | None = None,
        mode: str = "hit",
        lease: str = "",
        deadline: float | None = None,
    ) -> Flow[list[Decision]]:
        """All parts in one script call, or one after the other where their slots differ.

        Parts may name one subject several times, as long as their policies' fields differ.
        """
        joint = JointCall(parts, tag)
        if not self._one_slot(joint.tags):
            return (yield from InTurn(self, parts, tag, lease, deadline).deciding(mode))
        replies = joint.split((yield Ask(joint.call(mode, self._now_us, lease), deadline)))
        return [
            Decision(part.plan.policies, reply) for part, reply in zip(parts, replies, strict=True)
        ]

    def _part(self, item: Item, limits: Limits | None) -> Part:
        if not isinstance(item, tuple) or len(item) not in (2, 3):
            raise InvalidKey(
                f"hit_all was given {shown(item)}: accepted are tuples of key and cost, and limits of "
                f"the subject's own as a third"
            )
        plan = self._plan_for(item[2] if len(item) == 3 else limits)
        plan.check_mode("hit")
        cost, _ = plan.checked(item[1])
        return Part(plan, item[0], cost)

    def _undoing(self, plan: Plan) -> list[tuple[str, Plan]]:
        """How what was charged by a plan is given back: its rates refunded, its leases released."""
        rates, undoing = plan.of_rates, []
        if rates is not None:
            undoing.append(("refund", rates))
        if plan.leases:
            undoing.append(("release", plan.of_leases))
        return undoing

    # --- leases and reservations ---

    def _holding(self, held: Held) -> Flow[None]:
        """Take the lease, unless it is in use already."""
        if held.busy:
            raise InvalidSetting(
                "this lease is held already: accepted is one body at a time; call hold for each"
            )
        held.busy = True
        try:
            yield from self._taking(held)
        except LimiterError:
            held.busy = False
            raise

    def _taking(self, held: Held) -> Flow[None]:
        """Take the lease, and see that it is renewed for as long as it is held."""
        until = inf if held.timeout is None else monotonic() + held.timeout
        held.anew(secrets.token_hex(16))
        plan, key, more = held.plan, held.key, held.more
        while True:
            asked = monotonic()
            try:
                decision = yield from self._asking(plan, "acquire", key, **more)
            except StoreUnavailable as error:
                self._forget(held, error)
                raise
            if decision.degraded:
                self._forget(held, StoreUnavailable("the store did not decide"))
            if decision.allowed:
                break
            left = until - monotonic()
            if decision.degraded or left <= 0 or _rates_wait(decision) > left:
                raise RateLimited(decision)
            yield Pause(min(_jittered(decision.retry_after, left), _ASK_EVERY, left))
            if held.released:
                break
        if held.released:  # by somebody else, while it was asked for: nobody would give it back
            held.released = False
            yield from self._releasing(held)
            raise InvalidSetting("this lease was released while it was asked for: it is not held")
        try:
            self._keep(held, decision, asked)
        except StoreUnavailable:  # nobody can renew it
            yield from self._releasing(held)
            raise
        if decision.delay:
            yield Pause(decision.delay)

    def _keep(self, held: Held, decision: Decision, asked: float) -> None:
        """See that the lease, taken by a call that began at ``asked``, is renewed."""
        held.begin(decision)
        if not decision.degraded or self._share is not None:
            lease = held.more["lease"]
            unrenewed = partial(held.unrenewed, lease)
            held.stop_renewing = self._beside(self._renewing(held, lease, asked), unrenewed)

    def _renewing(self, held: Held, lease: str, asked: float) -> Flow[None]:
        """Renew a lease at a third of its length, until it is given back, lost, or held for too long."""
        lasts = min(policy.period_us for policy in held.plan.leases) / 1e6
        must_end = asked + held.longest
        ends, pause, again = asked + lasts, lasts / 3, lasts / 10
        while True:
            yield Pause(max(0.0, min(pause, must_end - monotonic())))
            if not held.holds(lease):
                return
            asked = monotonic()
            if asked >= must_end:
                # First the holder learns of it: from then on another client may have the place.
                held.lose(f"it was held for {held.longest:g} s, the longest that its policy allows")
                with suppress(LimiterError):  # then it ends by itself, without a renewal
                    yield from self._changing_lease(held, "release")
                return
            # Whoever is told too late that it ended believes to hold what others have.
            if asked >= ends:
                held.lose("it ended before it could be renewed")
                return
            try:
                soon = min(asked + self._transport_timeout, ends)
                renewed = yield from self._changing_lease(held, "renew", soon)
            except StoreUnavailable as error:
                # It lives on for a while; renewing twice is the same as once.
                left = ends - monotonic()
                if left > _AT_ITS_END:
                    pause, again = min(again, left / 2), 2 * again
                    continue
                why: object = error
            except LimiterError as error:
                why = error
            else:
                if renewed:
                    ends, pause, again = asked + lasts, lasts / 3, lasts / 10
                    continue
                why = "it had ended"
            if held.holds(lease):
                held.lose(why)
            return

    def _changing_lease(self, held: Held, mode: str, deadline: float | None = None) -> Flow[bool]:
        """Renew or release what the decision gave; whether all of it was still there."""
        if held.degraded:
            if self._share is None:
                return True
            return self._share.change(
                held.leases_plan, mode, held.key, now_us=self._now_us, **held.more
            )
        plan, cost = held.leases_plan, int(held.more["cost"])
        call = plan.call(mode, held.key, now_us=self._now_us, **held.more)
        reply = yield Ask(call, deadline)
        return bool(min(reply[0:-1:STRIDE]) == cost)

    def _releasing(self, held: Held) -> Flow[None]:
        """Give the lease back, once; a store that does not answer lets it end by itself."""
        if held.released or held.is_inherited or "lease" not in held.more:
            return
        held.released = True
        try:
            held.stop_renewing()
            yield from self._changing_lease(held, "release")
        except LimiterError as error:
            self._not_settled("a release", error)
        except BaseException:  # giving it back twice is the same as once
            self._forget(held, StoreUnavailable("it was interrupted"), 0.0)
            raise
        finally:
            held.busy = False

    def _forget(self, held: Held, why: StoreUnavailable, after: float | None = None) -> None:
        """The store may have given a lease all the same; its id says which to give back, later."""
        if self._forgetting_now >= _MOST_FORGOTTEN:
            self._not_settled("a release", why)
            return
        self._forgetting_now += 1
        after = self._timeout if after is None else after
        try:
            self._beside(self._forgetting(held.leases_plan, held.key, held.more, after))
        except StoreUnavailable as error:
            self._not_settled("a release", error)

    def _forgetting(self, plan: Plan, key: Key, more: dict[str, Any], after: float) -> Flow[None]:
        """Give back a lease that may have been taken, when the store answers again."""
        process = os.getpid()
        try:
            yield Pause(after)
            yield Ask(plan.call("release", key, now_us=self._now_us, **more))
        except LimiterError as error:
            self._not_settled("a release", error)
        except GeneratorExit:
            self._cut_off("a release", process)
            raise
        finally:
            self._forgetting_now -= 1

    def _held(
        self,
        key: Key,
        cost: int,
        timeout: float | None,
        on_lost: Callable[[], Any] | None,
        limits: Limits | None,
        tag: Key | None,
    ) -> dict[str, Any]:
        """What a lease is made of, once it makes sense."""
        plan = self._plan_for(limits)
        plan.check_mode("acquire")
        cost, _ = plan.checked(cost, least=1)
        self._keys.state(key, tag)
        if on_lost is not None and (not callable(on_lost) or iscoroutinefunction(on_lost)):
            raise InvalidSetting.of(
                "on_lost",
                repr(on_lost),
                "accepted is a function without arguments that is no coroutine",
            )
        return {
            "plan": plan,
            "leases_plan": plan.of_leases,
            "key": key,
            "more": {"cost": cost, "tag": tag},
            "timeout": settings.check_wait(timeout),
            "on_lost": on_lost,
        }

    def _reserving(self, reserved: Reserved) -> Flow[None]:
        plan, key = reserved.plan, reserved.key
        decision = yield from self._asking(plan, "hit", key, cost=reserved.cost, tag=reserved.tag)
        if not decision.allowed:
            raise RateLimited(decision)
        reserved.begin(decision)

    def _settling(self, reserved: Reserved, actual: int) -> Flow[None]:
        """Give back what was not used, or charge what was used beyond; once."""
        if isinstance(actual, bool) or not isinstance(actual, int) or actual < 0:
            raise InvalidCost.of("actual", shown(actual), "accepted is a whole number from 0")
        if not reserved.begun:
            raise InvalidSetting("nothing is reserved yet: settle in the body of the with")
        if reserved.settled:
            return
        reserved.settled = True
        plan = reserved.plan
        mode = "refund" if actual < reserved.cost else "settle"
        cost = abs(actual - reserved.cost)
        if cost == 0:
            return
        more: dict[str, Any] = {"cost": cost, "tag": reserved.tag}
        try:
            if reserved.decision.degraded:
                if self._share is not None:
                    self._share.change(plan, mode, reserved.key, now_us=self._now_us, **more)
                return
            if cost > plan.most_cost:
                yield from self._charging(plan, reserved.key, cost, reserved.tag)
                return
            yield Ask(plan.call(mode, reserved.key, now_us=self._now_us, **more))
        except LimiterError as error:
            self._not_settled("a settlement", error)
        except GeneratorExit:
            self._not_settled("a settlement", StoreUnavailable("it was interrupted"))
            raise

    def _charging(self, plan: Plan, key: Key, cost: int, tag: Key | None) -> Flow[None]:
        """Charge without asking what no single call may cost: each policy as far as its debt goes."""
        parts = [Part(Plan((one,), self._keys), key, cost) for one in plan.policies]
        while parts:
            asked = [one._replace(cost=min(one.cost, one.plan.most_cost)) for one in parts]
            joint = JointCall(asked, tag)
            replies = joint.split((yield Ask(joint.call("settle", self._now_us))))
            parts = [
                one._replace(cost=one.cost - part.cost)
                for one, part, reply in zip(parts, asked, replies, strict=True)
                if reply[0] == part.cost < one.cost
            ]

    def _reserved(
        self, key: Key, cost: int, limits: Limits | None, tag: Key | None
    ) -> dict[str, Any]:
        """What a reservation is made of, once it makes sense."""
        plan = self._plan_for(limits)
        plan.check_mode("hit")
        cost, _ = plan.checked(cost, least=1)
        self._keys.state(key, tag)
        return {"plan": plan, "key": key, "cost": cost, "tag": tag}

    def _cut_off(self, what: str, process: int, why: str = "it was interrupted") -> None:
        """Say that nobody goes on with it; a fork's copy is gone on with by the parent."""
        if process == os.getpid():
            self._not_settled(what, StoreUnavailable(why))

    def _not_settled(self, what: str, error: LimiterError) -> None:
        """Say and count what the store was not told; it goes when its key expires."""
        self.unsettled += 1
        text = "%s of limiter %s did not reach the store: %s"
        log_seldom(log, logging.WARNING, text, what, self.name, error, kind=(what, self.name))


def _jittered(seconds: float, left: float) -> float:
    """A little more than asked for, but not beyond the time that is left."""
    return max(seconds, min(seconds * (1 + _JITTER * random.random()), left))


def _rates_wait(decision: Decision) -> float:
    """How long the rates alone deny: unlike a lease, nobody gives them back earlier."""
    waits = [one.retry_after for one in decision.each if not one.policy.leases]
    return max(waits, default=0.0)


def _policies(limits: Limits, algorithm: str | None) -> tuple[Policy, ...]:
    if isinstance(limits, str):
        return parse_limits(limits, algorithm)
    if algorithm is not None:
        algorithm_named(algorithm)
        raise InvalidSetting.of(
            "algorithm", repr(algorithm), "it belongs to a limit string; policies bring their own"
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
