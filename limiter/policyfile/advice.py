"""Warn of policies that are valid, and do not do what they seem to.

* Clients choose the keys of a policy, and nothing bounds how many. Each made-up key is a new subject: it
  gets the whole limit, and takes memory in the store. A policy with ``key = "address"`` for the same
  requests bounds this, and so does ``new_subjects``.
* ``prepaid``, ``cap`` or ``class`` has no effect, or clients choose their plan.
* Behind ForwardAuth, the service does not see what a policy needs: a body, a header field, the response,
  the end of a request. ``limiter check`` always prints these warnings, since it cannot know who uses the
  file. Of the programs that use it, only the decision service logs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from limiter.policies import Concurrency
from limiter.policies.base import share_of
from limiter.policyfile.faults import Fault, spelled
from limiter.policyfile.lines import Path
from limiter.policyfile.overlap import Reach, covers
from limiter.policyfile.schema import BY_RESPONSE
from limiter.web.subjects import is_chosen

#: A policy as in ``Named.description``.
_Policy = Mapping[str, Any]
#: A key of a policy (in a table: its path), and what a user should know about it.
_Advice = Iterator[tuple[str | Path, str]]

_MADE_UP_KEYS = (
    "clients choose it, so each made-up key gets the whole limit, and takes memory in the store: "
    "add new_subjects = '20/hour' to the policy, or another policy that is not the default one, with "
    "key = 'address'{match}"
)
_PREPAID_IN_SHADOW = (
    "has no effect in shadow mode, where every request is a call to the store: remove it as long as "
    "shadow is true"
)
_PREPAID_FOR_A_LIST = (
    "has no effect if the key is a list, since every request is then a call to the store: remove it, or "
    "use a key of one part"
)
_PREPAID_BESIDE_ANOTHER = (
    "has no effect on requests to which policy {other} applies, too, since one call to the store charges "
    "both: remove it, or give the two policies matches that have no request in common"
)
_PREPAID_IN_CLASSES = (
    "has no effect if no class has all of the limits, since every request is then a call to the store: "
    "remove it, or let the highest class be 1.0"
)
_CHOSEN_PLAN = (
    "clients choose the key, so each client can choose this plan by the beginning of a made-up key: "
    "name the subjects in keys, or let a trusted proxy name the plan with plan = {header = 'X-Plan'}"
)
_CAP_OF_LEASES = "has no effect on a policy that counts leases: remove it"
_EQUAL_CLASSES = (
    "has no effect on the limit of {capacity}, of which each class has {share}: use a larger limit, or a "
    "smaller share"
)
_BODY = (
    "behind ForwardAuth the proxy sends no body, and seldom its length. A request of unknown length costs "
    "the most that the limit ever admits at once, so one upload can use up the limit: put this policy into "
    "a middleware of the application, and not into the decision service's file"
)
_LENGTH = (
    "behind ForwardAuth the proxy sends no body, and seldom its length. A request without this field costs "
    "1, however long it is: put this policy into a middleware of the application, with "
    "cost = {body = '1KiB'}"
)
_RESPONSE = (
    "the decision service sees no response, behind ForwardAuth and at /v1: each request stays charged as "
    "it was. Put this policy into a middleware of the application, or settle by /v1/reserve and /v1/settle"
)
_SKIPPED = (
    "behind ForwardAuth no policy limits a request if the proxy does not pass on its {field}: let the "
    "proxy pass it on (Traefik: authRequestHeaders, Envoy: allowed_headers), or write unidentified = "
    "'address' or 'refuse'"
)
_FIELD_OF_CLIENTS = (
    "behind ForwardAuth {field} counts also if a client sent it, since it comes from the proxy: let the "
    "proxy set this field, or remove it, before it asks"
)
_LEASES = (
    "behind ForwardAuth a policy that counts leases does not apply, since no proxy reports the end of a "
    "request. /forward-auth leaves it out{with_all}, and /forward-auth/{name} answers 422: use it by "
    "/v1/hold, or in a middleware of the application{more}"
)


def warnings(
    policies: Sequence[_Policy], file: str, line: Callable[[Path], int]
) -> tuple[Fault, ...]:
    """Return the warnings that hold wherever the file is used.

    ``policies`` are described as in ``Named.description``; ``line`` returns the line of a key.
    """
    reaches = {policy["name"]: Reach.of(policy["match"]) for policy in policies}

    def advice(policy: _Policy) -> _Advice:
        yield from _of_made_up_keys(policy, policies)
        yield from _of_prepaid(policy, policies, reaches)
        yield from _of_chosen_plans(policy)
        yield from _of_equal_classes(policy)
        if policy.get("cap") and any(map(_counts_leases, policy["limits"])):
            yield "cap", _CAP_OF_LEASES

    return _faults(advice, policies, file, line)


def forward_auth_warnings(
    policies: Sequence[_Policy], file: str, line: Callable[[Path], int]
) -> tuple[Fault, ...]:
    """Return the warnings that hold if a proxy asks the decision service; the arguments are the same."""

    def advice(policy: _Policy) -> _Advice:
        yield from _of_bodies(policy)
        yield from _of_responses(policy)
        yield from _of_skipped_fields(policy, policies)
        yield from _of_fields_of_clients(policy)
        yield from _of_leases(policy)

    return _faults(advice, policies, file, line)


def _faults(
    advice: Callable[[_Policy], _Advice],
    policies: Sequence[_Policy],
    file: str,
    line: Callable[[Path], int],
) -> tuple[Fault, ...]:
    faults = []
    for policy in policies:
        for key, text in advice(policy):
            path = ("policies", policy["name"], *((key,) if isinstance(key, str) else key))
            faults.append(Fault(file, line(path), spelled(path), text, True))
    return tuple(faults)


def _of_made_up_keys(policy: _Policy, policies: Sequence[_Policy]) -> _Advice:
    chosen = any(map(is_chosen, _key(policy))) and policy["new_subjects"] is None
    if chosen and not any(_bounds(other, policy) for other in policies):
        match = " and the same match" if policy["match"] else ""
        yield "key", _MADE_UP_KEYS.format(match=match)


def _bounds(other: _Policy, policy: _Policy) -> bool:
    """Whether ``other`` counts, by address, every request to which ``policy`` applies."""
    if not isinstance(other["key"], str) or other["key"].partition("/")[0] != "address":
        return False
    # A default policy does not apply if a policy with a match does.
    return not other["default"] and _counts_all_of(other, policy)


def _counts_all_of(other: _Policy, policy: _Policy) -> bool:
    """Whether a rate of ``other`` limits every request to which ``policy`` may apply."""
    if other["shadow"] or other["percent"] < 100 or not _has_rates(other):
        return False
    spared = set(other["exempt"].get("paths", ())) - set(policy["exempt"].get("paths", ()))
    return not spared and covers(other["match"], policy["match"])


def _of_prepaid(
    policy: _Policy, policies: Sequence[_Policy], reaches: Mapping[str, Reach]
) -> _Advice:
    if not policy.get("prepaid"):
        return
    if policy["shadow"]:
        yield "prepaid", _PREPAID_IN_SHADOW
    elif len(_key(policy)) > 1:
        yield "prepaid", _PREPAID_FOR_A_LIST
    elif policy["class"] is not None and max(_shares(policy)) < 1:
        yield "prepaid", _PREPAID_IN_CLASSES
    else:
        for other in policies:
            if other is not policy and _may_meet(policy, other, reaches):
                yield "prepaid", _PREPAID_BESIDE_ANOTHER.format(other=other["name"])
                return


def _may_meet(policy: _Policy, other: _Policy, reaches: Mapping[str, Reach]) -> bool:
    """Whether both policies may apply to one request."""
    if not reaches[policy["name"]].may_meet(reaches[other["name"]]):
        return False
    return not (_replaces(policy, other) or _replaces(other, policy))


def _replaces(policy: _Policy, default: _Policy) -> bool:
    """Whether ``default`` is the default policy, and applies to no request of ``policy``."""
    is_sure = policy["percent"] >= 100 and policy["unidentified"] != "skip" and not policy["shadow"]
    return bool(default["default"] and policy["match"] and is_sure)


def _of_chosen_plans(policy: _Policy) -> _Advice:
    # A header field that identifies callers is set by a proxy.
    if any(is_chosen(spec) and not spec.startswith("header:") for spec in _key(policy)):
        for plan in policy["plans"]:
            if plan["has_prefix"]:
                yield ("plans", plan["name"], "key_prefix"), _CHOSEN_PLAN


def _of_equal_classes(policy: _Policy) -> _Advice:
    shares = _shares(policy)
    for limit in policy["limits"]:
        capacity = limit.get("burst", limit["limit"])
        parts = {share_of(capacity, share) for share in shares}
        if len(parts) == 1 and len(set(shares)) > 1:
            yield "class", _EQUAL_CLASSES.format(capacity=capacity, share=min(parts))


def _shares(policy: _Policy) -> list[float]:
    """Return the shares of a policy's classes."""
    return [share for name, share in (policy["class"] or {}).items() if name != "header"]


