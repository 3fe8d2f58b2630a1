"""The limits of one application at work: asked before its views, told in its responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException

from limiter.errors import StoreUnavailable
from limiter.flask import hooks
from limiter.flask.limits import DeclaredLimit, Mistake, ViewRule
from limiter.flask.registry import Registry
from limiter.flask.request_state import Entry, RequestState
from limiter.flask.resolver import LimitGroup, LimitResolver, RouteKey
from limiter.flask.setup import Setup
from limiter.web.closing import Closing
from limiter.web.guard import Guard, Verdict
from limiter.web.request import Request, from_wsgi


class AppLimits:
    """Asks and tells the limits of one application."""

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
        app.before_request(self.enter)
        app.after_request(self.answer)
        inner = app.wsgi_app

        def with_leases(environ: Any, start_response: Any) -> Any:
            """Give leases back when the response is closed, or when there will be none."""
            # Begun here, since a middleware below may hand the application a copy of the environment.
            state = RequestState.of(environ)
            if state.is_under_way:
                # Of another run: a view serves a request of its own making, or a middleware tries again.
                state = RequestState()
                environ = state.within(environ)
            try:
                body = inner(environ, start_response)
            except BaseException:
                state.leave()
                raise
            if state.free:
                return Closing(body, state.leave)
            # No limit has looked at the request: none may hold anything from here on.
            state.leave()
            return body

        app.wsgi_app = with_leases  # type: ignore[method-assign]

    def rules(self, endpoint: str | None, method: str) -> tuple[ViewRule, ...]:
        """The rules of a route; None: of what no route matches."""
        found = self._resolver.find(RouteKey(endpoint, method))
        guards = dict.fromkeys((found.before.guard, found.at_view.guard))
        return tuple(rule for guard in guards if guard for rule in guard.rules)  # type: ignore[misc]  # all are

    def enter(self) -> None:
        """Ask what is asked before the current request's view; an exception answers in its place.

        Raises:
            Mistake: A function of a limit failed, perhaps since a hook that runs later had not run yet.

        """
        environ = request.environ
        hooks.begin(environ, self.enter)
        try:
            here = self._here()
            if here is not None:
                self._ask(self._resolver.before, here)
                if not self._resolver.as_called:
                    here.state.met.append(self._resolver.find(here.where).own)
        except (AttributeError, KeyError) as error:
            is_answer = isinstance(error, HTTPException)  # as of request.args["user"]
            later = "" if is_answer else hooks.waiting(current_app, environ)
            if not later:
                raise
            raise Mistake(
                f"a function of a limit failed with {type(error).__name__} ({error}), and {later} run "
                f"after the limits: if it reads what they set, {hooks.TO_DO}"
            ) from error
        finally:
            hooks.end(environ)

    def enter_view(self) -> None:
        """Ask what is asked at the current request's view, where that has not happened yet."""
        here = self._here()
        own = frozenset() if here is None else self._resolver.find(here.where).own
        if here is not None and not all(map(here.state.has_met, own)):
            self._ask(self._resolver.at_view, here)
            here.state.met.append(own)

    def meet(self, limit: DeclaredLimit, function: Callable[..., Any]) -> None:
        """A limited function is called whose limit the request has not met: ask it."""
        here = self._here()
        if here is None:
            return
        as_called = self._resolver.as_called
        if limit not in self._resolver.find(here.where).own:
            self._ask(partial(self._resolver.late, limit, function), here)
            if not as_called:
                here.state.met.append(frozenset({limit}))
        elif not (as_called and self._registry.on(function)):  # the innermost asks for all of them
            self.enter_view()

    def answer(self, response: Response) -> Response:
        """Settle what waited for the response, and say in it what was decided."""
        state = RequestState.known(request.environ)
        if state is not None and state.entries:
            try:
                if self._resolver.settles:
                    state.settle(self, response)
            finally:  # also in the answer to an error of deduct_when
                self._setup.write(response, state)
        return response

    def _here(self) -> _Here | None:
        """The current request; None where no limit is about it."""
        current = request._get_current_object()  # type: ignore[attr-defined]
        where = self._resolver.where(current)
        if where is None:
            return None
        state, registry = RequestState.of(current.environ), self._registry
        if registry not in state.free:
            state.free[registry] = any(says() for says in registry.exempt_when)
        return None if state.free[registry] else _Here(current, where, state)

    def _ask(self, find: Callable[[RouteKey], LimitGroup], here: _Here) -> None:
        guard = _by_amounts(find, here)
        if guard is None:
            return
        asked = _request(here.current)
        verdict = guard.enter(asked)
        if self._setup.fallback and isinstance(verdict.error, StoreUnavailable):
            self._fall_back(asked, here)
        else:
            self._judge(guard, verdict, here.state)

    def _fall_back(self, asked: Request, here: _Here) -> None:
        """Ask, once in a request, what this process decides by itself."""
        limits = frozenset(self._setup.fallback)
        if limits in here.state.met:
            return
        guard = _by_amounts(self._resolver.fallback, here)
        if guard is not None:
            self._judge(guard, guard.enter(asked), here.state)
        here.state.met.append(limits)

    def _judge(self, guard: Guard, verdict: Verdict, state: RequestState) -> None:
        state.add(Entry(self, guard, verdict))
        if not verdict.allowed:
            raise self._setup.refuse(verdict, self._setup.on_denied)


class _Here(NamedTuple):
    """A request, and where it belongs."""

    current: Any
    where: RouteKey
    state: RequestState


def _by_amounts(find: Callable[[RouteKey], LimitGroup], here: _Here) -> Guard | None:
    """What holds by what the functions say; where one says nothing, what it would override does."""
    where, amounts = here.where, here.state.amounts
    found = find(where)
    while found.dynamic:
        for limit in found.dynamic:
            if limit not in amounts:
                amounts[limit] = limit.amount()  # type: ignore[operator]  # it is a function
        silent = {limit for limit in found.dynamic if amounts[limit] is None}
        if not silent:
            break
        where = where._replace(silent=where.silent | silent)
        found = find(where)
    return found.guard


def _request(current: Any) -> Request:
    """A Flask request as the rules see it."""
    parts = current.view_args
    if not parts:
        return from_wsgi(current.environ)
    return from_wsgi(current.environ, {name: str(value) for name, value in parts.items()})
