"""The limits that are measured, alike in the library's and in the server's part.

Their periods are so long that nothing changes by itself while they are measured: no window ends and no
token drips in.
"""

from __future__ import annotations

from limiter import FixedWindow, SlidingLog, TokenBucket

YEAR = "365 days"

Policies = list[FixedWindow | SlidingLog | TokenBucket]

#: More than is ever taken.
ALLOWING: dict[str, Policies] = {
    "fixed_window": [FixedWindow(10**9, per=YEAR)],
    "token_bucket": [TokenBucket(10**6, per=YEAR)],
    "token_bucket, no whole microseconds": [TokenBucket(999_983, per=YEAR)],
    "sliding_log": [SlidingLog(100_000, per=YEAR)],
    "sliding_log, entries leaving": [SlidingLog(100_000, per="2 ms")],
}
#: So many of each can be taken; before anything is measured, they are.
USED_UP = 100
DENYING: dict[str, Policies] = {
    "fixed_window": [FixedWindow(USED_UP, per=YEAR)],
    "token_bucket": [TokenBucket(USED_UP, per=YEAR)],
    "sliding_log": [SlidingLog(USED_UP, per=YEAR)],
}
_LARGE_BUCKET = TokenBucket(10**6, per="360 days")
THREE: Policies = [FixedWindow(10**9, per=YEAR), TokenBucket(10**6, per=YEAR), _LARGE_BUCKET]
#: The one in the middle denies.
THREE_DENYING: Policies = [
    FixedWindow(10**9, per=YEAR),
    TokenBucket(USED_UP, per=YEAR),
    _LARGE_BUCKET,
]
