"""Enforce the limits of one application: check them before its views, report them in its responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flask import Flask, Response, current_app, request
from flask import Request as FlaskRequest
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from limiter.errors import StoreUnavailable
from limiter.flask import hooks
from limiter.flask.limits import DeclaredLimit, Mistake, ViewRule
from limiter.flask.plain import Admission, web_request
from limiter.flask.refusals import Refusal, is_final
from limiter.flask.registry import Registry
from limiter.flask.request_state import Entry, RequestState, ResponseLeases
from limiter.flask.resolver import LimitGroup, LimitResolver, RouteKey
from limiter.flask.setup import Setup
from limiter.web.closing import Closing
from limiter.web.guard import Guard, Verdict


class AppLimits:
    """Checks the limits of one application and reports them."""

    def __init__(
        self,
        registry: Registry,
        app: Flask,
        setup: Setup,
        resolver: type[LimitResolver] = LimitResolver,
    ) -> None:
        self._registry, self._setup = registry, setup
        self._resolver = resolver(registry, setup)
        self.base = setup.base
        self.check, self.forget = self._resolver.check, self._resolver.forget
        app.before_request(self.before_view)
        app.after_request(self.answer)
        inner = app.wsgi_app

        def with_leases(environ: Any, start_response: Any) -> Any:
            """Release leases when the response is closed, or when there will be none."""
            if not self._resolver.may_lease:
                return inner(environ, start_response)
            # Put it there now: a middleware below may pass a copy of the environment on.
            leases, environ = ResponseLeases.within(environ)
            try:
                body = inner(environ, start_response)
            except BaseException:
                leases.close()
                raise
            if leases.is_limited:
                return Closing(body, leases.close)
            # No limit was checked for the request: release at once what is taken from here on.
            leases.close()
            return body

        app.wsgi_app = with_leases  # type: ignore[method-assign]

    def rules(self, endpoint: str | None, method: str) -> tuple[ViewRule, ...]:
        """The rules of a route; ``endpoint`` None: of requests that no route matches."""
        limits = self._resolver.of_route(RouteKey(endpoint, method))
        guards = dict.fromkeys((limits.before.guard, limits.at_view.guard))
        return tuple(rule for guard in guards if guard for rule in guard.rules)  # type: ignore[misc]  # all are

    def before_view(self) -> BaseResponse | None:
        """Check the limits that apply before the current request's view.

        The response to a refused request is returned if raising the refusal would end with it.

        Raises: As ``enter``.
        """
        flask_request = _request()
        refused = self._refused(flask_request)
        if refused is None:
            return None
        if isinstance(refused, Refusal) and is_final(refused, flask_request.blueprints):
            return refused.response  # type: ignore[return-value]  # a response of Flask is one of werkzeug
        raise refused

    def enter(self) -> None:
        """Check the limits that apply before the current request's view.

        Raises:
            HTTPException: The request is refused.
            Mistake: A function of a limit failed, perhaps because it needs a hook that runs later.

        """
        refused = self._refused(_request())
        if refused is not None:
            raise refused

    def _refused(self, flask_request: FlaskRequest) -> Exception | None:
        """Check the limits that apply before the view; return the exception if the request is refused."""
        environ = flask_request.environ
        environ[hooks.RUNNING] = self.before_view
        try:
            current = self._current(flask_request)
            if current is not None:
                limits = self._resolver.of_route(current.key)
                refused = self._check(limits.before, self._before, current)
                if refused is not None:
                    return refused
                if not self._resolver.as_called:
                    current.state.passed.append(limits.own)
            return None
        except (AttributeError, KeyError) as error:
            is_answer = isinstance(error, HTTPException)  # such as that of request.args["user"]
            later = "" if is_answer else hooks.waiting(current_app, environ)
            if not later:
                raise
            raise Mistake(
                f"a function of a limit failed with {type(error).__name__} ({error}), and {later} run "
                f"after the limits: if it reads what they set, {hooks.TO_DO}"
            ) from error
        finally:
            environ.pop(hooks.RUNNING, None)

    def enter_view(self) -> None:
        """Check the limits that apply at the current request's view, unless they were checked already."""
        current = self._current(_request())
        if current is None:
            return
        limits = self._resolver.of_route(current.key)
        if not all(map(current.state.has_passed, limits.own)):
            refused = self._check(limits.at_view, self._at_view, current)
            if refused is not None:
                raise refused
            current.state.passed.append(limits.own)

    def check_call(self, limit: DeclaredLimit, function: Callable[..., Any]) -> None:
        """Check a limit of a function that is called; the request has not passed the limit yet."""
        current = self._current(_request())
        if current is None:
            return
        as_called = self._resolver.as_called
        if limit not in self._resolver.of_route(current.key).own:
            find = partial(self._resolver.of_function, limit, function)
            refused = self._check(find(current.key), find, current)
            if refused is not None:
                raise refused
            if not as_called:
                current.state.passed.append(frozenset({limit}))
        elif not (as_called and self._registry.on(function)):  # the innermost function checks all
            self.enter_view()

    def answer(self, response: Response) -> Response:
        """Refund what the response does not use, and write the decisions into its header."""
        state = RequestState.known(_request())
        if state is not None and state.entries:
            try:
                state.settle(self, response)
            finally:  # also if deduct_when raises an error
                self._setup.write(response, state)
        return response

    def _current(self, flask_request: FlaskRequest) -> _Current | None:
        """A request with its state; None if no limit applies to it."""
        key = self._resolver.key_of(flask_request)
        if key is None:
            return None
        state, registry = RequestState.of(flask_request), self._registry
        if registry not in state.free:
            exempt_when = registry.exempt_when
            state.free[registry] = (
                any(is_exempt() for is_exempt in exempt_when) if exempt_when else False
            )
        return None if state.free[registry] else _Current(flask_request, key, state)

    def _before(self, key: RouteKey) -> LimitGroup:
        return self._resolver.of_route(key).before

    def _at_view(self, key: RouteKey) -> LimitGroup:
        return self._resolver.of_route(key).at_view

    def _check(
        self, group: LimitGroup, find: Callable[[RouteKey], LimitGroup], current: _Current
    ) -> Exception | None:
        """Check a group; return the exception if the request is refused."""
        guard, flask_request = group.guard, current.flask_request
        if group.plain is not None:
            outcome = group.plain.enter(flask_request, self)
            if isinstance(outcome, Admission):
                current.state.entries.append(outcome)
                return None
            verdict = outcome
        else:
            if group.dynamic:
                guard = _guard_by_amounts(group, find, current)
            if guard is None:
                return None
            verdict = guard.enter(web_request(flask_request))
        if self._setup.fallback and isinstance(verdict.error, StoreUnavailable):
            return self._fall_back(current)
        return self._judge(guard, verdict, current)  # type: ignore[arg-type]  # a plain limit has a guard

    def _fall_back(self, current: _Current) -> Exception | None:
        """Check the limits that this process decides by itself, once in a request."""
        limits = frozenset(self._setup.fallback)
        if limits in current.state.passed:
            return None
        find = self._resolver.of_fallback
        guard = _guard_by_amounts(find(current.key), find, current)
        if guard is not None:
            verdict = guard.enter(web_request(current.flask_request))
            refused = self._judge(guard, verdict, current)
            if refused is not None:
                return refused
        current.state.passed.append(limits)
        return None

    def _judge(self, guard: Guard, verdict: Verdict, current: _Current) -> Exception | None:
        """Record a verdict; return the exception if it refuses the request."""
        current.state.add(Entry(self, guard, verdict), current.flask_request.environ)
        return None if verdict.allowed else self._setup.refuse(verdict, self._setup.on_denied)


class _Current(NamedTuple):
    """The current request, with the key that finds its limits."""

    flask_request: FlaskRequest
    key: RouteKey
    state: RequestState


def _guard_by_amounts(
    group: LimitGroup, find: Callable[[RouteKey], LimitGroup], current: _Current
) -> Guard | None:
    """The guard, by what dynamic limits return; a limit that returns None overrides no other."""
    key, amounts = current.key, current.state.amounts
    while group.dynamic:
        for limit in group.dynamic:
            if limit not in amounts:
                amounts[limit] = limit.amount()  # type: ignore[operator]  # it is a function
        silent = {limit for limit in group.dynamic if amounts[limit] is None}
        if not silent:
            break
        key = key._replace(silent=key.silent | silent)
        group = find(key)
    return group.guard


def _request() -> FlaskRequest:
    """The current request itself: each use of Flask's proxy for it costs a look-up."""
    return request._get_current_object()  # type: ignore[attr-defined, no-any-return]
