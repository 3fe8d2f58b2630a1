"""All that is known of the limits of one application, once its settings are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flask import Response, current_app, request
from werkzeug.wrappers import Response as BaseResponse

from limiter.base import Limits
from limiter.client import Limiter
from limiter.flask.limits import DeclaredLimit, ViewRule
from limiter.flask.refusals import refusal
from limiter.flask.request_state import RequestState
from limiter.log_throttle import log_seldom
from limiter.web.guard import Observer, Result, Verdict
from limiter.web.identity import Network
from limiter.web.subjects import Identity

log = logging.getLogger("limiter.flask")

#: Makes the limiter of a name.
Make = Callable[[str, Limits], Limiter]


def write_fields(response: Response, state: RequestState) -> None:
    """Say in the response's header what was decided."""
    found = response.headers
    for name, value in state.fields():
        found[name] = value


def refuse(verdict: Verdict, on_denied: Callable[[Verdict], Any] | None) -> Exception:
    """The exception that answers a request, with what the limits that denied it want to say."""
    if verdict.status == 429:
        _log_denial(verdict)
        limits = [one.rule.limit for one in denying(verdict) if isinstance(one.rule, ViewRule)]
        for say in (*(limit.on_denied for limit in limits), on_denied):
            said = None if say is None else say(verdict)
            if said is not None:
                return refusal(verdict, _answer(said, verdict.status))
    return refusal(verdict)


def _log_denial(verdict: Verdict) -> None:
    """Log which limit denied, and to whom: an address, or the hash that is the subject."""
    for result in denying(verdict)[:1]:
        decision, key = result.decision, result.part.key
        log_seldom(
            log,
            logging.INFO,
            "the limit %s of %s denied a request of %s to endpoint %s: it may come again in %.3f s",
            decision.policy,
            result.rule.name,
            " ".join(map(str, key)) if isinstance(key, tuple) else key,
            request.endpoint,
            decision.retry_after,
            kind=result.rule.name,
        )


def _answer(said: Any, status: int) -> Response:
    """A response of what a view could return, with this status where that says none."""
    if not isinstance(said, (BaseResponse, tuple)):
        said = (said, status)
    elif isinstance(said, tuple) and len(said) == 2 and not isinstance(said[1], (int, str)):
        said = (said[0], status, said[1])  # a body and header fields
    return current_app.make_response(said)


def denying(verdict: Verdict) -> list[Result]:
    """What those rules said that have denied, the longest wait first."""
    found = [one for one in verdict.results if not (one.decision.allowed or one.rule.shadow)]
    return sorted(found, key=lambda one: -one.decision.retry_after)


@dataclass
class Setup:
    """The limits of an application as a whole, and how all of them are asked and told.

    Attributes:
        name: Begins the name of every limiter.
        base: The limiter whose store all others share.
        make: Makes a limiter that does.
        identity: For whom, where a limit says nothing.
        application: Limits that all requests share.
        default: Limits of each route that has none of its own.
        trusted: Proxies whose word counts.
        form: In which header fields the limits speak.
        observe: Is told of every verdict.
        on_denied: Makes the answer to a request that was denied.
        limit_options: Whether an OPTIONS that Flask answers by itself counts.
        preflights: How CORS preflights count that do: as ``Rule.preflights``.
        limit_static: Whether Flask's own routes for static files count.
        write: Says in a response what was decided.
        refuse: Makes the exception for a refusal.
        fallback: Limits that each process decides by itself while the store does not.
        make_fallback: Makes a limiter for those.

    """

    name: str
    base: Limiter
    make: Make
    identity: Identity
    application: Sequence[DeclaredLimit] = ()
    default: Sequence[DeclaredLimit] = ()
    trusted: Sequence[Network] = ()
    form: str = "draft-11"
    observe: Observer | None = None
    on_denied: Callable[[Verdict], Any] | None = None
    limit_options: bool = False
    limit_static: bool = False
    preflights: bool | Literal["apart"] = "apart"
    write: Callable[[Response, RequestState], None] = write_fields
    refuse: Callable[[Verdict, Callable[[Verdict], Any] | None], Exception] = refuse
    fallback: Sequence[DeclaredLimit] = ()
    make_fallback: Make | None = None
