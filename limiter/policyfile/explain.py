"""Explain one request: which policies apply, to which subject, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from limiter.errors import InvalidCost
from limiter.policies import Policy
from limiter.policyfile.faults import shortened
from limiter.policyfile.reading import PolicyFile
from limiter.web import limiter_calls
from limiter.web.forward_auth import Refusal, reported
from limiter.web.guard import Guard
from limiter.web.identity import Network, Unidentified
from limiter.web.problems import counted
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.subjects import disguised, spelled

#: An entry is ready for JSON.
Entry = dict[str, Any]


def explain(file: PolicyFile, request: Request, trusted: Sequence[Network]) -> list[Entry]:
    """One entry for each policy, in the file's order; no store is called."""
    rules = [named.rule for named in file.policies.values()]
    guard = Guard(rules, trusted, address_from=file.address_from)
    return [_of_rule(guard, rule, request) for rule in rules]


def forward_auth(
    file: PolicyFile, request: Request, trusted: Sequence[Network], name: str
) -> tuple[list[Entry], Entry]:
    """The entries of the policies that a proxy asks, and the entry of the answer; no store is called.

    ``request`` is the proxy's. ``name`` is the policy that it names; if it is empty, the proxy asks all.
    """
    rules = [named.rule for named in file.policies.values() if name in ("", named.rule.name)]
    asked = rules if name else [rule for rule in rules if not rule.counts_leases]
    guard = Guard(asked, trusted, address_from=file.address_from)
    client = reported(request, guard if rules else None, trusted)
    path = f"/forward-auth/{name}" if name else "/forward-auth"
    if isinstance(client, Refusal):
        return [], {"path": path, **_refused(client, file, request.peer)}
    entries = [
        _left_out(rule) if rule.counts_leases else _of_rule(guard, rule, client) for rule in rules
    ]
    return entries, {"path": path, **_answer(entries)}


def _refused(refusal: Refusal, file: PolicyFile, peer: str | None) -> Entry:
    """The answer to a proxy for which no policy is asked, with what to do about it."""
    why = refusal.detail
    if refusal.status == 403:
        why += f" The peer is {peer}: LIMITER_TRUSTED_PROXIES must name its network."
    elif refusal.status == 404:
        why += f" The file has {shortened(', '.join(file.policies))}."
    return {"statuses": [refusal.status], "why": why}


def _answer(entries: Sequence[Entry]) -> Entry:
    """The answer to a proxy, by the entries of the policies that it asks."""
    for entry in entries:
        if "status" in entry:
            why = entry["why"].removesuffix(f": {entry['status']}")
            return {"statuses": [entry["status"]], "why": f"{entry['policy']} refuses: {why}"}
    applying = [entry for entry in entries if entry["applies"]]
    if not applying:
        return {"statuses": [204], "why": _NOT_LIMITED}
    if all(entry["shadow"] for entry in applying):
        return {"statuses": [204], "why": "only policies in shadow mode apply, which never deny"}
    return {"statuses": [204, 429], "why": "the limits decide, by what the store has counted"}


#: Why a request passes, whatever the store has counted.
_NOT_LIMITED = "no policy applies to this request: it is not limited"


def _left_out(rule: Rule) -> Entry:
    why = "it counts leases, and no proxy reports the end of a request"
    return {"policy": rule.name, "applies": False, "why": why, "left_out": True}


def _of_rule(guard: Guard, rule: Rule, request: Request) -> Entry:
    try:
        check = guard.consider(request, rule)
    except Unidentified as error:
        return {"policy": rule.name, "applies": False, **_refusing(rule, error, 400)}
    if not isinstance(check, Check):
        return {"policy": rule.name, "applies": False, "why": check.value}
    limits = rule.limiter.policies if check.limits is None else check.limits
    entry: Entry = {
        "policy": rule.name,
        "applies": True,
        "key": spelled(check.key),
        "digest": disguised(check.key),
        "cost": check.cost,
        "unit": rule.unit,
        "limits": [policy.to_dict() for policy in limits],
        "overridden": check.plan is not None and check.plan.name is None,
        "plan": check.plan and check.plan.name,
        "class": check.class_,
        "shadow": rule.shadow,
        "settles": rule.by_response is not None,
    }
    try:
        limiter_calls.plan(rule.limiter, check.limits).checked(check.cost)
    except InvalidCost as error:
        entry |= _refusing(rule, error, 413)
    return entry


def _refusing(rule: Rule, error: Exception, status: int) -> Entry:
    """Why a policy refuses the request; in shadow mode it would, and the request has no status from it."""
    if rule.shadow:
        return {"why": f"{error}: no refusal in shadow mode", "refuses": True}
    return {"why": f"{error}: {status}", "refuses": True, "status": status}


def as_text(policies: Sequence[Entry], answer: Entry | None) -> list[str]:
    """The entries of policies, and of the answer to a proxy, as lines of text."""
    lines = list(map(_line, policies))
    if answer is not None:
        statuses = " or ".join(map(str, answer["statuses"]))
        lines.append(f"{answer['path']} answers {statuses}: {answer['why']}")
    elif not any(entry["applies"] or entry.get("refuses") for entry in policies):
        lines.append(_NOT_LIMITED)
    return lines


def _line(entry: Entry) -> str:
    if not entry["applies"]:
        verb = "is left out" if entry.get("left_out") else "does not apply"
        verb = "refuses" if entry.get("refuses") else verb
        return f"{entry['policy']}: {verb}: {entry['why']}"
    unit, cost = entry["unit"], entry["cost"]
    notes = [f"cost {cost if unit == 'requests' else counted(cost, unit)}"]
    notes += ["an override"] * entry["overridden"]
    notes += [f"{key} {entry[key]}" for key in ("plan", "class") if entry[key] is not None]
    notes += ["shadow: counts, never denies"] * entry["shadow"]
    notes += ["an application settles the cost by its response"] * entry["settles"]
    notes += [f"refuses: {entry['why']}"] if entry.get("refuses") else []
    notes += [f"logged as {entry['digest']}"]
    limits = "; ".join(map(amount, entry["limits"]))
    return f"{entry['policy']}: applies to {entry['key']}: {limits} ({', '.join(notes)})"


def amount(policy: dict[str, Any]) -> str:
    """A limit as a short text."""
    if policy["algorithm"] == "concurrency":
        longest = f", held for {policy['max_hold']} s at most" if "max_hold" in policy else ""
        return f"{policy['limit']} at once, leases of {policy['period']} s{longest}"
    burst = f" burst {policy['burst']}" if "burst" in policy else ""
    return f"{policy['limit']} per {policy['period']} s{burst}, {policy['algorithm']}"


def numbers(limits: Sequence[Policy]) -> str:
    """Several limits as a short text."""
    return "; ".join(amount(policy.to_dict()) for policy in limits)


def other_limits(rule: Rule) -> Iterator[tuple[str, Sequence[Policy]]]:
    """The limits of each plan of a rule, and those of each class for a subject without a plan."""
    own = rule.limiter.policies
    if rule.plans is not None:
        for plan in rule.plans.by_name.values():
            yield f"plan {plan.name}", plan.limits
    if rule.classes is not None:
        for name in rule.classes.shares:
            yield f"class {name}", rule.classes.limits(name, own)
