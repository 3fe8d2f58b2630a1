"""Times, counts and traces every decision of the service, and logs denials."""

from __future__ import annotations

from collections.abc import Awaitable
from time import perf_counter
from typing import Any

from limiter import StoreUnavailable
from limiter.server import logs
from limiter.server.metrics import Metrics
from limiter.web.guard import AsyncGuard
from limiter.web.request import Request
from limiter.web.verdict import Verdict

try:
    from opentelemetry import propagate, trace
except ImportError:
    _tracer: Any = None
else:
    _tracer = trace.get_tracer("limiter.service")


class Recorder:
    """Makes guards decide, and records the verdicts for operators."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tracer = _tracer if _is_traced() else None

    async def enter(
        self, guard: AsyncGuard, request: Request, unavailable: StoreUnavailable | None = None
    ) -> Verdict:
        """Return a guard's verdict; after an earlier error of the store, without another call to it."""
        if self._tracer is not None:
            return await self.record(request, guard.enter(request, unavailable))
        began = perf_counter()
        verdict = await guard.enter(request, unavailable)
        self._metrics.count(verdict, perf_counter() - began)
        logs.denied(verdict)
        return verdict

    async def record(self, request: Request, deciding: Awaitable[Verdict]) -> Verdict:
        """Return the verdict about a request, once it is decided."""
        began = perf_counter()
        if self._tracer is None:
            verdict = await deciding
        else:
            before = propagate.extract(request.headers)
            with self._tracer.start_as_current_span("limiter.decision", before) as span:
                verdict = await deciding
                _note(span, verdict)
        self._metrics.count(verdict, perf_counter() - began)
        logs.denied(verdict)
        return verdict


def _is_traced() -> bool:
    """Whether spans go anywhere: not without OpenTelemetry, nor if its provider is not set by now."""
    if _tracer is None:
        return False
    return not (
        isinstance(_tracer, trace.ProxyTracer)
        and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    )


def _note(span: Any, verdict: Verdict) -> None:
    """Set a span's attributes from a verdict, without the subject."""
    if not span.is_recording():
        return
    span.set_attribute("limiter.status", verdict.status)
    span.set_attribute("limiter.policies", [result.rule.name for result in verdict.results])
    degraded = any(result.decision.degraded for result in verdict.results)
    span.set_attribute("limiter.degraded", degraded)
    if verdict.error is not None:
        span.set_attribute("error.type", type(verdict.error).__name__)