def _of_bodies(policy: _Policy) -> _Advice:
    cost = policy["cost"]
    if isinstance(cost, dict) and "body" in cost:
        yield "cost", _BODY
    elif isinstance(cost, dict) and cost["header"].lower() == "content-length":
        yield "cost", _LENGTH


def _of_responses(policy: _Policy) -> _Advice:
    for key in BY_RESPONSE:
        if key in policy and _has_rates(policy):
            yield key, _RESPONSE


def _of_skipped_fields(policy: _Policy, policies: Sequence[_Policy]) -> _Advice:
    field = _skipped_field(policy)
    if field is not None and not any(
        _skipped_field(other) is None and _counts_all_of(other, policy) for other in policies
    ):
        yield "unidentified", _SKIPPED.format(field=field)


def _of_fields_of_clients(policy: _Policy) -> _Advice:
    for key in ("plan", "class"):
        if policy[key] is not None:
            yield key, _FIELD_OF_CLIENTS.format(field=policy[key]["header"])


def _skipped_field(policy: _Policy) -> str | None:
    """Return what a request must have for the policy to apply; None if it needs no header field."""
    if policy["unidentified"] != "skip":
        return None
    fields = (_field(spec) for spec in _key(policy))
    return next((field for field in fields if field is not None), None)


def _field(spec: str) -> str | None:
    """Return the header field that a key reads; None if it reads another part of the request."""
    kind, _, name = spec.partition(":")
    if kind in ("header", "api-key") and name:
        return f"field {name}"
    return {"api-key": "API key (X-API-Key or Authorization)", "cookie": "field Cookie"}.get(kind)


def _of_leases(policy: _Policy) -> _Advice:
    if any(map(_counts_leases, policy["limits"])):
        has_rates = _has_rates(policy)
        with_all = " with all of its limits" if has_rates else ""
        more = ", and put its other limits into a policy of their own" if has_rates else ""
        yield "limits", _LEASES.format(name=policy["name"], with_all=with_all, more=more)


def _has_rates(policy: _Policy) -> bool:
    return not all(map(_counts_leases, policy["limits"]))


def _counts_leases(limit: Mapping[str, Any]) -> bool:
    return bool(limit["algorithm"] == Concurrency.algorithm)


def _key(policy: _Policy) -> Sequence[str]:
    """Return the parts of a policy's key."""
    key: str | Sequence[str] = policy["key"]
    return [key] if isinstance(key, str) else key
