"""The result of a simulation: what each policy would have done to the requests of the logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from limiter import units
from limiter.policies import Policy


class DeniedSubject(NamedTuple):
    """A subject that a policy denied."""

    subject: str
    """In the form of ``subjects.spelled``, or hashed."""
    requests: int
    denied: int


class Second(NamedTuple):
    """A second of the log, and the requests that a policy applied to in it."""

    time_us: int
    requests: int


@dataclass
class Timeline:
    """Requests over time, in a bounded number of bins of one width.

    When the bins do not reach far enough, each two become one of twice the width.

    Attributes:
        most: The most bins, an even number.
        width_us: The width of a bin; a power of 2 times a second.
        begin_us: The start of the first bin.
        admitted, denied: The number of requests in each bin.

    """

    most: int = 240
    width_us: int = units.SECOND_US
    begin_us: int = 0
    admitted: list[int] = field(default_factory=list)
    denied: list[int] = field(default_factory=list)

    def add(self, time_us: int, admitted: int, denied: int) -> None:
        """Count requests at a time, which is not before that of an earlier call."""
        if not self.admitted:
            self.begin_us = time_us - time_us % self.width_us
        place = (time_us - self.begin_us) // self.width_us
        while place >= self.most:
            self._widen()
            place = (time_us - self.begin_us) // self.width_us
        missing = place + 1 - len(self.admitted)
        if missing > 0:
            self.admitted += [0] * missing
            self.denied += [0] * missing
        self.admitted[place] += admitted
        self.denied[place] += denied

    def _widen(self) -> None:
        self.admitted = list(_in_pairs(self.admitted))
        self.denied = list(_in_pairs(self.denied))
        self.width_us *= 2


def _in_pairs(counts: list[int]) -> Iterator[int]:
    return (sum(counts[place : place + 2]) for place in range(0, len(counts), 2))


@dataclass
class Memory:
    """The most memory that a policy's state takes in Redis, by an estimate.

    Attributes:
        bytes: Keys, their names and their values, as MEMORY USAGE counts them.
        keys: The keys of that moment.
        time_us: That moment, to a second; None without requests.

    """

    bytes: int = 0
    keys: int = 0
    time_us: int | None = None


@dataclass
class PolicyReport:
    """What one policy would have done.

    Attributes:
        name: The policy's name.
        limits: Its limits.
        key: How it finds the subject of a request.
        unit: What the limits count, in the plural.
        shadow: Whether the policy is in shadow mode: what it denied would have passed.
        requests: The requests to which it applied.
        cost: The units for which they asked.
        denied: The requests for which it had no room.
        subjects: The number of different subjects.
        denied_subjects: Those that it denied at least once.
        seldom_denied: Those that it denied once or twice only.
        worst: The subjects that it denied most often.
        first_denial_us: The time of the first denial; None without denials.
        busiest: The second with the most requests; None without requests.
        unidentified: Requests without a usable key.
        too_large: Requests whose cost no limit ever admits.
        memory: The most memory in Redis, by an estimate.
        timeline: Requests over time.

    """

    name: str
    limits: tuple[Policy, ...]
    key: str | list[str]
    unit: str = "requests"
    shadow: bool = False
    requests: int = 0
    cost: int = 0
    denied: int = 0
    subjects: int = 0
    denied_subjects: int = 0
    seldom_denied: int = 0
    worst: list[DeniedSubject] = field(default_factory=list)
    first_denial_us: int | None = None
    busiest: Second | None = None
    unidentified: int = 0
    too_large: int = 0
    memory: Memory = field(default_factory=Memory)
    timeline: Timeline = field(default_factory=Timeline)


@dataclass
class Report:
    """What all policies would have done, and what was read.

    Attributes:
        logs: The names of the logs.
        lines: The lines that were read.
        unreadable: Lines that are no entries of a log.
        examples: The first unreadable lines, each with its place.
        late: Lines that were left out, since they were further out of order than the tolerance.
        requests: The requests that were replayed.
        denied: Those that a policy would have denied, without policies in shadow mode.
        refused: Those that were refused with 400 or 413: without a usable key, or with too large a cost.
        begin_us, end_us: The times of the first and the last request; None without requests.
        policies: The report of each policy, in the order of the file.
        warnings: What the logs do not show, and how that changes the result.
        interrupted: Whether the user ended the command before the end of the logs.

    """

    logs: list[str] = field(default_factory=list)
    lines: int = 0
    unreadable: int = 0
    examples: list[str] = field(default_factory=list)
    late: int = 0
    requests: int = 0
    denied: int = 0
    refused: int = 0
    begin_us: int | None = None
    end_us: int | None = None
    policies: list[PolicyReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON; limits are as in ``Policy.to_dict``."""
        result = asdict(self)
        for shown, policy in zip(result["policies"], self.policies, strict=True):
            shown["limits"] = [limit.to_dict() for limit in policy.limits]
            shown["worst"] = [each._asdict() for each in policy.worst]
            shown["busiest"] = policy.busiest and policy.busiest._asdict()
        return result
