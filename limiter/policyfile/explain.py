"""Explain one request: which policies apply, to which subject, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limiter.errors import InvalidCost
from limiter.policies import Policy
from limiter.policyfile.reading import PolicyFile
from limiter.web import limiter_calls
from limiter.web.guard import Guard
from limiter.web.identity import Network, Unidentified
from limiter.web.request import Request
from limiter.web.rules import Check, Rule
from limiter.web.subjects import spelled


def explain(file: PolicyFile, request: Request, trusted: Sequence[Network]) -> list[dict[str, Any]]:
    """One entry for each policy, in the file's order, ready for JSON; no store is called."""
    rules = [named.rule for named in file.policies.values()]
    guard = Guard(rules, trusted, address_from=file.address_from)
    return [_of_rule(guard, rule, request) for rule in rules]


def _of_rule(guard: Guard, rule: Rule, request: Request) -> dict[str, Any]:
    try:
        check = guard.consider(request, rule)
    except Unidentified as error:
        status = "no refusal in shadow mode" if rule.shadow else "400"
        return {"policy": rule.name, "applies": False, "why": f"{error}: {status}", "refuses": True}
    if not isinstance(check, Check):
        return {"policy": rule.name, "applies": False, "why": check.value}
    limits = rule.limiter.policies if check.limits is None else check.limits
    entry: dict[str, Any] = {
        "policy": rule.name,
        "applies": True,
        "key": spelled(check.key),
        "cost": check.cost,
        "limits": [policy.to_dict() for policy in limits],
        "overridden": check.limits is not None,
        "shadow": rule.shadow,
    }
    try:
        limiter_calls.plan(rule.limiter, check.limits).checked(check.cost)
    except InvalidCost as error:
        entry["why"] = f"{error}: {'no refusal in shadow mode' if rule.shadow else 413}"
        entry["refuses"] = True
    return entry


def as_text(entry: dict[str, Any]) -> str:
    """An entry as a line of text."""
    if not entry["applies"]:
        verb = "refuses" if entry.get("refuses") else "does not apply"
        return f"{entry['policy']}: {verb}: {entry['why']}"
    notes = [f"cost {entry['cost']}"]
    notes += ["an override"] * entry["overridden"]
    notes += ["shadow: counts, never denies"] * entry["shadow"]
    notes += [f"refuses: {entry['why']}"] if entry.get("refuses") else []
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
