"""Refusals as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
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

#: The s at the end of a word.
_PLURAL = re.compile(r"s\b")


def quota_exceeded(decisions: Iterable[tuple[Decision, str, str]], instance: str) -> str:
    """Return a problem that names the limits that denied.

    Each decision has its limiter's name and unit. The problem has no number that changes from call to call,
    so that all bodies of one limit have one length.
    """
    limits = [
        (name, unit, tuple([(row[0], row[2] > 0) for row in decision.numbers]))
        for decision, name, unit in decisions
    ]
    return _denied(tuple(limits)).about(instance)


def denied_by(policy: Policy, limiter_name: str, unit: str) -> Problem:
    """Return the problem of a denial by a limiter's only policy, without a path."""
    return _denied(((limiter_name, unit, ((policy, True),)),))


@lru_cache(maxsize=1024)
def _denied(limits: tuple[tuple[str, str, tuple[tuple[Policy, bool], ...]], ...]) -> Problem:
    """Prepare the problem of a denial: each limiter's name, unit, policies, and whether each denied."""
    denied: list[tuple[str, str]] = []
    for limiter_name, unit, policies in limits:
        names = headers.names([policy for policy, _ in policies], limiter_name)
        named = zip(names, policies, strict=True)
        denied += [(name, _amount(policy, unit)) for name, (policy, denies) in named if denies]
    amounts = dict.fromkeys(denied)  # several subjects of one policy may be denied together
    detail = " ".join(f"Policy {name} allows {amount}." for name, amount in amounts)
    return _quota_exceeded(detail, list(dict.fromkeys(name for name, _ in denied)))


def too_many_new_subjects(policy: str, why: str, instance: str) -> str:
    """Return the problem of a client address that has reached a policy's bound on new subjects."""
    return _quota_exceeded(f"{why[:1].upper()}{why[1:]}.", [policy]).about(instance)


def _quota_exceeded(detail: str, policies: Sequence[str]) -> Problem:
    members = {"violated-policies": policies}
    return Problem(_TYPES + "quota-exceeded", "Quota Exceeded", 429, detail, members)


def too_large(instance: str) -> str:
    """Return the problem of a request that costs more than its limit ever admits at once."""
    return problem(413, "The request costs more than its rate limit ever admits at once.", instance)


def reduced_capacity(instance: str) -> str:
    """Return the problem of a request that is denied because no limit could be checked."""
    return _reduced_capacity().about(instance)


@lru_cache(maxsize=1)
def _reduced_capacity() -> Problem:
    kind, detail = "temporary-reduced-capacity", "The rate limit cannot be checked right now."
    members: dict[str, Any] = {"violated-policies": []}
    return Problem(_TYPES + kind, "Temporary Reduced Capacity", 503, detail, members)


def unidentified(error: Unidentified, instance: str) -> str:
    """Return the problem of an unidentified caller; it does not repeat text sent in place of an address."""
    reason = f": {_fitting(str(error), _MOST_REASON_BYTES)}"
    if isinstance(error, NoAddress):
        reason = " by its connection or by the header fields of proxies"
    return problem(400, f"The caller cannot be identified{reason}.", instance)


def problem(status: int, detail: str, instance: str) -> str:
    """Return a problem of no special type: its status says what kind it is."""
    return Problem("about:blank", title(status), status, detail, {}).about(instance)


def title(status: int) -> str:
    """Return the phrase of a status (RFC 9110), for which older Pythons have other words."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def counted(number: int, unit: str) -> str:
    """Write a number of units: 65,536 KiB, 1 request."""
    return f"{number:,} {_PLURAL.sub('', unit, count=1) if number == 1 else unit}"


def _amount(policy: Policy, unit: str) -> str:
    if policy.leases:
        return f"{counted(policy.limit, unit)} at once"
    at_once = f", {policy.capacity:,} at once" if policy.capacity != policy.limit else ""
    return f"{counted(policy.limit, unit)} per {policy.per} s{at_once}"


class Problem:
    """A problem without the request's path: the text before and after it, which many requests share."""

    def __init__(
        self, kind: str, title: str, status: int, detail: str, members: dict[str, Any]
    ) -> None:
        before = {"type": kind, "title": title, "status": status, "detail": detail}
        self._before = _json(before).removesuffix("}\n") + ',"instance":'
        self._after = _json({"": "", **members}).removeprefix('{"":""')
        self._room = _MOST_BYTES - len(self._before + self._after)

    def about(self, path: str) -> str:
        """Write the problem of a request; the client chooses the length of its path."""
        instance = _encoded(path)
        if len(instance) > self._room:
            instance = _encoded(_fitting(path, self._room - len('""')))
        return self._before + instance + self._after


#: As ``json.dumps``, which costs more.
_encoded = json.JSONEncoder().encode


def _json(body: dict[str, Any]) -> str:
    return json.dumps(body, separators=(",", ":")) + "\n"


def _fitting(text: str, room: int) -> str:
    """Return as much of a text as takes at most ``room`` bytes in JSON."""
    for place, character in enumerate(text):
        room -= len(json.dumps(character)) - len('""')
        if room < 0:
            return text[:place]
    return text
