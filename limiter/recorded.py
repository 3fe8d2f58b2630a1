"""Reservations that the store records under an id, so that a second attempt to settle changes nothing.

A lost answer raises StoreUnavailable, and the call may be repeated: two calls have the effect of one.
``on_error`` is the caller's. If all subjects lie in one slot, they have one record beside the first of
them, and a reservation is one script call. Otherwise each hash tag has its own, and the calls are made in
turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from time import monotonic
from typing import Any, NamedTuple

from limiter.call import STRIDE, Block, Call, CallTemplate, Reply
from limiter.changes import Changes
from limiter.core import Core
from limiter.decision import Decision
from limiter.errors import LimiterError, StoreRefused, StoreUnavailable
from limiter.flows import Ask, Flow
from limiter.keys import Key
from limiter.memory.decide import OTHER_POLICIES
from limiter.plan import Part

#: How long a reservation is remembered after its settlement, in seconds: a call that comes later, and was
#: sent before it, charges nothing.
SETTLED_SECONDS = 60


class State(IntEnum):
    """What is recorded of a reservation."""

    NONE = 0
    """Nothing: it was denied, or there is no record to settle."""
    NOW = 1
    """This call has reserved, or settled."""
    OPEN = 2
    """An earlier call has reserved; this one has charged nothing."""
    SETTLED = 3
    """An earlier call has settled; this one has changed nothing."""


class Recorded(NamedTuple):
    """The result of a reservation for one part."""

    decision: Decision
    """If the state is OPEN, ``granted`` is what is recorded."""
    state: State


class OtherRecord(StoreRefused):
    """The record of this id is of another number of policies; nothing was changed."""


def reserve_flow(
    core: Core[Any], parts: Sequence[Part], name: str, seconds: float, tag: Key | None = None
) -> Flow[list[Recorded]]:
    """Charge all parts, or none, and record it for ``seconds``; charge nothing that is recorded already.

    ``name`` is the reservation's id, which its caller draws: 1 to 64 of ``A-Z a-z 0-9 _ . -``.

    Raises:
        StoreUnavailable: The store did not decide; the call may be repeated.
        OtherRecord: The id was used for other parts.

    """
    calls = _Calls(core, parts, name, tag)
    record_ms = round(seconds * 1_000)
    deadline = monotonic() + core.timeout
    if len(calls.groups) == 1:
        results = yield from calls.ask_flow(calls.groups[0], "reserve", record_ms, deadline)
    else:
        results = yield from _SequentialReservation(core, calls, deadline).decide_flow(record_ms)
    return calls.in_order(results)


def settle_flow(
    core: Core[Any], parts: Sequence[Part], name: str, tag: Key | None = None
) -> Flow[list[State]]:
    """Refund or charge the difference between the recorded costs and the true ones, which the parts have.

    The parts are those of the reservation, in any order. If the store fails for some of them, the others
    are settled.

    Raises:
        StoreUnavailable: The store did not settle all; the call may be repeated.
        OtherRecord: The id was used for other parts.

    """
    calls = _Calls(core, parts, name, tag)
    deadline = None if len(calls.groups) == 1 else monotonic() + core.timeout
    settled: Results = {}
    failure: LimiterError | None = None
    for group in calls.groups:
        try:
            settled |= yield from calls.settle_flow(group, SETTLED_SECONDS * 1_000, deadline)
        except LimiterError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return [result.state for result in calls.in_order(settled)]


#: The place of a part in the caller's list, and its result.
Results = dict[int, Recorded]


class _Calls:
    """The script calls about one reservation.

    Attributes:
        groups: The places of the parts of each call. Parts of one group have one record; which parts these
            are, and in which order, does not depend on the order in which the caller lists the parts.

    """

    def __init__(self, core: Core[Any], parts: Sequence[Part], name: str, tag: Key | None) -> None:
        for part in parts:
            part.plan.check_mode("hit")
        self._core = core
        self._parts = parts
        self._id = name.encode()
        self._states = [part.plan.state(part.key, tag) for part in parts]
        ordered = sorted(range(len(parts)), key=self._name)
        one_slot = core.transport.one_slot([tag for _, tag in self._states])
        groups: dict[bytes, list[int]] = {}
        for place in ordered:
            groups.setdefault(b"" if one_slot else self._states[place][1], []).append(place)
        self.groups = list(groups.values())

    def _name(self, place: int) -> tuple[bytes, list[str]]:
        """What identifies a part: its subject, and its policies."""
        policies = self._parts[place].plan.policies
        return self._states[place][0], [policy.field for policy in policies]

    def in_order(self, results: Results) -> list[Recorded]:
        """The results in the caller's order."""
        return [results[place] for place in range(len(self._parts))]

    def undecided(self, place: int) -> Recorded:
        """The result of a part about which the store did not decide."""
        policies = self._parts[place].plan.policies
        return Recorded(Decision.without_store(policies, allowed=False), State.NONE)

    def ask_flow(
        self,
        group: Sequence[int],
        mode: str,
        record_ms: int | None = None,
        deadline: float | None = None,
        free: bool = False,
    ) -> Flow[Results]:
        """Make one call about the parts of a group, with their costs, or for ``free``."""
        blocks: list[Block] = []
        keys: list[bytes] = []
        for place in group:
            part, (state, _) = self._parts[place], self._states[place]
            blocks += part.plan.blocks(0 if free else part.cost, len(keys), "", part.shadow)
            keys += part.plan.keys_of(state)
        state, tag = self._states[group[0]]
        if record_ms is not None:
            keys.append(state + b":reservation:" + self._id)
        template = CallTemplate(mode, 0, self._core.now_us, tuple(blocks), record_ms=record_ms)
        try:
            reply = yield Ask(Call(template, tuple(keys), tag), deadline)
        except StoreRefused as error:
            if OTHER_POLICIES in str(error):
                raise OtherRecord(
                    f"the id {self._id.decode()} was used for other limits: draw another id for each "
                    f"reservation"
                ) from error
            raise
        return self._results(group, reply, record_ms is not None)

    def _results(self, group: Sequence[int], reply: Reply, recorded: bool) -> Results:
        """Split a reply into the results of the parts."""
        state = State(int(reply[-2])) if recorded else State.NONE
        results: Results = {}
        start = 0
        for place in group:
            policies = self._parts[place].plan.policies
            end = start + STRIDE * len(policies)
            results[place] = Recorded(Decision(policies, [*reply[start:end], reply[-1]]), state)
            start = end
        return results

    def settle_flow(
        self,
        group: Sequence[int],
        record_ms: int,
        deadline: float | None = None,
        free: bool = False,
    ) -> Flow[Results]:
        """Settle the parts of a group; a large difference of a log takes several calls."""
        while True:
            results = yield from self.ask_flow(group, "settle", record_ms, deadline, free)
            if all(result.state is not State.OPEN for result in results.values()):
                return results


