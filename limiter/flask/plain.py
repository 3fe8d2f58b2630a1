"""The short way of a plain limit, which needs no more of a request than its client's address.

It reads two variables of the WSGI environment, and calls the limiter's ``hit``. If the store admits the
request, a verdict is made only if it is used. Everything else goes on as in a guard, with the same outcome.
"""

from __future__ import annotations

from flask import Request as FlaskRequest

from limiter.decision import Decision
from limiter.errors import LimiterError, StoreUnavailable
from limiter.flask.limits import ViewRule
from limiter.plan import Part
from limiter.web import headers, identity, limiter_calls
from limiter.web.guard import Guard
from limiter.web.identity import PREFIX, Unidentified
from limiter.web.limiter_calls import core_of
from limiter.web.request import Request, from_wsgi
from limiter.web.subjects import by_address
from limiter.web.verdict import Result, Verdict

_HEADER = "x-forwarded-for"


class PlainLimit:
    """The only limit of a guard, if it always applies, at a fixed cost for the client's address."""

    def __init__(self, guard: Guard, rule: ViewRule, cost: int) -> None:
        self._guard = guard
        self._rule = rule
        self._cost = cost
        self._plan = limiter_calls.plan(rule.limiter)
        self.write = headers.writer(rule.limiter.policies, rule.name, rule.form, rule.unit)

    @classmethod
    def of(cls, guard: Guard, method: str) -> PlainLimit | None:
        """Return the limit of a guard for requests of a method; None if it is not plain."""
        rule = guard.rules[0]
        is_alone = len(guard.rules) == 1 and not guard.is_observed
        if not (is_alone and isinstance(rule, ViewRule) and guard.address_from == _HEADER):
            return None
        limit, core = rule.limit, core_of(rule.limiter)
        is_plain = (
            rule.identity is by_address
            and rule.percent >= 100
            and not (rule.shadow or rule.counts_leases or callable(limit.scope))
            and not (limit.exempt_when or limit.deduct_when or rule.by_amount)
            and method != "OPTIONS"  # it may be a preflight, which counts apart
            and core.timeout == core.store.timeout
        )
        return cls(guard, rule, limit.cost) if is_plain and isinstance(limit.cost, int) else None

    def enter(self, request: FlaskRequest, owner: object) -> Admission | Verdict:
        """Check a request, as ``Guard.enter`` does; an admission is an entry of its state."""
        environ = request.environ
        peer, reported = environ.get("REMOTE_ADDR") or None, environ.get("HTTP_X_FORWARDED_FOR")
        try:
            if reported is None:
                subject = identity.of_peer(peer)
            else:
                trusted = self._guard.trusted
                subject = identity.caller(trusted, peer, _HEADER, str(reported), PREFIX)
            decision = self._rule.limiter.hit(subject, self._cost)
        except Unidentified:
            return self._guard.enter(web_request(request))  # the rule may skip such requests
        except StoreUnavailable as error:
            return self._guard.enter(web_request(request), error)
        except LimiterError as error:
            return Verdict.of_error(error, web_request(request))
        if decision.degraded or not decision.allowed:
            result = self.result(decision, subject)
            fields = None if decision.degraded else self.write(decision)
            return Verdict.of_results((result,), web_request(request), fields=fields)
        return Admission(owner, self, decision, subject)

    def result(self, decision: Decision, subject: str) -> Result:
        """Return the result of a decision, as a guard does."""
        return Result(self._rule, decision, Part(self._plan, subject, self._cost))


class Admission:
    """A request that the store admitted by a plain limit: there is no lease, and nothing to refund."""

    __slots__ = ("_decision", "_limit", "_subject", "_verdict", "owner")

    def __init__(self, owner: object, limit: PlainLimit, decision: Decision, subject: str) -> None:
        self.owner = owner
        self._limit = limit
        self._decision = decision
        self._subject = subject
        self._verdict: Verdict | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict, as a guard makes it."""
        if self._verdict is None:
            result = self._limit.result(self._decision, self._subject)
            self._verdict = Verdict(200, (result,), self._limit.write(self._decision))
        return self._verdict

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The header fields: those of the verdict if it was made, since an application may change them."""
        verdict = self._verdict
        return self._limit.write(self._decision) if verdict is None else verdict.fields


def web_request(request: FlaskRequest) -> Request:
    """Return a Flask request as the object that rules read."""
    parts = request.view_args
    if not parts:
        return from_wsgi(request.environ)
    return from_wsgi(request.environ, {name: str(value) for name, value in parts.items()})
