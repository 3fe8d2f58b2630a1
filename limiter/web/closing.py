"""The end of a WSGI response: leases of its request are released then, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


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
