"""Metrics for Prometheus, summed over all workers of an instance.

Labels are policies' names and fixed words: no label comes from a request.

A decision adds to integers in memory. A timer adds these to the counters a few times a second, since other
workers read the counters from shared files, and a change of a file costs far more than an addition.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from limiter import StoreRefused, StoreUnavailable
from limiter.policyfile import AsyncPolicies
from limiter.server.one_policy import AnyPolicies, OnePolicy
from limiter.server.shadow import ShadowDenials
from limiter.settings import metrics_folder
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.rules import Rule
from limiter.web.verdict import Verdict

MEDIA_TYPE = CONTENT_TYPE_LATEST

#: Seconds after which a decision is in the counters.
FLUSH_AFTER = 0.25

_OUTCOMES = {
    200: "allowed",
    429: "denied",
    503: "unavailable",
    400: "unidentified",
    413: "too_costly",
}
#: Outcomes of one policy's decisions, and of requests that no single policy decided.
_OF_A_POLICY = ("allowed", "denied", "unavailable")
_OF_NO_POLICY = ("passed", "unavailable", "unidentified", "too_costly")
#: The label of requests that no single policy decided.
_NO_POLICY = ""
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The counters of one application, which one event loop uses.

    Attributes:
        shadow_denials: The subjects that policies in shadow mode would have denied.

    """

    def __init__(self, policies: AnyPolicies) -> None:
        self._registry = registry = CollectorRegistry()
        self._policies = policies
        self.shadow_denials = ShadowDenials(policies)
        #: The rules whose counters exist.
        self._rules: Sequence[Rule] | None = None
        self._file = None if isinstance(policies, OnePolicy) else _PolicyFile(policies)
        #: What the counters lack: by a counter and its labels, and the durations by bucket.
        self._counts: dict[tuple[Any, ...], int] = defaultdict(int)
        self._durations = [0] * (len(_BUCKETS) + 1)
        self._duration = 0.0
        self._timer: asyncio.TimerHandle | None = None

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._decisions = counter(
            "limiter_decisions", "Decisions by policy and outcome", "policy", "outcome"
        )
        self._shadow = counter(
            "limiter_shadow_denials",
            "Requests that a policy in shadow mode would have denied",
            "policy",
        )
        self._degraded = counter(
            "limiter_degraded_decisions",
            "Decisions that a fallback made, since the store did not",
            "policy",
        )
        self._cached = counter(
            "limiter_cached_denials",
            "Denials without a call to the store, from the denial cache",
            "policy",
        )
        self._errors = counter(
            "limiter_store_errors",
            "Calls that the store did not answer, or not with a decision",
            "error",
        )
        self._seconds = _Durations(
            "limiter_decision_seconds",
            "Duration of a decision, including the store's round trip",
            registry=registry,
            buckets=_BUCKETS,
        )
        self._prepare()

    def _prepare(self) -> None:
        """Make the counters of each policy at 0: Prometheus sees no increase in one that begins at 1."""
        rules = self._policies.guard.rules
        if rules is self._rules:
            return
        for rule in rules:
            for outcome in _OF_A_POLICY:
                self._decisions.labels(rule.name, outcome)
            self._degraded.labels(rule.name)
            self._cached.labels(rule.name)
            if rule.shadow:
                self._shadow.labels(rule.name)
        for outcome in _OF_NO_POLICY:
            self._decisions.labels(_NO_POLICY, outcome)
        for error in (StoreUnavailable, StoreRefused):
            self._errors.labels(error.__name__)
        self._rules = rules

    def count(self, verdict: Verdict, seconds: float) -> None:
        """Count one verdict."""
        counts = self._counts
        self._durations[bisect_left(_BUCKETS, seconds)] += 1
        self._duration += seconds
        if isinstance(verdict.error, (StoreUnavailable, StoreRefused)):
            counts[self._errors, type(verdict.error).__name__] += 1
        for rule, _ in verdict.shadowed:
            counts[self._shadow, rule.name] += 1
        if not verdict.results:
            outcome = "passed" if verdict.allowed else _OUTCOMES[verdict.status]
            error = verdict.error
            policy = error.policy if isinstance(error, TooManyNewSubjects) else _NO_POLICY
            counts[self._decisions, policy, outcome] += 1
        for rule, decision, part in verdict.results:
            name, allowed = rule.name, decision.allowed
            if decision.degraded:
                counts[self._degraded, name] += 1
            if decision.cached and not allowed:
                counts[self._cached, name] += 1
            outcome = "allowed"
            if not allowed:
                by_limit = not decision.degraded or bool(decision.numbers)
                if not rule.shadow:
                    outcome = "denied" if by_limit else "unavailable"
                else:
                    counts[self._shadow, name] += 1
                    if by_limit:
                        self.shadow_denials.count(rule, part.key)
            counts[self._decisions, name, outcome] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER, self.flush)

    def flush(self) -> None:
        """Add to the counters what was counted since the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for (counter, *labels), number in self._counts.items():
            counter.labels(*labels).inc(number)
        self._seconds.add(self._durations, self._duration)
        self._counts.clear()
        self._durations = [0] * len(self._durations)
        self._duration = 0.0

    async def rendered(self) -> bytes:
        """Return all metrics in the format of Prometheus.

        A thread writes them: with many policies and workers that takes so long that calls to the store
        would be late.
        """
        self._prepare()
        self.flush()
        return await asyncio.to_thread(self._written)

    def _written(self) -> bytes:
        if metrics_folder():
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry = self._registry
        text = generate_latest(registry)
        if self._file is not None:
            text += generate_latest(self._file)
        return text


class _Durations(Histogram):
    """A histogram to which many observations are added in one step."""

    def add(self, counts: Sequence[int], seconds: float) -> None:
        """Add observations: their number by bucket, and their sum."""
        self._sum.inc(seconds)
        for bucket, number in zip(self._buckets, counts, strict=True):
            if number:
                bucket.inc(number)


class _PolicyFile(Collector):
    """Whether the policy file is refused, as this worker knows it: all workers watch the same file."""

    def __init__(self, policies: AsyncPolicies) -> None:
        self._policies = policies

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The one gauge."""
        _ = (
            self._policies.current
        )  # notices a changed file, also in a worker without other requests
        yield GaugeMetricFamily(
            "limiter_policy_file_refused",
            "Whether the policy file is refused, and its last valid version is in force",
            float(self._policies.refused is not None),
        )
