"""Limit strings: a string means the numbers that a reader sees in it, or is an InvalidPolicy."""

from __future__ import annotations

import re

from limiter import InvalidPolicy, Limiter
from limiter.grammar import parse_limits
from limiter.policies import ALGORITHMS, Policy
from limiter.units import LONGEST_US, SHORTEST_US, period_us
from tests.fuzz.source import Source, words

WORDS = words(
    "/ per burst ; , | _ 0 1 100 10001 1000000000001 366 "
    "ms s sec seconds m min minute h hour d day w week month year"
)

_CHOICES = (None, *ALGORITHMS)
_SECOND = 1_000_000
#: The length of each unit, written anew: the table of the code could be wrong.
_UNITS = {
    **dict.fromkeys(("ms",), 1_000),
    **dict.fromkeys(("s", "sec", "second"), _SECOND),
    **dict.fromkeys(("m", "min", "minute"), 60 * _SECOND),
    **dict.fromkeys(("h", "hour"), 3_600 * _SECOND),
    **dict.fromkeys(("d", "day"), 86_400 * _SECOND),
    **dict.fromkeys(("w", "week"), 604_800 * _SECOND),
    "month": 2_592_000 * _SECOND,
    "year": 31_536_000 * _SECOND,
}


def check(data: bytes) -> None:
    """Check a limit string for one algorithm, and the same text as a period."""
    source = Source(data)
    algorithm = source.pick(_CHOICES)
    text = source.text()
    _check_period(text)
    try:
        policies = parse_limits(text, algorithm)
    except InvalidPolicy as error:
        if not str(error).isprintable():
            raise AssertionError("the message has control characters") from error
        return
    parts = re.split("[;,|]", text)
    assert [_numbers(policy) for policy in policies] == list(map(_seen, parts))
    written = "; ".join(map(_written, policies))
    assert parse_limits(written, algorithm) == policies, written
    _check_use(policies)


def _check_period(text: str) -> None:
    try:
        us = period_us(text)
    except InvalidPolicy:
        return
    assert SHORTEST_US <= us <= LONGEST_US
    assert _seen(f"1/{text}")[1] == us


def _check_use(policies: tuple[Policy, ...]) -> None:
    """Hit the limits once: each admits a unit, and has one less."""
    try:
        limiter = Limiter(policies, store="memory://")
    except InvalidPolicy:
        assert len({policy.field for policy in policies}) < len(policies)
        return
    decision = limiter.hit("a")
    assert decision.allowed
    assert decision.remaining == min(policy.capacity for policy in policies) - 1


def _numbers(policy: Policy) -> tuple[int, int, int]:
    return policy.limit, policy.period_us, policy.capacity


def _seen(part: str) -> tuple[int, int, int]:
    """Read one limit without the code's grammar; only for texts that it accepts."""
    before, separator, after = part.lower().partition("/")
    if not separator:
        before, _, after = part.lower().partition("per")
    period, _, burst = after.partition("burst")
    limit, unit = int(before), re.sub(r"[0-9_\s]", "", period)
    length = _UNITS[unit if unit in _UNITS else unit.removesuffix("s")]
    multiple = int(re.sub(r"[^0-9]", "", period) or 1)
    return limit, multiple * length, int(burst or limit)


def _written(policy: Policy) -> str:
    burst = f" burst {policy.capacity}" if policy.has_burst else ""
    return f"{policy.limit} per {policy.period_us // 1000} ms{burst}"
