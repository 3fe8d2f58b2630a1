"""The denial cache: while the store would deny a call again, deny it without asking the store.

After a denial, other calls can only postpone the moment at which the same call passes: hits and
settlements take units, and the time until the first of them returns is known. So a cached denial never
admits more than the store. These events let the call pass earlier:

* A refund or a reset of this process ends the denials of its keys, by ``Marks``.
* For a refund, a reset or a raised limit of another process, for lost state, and for a clock that was
  set forward, no denial is used for longer than ``denial_cache`` seconds.

The store decides between sending and receipt. Therefore a denial is used for a time that counts from
sending, so that it ends before the store would admit; but ``retry_after`` counts from receipt, so that a
caller who waits for that long is not denied again.

This module makes no call to a store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from limiter.call import STRIDE, Call, CallTemplate, Reply
from limiter.decision import CachedDecision, Decision
from limiter.flows import Ask, Flow, Pause
from limiter.generations import Generations

#: The modes of calls after which a denied call may pass.
GIVING_BACK = frozenset({"refund", "reset"})

#: A loop that polls a cached denial does not wait for a store. At every such denial it pauses, so that
#: other coroutines run.
PAUSE_EVERY = 64

#: Keys of a call; a joint call with more is not cached, so that it does not fill the memory.
_MOST_KEYS = 16

_MARKS = 256

#: A value that is equal to no other one.
Mark = object


class Marks(list[Mark]):
    """The last refunds and resets in this process, of all limiters that share a store.

    A refund or a reset sets new marks for its keys when it has ended, also if it failed. Some keys share a
    mark: a refund of one of them also ends the denials of the others.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        super().__init__(object() for _ in range(_MARKS))
        self.last: Mark = object()
        """The mark of the last refund or reset of any key, which each call reads before it is sent."""

    def of(self, keys: Sequence[bytes]) -> Mark:
        """Return what is equal to a later result if no refund or reset of these keys ended between."""
        if len(keys) == 1:
            return self[hash(keys[0]) % _MARKS]
        return [self[hash(key) % _MARKS] for key in keys]

    def renew(self, keys: Sequence[bytes]) -> None:
        """Set new marks for these keys."""
        # First ``last``: ``received`` reads the two in the other order, so it misses no change.
        self.last = object()
        for key in keys:
            # Not a number that is incremented: simultaneous increments of two threads may make one.
            self[hash(key) % _MARKS] = object()


class Denial:
    """A reply that denies.

    Attributes:
        until: When it is used no more.
        came: When it was received.
        reply: The reply.
        mark: The mark of the call's keys; no refund or reset ended since the call was sent.

    """

    __slots__ = ("came", "mark", "reply", "until")

    def __init__(self, until: float, came: float, reply: Reply, mark: Mark) -> None:
        self.until = until
        self.came = came
        self.reply = reply
        self.mark = mark


class DenialCache:
    """The cached denials of one limiter.

    The denial of a kept call hangs on that call. Those of other calls are found by what makes the bytes of
    a call: its template and its keys.

    Threads share it without a lock. A race can only lose a denial.
    """

    def __init__(
        self, seconds: float, marks: Marks, size: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self.seconds = seconds
        self.answered = 0
        """Number of calls that a cached denial has answered."""
        self.marks = marks
        self.clock = clock
        self._of_others: Generations[tuple[CallTemplate, tuple[bytes, ...]], Denial]
        self._of_others = Generations(size)

    def recall(self, call: Call) -> None:
        """Hang the denial of an equal call on a call that is not kept."""
        call.denial = self._of_others.recall((call.template, call.keys))

    def answer(self, call: Call) -> Reply | None:
        """Return the reply to a call whose cached denial still holds; None: ask the store."""
        denial: Denial | None = call.denial
        if denial is None:
            return None
        now = self.clock()
        if now >= denial.until or denial.mark != self.marks.of(call.keys):
            call.denial = None
            return None
        self.answered += 1
        elapsed = int((now - denial.came) * 1e6)  # rounded down, so that waits are rounded up
        reply = denial.reply
        if len(reply) == STRIDE + 1:
            _, left, retry_us, reset_us, _, at_us = reply
            return 0, left, retry_us - elapsed, reset_us - elapsed, 0, at_us + elapsed
        later: list[float] = []
        for at in range(0, len(reply) - 1, STRIDE):
            _, left, retry_us, reset_us, _ = reply[at : at + STRIDE]
            later += (0, left, max(0, retry_us - elapsed), max(0, reset_us - elapsed), 0)
        return [*later, reply[-1] + elapsed]

    def received(self, call: Call, sent: float, last: Mark, reply: Reply) -> None:
        """Cache a reply that denies. ``sent`` and ``last`` were read before the call was sent."""
        received = self.clock()
        waits = reply[2:-1:STRIDE]
        if not any(waits) or not _denies(call.template, waits) or len(call.keys) > _MOST_KEYS:
            return
        # Not the longest wait: after the shortest one, ``each`` of the decision would be wrong.
        shortest_us = min(filter(None, waits))
        until = sent + min(shortest_us / 1e6, self.seconds)
        denial = Denial(until, received, reply, self.marks.of(call.keys))
        if self.marks.last is not last:
            return  # a refund or a reset has ended meanwhile, perhaps one of these keys
        call.denial = denial
        if not call.is_kept:
            self._of_others.keep((call.template, call.keys), denial)


def hit_flow(
    cache: DenialCache | None, call: Call, deadline: float | None = None
) -> Flow[tuple[type[Decision], Reply]]:
    """Ask the store about a hit, unless a cached denial answers; return the decision's class and reply."""
    if cache is None:
        return Decision, (yield Ask(call, deadline))
    if not call.is_kept:
        cache.recall(call)
    cached = cache.answer(call)
    if cached is not None:
        if cache.answered % PAUSE_EVERY == 0:
            yield Pause(0.0)
        return CachedDecision, cached
    sent, last = cache.clock(), cache.marks.last
    reply = yield Ask(call, deadline)
    cache.received(call, sent, last, reply)
    return Decision, reply


def _denies(template: CallTemplate, waits: Sequence[float]) -> bool:
    """Whether a policy that has no room denies: one in shadow mode does not."""
    return any(
        wait and not block.shadow for wait, block in zip(waits, template.blocks, strict=True)
    )