class _SequentialReservation:
    """Reserves groups of parts one after the other, since their slots differ.

    If a group denies, those that this call has reserved are refunded at once, and their records deleted.
    If the caller is interrupted, or the deadline is over, this is done in the background. What another call
    has reserved or found stays, since that call may pass. A store that fails ends the call, and nothing is
    refunded: the same call again goes on.
    """

    def __init__(self, core: Core[Any], calls: _Calls, deadline: float) -> None:
        self._calls = calls
        self._deadline = deadline
        #: The groups to refund, unless all have room.
        self._refunds = Changes(core, "a refund", self._refund_flow)

    def decide_flow(self, record_ms: int) -> Flow[Results]:
        """Reserve all groups, or none."""
        calls, results = self._calls, Results()
        noted = self._refunds.left
        try:
            for group in calls.groups:
                asked = yield from calls.ask_flow(group, "reserve", record_ms, self._deadline)
                results |= asked
                state = asked[group[0]].state
                if state in (State.NONE, State.SETTLED):
                    return (yield from self._deny_flow(results))
                if state is State.NOW:
                    noted.append(group)
            noted.clear()
            return results
        except StoreUnavailable:
            noted.clear()
            raise
        except LimiterError:
            yield from self._refunds.make_flow(self._deadline)
            raise
        finally:
            self._refunds.finish()

    def _deny_flow(self, results: Results) -> Flow[Results]:
        """Refund the noted groups, and return decisions about the state after that."""
        calls = self._calls
        refunded = [*self._refunds.left]
        kept = yield from self._refunds.make_flow(self._deadline)
        refunded = [group for group in refunded if group not in kept]
        for group in refunded:
            for place in group:
                results[place] = Recorded(results[place].decision.refunded(), State.NONE)
        for group in calls.groups:
            if group in refunded or group[0] not in results:
                try:
                    results |= yield from calls.ask_flow(group, "peek", deadline=self._deadline)
                except LimiterError:  # the call is denied anyway
                    results = {**{place: calls.undecided(place) for place in group}, **results}
        return results

    def _refund_flow(self, group: list[int], deadline: float) -> Flow[Results]:
        """Refund a group, and delete its record, unless another call has found that."""
        return self._calls.settle_flow(group, 0, deadline, free=True)
