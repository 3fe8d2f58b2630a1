"""Limits for any WSGI application: ``LimiterMiddleware(app, "100/minute", store=...)``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from limiter.client import Limiter
from limiter.web import problems, wiring
from limiter.web.closing import Closing
from limiter.web.guard import Guard
from limiter.web.request import from_wsgi
from limiter.web.verdict import Verdict
from limiter.web.wiring import GuardSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, Any], Iterable[bytes]]


class LimiterMiddleware:
    """Ask about every request, and answer for the application where a limit denies.

    Args:
        app: The application.
        limits: What a ``Limiter`` takes, or a ``Limiter``, a ``Rule``, several rules, a ``Guard``, or
            an object whose ``guard`` may become another one while it runs; ``()`` lets all pass.
        key: For whom is counted, in words (``"address"``, ``"api-key"``, ``"header:X-User"``, a list of
            them), or a function that returns a str, an int or a tuple of them, and None for no caller
            (400). It takes the ``Request``, the ``Request`` and the trusted networks, or nothing. It
            should hash what a client chose (``limiter.web.subjects.hashed``).
        cost: What a request costs, a number or a function that takes the same; 1 by default.
        form: In which header fields the remaining quota is sent; Retry-After is in all of them.
        trusted: Networks of the proxies whose X-Forwarded-For counts; else LIMITER_TRUSTED_PROXIES.
        address_from: Another header in which these say who calls: ``"forwarded"`` or ``"x-real-ip"``.
        observe: Called with every request and its verdict.
        sleep: Whether to wait, before the application is called, for as long as a leaky bucket says.
        enabled: False: no limit is enforced, and no store is needed.
        store, name, ...: Settings of the ``Limiter``; those that are not given are read from LIMITER_*.

    Leases (``Concurrency``) are held until the server closes the response. What was decided stands in
    ``environ["limiter.verdicts"]``.

    Raises:
        InvalidSetting, InvalidPolicy: Something of it is of no use; the message says what is accepted.

    """

    def __init__(
        self,
        app: App,
        limits: Any = None,
        *,
        sleep: bool = False,
        **settings: Unpack[GuardSettings],
    ) -> None:
        self.app = app
        self._sleep = sleep
        self._guard = wiring.source(Guard, Limiter, limits, **settings)

    def open(self) -> None:
        """Connect beforehand; optional.

        Raises:
            StoreUnavailable, StoreRefused: It failed; a request tries again by itself.

        """
        for limiter in wiring.limiters(self._guard()):
            limiter.open()

    def close(self) -> None:
        """Close the idle connections; a later request makes new ones."""
        for limiter in wiring.limiters(self._guard()):
            limiter.close()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or have the application answer it."""
        guard = self._guard()
        verdict = guard.enter(from_wsgi(environ))
        if not verdict.allowed:
            return _refuse(verdict, environ, start_response)
        environ.setdefault(wiring.VERDICTS, []).append(verdict)

        def start(
            status: str, response_headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], object]:
            present = {name.lower() for name, _ in response_headers}
            fields = [*response_headers, *wiring.added_fields(present, verdict.fields)]
            # Not every server's takes a third argument that is None.
            return start_response(status, fields, *([exc_info] if exc_info else []))

        try:
            if self._sleep and verdict.delay:
                time.sleep(verdict.delay)
            response = self.app(environ, start)
        except BaseException:
            guard.leave(verdict)
            raise
        # Without a lease it stays what it was: a server may know how to send it best.
        return Closing(response, partial(guard.leave, verdict)) if verdict.leases else response


def _refuse(verdict: Verdict, environ: Environ, start_response: StartResponse) -> list[bytes]:
    fields, body = wiring.refusal(verdict)
    start_response(f"{verdict.status} {problems.title(verdict.status)}", fields)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]
