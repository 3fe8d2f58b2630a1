"""For tests of applications that are limited: a clock that the test moves.

``with Clock() as clock:`` stops the time of every limiter on ``memory://``; ``clock.advance(60)`` moves it.
"""

from __future__ import annotations

from math import isfinite
from types import TracebackType

from limiter.errors import InvalidSetting, shown
from limiter.memory import clock as of_memory


class Clock:
    """The clock of all limiters on ``memory://`` in this process, which stands until the test moves it.

    It does not matter whether a limiter was made before or in the ``with``, by the test or by the
    application, and it may be sync or async. At the end of the ``with`` the time goes on from where it
    stands. Other stores have the clock of their server, which is not moved; ``wait`` sleeps in real time.
    """

    def __init__(self) -> None:
        self._is_ours = False

    def advance(self, seconds: float) -> None:
        """Move the time on.

        Raises:
            InvalidSetting: ``seconds`` is no number from 0, or the ``with`` has not begun or has ended.

        """
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not is_number or not isfinite(seconds) or seconds < 0:
            raise InvalidSetting.of("seconds", shown(seconds), "accepted is a number from 0")
        if not self._is_ours:
            raise InvalidSetting(
                "the clock is not in use: accepted is a call in the body of its with; write "
                "with Clock() as clock"
            )
        of_memory.advance(round(seconds * 1_000_000))

    def __enter__(self) -> Clock:
        if not of_memory.stop():
            raise InvalidSetting(
                "another Clock is in use: accepted is one at a time; use that one, or end its with first"
            )
        self._is_ours = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_ours = False
        of_memory.resume()
