"""The bucket policies, and the decisions of ``lua/v1/token_bucket.lua`` in Python."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd
from struct import Struct
from typing import Any, ClassVar, TypeVar

from limiter import units
from limiter.errors import InvalidPolicy
from limiter.policies.base import Policy, share_of
from limiter.policies.step import EXACT, Hash, Layouts, Step, numbers

_LONGEST_FILL_US = 3_650 * units.DAY_US
_SECOND_US = 1_000_000
_LAYOUTS: Layouts = {12: Struct("<dI"), 28: Struct("<dIdd")}

_Own = TypeVar("_Own", bound="Bucket")


@dataclass(frozen=True, init=False, repr=False)
class Bucket(Policy):
    """The base of token bucket, GCRA and leaky bucket: a rate and a burst."""

    script: ClassVar[str] = "token_bucket"
    has_burst: ClassVar[bool] = True

    burst: int

    def __init__(
        self, limit: int, per: units.Period, burst: int | None = None, *, name: str | None = None
    ) -> None:
        super().__init__(limit, per, name)
        self._set("burst", self._whole("burst", self.limit if burst is None else burst, 10**12))
        fill = Fraction(self.burst * self.period_us, self.limit)
        if fill > _LONGEST_FILL_US:
            raise InvalidPolicy(
                f"{type(self).__name__}: burst {self.burst} at {self.limit} per {self.per} s takes "
                f"{float(fill) / units.DAY_US:,.0f} days to fill: expected up to 3,650; "
                f"lower the burst or raise the limit"
            )
        parts = self.limit // gcd(self.limit, self.period_us)
        if (self.burst + 1) * parts >= EXACT:
            raise InvalidPolicy(
                f"{type(self).__name__}: limit {self.limit} per {self.per} s with burst {self.burst} "
                f"cannot be counted in whole numbers below 2^53: {self._dividing(burst is None)}"
            )

    def _dividing(self, burst_follows: bool) -> str:
        """Advise the nearest limit that shares a large enough divisor with the period."""
        size = max(self.limit, self.burst) if burst_follows else self.burst
        least = self.limit * (size + 2) // EXACT + 1
        nearest = 0
        for divisor in sorted(d for d in _divisors(self.period_us) if d >= least):
            limit = max(1, round(self.limit / divisor)) * divisor
            burst = limit if burst_follows else self.burst
            fits = (burst + 1) * (limit // gcd(limit, self.period_us)) < EXACT
            if fits and (not nearest or abs(limit - self.limit) < abs(nearest - self.limit)):
                nearest = limit
        if nearest and nearest <= self.most_limit:
            return f"use a limit that divides the period better; the nearest is {nearest}"
        return "use a smaller burst, or a longer period"

    @property
    def capacity(self) -> int:
        """The burst."""
        return self.burst

    @property
    def arguments(self) -> tuple[int, ...]:
        """Burst, and the interval of one unit: parts of a microsecond, and the number of parts in one."""
        return (self.burst, *self.interval)

    @cached_property
    def interval(self) -> tuple[int, int]:
        """The interval of one unit, in parts of a microsecond, and the number of parts in a microsecond."""
        common = gcd(self.limit, self.period_us)
        return self.period_us // common, self.limit // common

    def _others(self, burst: int | None) -> dict[str, Any]:
        return {"burst": burst}

    def shared(self: _Own, share: int) -> _Own:
        """Return one of ``share`` equal parts of the rate and of the burst, each at least 1.

        If the rounded rate would take longer than 3,650 days to refill the burst, the burst is smaller:
        the state of a longer refill counts as unreadable.
        """
        limit = max(1, self.limit // share)
        burst = max(1, min(self.burst // share, _LONGEST_FILL_US * limit // self.period_us))
        return self._with(limit=limit, burst=burst)

    def scaled(self: _Own, share: float) -> _Own:
        """Return this bucket with a share of its burst, rounded down, but at least 1."""
        return self._with(burst=share_of(self.burst, share))

    def step(self, state: Hash | None, now_us: int, lease: str = "", units: int = 0) -> BucketStep:
        """Read the policy's field of the subject's hash."""
        return BucketStep(self, state, now_us)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as other policies, and the burst."""
        return {**super().to_dict(), "burst": self.burst}

    def _options(self) -> str:
        return f", burst={self.burst}" if self.burst != self.limit else ""


def _divisors(number: int) -> set[int]:
    """Return divisors of ``number``; prime factors above 1,000 count as one factor, their product."""
    divisors = {1}
    for prime in range(2, 1_000):
        while number % prime == 0:
            number //= prime
            divisors |= {divisor * prime for divisor in divisors}
    return divisors | {divisor * number for divisor in divisors}


