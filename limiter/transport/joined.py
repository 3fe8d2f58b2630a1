"""Equal calls of one turn of an event loop, sent as one script call that takes the units of all.

The script takes as many whole calls as there is room for, and the callers share these in the order of their
arrival. So each caller gets the decision that it would have got alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from time import monotonic
from typing import Any, Union

from redis.exceptions import ResponseError

from limiter.call import STRIDE, Call, CallTemplate, Reply
from limiter.errors import LimiterError, StoreUnavailable
from limiter.transport.wire import checked, encode

#: Its result is a reply or an error. An error is no exception of the future: asyncio would log it if the
#: caller has gone.
PendingReply = asyncio.Future[Any]
#: The pending reply of one caller, and its deadline.
Caller = tuple[PendingReply, float]
#: A command, its reply, and its deadline. The command for joined calls is made when it is sent.
QueuedCall = tuple[bytes, Union[PendingReply, "JoinedCalls"], float]

#: Script calls that a group sends one after the other. Callers that are still left are sent alone: a limit
#: that refills as fast as replies come would admit only a few callers with each further call.
_MOST_ROUNDS = 3


class SendAlone(Exception):
    """The result of a call that its group could not send: it is sent alone."""


class JoinedCalls:
    """Equal calls that are sent as one; a connection treats them as the pending reply of that one.

    A joined call's reply is a tuple of numbers, which need no further check. If the group fails, each call
    gets the error as its result.
    """

    __slots__ = ("_call", "_recover", "_rounds", "_send_again", "_where", "callers", "sent")

    def __init__(
        self,
        call: Call,
        first: Caller,
        where: str,
        send_again: Callable[[JoinedCalls], None],
        recover: Callable[[JoinedCalls, ResponseError], None],
    ) -> None:
        """Begin with the ``first`` caller, whose call has not been sent yet.

        ``send_again`` sends one more call, for callers that are left. ``recover`` handles an error reply.
        """
        self.callers = [first]
        """Those that wait for a decision, in the order of their arrival."""
        self.sent = call
        """The last call that was sent for all of them."""
        self._call = call
        self._where = where
        self._send_again, self._recover = send_again, recover
        self._rounds = 0

    def done(self) -> bool:
        """Whether no caller waits any more."""
        return all(pending.done() for pending, _ in self.callers)

    def joint(self) -> QueuedCall | None:
        """Make the one call for the callers that can still be served; None if there are none.

        Its deadline is the latest of theirs. Callers that are late are not charged.
        """
        now = monotonic()
        late = [pending for pending, deadline in self.callers if deadline <= now]
        _end(late, StoreUnavailable(f"{self._where}: not sent within the deadline"))
        self.callers = [caller for caller in self.callers if not caller[0].done()]
        if not self.callers:
            return None
        self._rounds += 1
        self.sent = joint = _joint_call(self._call, len(self.callers))
        return joint.encoded or encode(joint), self, self.deadline

    @property
    def deadline(self) -> float:
        """The latest deadline of a caller."""
        return max(deadline for _, deadline in self.callers)

    def set_result(self, reply: Any) -> None:
        """Take the reply, or the error, to the one call."""
        if isinstance(reply, ResponseError):
            self._recover(self, reply)
        elif self._answer(reply):
            self._send_again(self)

    def _answer(self, reply: Any) -> bool:
        """Give the callers their replies; return whether some are left, who must ask again.

        A caller that has gone leaves its units to the next one.
        """
        waiting = [pending for pending, _ in self.callers if not pending.done()]
        if not isinstance(reply, Exception):
            try:
                reply = tuple(checked(self.sent, reply))
            except LimiterError as error:
                reply = error
        if isinstance(reply, Exception) or reply[0] == 0:
            # Denied: the reply is that to a single call, since a single call's cost would have been enough.
            _end(waiting, reply)
            return False
        cost = self._call.template.blocks[0].cost
        served = int(reply[0]) // cost
        _share(waiting[:served], reply, cost)
        left = waiting[served:]
        if left and self._rounds == _MOST_ROUNDS:
            _end(left, SendAlone())
            return False
        return bool(left)

    async def finish(
        self,
        handle_error: Callable[[], Awaitable[Any]],
        run: Callable[[Call, bytes, float], Awaitable[Any]],
    ) -> None:
        """Answer with the result of ``handle_error``; ``run`` then sends a call for callers that are left.

        Each caller keeps its own deadline.
        """
        call_later, now = asyncio.get_running_loop().call_later, monotonic()
        late = StoreUnavailable(f"{self._where}: no answer within the deadline")
        timers = [call_later(deadline - now, _end, [each], late) for each, deadline in self.callers]
        try:
            reply = await _outcome(handle_error())
            while self._answer(reply) and (queued := self.joint()):
                reply = await _outcome(run(self.sent, queued[0], queued[2]))
        finally:
            for timer in timers:
                timer.cancel()

    def stop(self, _: object = None) -> None:
        """End the callers that still wait: what worked for them has ended."""
        stopped = StoreUnavailable(f"{self._where}: interrupted before a decision")
        _end([pending for pending, _ in self.callers], stopped)


def callers_of(calls: Iterable[QueuedCall]) -> Iterator[Caller]:
    """List each caller of the calls, also those whose calls were joined."""
    for _, pending, deadline in calls:
        if isinstance(pending, JoinedCalls):
            yield from pending.callers
        else:
            yield pending, deadline


def _share(pending: list[PendingReply], reply: Reply, cost: int) -> None:
    """Give each caller its cost, and what remained after it: the units of those behind were still there."""
    numbers = list(reply)
    places = range(0, len(numbers) - 1, STRIDE)
    rooms = [(at + 1, numbers[at + 1]) for at in places]
    behind = numbers[0]
    for at in places:
        numbers[at] = cost
    for each in pending:
        behind -= cost
        for at, room in rooms:
            numbers[at] = room + behind
        each.set_result(tuple(numbers))


def _end(pending: list[PendingReply], result: object) -> None:
    """Give all that still wait the same result."""
    for each in pending:
        if not each.done():
            each.set_result(result)


async def _outcome(work: Awaitable[Any]) -> Any:
    """Return a result, or the error of a limiter as a result."""
    try:
        return await work
    except LimiterError as error:
        return error


def _joint_call(call: Call, calls: int) -> Call:
    """Make the call for that many equal ones, or for as many of them as may ever pass at once."""
    if calls == 1:
        return call
    joint = Call(_joint_template(call.template, calls), call.keys, call.tag)
    joint.slot = call.slot
    return joint


@lru_cache(maxsize=1024)
def _joint_template(template: CallTemplate, calls: int) -> CallTemplate:
    cost = template.blocks[0].cost
    most = min(block.policy.most_cost for block in template.blocks)
    total = min(calls, most // cost) * cost
    blocks = tuple(block._replace(cost=total) for block in template.blocks)
    return CallTemplate(template.mode, cost, template.now_us, blocks, step=cost)
