"""Refunds, releases and settlements: each is sent once, and counted if it may not have arrived."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

from limiter.call import STRIDE, Reply
from limiter.core import Core
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flows import Ask, Flow, Pause
from limiter.keys import Key
from limiter.plan import JointCall, Part, even


class Change(NamedTuple):
    """One change of several subjects in one slot; the parts' costs are what is refunded or charged."""

    mode: str
    parts: Sequence[Part]
    place: int = 0
    """Which of the caller's subjects it is about, if it is about one."""


class Changes:
    """Changes of what calls have charged, sent one after the other.

    A change is removed before it is sent, so that none is sent twice. ``finish`` sends in the background
    what is left if the caller was interrupted, or if the deadline is over.
    """

    def __init__(self, core: Core[Any], what: str, tag: Key | None, lease: str = "") -> None:
        self._core = core
        self._what = what
        self._tag = tag
        self._lease = lease
        self._process = os.getpid()
        self.left: list[Change] = []

    def add(self, mode: str, parts: Sequence[Part]) -> None:
        """Add a change: of all parts in one call if one slot holds them, else of each alone."""
        if len(parts) == 1 or self._core.transport.one_slot(JointCall(parts, self._tag).tags):
            self.left.append(Change(mode, parts))
        else:
            self.left += [Change(mode, [part]) for part in parts]

    def send_flow(self, deadline: float) -> Flow[list[Change]]:
        """Send the changes until the deadline; return those that may not have arrived."""
        lost: list[Change] = []
        while self.left and monotonic() < deadline:
            change = self.left.pop(0)
            try:
                yield from self._change_flow(change, deadline)
            except LimiterError as error:
                self._core.not_settled(self._what, error)
                lost.append(change)
            except GeneratorExit:
                self._core.cut_off(self._what, self._process)
                raise
        return lost + self.left

    def finish(self) -> None:
        """Send in the background what is left."""
        if self.left:
            with suppress(StoreUnavailable):  # it cannot be run, and has counted the changes
                self._core.run_beside(self._later_flow())

    def _later_flow(self) -> Flow[None]:
        """Send what is left; count what could not be sent."""
        try:
            yield Pause(0.0)
            yield from self.send_flow(monotonic() + self._core.timeout)
        finally:
            for _ in self.left:
                self._core.cut_off(self._what, self._process, "there was no time")

    def _change_flow(self, change: Change, deadline: float | None) -> Flow[None]:
        """Send one change: in several calls, each within a timeout, if it is more than one may cost."""
        parts = change.parts
        while parts:
            sent = [part._replace(cost=part.plan.capped(part.cost)) for part in parts]
            joint = JointCall(sent, self._tag)
            call = joint.call(change.mode, self._core.now_us, self._lease)
            reply = yield Ask(call, deadline)
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
