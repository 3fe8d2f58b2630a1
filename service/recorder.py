"""The one way to a decision: it is timed, counted, traced, and where it denies, said."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from limiter import StoreUnavailable
from limiter.web.guard import Guard, Verdict
from limiter.web.request import Request
from service import logs, tracing
from service.metrics import Metrics


class Recorder:
    """Asks guards, and sees to it that operators hear of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def enter(
        self, guard: Guard, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Verdict:
        """What a guard says of a request; where the store is known to be ``unavailable``, at once."""
        if unavailable is None:
            return self.record(request, lambda: guard.enter(request))
        return self.record(request, lambda: guard.enter_without_store(request, unavailable))

    def record(self, request: Request, decide: Callable[[], Verdict]) -> Verdict:
        """What a call says that decides about a request, however it does."""
        began = perf_counter()
        with tracing.span(request) as span:
            verdict = decide()
            tracing.tell(span, verdict)
        self._metrics.count(verdict, perf_counter() - began)
        logs.denied(verdict)
        return verdict