@dataclass(frozen=True, init=False, repr=False)
class TokenBucket(Bucket):
    """``limit`` tokens are refilled in each period, and up to ``burst`` are saved.

    A call takes as many tokens as it costs. An unused bucket is full. The state is one time, at which the
    bucket will be full again, in whole microseconds and an exact fraction. Source: the token bucket of
    ATM and RFC 2697 traffic policing.

    Bound: ``burst + floor(W * limit / per)`` in any window W.

    Raises:
        InvalidPolicy: ``limit`` or ``burst`` is not in 1 to 10^12, ``per`` not in 1 ms to 366 days,
            the bucket takes more than 3,650 days to fill, or its numbers cannot be exact in Lua.

    """

    algorithm: ClassVar[str] = "token_bucket"


@dataclass(frozen=True, init=False, repr=False)
class GCRA(Bucket):
    """One unit every ``per / limit`` on average, and up to ``burst`` units at once.

    GCRA decides exactly as the token bucket. Its definition has a theoretical arrival time in place of
    tokens, and it has its own state. Source: the generic cell rate algorithm, ITU-T I.371.

    Bound: ``burst + floor(W * limit / per)`` in any window W.

    Raises:
        InvalidPolicy: ``limit`` or ``burst`` is not in 1 to 10^12, ``per`` not in 1 ms to 366 days,
            the burst takes more than 3,650 days to pass, or its numbers cannot be exact in Lua.

    """

    algorithm: ClassVar[str] = "gcra"


@dataclass(frozen=True, init=False, repr=False)
class LeakyBucket(Bucket):
    """A queue that holds up to ``burst`` units, of which ``limit`` leave in each period.

    If the queue has room, a call is admitted at once, with a ``delay``: the time until the units before it
    have left. Callers that wait for their delay go on at a steady rate. If the queue is full, the call is
    denied. Source: J. Turner's leaky bucket (1986), as the queue that A. Tanenbaum describes.

    Bound: ``burst + floor(W * limit / per)`` admitted in any window W. If all callers wait for their delay,
    one unit goes on every ``per / limit``.

    Raises:
        InvalidPolicy: ``limit`` or ``burst`` is not in 1 to 10^12, ``per`` not in 1 ms to 366 days,
            the queue takes more than 3,650 days to leave, or its numbers cannot be exact in Lua.

    """

    algorithm: ClassVar[str] = "leaky_bucket"
    queues: ClassVar[bool] = True


class BucketStep(Step):
    """One call on a field: ``full_us`` and ``reach_s``, and a fraction as ``part`` and ``parts``."""

    __slots__ = ("_capacity", "_debt", "_field", "_now_us", "_own_s", "_parts", "_reach_s", "_unit")

    def __init__(self, policy: Bucket, state: Hash | None, now_us: int) -> None:
        super().__init__()
        # In parts of a microsecond: the interval of a unit, the time to fill the bucket, and its debt.
        unit, parts = policy.interval
        capacity, debt = policy.burst * unit, 0
        self._own_s = self._reach_s = -(-(capacity // parts) // _SECOND_US)
        stored = numbers(state, policy.field, _LAYOUTS)
        if stored and stored[1] * _SECOND_US <= _LONGEST_FILL_US:
            full_us, reach_s, part, stored_parts = (
                stored if len(stored) == 4 else (*stored, 0, parts)
            )
            if part and stored_parts != parts:
                full_us, part = full_us + 1, 0
            if full_us >= now_us and part < parts:
                # A bucket of other numbers may have written a larger debt than this one could.
                self._reach_s = max(self._reach_s, reach_s)
                most_us = 2 * (self._reach_s + 1) * _SECOND_US
                if full_us - now_us > most_us:
                    # No debt can be that large: cut it.
                    full_us, part, self.needs_repair = now_us + most_us, 0, True
                debt = (full_us - now_us) * parts + part
        self.room = (capacity - debt) // unit
        self._field, self._now_us = policy.field, now_us
        self._unit, self._parts, self._capacity, self._debt = unit, parts, capacity, debt
        self.reset_us = self.delay_us = -(-debt // parts)

    def retry_us(self, at_least: int) -> int:
        """Return the time until the missing units are refilled."""
        return -((self._capacity - self._debt - at_least * self._unit) // self._parts)

    def charge(self, units: int) -> None:
        """Add the time of ``units`` to the debt."""
        self._debt += units * self._unit
        self.room -= units
        self.reset_us = -(-self._debt // self._parts)

    def refund(self, units: int) -> int:
        """Lower the debt, to no less than 0."""
        refunded = min(units, -(-self._debt // self._unit))
        self._debt = max(0, self._debt - units * self._unit)
        self.room = (self._capacity - self._debt) // self._unit
        self.reset_us = -(-self._debt // self._parts)
        return refunded

    def write(self, state: Hash) -> None:
        """Pack the field, with a fraction only if there is one."""
        whole, part = divmod(self._debt, self._parts)
        reach_s = self._reach_s if whole > self._capacity // self._parts else self._own_s
        fraction = (part, self._parts) if part else ()
        layout = _LAYOUTS[28 if part else 12]
        state[self._field] = layout.pack(self._now_us + whole, reach_s, *fraction)
