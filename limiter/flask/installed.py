"""The limits of one application at work: asked before its views, told in its responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request
from werkzeug.wsgi import ClosingIterator

from limiter.errors import StoreUnavailable
from limiter.flask.finder import Finder, Found, Where
from limiter.flask.limits import Limit, ViewRule
from limiter.flask.passage import Entry, Passage
from limiter.flask.registry import Registry
from limiter.flask.setup import Setup
from limiter.web.guard import Guard
from limiter.web.request import Request, from_wsgi


class Installed:
    """Asks and tells the limits of one application."""

    def __init__(self, registry: Registry, app: Flask, setup: Setup) -> None:
        self._registry, self._setup = registry, setup
        self._finder = Finder(registry, app, setup)
        self.forget = self._finder.forget
        app.before_request(self.enter)
        app.after_request(self.answer)
        inner = app.wsgi_app

        def with_leases(environ: Any, start_response: Any) -> Any:
            """Give leases back when the response is closed, or when there will be none."""
            try:
                body = inner(environ, start_response)
            except BaseException:
                if (passage := Passage.known(environ)) is not None:
                    passage.leave()
                raise
            passage = Passage.known(environ)
            if passage is None or not passage.holds:
                return body
            return ClosingIterator(body, passage.leave)

        app.wsgi_app = with_leases  # type: ignore[method-assign]

    def rules(self, endpoint: str | None, method: str) -> tuple[ViewRule, ...]:
        """The rules of a route; None: of what no route matches."""
        guard = self._finder.find(Where(endpoint, method)).guard
        return () if guard is None else tuple(guard.rules)  # type: ignore[arg-type]  # all are

    def enter(self) -> None:
        """Ask all limits about the current request; an exception answers it in its view's place."""
        current = request._get_current_object()  # type: ignore[attr-defined]
        passage = Passage.of(current.environ)
        where = self._finder.where(current)
        says = self._registry.exempt_when
        if where is None or (says and any(one() for one in says)):
            passage.free.append(self._registry)
            return
        found = self._finder.find(where)
        passage.met.append(found.own)
        if found.dynamic:
            found = self._by_amounts(where, found, passage)
        if found.guard is not None:
            self._pass(found.guard, where, current, passage)

    def enter_late(self, limit: Limit, function: Callable[..., Any]) -> None:
        """Ask a limit on a function that is called, and is no view that Flask knows."""
        current = request._get_current_object()  # type: ignore[attr-defined]
        passage = Passage.of(current.environ)
        where = self._finder.where(current)
        if where is None or self._registry in passage.free or not limit.is_about(current.method):
            return
        passage.met.append(frozenset({limit}))
        if callable(limit.amount):
            passage.amounts[limit] = limit.amount()
            if passage.amounts[limit] is None:
                return
        self._pass(self._finder.late(limit, function, current.method), where, current, passage)

    def answer(self, response: Response) -> Response:
        """Settle what waited for the response, and say in it what was decided."""
        passage = Passage.known(request.environ)
        if passage is not None and passage.entries:
            if self._finder.settles:
                passage.settle(self, response)
            self._setup.write(response, passage)
        return response

    def _by_amounts(self, where: Where, found: Found, passage: Passage) -> Found:
        """What holds by what the functions say; where one says nothing, what it would override does."""
        amounts = passage.amounts
        while asked := [limit for limit in found.dynamic if limit not in amounts]:
            for limit in asked:
                amounts[limit] = limit.amount()  # type: ignore[operator]  # it is a function
            silent = frozenset(limit for limit, said in amounts.items() if said is None)
            found = self._finder.find(where._replace(silent=silent))
        return found

    def _pass(self, guard: Guard, where: Where, current: Any, passage: Passage) -> None:
        asked = _request(current)
        verdict = guard.enter(asked)
        if self._setup.fallback and isinstance(verdict.error, StoreUnavailable):
            guard = self._finder.fallback(where)
            verdict = guard.enter(asked)
        passage.entries.append(Entry(self, guard, verdict))
        if verdict.leases:
            passage.holds = True
        if not verdict.allowed:
            raise self._setup.refuse(verdict, self._setup.on_denied)


def _request(current: Any) -> Request:
    """A Flask request as the rules see it."""
    parts = current.view_args
    if not parts:
        return from_wsgi(current.environ)
    return from_wsgi(current.environ, {name: str(value) for name, value in parts.items()})
