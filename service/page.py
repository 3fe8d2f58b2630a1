"""``GET /``: a page that shows the algorithms at work, and the two routes that its script calls.

The page has its own small policies, which count by the visitor's address: no visitor sees or spends
another's units. A further policy, which the page does not show, limits requests to these routes.
"""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, request

from limiter import (
    GCRA,
    Concurrency,
    Decision,
    FixedWindow,
    LeakyBucket,
    Limiter,
    LimiterError,
    SlidingLog,
    SlidingWindow,
    TokenBucket,
)
from limiter.web import headers, limiter_calls, problems, wiring
from limiter.web.guard import Guard
from limiter.web.lease_calls import LeaseCalls
from limiter.web.request import from_wsgi
from limiter.web.rules import Check, Rule
from service import responses
from service.one_policy import AnyPolicies

_LIMIT, _PER = 10, 10

#: The name of the page's limiters; a policy file's names do not begin with a dot, so none has their state.
_NAME = ".page"

Policy = Concurrency | FixedWindow | GCRA | LeakyBucket | SlidingLog | SlidingWindow | TokenBucket


class Shown(NamedTuple):
    """A policy that the page shows."""

    policy: Policy
    bound: int
    """The most units admitted in any window of one period; of leases, held at once."""


#: The policies that the page shows, in order.
SHOWN = {
    "sliding_log": Shown(SlidingLog(_LIMIT, _PER), _LIMIT),
    "fixed_window": Shown(FixedWindow(_LIMIT, _PER), 2 * _LIMIT),
    "sliding_window": Shown(SlidingWindow(_LIMIT, _PER), 2 * _LIMIT - 2),
    "token_bucket": Shown(TokenBucket(_LIMIT, _PER), 2 * _LIMIT),
    "gcra": Shown(GCRA(_LIMIT, _PER), 2 * _LIMIT),
    "leaky_bucket": Shown(LeakyBucket(_LIMIT, _PER), 2 * _LIMIT),
    "concurrency": Shown(Concurrency(5, lease=3), 5),
}

#: The limit of one visitor's requests: enough for the largest burst and the fastest steady rate at all.
OWN = TokenBucket(50, per=1, burst=300)

_HTML = Path(__file__).with_name("page.html")


def blueprint(policies: AnyPolicies, answered_by: str) -> Blueprint:
    """Make the page and its routes, which use the store of these policies."""
    routes = Blueprint("page", __name__)
    store = policies.guard.rules[0].limiter
    # No fallback: the page shows Redis's decisions, or an error.
    rules = {
        name: Rule(_limiter(f"{_NAME}.{name}", shown.policy, store, "raise"))
        for name, shown in SHOWN.items()
    }
    own = Rule(_limiter(_NAME, OWN, store, "local"))
    html = _HTML.read_text()
    fields = {
        "Content-Security-Policy": content_security_policy(html),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    @routes.before_request
    def limit() -> Response | None:
        """Refuse a visitor that sends too many requests."""
        configured = policies.guard
        guard = Guard([own], configured.trusted, address_from=configured.address_from)
        verdict = guard.enter(from_wsgi(request.environ))
        return None if verdict.allowed else responses.refusal(verdict)

    def check_of(rule: Rule) -> Check:
        configured = policies.guard
        visit = replace(from_wsgi(request.environ), address_from=configured.address_from)
        check = rule.check(visit, configured.trusted)
        assert check is not None  # noqa: S101 (a rule without a match applies to all requests)
        return check

    @routes.get("/")
    def page() -> Response:
        """Return the page."""
        return Response(html, mimetype="text/html", headers=fields)

    @routes.get("/page/state")
    def state() -> Response:
        """Return the visitor's state in each policy; nothing is taken."""
        body: dict[str, Any] = {"answered_by": answered_by, "subject": None, "policies": []}
        decided = True
        for name, (policy, bound) in SHOWN.items():
            check = check_of(rules[name])
            body["subject"] = check.key
            state = None
            if decided:  # after a timeout, no further call waits
                try:
                    state = check.rule.limiter.peek(check.key).to_dict()
                except LimiterError:
                    decided = False
            body["policies"].append({**policy.to_dict(), "bound": bound, "state": state})
        if not decided:
            return responses.of_json({**_unavailable(), **body}, 503)
        return responses.of_json(body)

    @routes.post("/page/hit")
    def hit() -> Response:
        """Decide about this request by one of the policies."""
        name = request.args.get("policy", "")
        if name not in rules:
            abort(422, f"policy is not one of this page: expected {', '.join(rules)}.")
        try:
            decision = _decide(check_of(rules[name]))
        except LimiterError:
            return responses.of_json({**_unavailable(), "answered_by": answered_by}, 503)
        result = {"answered_by": answered_by, "decision": decision.to_dict()}
        limit_fields = headers.fields(decision, name)
        if decision.allowed:
            return responses.of_json({"allowed": True, **result}, 200, limit_fields)
        problem = json.loads(problems.quota_exceeded([(decision, name, "requests")], request.path))
        return responses.of_json({**problem, **result}, 429, limit_fields)

    return routes


def _limiter(name: str, policy: Policy, store: Limiter, on_error: str) -> Limiter:
    """Make a limiter with the environment's prefix and secret, and the application's connections."""
    return wiring.limiter_by(Limiter, policy, {"store": store, "name": name, "on_error": on_error})


def _decide(check: Check) -> Decision:
    """Take one unit or lease; the page releases no lease, so each expires."""
    limiter: Limiter = check.rule.limiter
    if limiter_calls.plan(limiter).leases:
        return LeaseCalls(check).take(secrets.token_hex(16))
    return limiter.hit(check.key)


def _unavailable() -> dict[str, Any]:
    problem: dict[str, Any] = json.loads(problems.reduced_capacity(request.path))
    return problem


def content_security_policy(html: str) -> str:
    """Return a policy that lets the page run its own script, and call only its own server."""
    allowed = {}
    for element in ("style", "script"):
        texts = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in texts]
        allowed[element] = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
