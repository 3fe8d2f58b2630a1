"""Refunds, releases and settlements: each is made once, and counted if it may not have arrived."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar

from limiter.call import STRIDE, Reply
from limiter.core import Core
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.keys import Key
from limiter.plan import JointCall, Part, even

_Change = TypeVar("_Change")


class Changes(Generic[_Change]):
    """Changes of what calls have charged, made one after the other by ``flow_of(change, deadline)``.

    A change is removed before it is made, so that none is made twice. ``finish`` makes in the background
    what is left if the caller was interrupted, or if the deadline is over.
    """

    def __init__(
        self, core: Core[Any], what: str, flow_of: Callable[[_Change, float], Flow[Any]]
    ) -> None:
        self._core = core
        self._what = what
        self._flow_of = flow_of
        self._process = os.getpid()
        self.left: list[_Change] = []

    def make_flow(self, deadline: float) -> Flow[list[_Change]]:
        """Make the changes until the deadline; return those that may not have reached the store."""
        lost: list[_Change] = []
        while self.left and monotonic() < deadline:
            change = self.left.pop(0)
            try:
                yield from self._flow_of(change, deadline)
            except LimiterError as error:
                self._core.not_settled(self._what, error)
                lost.append(change)
            except GeneratorExit:
                self._core.cut_off(self._what, self._process)
                raise
        return lost + self.left

    def finish(self) -> None:
        """Make in the background what is left."""
        if self.left:
            with suppress(StoreUnavailable):  # it cannot be run, and has counted the changes
                self._core.run_beside(self._later_flow())

    def _later_flow(self) -> Flow[None]:
        """Make what is left; count that for which there was no time."""
        try:
            yield Pause(0.0)
            yield from self.make_flow(monotonic() + self._core.timeout)
        finally:
            for _ in self.left:
                self._core.cut_off(self._what, self._process, "there was no time")


class Change(NamedTuple):
    """One change of several subjects in one slot; the parts' costs are what is refunded or charged."""

    mode: str
    parts: Sequence[Part]
    place: int = 0
    """Which of the caller's subjects it is about, if it is about one."""


def changes_of(core: Core[Any], mode: str, parts: Sequence[Part], tag: Key | None) -> list[Change]:
    """One change of all parts if one slot holds them, else one of each."""
    if len(parts) > 1 and not core.transport.one_slot(JointCall(parts, tag).tags):
        return [Change(mode, [part]) for part in parts]
    return [Change(mode, parts)] if parts else []


def change_flow(
    core: Core[Any], tag: Key | None, lease: str, change: Change, deadline: float | None
) -> Flow[None]:
    """Make one change: in several calls, each within a timeout, if it is more than one may cost."""
    parts = change.parts
    while parts:
        sent = [part._replace(cost=part.plan.capped(part.cost)) for part in parts]
        joint = JointCall(sent, tag)
        reply = yield Ask(joint.call(change.mode, core.now_us, lease), deadline)
        if sent == parts:
            return
        parts, deadline = list(_unsent(parts, sent, joint.split(reply))), None


def _unsent(
    parts: Sequence[Part], sent: Sequence[Part], replies: Sequence[Reply]
) -> Iterator[Part]:
    """The rest of each cost. A policy that did not charge all of a call is at the end of its debt."""
    for part, call, reply in zip(parts, sent, replies, strict=True):
        costs = [
            cost - done if done == granted else 0
            for cost, done, granted in zip(
                part.plan.each_cost(part.cost),
                part.plan.each_cost(call.cost),
                reply[0:-1:STRIDE],
                strict=True,
            )
        ]
        if any(costs):
            yield part._replace(cost=even(costs))
