"""The answers to denied requests, and the exceptions that carry them: what Flask's error handlers know."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from flask import Response, current_app, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    TooManyRequests,
)
from werkzeug.wrappers import Response as BaseResponse

from limiter.decision import Decision
from limiter.flask.limits import ViewRule
from limiter.log_throttle import log_seldom
from limiter.web import problems
from limiter.web.guard import Result, Verdict
from limiter.web.subjects import spelled

log = logging.getLogger("limiter.flask")


class Refusal(HTTPException):
    """A request that may not go on; ``verdict`` says why.

    It answers with problem+json where the application has no handler of its own for it, or for its
    status. The RateLimit fields are added to whatever answers.
    """

    def __init__(self, verdict: Verdict, answer: Response | None = None) -> None:
        super().__init__(response=answer or _problem(verdict))
        self.verdict = verdict

    @property
    def decision(self) -> Decision | None:
        """The decision that denied; None where no limit did."""
        return next((result.decision for result in denying(self.verdict)), None)


class LimitExceeded(Refusal, TooManyRequests):
    """429: a limit has no room."""


class NotDecided(Refusal, ServiceUnavailable):
    """503: nobody can decide, and ``on_error`` lets nobody pass."""


class TooCostly(Refusal, RequestEntityTooLarge):
    """413: the request costs more than its limit ever admits."""


class CallerUnknown(Refusal, BadRequest):
    """400: nobody can tell for whom the request counts."""


_BY_STATUS = {429: LimitExceeded, 503: NotDecided, 413: TooCostly, 400: CallerUnknown}


def refusal(verdict: Verdict, answer: Response | None = None) -> Refusal:
    """The exception for a verdict; ``answer`` is sent in the place of problem+json."""
    return _BY_STATUS[verdict.status](verdict, answer)


def refuse(verdict: Verdict, on_denied: Callable[[Verdict], Any] | None) -> Exception:
    """The exception for a verdict, with the answer of the first ``on_denied`` that makes one."""
    if verdict.status == 429:
        _log_denial(verdict)
        rules = [result.rule for result in denying(verdict)]
        functions = [rule.limit.on_denied for rule in rules if isinstance(rule, ViewRule)]
        for function in filter(None, (*functions, on_denied)):
            answer = function(verdict)
            if answer is not None:
                return refusal(verdict, _response(answer, verdict.status))
    return refusal(verdict)


def denying(verdict: Verdict) -> list[Result]:
    """The results that denied the request, the longest wait first."""
    results = [
        result for result in verdict.results if not (result.decision.allowed or result.rule.shadow)
    ]
    return sorted(results, key=lambda result: -result.decision.retry_after)


def _log_denial(verdict: Verdict) -> None:
    """Log which limit denied, and to whom: an address, or the hash that is the subject."""
    for result in denying(verdict)[:1]:
        log_seldom(
            log,
            logging.INFO,
            "the limit %s of %s denied a request of %s to endpoint %s: it may come again in %.3f s",
            result.decision.policy,
            result.rule.name,
            spelled(result.part.key),
            request.endpoint,
            result.decision.retry_after,
            kind=result.rule.name,
        )


def _response(answer: Any, status: int) -> Response:
    """The response of an answer as a view returns it, with this status where it says none."""
    if not isinstance(answer, (BaseResponse, tuple)):
        answer = (answer, status)
    elif isinstance(answer, tuple) and len(answer) == 2 and not isinstance(answer[1], (int, str)):
        answer = (answer[0], status, answer[1])  # a body and header fields
    return current_app.make_response(answer)


def _problem(verdict: Verdict) -> Response:
    no_store = {"Cache-Control": "no-store"}
    return Response(verdict.body, verdict.status, no_store, content_type=problems.MEDIA_TYPE)
