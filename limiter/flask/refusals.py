"""What a view does not get to see: refusals, as Flask's error handlers know them."""

from __future__ import annotations

from flask import Response
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    TooManyRequests,
)

from limiter.decision import Decision
from limiter.web import problems
from limiter.web.guard import Verdict


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
        denying = (one.decision for one in self.verdict.results if not one.decision.allowed)
        return max(denying, key=lambda decision: decision.retry_after, default=None)


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


def _problem(verdict: Verdict) -> Response:
    no_store = {"Cache-Control": "no-store"}
    return Response(verdict.body, verdict.status, no_store, content_type=problems.MEDIA_TYPE)
