"""A span for each decision, if OpenTelemetry is installed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from limiter.web.request import Request
from limiter.web.verdict import Verdict

try:
    from opentelemetry import propagate, trace
except ImportError:
    _tracer = None
else:
    _tracer = trace.get_tracer("limiter.service")


def span(request: Request) -> AbstractContextManager[Any]:
    """Open a span around one decision, in the trace that the request's header fields name."""
    if _tracer is None:
        return nullcontext()
    before = propagate.extract(request.headers)
    return _tracer.start_as_current_span("limiter.decision", before)


def note(span: Any, verdict: Verdict) -> None:
    """Set a span's attributes from a verdict, without the subject."""
    if span is None or not span.is_recording():
        return
    span.set_attribute("limiter.status", verdict.status)
    span.set_attribute("limiter.policies", [result.rule.name for result in verdict.results])
    span.set_attribute(
        "limiter.degraded", any(result.decision.degraded for result in verdict.results)
    )
    if verdict.error is not None:
        span.set_attribute("error.type", type(verdict.error).__name__)
