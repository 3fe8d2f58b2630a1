"""What every policy is: a frozen value that cannot be wrong."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from limiter import units
from limiter.errors import InvalidPolicy, shown
from limiter.policies.step import Step

_NAME = re.compile(r"[a-z0-9_.-]{1,64}")

_Own = TypeVar("_Own", bound="Policy")


@dataclass(frozen=True, init=False, repr=False)
class Policy:
    """One limit: an algorithm and its numbers.

    Attributes:
        limit: Units of cost that the policy admits in a period.
        period_us: The period, in whole microseconds.
        name: What the policy is called in headers and keys, or None.

    """

    algorithm: ClassVar[str]
    """The name by which a user chooses the algorithm, and part of the state's identity."""
    script: ClassVar[str]
    """The file of ``lua/v1`` that decides it, without its ending."""
    key_type: ClassVar[str] = "hash"
    """hash: the state is a field of the subject's hash; list, zset: a key of its own."""
    has_burst: ClassVar[bool] = False
    """Whether the policy takes a burst."""
    queues: ClassVar[bool] = False
    """Whether an admitted call waits for its turn (``Decision.delay``)."""
    leases: ClassVar[bool] = False
    """Whether what a call takes is held until it is given back, instead of spent."""
    most_limit: ClassVar[int] = 10**12
    _period_name: ClassVar[str] = "per"
    """What the class calls the period that it is given."""

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
                "name", repr(name), "accepted are 1 to 64 of a-z 0-9 _ . -", type(self).__name__
            )
        self._set("name", name)

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)

    def _whole(self, field: str, value: Any, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            expected = f"accepted is a whole number from 1 to {most:,}{self._instead(field)}"
            raise InvalidPolicy.of(field, shown(value), expected, type(self).__name__)
        return int(value)  # an IntEnum prints as its name

    def _instead(self, field: str) -> str:
        """What to use where ``field`` is too large for this algorithm."""
        return ""

    @property
    def per(self) -> int | float:
        """The period in seconds."""
        return units.seconds(self.period_us)

    @property
    def capacity(self) -> int:
        """The most that can pass at one instant: the limit, or the burst."""
        return self.limit

    @property
    def most_cost(self) -> int:
        """The largest cost that one call may have."""
        return self.capacity

    @property
    def identity(self) -> str:
        """What the algorithm's name is in keys: limits that differ in it share no state."""
        return self.algorithm

    @cached_property
    def field(self) -> str:
        """Where the state stands: the hash's field, or the end of the policy's own key."""
        name = "" if self.name is None else f":{self.name}"
        return f"{self.identity}:{self.period_us}{name}"

    @property
    def arguments(self) -> tuple[int, ...]:
        """What the script is told after the field, in the order of its header."""
        return (self.capacity, self.period_us)

    def renumbered(self: _Own, limit: int, burst: int | None = None) -> _Own:
        """The same policy with other numbers: its state is the same, and so is its field.

        Raises:
            InvalidPolicy: The numbers make no sense, or there is a burst where none belongs.

        """
        build: Any = type(self)
        per = timedelta(microseconds=self.period_us)
        renumbered: _Own = build(limit, per, **self._others(burst), name=self.name)
        return renumbered

    def _others(self, burst: int | None) -> dict[str, Any]:
        """What builds this policy beside limit, period and name."""
        if burst is not None:
            expected = f"accepted is none, since {self.algorithm} saves nothing up"
            raise InvalidPolicy.of("burst", shown(burst), expected, type(self).__name__)
        return {}

    def shared(self: _Own, share: int) -> _Own:
        """One of ``share`` equal parts of this policy, and at least 1.

        It is not held to the ranges: a part may divide worse than the whole, beyond what Lua can
        count, so no script can be asked about it.
        """
        return self._with(limit=max(1, self.limit // share))

    def _with(self: _Own, **numbers: int) -> _Own:
        """A copy with other numbers, which nobody checks."""
        other = object.__new__(type(self))
        for field in dataclasses.fields(self):
            other._set(field.name, numbers.get(field.name, getattr(self, field.name)))
        return other

    def step(self, state: Any, now_us: int, lease: str = "", units: int = 0) -> Step:
        """Read the state under the policy's key at a time: the script, for a store in the process.

        ``lease`` and ``units`` name what a call with a lease is about.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Name, algorithm, limit and period (seconds), and the burst where there is one."""
        return {
            "name": self.name,
            "algorithm": self.algorithm,
            "limit": self.limit,
            "period": self.per,
        }

    def __repr__(self) -> str:
        more = self._more() if self.name is None else f"{self._more()}, name={self.name!r}"
        return f"{type(self).__name__}({self.limit}, {self._period_name}={self.per}{more})"

    def _more(self) -> str:
        return ""
