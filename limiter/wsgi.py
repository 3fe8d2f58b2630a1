"""Limits for any WSGI application: ``LimiterMiddleware(app, "100/minute", store=...)``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from limiter.client import Limiter
from limiter.web import problems, wiring
from limiter.web.closing import Closing, SettledResponse, Write
from limiter.web.guard import Guard
from limiter.web.request import from_wsgi
from limiter.web.verdict import Verdict
from limiter.web.wiring import GuardSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LimiterMiddleware"]

Environ = dict[str, Any]
StartResponse = Callable[..., Write]
App = Callable[[Environ, Any], Iterable[bytes]]


class LimiterMiddleware:
    """WSGI middleware that checks every request, and answers those that a limit denies.

    Args:
        app: The application.
        limits: What a ``Limiter`` takes, or a ``Limiter``, a ``Rule``, several rules, a ``Guard``, or
            an object whose ``guard`` may change while it runs; with ``()`` all requests pass.
        key: Where the subject is found: ``"address"``, ``"api-key"``, ``"header:X-User"``, a list of such
            texts, or a function. A function takes the ``Request``, the ``Request`` and the trusted
            networks, or nothing. It returns a str, an int, a tuple of these, or None for no caller (400).
            It should hash values that a client chose (``limiter.web.subjects.hashed``).
        cost: The cost of a request: a number, or a function with the same arguments; 1 by default.
        form: The form of the header fields with the remaining quota; each form has Retry-After.
        trusted: Networks of the proxies whose X-Forwarded-For counts; else LIMITER_TRUSTED_PROXIES.
        address_from: Another header field in which these proxies report the client's address:
            ``"forwarded"`` or ``"x-real-ip"``.
        observe: Called with every request and its verdict.
        sleep: Whether to wait for a leaky bucket's delay before the application is called.
        refund_unless: Statuses whose responses cost something, as in ``["2xx", "401"]``; after any other,
            the cost is refunded.
        true_cost: The header field of the response that has its true cost, as in
            ``"header:X-Tokens-Used"``: the difference to the cost is refunded, or charged.
        enabled: If False, no limit is enforced, and no store is needed.
        store, name, ...: Settings of the ``Limiter``; missing ones are read from LIMITER_*.

    Leases (``Concurrency``) are held until the server closes the response. A true cost is settled when the
    server has sent the first piece of the body, or closes the response. The verdicts stand in
    ``environ["limiter.verdicts"]``.

    Raises:
        InvalidSetting, InvalidPolicy: An argument is invalid; the message says what is accepted.

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
        """Connect in advance; optional.

        Raises:
            StoreUnavailable, StoreRefused: The connection failed; each request tries again.

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
        settled = SettledResponse(verdict) if verdict.settles else None

        def start(
            status: str, response_headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Write:
            present = {name.lower() for name, _ in response_headers}
            fields = [*response_headers, *wiring.added_fields(present, verdict.fields)]
            # Some servers' start_response does not accept None as its third argument.
            write = start_response(status, fields, *([exc_info] if exc_info else []))
            return write if settled is None else settled.starts(status, fields, write)

        try:
            if self._sleep and verdict.delay:
                time.sleep(verdict.delay)
            response = self.app(environ, start)
        except BaseException as error:
            if settled is not None and isinstance(error, Exception):
                settled.fail()
            guard.leave(verdict)
            raise
        if settled is not None:
            response = settled.of(response)
        # Wrapped only for a lease: a server may send a body of its own type faster.
        return Closing(response, partial(guard.leave, verdict)) if verdict.leases else response


def _refuse(verdict: Verdict, environ: Environ, start_response: StartResponse) -> list[bytes]:
    fields, body = wiring.refusal(verdict)
    start_response(f"{verdict.status} {problems.title(verdict.status)}", fields)
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]
