"""The end of a WSGI response: what is held for it is given back then, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


class Closing:
    """A response's body; when the server is done with it, even where that fails, somebody leaves."""

    def __init__(self, body: Iterable[bytes], leave: Callable[[], object]) -> None:
        self._body = body
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """The response was sent, or nobody is there any more to send it to."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            self._leave()
