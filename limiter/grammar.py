"""Read limits: policies, or a string such as ``100/minute`` or ``5 per 30s; 1000/hour burst 50``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from limiter import units
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.policies import ALGORITHMS, Policy, SlidingLog, TokenBucket

#: What ``limits`` may be.
Limits = str | Policy | Iterable[Policy]

DEFAULT_ALGORITHM = SlidingLog
#: The largest limit that is a sliding log by default: a log keeps an entry for each unit.
_DEFAULT_UP_TO = 10_000

_NUMBER = "[0-9][0-9_]*"
_LIMIT = re.compile(
    rf"\s*({_NUMBER})\s*(?:/|per)\s*(?:({_NUMBER})\s*)?({units.UNIT_PATTERN})"
    rf"(?:\s*burst\s*({_NUMBER}))?\s*",
    re.IGNORECASE | re.ASCII,
)
_ACCEPTED = (
    "expected N/unit or N per K unit, followed by ' burst B' for a bucket, and several of "
    f"them with ; between; units are {units.UNIT_NAMES}"
)


class ParsedLimit(NamedTuple):
    """One limit of a string, as it was written and as numbers."""

    text: str
    limit: int
    period_us: int
    burst: int | None


def algorithm_named(name: object) -> type[Policy]:
    """The policy class of an algorithm's name.

    Raises:
        InvalidSetting: No algorithm has that name.

    """
    if isinstance(name, str) and name in ALGORITHMS:
        return ALGORITHMS[name]
    raise InvalidSetting.of("algorithm", repr(name), f"expected {', '.join(ALGORITHMS)}")


def policies_of(limits: Limits, algorithm: str | None = None) -> tuple[Policy, ...]:
    """The policies that ``limits`` holds, or that its string means.

    Raises:
        InvalidPolicy: ``limits`` is neither a limit string nor policies, or has a wrong value.
        InvalidSetting: No algorithm has that name, or it is combined with policies.

    """
    if isinstance(limits, str):
        return parse_limits(limits, algorithm)
    if algorithm is not None:
        algorithm_named(algorithm)
        raise InvalidSetting.of(
            "algorithm", repr(algorithm), "accepted only with a limit string; policies have one"
        )
    try:
        policies = (limits,) if isinstance(limits, Policy) else tuple(limits)
    except TypeError:
        policies = (limits,)  # type: ignore[assignment]  # named in the error below
    for policy in policies:
        if not isinstance(policy, Policy):
            raise InvalidPolicy(
                f"limits hold {policy!r}: expected a limit string, a policy, or several policies"
            )
    return policies


def parse_limits(text: str, algorithm: str | None = None) -> tuple[Policy, ...]:
    """The policies that a limit string means, in its order.

    ``algorithm`` holds for all of them. Without it, each is a sliding log, or a token bucket if it has
    a burst.

    Raises:
        InvalidPolicy: The string is not a list of limits, or one of them has a wrong value.
        InvalidSetting: No algorithm has that name.

    """
    chosen = None if algorithm is None else algorithm_named(algorithm)
    return tuple(_policy(parsed, chosen) for parsed in read_limits(text))


def read_limits(text: str) -> list[ParsedLimit]:
    """The numbers that a limit string gives, in its order.

    Raises:
        InvalidPolicy: The string is not a list of limits.

    """
    if not isinstance(text, str):
        raise InvalidPolicy.of("limits", repr(text), _ACCEPTED)
    return [_read(part, text) for part in re.split("[;,|]", text)]


def _read(part: str, text: str) -> ParsedLimit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        where = "" if part == text else f" in {text!r}"
        raise InvalidPolicy.of("limit", f"{part.strip()!r}{where}", _ACCEPTED)
    limit = _number(match[1], part)
    multiple = 1 if match[2] is None else _number(match[2], part)
    period_us = multiple * units.unit_us(match[3])
    if not units.SHORTEST_US <= period_us <= units.LONGEST_US:
        raise InvalidPolicy.of(
            "limit", repr(part.strip()), "its period must be 1 millisecond to 366 days"
        )
    burst = None if match[4] is None else _number(match[4], part)
    return ParsedLimit(part.strip(), limit, period_us, burst)


def _policy(parsed: ParsedLimit, chosen: type[Policy] | None) -> Policy:
    """Build the policy of a limit; ``chosen`` is the algorithm that the caller named."""
    burst = {} if parsed.burst is None else {"burst": parsed.burst}
    kind: Any = chosen or (TokenBucket if burst else DEFAULT_ALGORITHM)
    if burst and not kind.has_burst:
        bursting = ", ".join(name for name, policy in ALGORITHMS.items() if policy.has_burst)
        raise InvalidPolicy.of(
            "limit",
            repr(parsed.text),
            f"expected no burst with {kind.algorithm}; a burst is for {bursting}",
        )
    if chosen is None and not burst and parsed.limit > _DEFAULT_UP_TO:
        fitting = [name for name in ALGORITHMS if ALGORITHMS[name].most_limit >= parsed.limit]
        raise InvalidPolicy.of(
            "limit",
            repr(parsed.text),
            f"without an algorithm a limit goes up to {_DEFAULT_UP_TO:,} (a sliding log keeps an entry "
            f"for each unit); choose an algorithm: {', '.join(fitting or ALGORITHMS)}",
        )
    built: Policy = kind(parsed.limit, units.seconds(parsed.period_us), **burst)
    return built


def _number(digits: str, part: str) -> int:
    try:
        number = int(digits)
    except ValueError:
        number = 0
    if number < 1:
        raise InvalidPolicy.of(
            "limit", repr(part.strip()), f"{digits} is not a whole number from 1"
        )
    return number
