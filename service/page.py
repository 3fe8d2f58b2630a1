"""``GET /``: a page that shows the algorithms at work, and the two addresses that it asks.

Its policies are built in and small, and count for the visitor's own address alone: nobody sees or
spends what is another's. Whoever asks it is limited, too, by a policy that the page is not about.
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
from limiter.policyfile import Policies
from limiter.web import headers, limiter_calls, problems, wiring
from limiter.web.guard import Guard
from limiter.web.lease_calls import LeaseCalls
from limiter.web.request import from_wsgi
from limiter.web.rules import Check, Rule
from limiter.web.verdict import Verdict
from service import bodies
from service.one_policy import OnePolicy
from service.recorder import Recorder

_LIMIT, _PER = 10, 10

#: What the page's limiters are called; no policy of a file begins with a dot, and shares their state.
_NAME = ".page"

Policy = Concurrency | FixedWindow | GCRA | LeakyBucket | SlidingLog | SlidingWindow | TokenBucket


class Shown(NamedTuple):
    """A policy of the page's."""

    policy: Policy
    bound: int
    """The most that it admits in any window of one period; of leases, that are held at once."""


#: What the page shows, in its order.
SHOWN = {
    "sliding_log": Shown(SlidingLog(_LIMIT, _PER), _LIMIT),
    "fixed_window": Shown(FixedWindow(_LIMIT, _PER), 2 * _LIMIT),
    "sliding_window": Shown(SlidingWindow(_LIMIT, _PER), 2 * _LIMIT - 2),
    "token_bucket": Shown(TokenBucket(_LIMIT, _PER), 2 * _LIMIT),
    "gcra": Shown(GCRA(_LIMIT, _PER), 2 * _LIMIT),
    "leaky_bucket": Shown(LeakyBucket(_LIMIT, _PER), 2 * _LIMIT),
    "concurrency": Shown(Concurrency(5, lease=3), 5),
}

#: What one visitor may ask of the page: the largest burst at every policy, and steady fire at all.
OWN = TokenBucket(50, per=1, burst=300)

_HTML = Path(__file__).with_name("page.html")


def blueprint(policies: Policies | OnePolicy, recorder: Recorder, answered_by: str) -> Blueprint:
    """The page and what it asks, from the store of these policies."""
    routes = Blueprint("page", __name__)
    store = policies.guard.rules[0].limiter
    # No fallback: the page shows what Redis decides, or that it does not.
    rules = {
        name: Rule(_limiter(f"{_NAME}.{name}", one.policy, store, "raise"))
        for name, one in SHOWN.items()
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
        """Let nobody ask too often."""
        before = policies.guard
        guard = Guard([own], before.trusted, address_from=before.address_from)
        verdict = recorder.enter(guard, from_wsgi(request.environ))
        return None if verdict.allowed else _refused(verdict)

    def check_of(rule: Rule) -> Check:
        before = policies.guard
        about = replace(from_wsgi(request.environ), address_from=before.address_from)
        found = rule.check(about, before.trusted)
        assert found is not None  # noqa: S101 (a rule without a match is about everything)
        return found

    @routes.get("/")
    def page() -> Response:
        """Show the page."""
        return Response(html, mimetype="text/html", headers=fields)

    @routes.get("/page/state")
    def state() -> Response:
        """Say what the store holds of the visitor; nothing is taken."""
        found: dict[str, Any] = {"answered_by": answered_by, "subject": None, "policies": []}
        decided = True
        for name, (policy, bound) in SHOWN.items():
            about = check_of(rules[name])
            found["subject"] = about.key
            left = None
            if decided:  # one time-out is enough
                try:
                    left = about.rule.limiter.peek(about.key).to_dict()
                except LimiterError:
                    decided = False
            found["policies"].append({**policy.to_dict(), "bound": bound, "state": left})
        if not decided:
            return bodies.json_response({**_unavailable(), **found}, 503)
        return bodies.json_response(found)

    @routes.post("/page/hit")
    def hit() -> Response:
        """Be a request that one of the policies limits."""
        name = request.args.get("policy", "")
        if name not in rules:
            abort(422, f"policy is none of the page's: accepted are {', '.join(rules)}.")
        about = check_of(rules[name])
        try:
            decision = _decide(about)
        except LimiterError:
            return bodies.json_response({**_unavailable(), "answered_by": answered_by}, 503)
        result = {"answered_by": answered_by, "decision": decision.to_dict()}
        limit_fields = headers.fields(decision, name)
        if decision.allowed:
            return bodies.json_response({"allowed": True, **result}, 200, limit_fields)
        problem = json.loads(problems.quota_exceeded(decision, name, request.path))
        return bodies.json_response({**problem, **result}, 429, limit_fields)

    return routes


def _limiter(name: str, policy: Policy, store: Limiter, on_error: str) -> Limiter:
    """A limiter by the environment's prefix and secret, with the service's own connections."""
    return wiring.limiter_by(Limiter, policy, {"store": store, "name": name, "on_error": on_error})


def _decide(asked: Check) -> Decision:
    """Take one; a lease is never given back here, and ends by itself."""
    limiter: Limiter = asked.rule.limiter
    if limiter_calls.plan(limiter).leases:
        return LeaseCalls(asked).take(secrets.token_hex(16))
    return limiter.hit(asked.key)


def _unavailable() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(problems.reduced_capacity(request.path))
    return found


def _refused(verdict: Verdict) -> Response:
    fields, body = wiring.refusal(verdict)
    return Response(body, verdict.status, fields)


def content_security_policy(html: str) -> str:
    """What a browser may do with the page: run its own script, and ask where it came from."""
    allowed = {}
    for element in ("style", "script"):
        texts = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in texts]
        allowed[element] = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
