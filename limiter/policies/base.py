"""The base of all policies: a frozen value, checked when it is built."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import cached_property
from math import floor
from typing import Any, ClassVar, TypeVar

from limiter import units
from limiter.errors import InvalidPolicy, shown
from limiter.policies.step import EXACT, Step

_NAME = re.compile(r"[a-z0-9_.-]{1,64}")

_Own = TypeVar("_Own", bound="Policy")


@dataclass(frozen=True, init=False, repr=False)
class Policy:
    """One limit: an algorithm and its numbers.

    Attributes:
        limit: Number of units that the policy admits in a period.
        period_us: The period, in whole microseconds.
        name: The policy's name in header fields and keys, or None.

    """

    algorithm: ClassVar[str]
    """The algorithm's name in settings, and part of the state's identity."""
    script: ClassVar[str]
    """The script of ``lua/v1`` that decides, without its suffix."""
    key_type: ClassVar[str] = "hash"
    """``hash``: the state is a field of the subject's hash; ``list``, ``zset``: it has a key of its own."""
    has_burst: ClassVar[bool] = False
    """Whether the policy takes a burst."""
    queues: ClassVar[bool] = False
    """Whether an admitted call must wait before it goes on (``Decision.delay``)."""
    leases: ClassVar[bool] = False
    """Whether a call holds its units until it releases them, instead of spending them."""
    stamps: ClassVar[bool] = False
    """Whether units taken in advance are stamped with the time at which they expire."""
    most_limit: ClassVar[int] = 10**12
    most_entries: ClassVar[int] = EXACT
    """The most units that one call may move, if each is an entry of its own."""
    _period_name: ClassVar[str] = "per"
    """The name of the constructor's argument for the period."""

    limit: int
    period_us: int
    name: str | None

    def __init__(self, limit: int, per: units.Period, name: str | None) -> None:
        self._set("limit", self._whole("limit", limit, self.most_limit))
        try:
            self._set("period_us", units.period_us(per))
        except InvalidPolicy as error:
            value, expected = str(error.value), str(error.expected)
            raise InvalidPolicy.of(
                self._period_name, value, expected, type(self).__name__
            ) from None
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise InvalidPolicy.of(
                "name", repr(name), "expected 1 to 64 of a-z 0-9 _ . -", type(self).__name__
            )
        self._set("name", name)

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def _whole(self, field: str, value: Any, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            expected = f"expected a whole number from 1 to {most:,}{self._instead(field)}"
            raise InvalidPolicy.of(field, shown(value), expected, type(self).__name__)
        return int(value)  # an IntEnum prints as its name

    def _instead(self, field: str) -> str:
        """Name what to use if ``field`` is too large for this algorithm."""
        return ""

    @property
    def per(self) -> int | float:
        """The period in seconds."""
        return units.seconds(self.period_us)

    @property
    def capacity(self) -> int:
        """The most units that can pass at one instant: the limit, or the burst."""
        return self.limit

    @property
    def most_cost(self) -> int:
        """The largest cost that one call may have."""
        return self.capacity

    @property
    def identity(self) -> str:
        """The algorithm's name in keys: limits with different identities share no state."""
        return self.algorithm

    @cached_property
    def field(self) -> str:
        """The field of the hash that holds the state, or the end of the policy's own key."""
        name = "" if self.name is None else f":{self.name}"
        return f"{self.identity}:{self.period_us}{name}"

    @property
    def arguments(self) -> tuple[int, ...]:
        """The script's arguments after ``field``, in the order of its header."""
        return (self.capacity, self.period_us)

    def arguments_ahead(self, hold_us: int) -> tuple[int, ...]:
        """The same for units that are taken in advance, and used within ``hold_us``."""
        return self.arguments

    def own_us(self, reset_us: int) -> int | None:
        """After a charge: how long a refund reaches its own units, and none that were charged later.

        None, if units are a debt that is refilled. ``reset_us`` is that of the reply to the charge.
        """
        return None

    def renumbered(self: _Own, limit: int, burst: int | None = None) -> _Own:
        """Return this policy with other numbers, on the same state.

        Raises:
            InvalidPolicy: A number is out of range, or the algorithm takes no burst.

        """
        build: Any = type(self)
        per = timedelta(microseconds=self.period_us)
        renumbered: _Own = build(limit, per, **self._others(burst), name=self.name)
        return renumbered

    def _others(self, burst: int | None) -> dict[str, Any]:
        """Return the constructor's arguments besides limit, period and name."""
        if burst is not None:
            expected = f"expected none, since {self.algorithm} saves no unused units"
            raise InvalidPolicy.of("burst", shown(burst), expected, type(self).__name__)
        return {}

    def shared(self: _Own, share: int) -> _Own:
        """Return one of ``share`` equal parts of this policy, at least 1.

        The part is not checked. Its numbers may be too large for Lua to count exactly, so it is only
        for decisions in the process, not for a script.
        """
        return self._with(limit=max(1, self.limit // share))

    def scaled(self: _Own, share: float) -> _Own:
        """Return this policy with a share of its capacity, rounded down, but at least 1; on the same state.

        ``share`` is above 0 and up to 1. The rate of a bucket stays.
        """
        return self._with(limit=share_of(self.limit, share))

    def _with(self: _Own, **numbers: int) -> _Own:
        """Copy the policy with other numbers, without a check."""
        other = object.__new__(type(self))
        for field in dataclasses.fields(self):
            other._set(field.name, numbers.get(field.name, getattr(self, field.name)))
        return other

    def step(self, state: Any, now_us: int, lease: str = "", units: int = 0) -> Step:
        """Begin a decision on state in the process, as the script does on the server.

        ``state`` is the value under the policy's key. For a call with a lease, ``lease`` is its id, and
        ``units`` the number of units.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return name, algorithm, limit, period in seconds, and the burst if the policy has one."""
        return {
            "name": self.name,
            "algorithm": self.algorithm,
            "limit": self.limit,
            "period": self.per,
        }

    def __repr__(self) -> str:
        options = self._options() if self.name is None else f"{self._options()}, name={self.name!r}"
        return f"{type(self).__name__}({self.limit}, {self._period_name}={self.per}{options})"

    def _options(self) -> str:
        return ""


def share_of(capacity: int, share: float) -> int:
    """Return a share of a policy's capacity, rounded down, but at least 1.

    The decimals of the share count: 0.57 of 100 is 57, though the product of floats is less.
    """
    return max(1, floor(capacity * Fraction(str(share))))
