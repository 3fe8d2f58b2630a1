"""Warnings: what the logs do not show, and how that changes the result."""

from __future__ import annotations

from collections.abc import Iterator

from limiter import units
from limiter.policies import Policy
from limiter.policyfile.policy import Named
from limiter.policyfile.reading import PolicyFile
from limiter.simulate.fields import uses
from limiter.simulate.logs import Counts
from limiter.simulate.replay import Replay
from limiter.simulate.report import PolicyReport, Report

#: If a smaller share of numbered requests is in the log, lines are missing.
_COMPLETE = 0.99
#: Times in whole seconds are too coarse for shorter periods.
_FINE_US = 10 * units.SECOND_US


def caveats(file: PolicyFile, replay: Replay, report: Report, counts: Counts) -> Iterator[str]:
    """Yield the warnings about a report."""
    if not report.requests:
        return
    if file.address_from in replay.fields_seen and not replay.has_proxy:
        yield (
            f"the log has {file.address_from}, but its lines are from no proxy in LIMITER_TRUSTED_PROXIES: "
            f"this field does not count"
        )
    for use in uses(file):
        if not replay.fields_seen & set(use.fields):
            names = " or ".join(use.fields)
            yield f"policy {use.policy}: {use.what}: the log has no field {names}; {use.without}"
    for named, policy in zip(file.policies.values(), report.policies, strict=True):
        for text in _of_policy(named, policy, replay, report):
            yield f"policy {policy.name}: {text}"
    if replay.turned_away:
        share = replay.turned_away / report.requests
        yield (
            f"{replay.turned_away:,} requests ({share:.1%}) had the status 429 already: their clients may "
            f"have waited, or sent them again, because of an existing limit"
        )
    numbered = counts.numbered
    if numbered.lines and numbered.lines < _COMPLETE * numbered.numbers:
        yield (
            f"the log has {numbered.lines:,} of {numbered.numbers:,} requests that the proxy counted: it "
            f"was sampled or filtered, so subjects sent more than it shows"
        )
    elif not numbered.lines:
        yield (
            "a log does not say whether it is complete: if it was sampled or filtered, subjects sent more "
            "than it shows"
        )
    if counts.late:
        yield (
            f"{counts.late:,} lines were left out, since they are too far out of order or far ahead of the "
            f"next line: sort the log, name each of its files, or give a longer --tolerance"
        )
    if len(report.logs) > 1:
        yield "several logs are merged by their times: if their hosts' clocks differ, so do the decisions"
    if not replay.has_fractions:
        short = [
            policy.name for policy in report.policies if _shortest_us(policy.limits) < _FINE_US
        ]
        if short:
            yield (
                f"the log has whole seconds only, so all requests of a second seem simultaneous: too "
                f"coarse for the short periods of {', '.join(short)}"
            )


def _of_policy(named: Named, policy: PolicyReport, replay: Replay, report: Report) -> Iterator[str]:
    rule = named.rule
    if rule.match.hosts and not replay.has_hosts:
        yield "it has hosts, and the log has none; it applies to no request"
    if rule.counts_leases:
        yield "its leases are not simulated: a log does not show how long they are held"
    if rule.new_subjects is not None:
        yield "its bound on new subjects is not simulated"
    if named.description.get("prepaid"):
        yield "its prepaid units are not simulated: those that expire unused deny a little earlier"
    if "true_cost" in named.description:
        yield "its true_cost is not in the log; each request keeps its cost"
    if "refund_unless" in named.description and not replay.has_statuses:
        yield "the log has no status; nothing is refunded"
    if report.begin_us is not None and report.end_us is not None:
        lasted_us = report.end_us - report.begin_us
        longest_us = max(limit.period_us for limit in policy.limits)
        if lasted_us < longest_us:
            yield (
                f"the log lasts {lasted_us // units.SECOND_US:,} s, less than its period of "
                f"{longest_us // units.SECOND_US:,} s; a longer log may show more denials"
            )


def _shortest_us(limits: tuple[Policy, ...]) -> int:
    return min(limit.period_us for limit in limits)
