"""Times, counts and traces every decision of the service, and logs denials."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

from limiter import StoreUnavailable
from limiter.web.guard import Guard
from limiter.web.request import Request
from limiter.web.verdict import Verdict
from service import logs
from service.metrics import Metrics

try:
    from opentelemetry import propagate, trace
except ImportError:
    _tracer = None
else:
    _tracer = trace.get_tracer("limiter.service")


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
        with _span(request) as span:
            verdict = decide()
            _note(span, verdict)
        self._metrics.count(verdict, perf_counter() - began)
        logs.denied(verdict)
        return verdict


def _span(request: Request) -> AbstractContextManager[Any]:
    """Open a span around one decision, in the trace that the request's header fields name."""
    if _tracer is None:
        return nullcontext()
    before = propagate.extract(request.headers)
    return _tracer.start_as_current_span("limiter.decision", before)


def _note(span: Any, verdict: Verdict) -> None:
    """Set a span's attributes from a verdict, without the subject."""
    if span is None or not span.is_recording():
        return
    span.set_attribute("limiter.status", verdict.status)
    span.set_attribute("limiter.policies", [result.rule.name for result in verdict.results])
    degraded = any(result.decision.degraded for result in verdict.results)
    span.set_attribute("limiter.degraded", degraded)
    if verdict.error is not None:
        span.set_attribute("error.type", type(verdict.error).__name__)
