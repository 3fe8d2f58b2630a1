"""The end of a WSGI response: leases are released then, and the request's true cost is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from limiter.web.by_response import FAILED, Head
from limiter.web.settling import settle
from limiter.web.verdict import Verdict

#: What ``start_response`` returns: it sends a piece of the body.
Write = Callable[[bytes], object]


class Closing:
    """A response's body that calls ``leave`` when the server closes it, also if closing fails."""

    def __init__(self, body: Iterable[bytes], leave: Callable[[], object]) -> None:
        self._body = body
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the application's body, and leave; the server calls this after the response."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._leave()


class SettledResponse:
    """A response's body that settles the true cost of its request, once, when its head has been sent.

    Until then the application may replace the head, by another call of ``start_response``. If there is no
    head at the end, since the client disconnected, the request stays charged.
    """

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._head: Head | None = None
        self._body: Iterable[bytes] = ()
        self._is_settled = False

    def starts(self, status: str, fields: list[tuple[str, str]], write: Write) -> Write:
        """Note the head; return ``write``, which sends it, too."""
        code = status[:3]
        self._head = Head(int(code) if code.isdecimal() else FAILED.status, fields)

        def settling(piece: bytes) -> object:
            result = write(piece)
            self._settle()
            return result

        return settling

    def of(self, body: Iterable[bytes]) -> SettledResponse:
        """Take the body that the application returned."""
        self._body = body
        return self

    def fail(self) -> None:
        """Settle after an error of the application: if no head was sent, the server answers with a 500."""
        self._head = FAILED
        self._settle()

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._body:
                yield piece
                if piece:  # the server has sent it, after the head, when it asks for the next one
                    self._settle()
        except Exception:
            self.fail()
            raise

    def close(self) -> None:
        """Close the application's body, and settle."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._settle()

    def _settle(self) -> None:
        if self._head is not None and not self._is_settled:
            self._is_settled = True
            settle(self._verdict, self._head)
