"""The measured limits, the same for the parts ``hit`` and ``server``.

While they are measured, no window ends, and no bucket becomes full.
"""

from __future__ import annotations

from typing import NamedTuple

from limiter import GCRA, FixedWindow, LeakyBucket, SlidingLog, SlidingWindow, TokenBucket

YEAR = "365 days"

Policies = list[FixedWindow | SlidingLog | SlidingWindow | TokenBucket | GCRA | LeakyBucket]


class Subject(NamedTuple):
    """One limiter, and the units to take from it before the measurement."""

    policies: Policies
    taken: int = 0


#: Tokens that a bucket lacks at first: enough that it is not full before the measurement ends.
_SOME = 10**7
#: The limit of a limiter that denies.
_ALL = 100

_WINDOW = FixedWindow(10**9, per=YEAR)
_BUCKET = TokenBucket(10_000, per="second", burst=10**9)
_GCRA = GCRA(300_000, per="minute", burst=10**9)

#: Limits that no measurement reaches.
ALLOWING: dict[str, Subject] = {
    "fixed_window": Subject([_WINDOW]),
    "sliding_window": Subject([SlidingWindow(10**9, per=YEAR)]),
    "token_bucket": Subject([_BUCKET], _SOME),
    "gcra": Subject([_GCRA], _SOME),
    "leaky_bucket": Subject([LeakyBucket(10_000, per="second", burst=10**9)], _SOME),
    "token_bucket, no whole microseconds": Subject(
        [TokenBucket(9_973, per="second", burst=10**9)], _SOME
    ),
    # Each token extends the debt beyond the key's expiry, so each hit must set it anew.
    "token_bucket, a token every 30 s": Subject([TokenBucket(10**6, per=YEAR)], 1_000),
    "sliding_log": Subject([SlidingLog(100_000, per=YEAR)]),
    "sliding_log, entries leaving": Subject([SlidingLog(100_000, per="2 ms")]),
}
DENYING: dict[str, Subject] = {
    "fixed_window": Subject([FixedWindow(_ALL, per=YEAR)], _ALL),
    "sliding_window": Subject([SlidingWindow(_ALL, per=YEAR)], _ALL),
    "token_bucket": Subject([TokenBucket(_ALL, per=YEAR)], _ALL),
    "gcra": Subject([GCRA(_ALL, per=YEAR)], _ALL),
    "leaky_bucket": Subject([LeakyBucket(_ALL, per=YEAR)], _ALL),
    "sliding_log": Subject([SlidingLog(_ALL, per=YEAR)], _ALL),
}
THREE = Subject([_WINDOW, _BUCKET, _GCRA], _SOME)
#: The second policy denies.
THREE_DENYING = Subject([_WINDOW, TokenBucket(_ALL, per=YEAR), _GCRA], _ALL)
