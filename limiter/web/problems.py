"""Refusals as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from limiter.decision import Decision
from limiter.policies import Policy
from limiter.web import headers
from limiter.web.identity import NoAddress, Unidentified

MEDIA_TYPE = "application/problem+json"

#: The most bytes of a refusal: some proxies do not pass on a longer one from the decision service.
_MOST_BYTES = 1023

#: The most bytes of an application's reason why a caller is unidentified.
_MOST_REASON_BYTES = 300

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

_TYPES = "https://iana.org/assignments/http-problem-types#"


def quota_exceeded(decisions: Iterable[tuple[Decision, str]], instance: str) -> str:
    """Return a problem that names the limits that denied; each decision has its limiter's name.

    It has no number that changes from call to call, so that all bodies of one limit have one length.
    """
    denied = []
    for decision, limiter_name in decisions:
        policies = [part.policy for part in decision.each]
        named = zip(headers.names(policies, limiter_name), decision.each, strict=True)
        denied += [(name, part.policy) for name, part in named if not part.allowed]
    detail = " ".join(f"Policy {name} allows {_amount(policy)}." for name, policy in denied)
    return _quota_exceeded(detail, [name for name, _ in denied], instance)


def too_many_new_subjects(policy: str, why: str, instance: str) -> str:
    """Return the problem of a client address that has reached a policy's bound on new subjects."""
    return _quota_exceeded(f"{why[:1].upper()}{why[1:]}.", [policy], instance)


def _quota_exceeded(detail: str, policies: Sequence[str], instance: str) -> str:
    members = {"violated-policies": policies}
    return _problem(_TYPES + "quota-exceeded", "Quota Exceeded", 429, detail, instance, members)


def too_large(instance: str) -> str:
    """Return the problem of a request that costs more than its limit ever admits at once."""
    return problem(413, "The request costs more than its rate limit ever admits at once.", instance)


def reduced_capacity(instance: str) -> str:
    """Return the problem of a request that is denied because no limit could be checked."""
    kind, detail = "temporary-reduced-capacity", "The rate limit cannot be checked right now."
    members: dict[str, Any] = {"violated-policies": []}
    return _problem(_TYPES + kind, "Temporary Reduced Capacity", 503, detail, instance, members)


def unidentified(error: Unidentified, instance: str) -> str:
    """Return the problem of an unidentified caller; it does not repeat text sent in place of an address."""
    reason = f": {_fitting(str(error), _MOST_REASON_BYTES)}"
    if isinstance(error, NoAddress):
        reason = " by its connection or by the header fields of proxies"
    return problem(400, f"The caller cannot be identified{reason}.", instance)


def problem(status: int, detail: str, instance: str) -> str:
    """Return a problem of no special type: its status says what kind it is."""
    return _problem("about:blank", title(status), status, detail, instance, {})


def title(status: int) -> str:
    """Return the phrase of a status (RFC 9110), for which older Pythons have other words."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def _amount(policy: Policy) -> str:
    if policy.leases:
        return f"{policy.limit} requests at once"
    at_once = f", {policy.capacity} at once" if policy.capacity != policy.limit else ""
    return f"{policy.limit} requests per {policy.per} s{at_once}"


def _problem(
    kind: str, title: str, status: int, detail: str, instance: str, members: dict[str, Any]
) -> str:
    body = {"type": kind, "title": title, "status": status, "detail": detail, "instance": instance}
    text = _json({**body, **members})
    if len(text) > _MOST_BYTES:  # the client chooses the length of its path
        room = _MOST_BYTES - len(_json({**body, "instance": "", **members}))
        text = _json({**body, "instance": _fitting(instance, room), **members})
    return text


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":")) + "\n"


def _fitting(text: str, room: int) -> str:
    """Return as much of a text as takes at most ``room`` bytes in JSON."""
    for place, character in enumerate(text):
        room -= len(json.dumps(character)) - len('""')
        if room < 0:
            return text[:place]
    return text
