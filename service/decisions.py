"""The one way to a decision: it is timed, counted, traced, and where it denies, said."""

from __future__ import annotations

from time import perf_counter

from limiter.web.guard import Guard, Verdict
from limiter.web.request import Request
from service import logs, tracing
from service.metrics import Metrics


class Decisions:
    """Asks guards, and sees to it that operators hear of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def enter(self, guard: Guard, request: Request) -> Verdict:
        """What a guard says of a request."""
        began = perf_counter()
        with tracing.span(request) as span:
            verdict = guard.enter(request)
            tracing.tell(span, verdict)
        self.note(verdict, perf_counter() - began)
        return verdict

    def note(self, verdict: Verdict, seconds: float) -> None:
        """Count a verdict, however it came about."""
        self._metrics.count(verdict, seconds)
        logs.denied(verdict)
