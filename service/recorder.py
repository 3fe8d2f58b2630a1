"""Times, counts and traces every decision of the service, and logs denials."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from limiter import StoreUnavailable
from limiter.web.guard import Guard
from limiter.web.request import Request
from limiter.web.verdict import Verdict
from service import logs, tracing
from service.metrics import Metrics


class Recorder:
    """Makes guards decide, and records the verdicts for operators."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def enter(
        self, guard: Guard, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Verdict:
        """Return a guard's verdict; after an earlier error of the store, without another call to it."""
        return self.record(request, lambda: guard.enter(request, unavailable))

    def record(self, request: Request, decide: Callable[[], Verdict]) -> Verdict:
        """Return the verdict of a function that decides about a request."""
        began = perf_counter()
        with tracing.span(request) as span:
            verdict = decide()
            tracing.note(span, verdict)
        self._metrics.count(verdict, perf_counter() - began)
        logs.denied(verdict)
        return verdict
