"""Prepaid units: the rules by which a process takes units in advance, spends them and returns them.

It does no I/O and reads no clock. Its own times are seconds of one monotonic clock, which callers pass.
Those of a reply are microseconds of the store's clock, and only differences of them are used.

A unit is valid until ``hold`` after its call was sent, but not beyond the end of the window that it was
charged to. It counts from the sending and not from the reply: the store charged it in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from limiter.call import STRIDE, Reply
from limiter.errors import InvalidSetting
from limiter.policies import Policy

#: Seconds; units that were used up at once must not count as used at an endless rate.
_SHORTEST = 1e-6


class PrepaidUnits:
    """The units of one call, and what is left of them.

    Threads share them without a lock: each takes a unit by ``list.pop``, which gives no unit twice.

    Attributes:
        key: The subject.
        reply: The store's reply to the call.
        began: When the call was sent.
        came: When its reply came.
        until: The units may be spent before this time.
        return_by: They may be returned until this time.
        total: How many units were taken, without those that were returned.
        room: Whole units that the reply left to others, the fewest of all policies.
        unspent: For each unspent unit, how many are left when it has been spent.

    """

    __slots__ = ("began", "came", "key", "reply", "return_by", "room", "total", "unspent", "until")

    def __init__(
        self,
        key: str,
        reply: Reply = (),
        began: float = -inf,
        came: float = -inf,
        until: float = -inf,
        return_by: float = -inf,
        total: int = 0,
        left: int = 0,
    ) -> None:
        self.key = key
        self.reply = reply
        self.began = began
        self.came = came
        self.until = until
        self.return_by = return_by
        self.total = total
        self.room = int(min(reply[1:-1:STRIDE], default=0))
        self.unspent = list(range(left))

    def spend(self, cost: int) -> int:
        """Spend ``cost`` units if as many are left; return the number that is left then, or -1."""
        unspent = self.unspent
        if cost > len(unspent):
            return -1
        spent: list[int] = []
        try:
            for _ in range(cost):
                spent.append(unspent.pop())
        except IndexError:  # another thread was faster
            self.put_back(spent)
            return -1
        return spent[-1]

    def take_out(self, most: float = inf) -> list[int]:
        """Take out all units that are left, or some of them."""
        out: list[int] = []
        try:
            while len(out) < most:
                out.append(self.unspent.pop())
        except IndexError:
            pass
        return out

    def put_back(self, units: list[int]) -> None:
        """Let units be spent that were taken out and not spent."""
        self.unspent.extend(reversed(units))

    def begin_again(self) -> None:
        """Let the next call take no more than its hit needs."""
        self.total = len(self.unspent)

    def note(self, reply: Reply, now: float) -> None:
        """Note a hit that took no unit in advance, for the size of the next call."""
        self.began, self.total = now, int(reply[0])
        self.room = int(min(reply[1:-1:STRIDE]))

    def reply_of(self, cost: int, left: int, now: float) -> Reply:
        """The reply to a hit of ``cost`` that leaves ``left`` units here; times count from the reply."""
        elapsed_us = (now - self.came) * 1e6 // 1  # whole, as all numbers of a reply
        if len(self.reply) == STRIDE + 1:
            _, room, _, reset_us, _, now_us = self.reply
            reset_us = reset_us - elapsed_us if reset_us > elapsed_us else 0
            return cost, room + left, 0, reset_us, 0, now_us + elapsed_us
        reply: list[float] = []
        for at in range(0, len(self.reply) - 1, STRIDE):
            _, room, _, reset_us, _ = self.reply[at : at + STRIDE]
            reply += [cost, room + left, 0, max(0, reset_us - elapsed_us), 0]
        return [*reply, self.reply[-1] + elapsed_us]


class Terms:
    """How many units a limiter takes in advance, and how long they are valid."""

    def __init__(
        self, policies: Sequence[Policy], most: int, hold: float, local_share: int, timeout: float
    ) -> None:
        """Check that all policies allow prepaid units.

        Raises:
            InvalidSetting: One of them does not, or ``hold`` is not shorter than the period of a log.

        """
        for policy in policies:
            if policy.leases or policy.queues:
                why = "its units are leases" if policy.leases else "each call has its own delay"
                raise InvalidSetting.of(
                    "prepaid", str(most), f"expected 0 for {policy!r}, since {why}"
                )
            if policy.stamps and policy.period_us <= hold * 1e6:
                raise InvalidSetting.of(
                    "prepaid_hold",
                    f"{hold:g}",
                    f"expected seconds below the period of {policy!r}; use a shorter one, or prepaid=0",
                )
        self.policies = tuple(policies)
        self.most = min(most, *(policy.most_cost for policy in policies))
        self.hold = hold
        self.timeout = timeout
        #: The part of the room that this process may take.
        self.share = 1 / (2 * local_share)
        #: How far ahead a log stamps units taken in advance.
        self.hold_us = round(hold * 1e6) if any(policy.stamps for policy in policies) else 0

    def size(self, last: PrepaidUnits, lacking: int, now: float) -> int:
        """How many units to take, if ``lacking`` are needed at once.

        If the last units were used up, twice as many, but not more than are used in half a hold; if they
        expired, as many as are used in a hold. A denial has taken none: then only those that are needed.
        """
        used = last.total - len(last.unspent)
        lasted = max(now - last.began, _SHORTEST)
        span = self.hold if now >= last.until else self.hold / 2
        worth = min(2 * last.total, used * span / lasted, last.room * self.share, self.most)
        return max(lacking, int(worth))

    def received(
        self, key: str, reply: Reply, began: float, came: float, left: int
    ) -> PrepaidUnits:
        """The units of a call that passed, of which ``left`` were not needed at once."""
        until, return_by = began + self.hold, inf
        for policy, at in zip(self.policies, range(3, len(reply), STRIDE), strict=False):
            own_us = policy.own_us(int(reply[at]))
            if own_us is None:  # a debt, which is refilled: returned late, it would count twice
                return_by = min(return_by, began + 1.5 * self.hold)
            else:
                until = min(until, began + own_us / 1e6)
                return_by = min(return_by, began + own_us / 1e6 - self.timeout)
        return PrepaidUnits(key, reply, began, came, until, return_by, int(reply[0]), left)

    def with_own(self, reply: Reply, left: int, cost: int = 0) -> Reply:
        """A store's reply with ``left`` units that are here, to a call that may pass with these."""
        numbers = list(reply)
        for policy, at in zip(self.policies, range(0, len(reply), STRIDE), strict=False):
            # A bucket may have refilled meanwhile what was taken in advance.
            numbers[at + 1] = room = min(reply[at + 1] + left, policy.capacity)
            if room >= cost > 0:
                numbers[at + 2] = 0
        return numbers
