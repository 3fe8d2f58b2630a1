"""The limits that are measured, alike in the library's and in the server's part.

Nothing changes by itself while they are measured: no window ends, and no bucket is full again.
"""

from __future__ import annotations

from typing import NamedTuple

from limiter import GCRA, FixedWindow, LeakyBucket, SlidingLog, SlidingWindow, TokenBucket

YEAR = "365 days"

Policies = list[FixedWindow | SlidingLog | SlidingWindow | TokenBucket | GCRA | LeakyBucket]


class Subject(NamedTuple):
    """One limiter, and what is taken from it before anything is measured."""

    policies: Policies
    taken: int = 0


#: A bucket lacks so many tokens to begin with, and is not full again before the measurement ends.
_SOME = 10**7
#: What a denying limiter has.
_ALL = 100

_WINDOW = FixedWindow(10**9, per=YEAR)
_BUCKET = TokenBucket(10_000, per="second", burst=10**9)
_GCRA = GCRA(300_000, per="minute", burst=10**9)

#: More than is ever taken.
ALLOWING: dict[str, Subject] = {
    "fixed_window": Subject([_WINDOW]),
    "sliding_window": Subject([SlidingWindow(10**9, per=YEAR)]),
    "token_bucket": Subject([_BUCKET], _SOME),
    "gcra": Subject([_GCRA], _SOME),
    "leaky_bucket": Subject([LeakyBucket(10_000, per="second", burst=10**9)], _SOME),
    "token_bucket, no whole microseconds": Subject(
        [TokenBucket(9_973, per="second", burst=10**9)], _SOME
    ),
    # Each token adds more to the life of the key than the script gives in advance.
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
#: The one in the middle denies.
THREE_DENYING = Subject([_WINDOW, TokenBucket(_ALL, per=YEAR), _GCRA], _ALL)
