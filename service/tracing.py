"""A span for each decision, where OpenTelemetry is installed; nothing where it is not."""

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
    """The span around one decision, in the trace that the request says it belongs to."""
    if _tracer is None:
        return nullcontext()
    before = propagate.extract(request.headers)
    return _tracer.start_as_current_span("limiter.decision", before)


def note(found: Any, verdict: Verdict) -> None:
    """Note in a span what was decided; never for whom."""
    if found is None or not found.is_recording():
        return
    found.set_attribute("limiter.status", verdict.status)
    found.set_attribute("limiter.policies", [result.rule.name for result in verdict.results])
    found.set_attribute(
        "limiter.degraded", any(result.decision.degraded for result in verdict.results)
    )
    if verdict.error is not None:
        found.set_attribute("error.type", type(verdict.error).__name__)
