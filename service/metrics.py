"""Metrics for Prometheus, summed over all workers of an instance.

Labels are policies' names and fixed words: no label comes from a request.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from limiter import StoreRefused, StoreUnavailable
from limiter.policyfile import Policies
from limiter.web.new_subjects import TooManyNewSubjects
from limiter.web.rules import Rule
from limiter.web.verdict import Verdict
from service.one_policy import AnyPolicies, OnePolicy

MEDIA_TYPE = CONTENT_TYPE_LATEST

#: Names the folder in which the workers of one instance share counters; `gunicorn.conf.py` sets it.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

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
    """The counters of one application."""

    def __init__(self, policies: AnyPolicies) -> None:
        self._registry = registry = CollectorRegistry()
        self._policies = policies
        #: The rules whose counters exist.
        self._rules: Sequence[Rule] | None = None
        self._file = None if isinstance(policies, OnePolicy) else _PolicyFile(policies)

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
        self._seconds = Histogram(
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
        self._seconds.observe(seconds)
        if isinstance(verdict.error, (StoreUnavailable, StoreRefused)):
            self._errors.labels(type(verdict.error).__name__).inc()
        for rule, _ in verdict.shadowed:
            self._shadow.labels(rule.name).inc()
        if not verdict.results:
            outcome = "passed" if verdict.allowed else _OUTCOMES[verdict.status]
            error = verdict.error
            policy = error.policy if isinstance(error, TooManyNewSubjects) else _NO_POLICY
            self._decisions.labels(policy, outcome).inc()
        for rule, decision, _ in verdict.results:
            if decision.degraded:
                self._degraded.labels(rule.name).inc()
            if decision.cached and not decision.allowed:
                self._cached.labels(rule.name).inc()
            if decision.allowed or rule.shadow:
                outcome = "allowed"
            else:
                outcome = "denied" if decision.each else "unavailable"
            if rule.shadow and not decision.allowed:
                self._shadow.labels(rule.name).inc()
            self._decisions.labels(rule.name, outcome).inc()

    def rendered(self) -> bytes:
        """Return all metrics in the format of Prometheus."""
        self._prepare()
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry = self._registry
        text = generate_latest(registry)
        if self._file is not None:
            text += generate_latest(self._file)
        return text


class _PolicyFile(Collector):
    """Whether the policy file is refused, as this worker knows it: all workers watch the same file."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The one gauge."""
        _ = self._policies.current  # reads a changed file, also in a worker without other requests
        yield GaugeMetricFamily(
            "limiter_policy_file_refused",
            "Whether the policy file is refused, and its last valid version is in force",
            float(self._policies.refused is not None),
        )
