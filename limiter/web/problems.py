"""Refusals as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from limiter.decision import Decision
from limiter.policies import Policy
from limiter.web import headers
from limiter.web.identity import NoAddress, Unidentified

MEDIA_TYPE = "application/problem+json"

#: Bytes of a refusal; proxies that ask us make something else of a long one.
_MOST_BYTES = 1023

#: Bytes of what the application says of a caller that it cannot identify.
_MOST_REASON_BYTES = 300

_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

_TYPES = "https://iana.org/assignments/http-problem-types#"


def quota_exceeded(decision: Decision, limiter_name: str, instance: str) -> str:
    """Say which limits denied; when to come back stands in Retry-After.

    Without any number that changes from call to call: the bodies of one limit have one length.
    """
    return quota_exceeded_by([(decision, limiter_name)], instance)


def quota_exceeded_by(decisions: Iterable[tuple[Decision, str]], instance: str) -> str:
    """Say it of several limiters' decisions, each with its limiter's name."""
    denied = []
    for decision, limiter_name in decisions:
        policies = [one.policy for one in decision.each]
        named = zip(headers.names(policies, limiter_name), decision.each, strict=True)
        denied += [(name, one.policy) for name, one in named if not one.allowed]
    return _problem(
        _TYPES + "quota-exceeded",
        "Quota Exceeded",
        429,
        " ".join(f"Policy {name} allows {_amount(policy)}." for name, policy in denied),
        instance,
        {"violated-policies": [name for name, _ in denied]},
    )


def too_many_new_subjects(policy: str, why: str, instance: str) -> str:
    """Say that a client address has begun as many subjects as a policy allows it."""
    detail = f"{why[:1].upper()}{why[1:]}."
    more = {"violated-policies": [policy]}
    return _problem(_TYPES + "quota-exceeded", "Quota Exceeded", 429, detail, instance, more)


def too_large(instance: str) -> str:
    """Say that the request costs more than its limit ever admits: waiting is no use."""
    return problem(413, "The request costs more than its rate limit ever admits at once.", instance)


def reduced_capacity(instance: str) -> str:
    """Say that the limit cannot be checked, and that nothing passes unchecked here."""
    return _problem(
        _TYPES + "temporary-reduced-capacity",
        "Temporary Reduced Capacity",
        503,
        "The rate limit cannot be checked right now.",
        instance,
        {"violated-policies": []},
    )


def unidentified(error: Unidentified, instance: str) -> str:
    """Say why nobody can tell who calls; what was sent in the place of an address stays unsaid."""
    reason = f": {_fitting(str(error), _MOST_REASON_BYTES)}"
    why = " by the connection or what proxies say of it" if isinstance(error, NoAddress) else reason
    return problem(400, f"The caller cannot be identified{why}.", instance)


def problem(status: int, detail: str, instance: str) -> str:
    """Say anything else; its status says what kind of problem it is."""
    return _problem("about:blank", title(status), status, detail, instance, {})


def title(status: int) -> str:
    """What a status is called (RFC 9110); Python's older names for two of them are others."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def _amount(policy: Policy) -> str:
    if policy.leases:
        return f"{policy.limit} requests at once"
    at_once = f", {policy.capacity} at once" if policy.capacity != policy.limit else ""
    return f"{policy.limit} requests per {policy.per} s{at_once}"


def _problem(
    kind: str, title: str, status: int, detail: str, instance: str, more: dict[str, Any]
) -> str:
    body = {"type": kind, "title": title, "status": status, "detail": detail, "instance": instance}
    text = _spelled({**body, **more})
    if len(text) > _MOST_BYTES:  # a client's path may be as long as it likes
        room = _MOST_BYTES - len(_spelled({**body, "instance": "", **more}))
        text = _spelled({**body, "instance": _fitting(instance, room), **more})
    return text


def _spelled(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":")) + "\n"


def _fitting(text: str, room: int) -> str:
    """As much of a text as JSON spells in so many bytes."""
    for place, character in enumerate(text):
        room -= len(json.dumps(character)) - len('""')
        if room < 0:
            return text[:place]
    return text
