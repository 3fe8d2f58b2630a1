"""The one way to a decision: it is timed, counted, traced, and where it denies, said."""

from __future__ import annotations

from time import perf_counter

from limiter import StoreUnavailable
from limiter.web.guard import Guard, Verdict
from limiter.web.request import Request
from service import logs, tracing
from service.metrics import Metrics


class Decisions:
    """Asks guards, and sees to it that operators hear of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def enter(
        self, guard: Guard, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Verdict:
        """What a guard says of a request; where the store is known to be ``unavailable``, at once."""
        began = perf_counter()
        with tracing.span(request) as span:
            if unavailable is None:
                verdict = guard.enter(request)
            else:
                verdict = guard.enter_without_store(request, unavailable)
            tracing.tell(span, verdict)
        self.note(verdict, perf_counter() - began)
        return verdict

    def note(self, verdict: Verdict, seconds: float) -> None:
        """Count a verdict, however it came about."""
        self._metrics.count(verdict, seconds)
        logs.denied(verdict)
