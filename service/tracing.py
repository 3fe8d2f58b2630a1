"""A span for each decision, where OpenTelemetry is installed; nothing where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from limiter.web.guard import Verdict
from limiter.web.request import Request

try:
    from opentelemetry import propagate, trace
except ImportError:
    _tracer = None
else:
    _tracer = trace.get_tracer("limiter.service")


@contextmanager
def span(request: Request) -> Iterator[Any]:
    """The span around one decision, in the trace that the request says it belongs to."""
    if _tracer is None:
        yield None
        return
    before = propagate.extract(request.headers)
    with _tracer.start_as_current_span("limiter.decision", before) as found:
        yield found


def tell(found: Any, verdict: Verdict) -> None:
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
