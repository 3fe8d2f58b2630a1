"""The responses to refused requests, and the exceptions that carry them to Flask's error handlers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask, Response, current_app, request
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
    """A request is refused; ``verdict`` has the reason.

    The response is problem+json, unless the application has a handler for this exception or its status.
    The RateLimit fields are added to every response.
    """

    def __init__(self, verdict: Verdict, answer: Response | None = None) -> None:
        super().__init__(response=answer or _problem(verdict))
        self.verdict = verdict

    @property
    def decision(self) -> Decision | None:
        """The decision that denied the request; None if no limit did."""
        return next((result.decision for result in denying(self.verdict)), None)


class LimitExceeded(Refusal, TooManyRequests):
    """429: a limit has no room."""


class NotDecided(Refusal, ServiceUnavailable):
    """503: the store did not decide, and ``on_error`` admits no request."""


class TooCostly(Refusal, RequestEntityTooLarge):
    """413: the request costs more than its limit ever admits."""


class CallerUnknown(Refusal, BadRequest):
    """400: the request has no usable key."""


_BY_STATUS = {429: LimitExceeded, 503: NotDecided, 413: TooCostly, 400: CallerUnknown}


def refusal(verdict: Verdict, answer: Response | None = None) -> Refusal:
    """The exception for a verdict; ``answer`` replaces the problem+json."""
    return _BY_STATUS[verdict.status](verdict, answer)


def refuse(verdict: Verdict, on_denied: Callable[[Verdict], Any] | None) -> Exception:
    """The exception for a verdict, with the response of the first ``on_denied`` that returns one."""
    if verdict.status == 429:
        results = denying(verdict)
        if results and log.isEnabledFor(logging.INFO):
            _log_denial(results[0])
        rules = [result.rule for result in results]
        functions = [rule.limit.on_denied for rule in rules if isinstance(rule, ViewRule)]
        for function in (*functions, on_denied):
            answer = None if function is None else function(verdict)
            if answer is not None:
                return refusal(verdict, _response(answer, verdict.status))
    return refusal(verdict)


def denying(verdict: Verdict) -> list[Result]:
    """The results that denied the request, the longest wait first."""
    results = [result for result in verdict.results if result.denies]
    if len(results) > 1:
        results.sort(key=lambda result: -result.decision.retry_after)
    return results


def _log_denial(result: Result) -> None:
    """Log the limit that denied, and the subject: an address or a hash."""
    log_seldom(
        log,
        logging.INFO,
        "the limit %s of %s denied a request of %s to endpoint %s: retry after %.3f s",
        result.decision.policy,
        result.rule.name,
        spelled(result.part.key),
        request.endpoint,
        result.decision.retry_after,
        kind=result.rule.name,
    )


def _response(answer: Any, status: int) -> Response:
    """Make a response of what a view may return, with this status if it has none."""
    if not isinstance(answer, (BaseResponse, tuple)):
        answer = (answer, status)
    elif isinstance(answer, tuple) and len(answer) == 2 and not isinstance(answer[1], (int, str)):
        answer = (answer[0], status, answer[1])  # a body and header fields
    return current_app.make_response(answer)


def _problem(verdict: Verdict) -> Response:
    body = verdict.body.encode()
    length = ("Content-Length", str(len(body)))
    return Response([body], verdict.status, [*_OF_PROBLEMS, length])


_OF_PROBLEMS = [("Content-Type", problems.MEDIA_TYPE), ("Cache-Control", "no-store")]


def is_final(refusal: Refusal, blueprints: Sequence[str]) -> bool:
    """Whether the application would answer this exception with the exception's own response.

    Then a hook may return that response, which costs much less. It is not so if an error handler is for
    the exception, or if a subclass or an extension (such as Flask-RESTful) handles errors in another way.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    if app.trap_http_exception(refusal) or not _is_flasks_own(app):
        return False
    for name in (*blueprints, None):
        by_code = app.error_handler_spec.get(name, {})
        if issubclass(type(refusal), (*by_code.get(refusal.code, ()), *by_code.get(None, ()))):
            return False
    return True


def _is_flasks_own(app: Flask) -> bool:
    """Whether the application handles errors by Flask's own methods."""
    of_any, of_http = app.handle_user_exception, app.handle_http_exception
    return (
        getattr(of_any, "__func__", None) is Flask.handle_user_exception
        and getattr(of_http, "__func__", None) is Flask.handle_http_exception
    )
