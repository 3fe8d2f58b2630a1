"""The base of the Flask extensions: declare limits, and enforce them in applications."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from flask import Flask, current_app, has_request_context, request
from werkzeug.local import LocalProxy

from limiter.decision import Decision
from limiter.errors import InvalidSetting
from limiter.flask.app_limits import AppLimits
from limiter.flask.limits import DeclaredLimit, ViewRule
from limiter.flask.registry import Declaration, Registry
from limiter.flask.request_state import RequestState
from limiter.flask.resolver import LimitResolver
from limiter.flask.setup import Setup
from limiter.web.guard import Verdict

Target = TypeVar("Target")


class Extension:
    """Declares limits, and enforces them in applications."""

    _resolver: ClassVar[type[LimitResolver]] = LimitResolver

    def __init__(self) -> None:
        self._registry = Registry()
        #: Weak, so that applications can be freed; None: no limit is enforced in the application.
        self._app_limits: WeakKeyDictionary[Flask, AppLimits | None] = WeakKeyDictionary()

    def open(self) -> None:
        """Connect now, so that no request waits for it. Optional; call it in each worker.

        Raises:
            StoreUnavailable, StoreRefused: The store cannot be used now; a request will try again.

        """
        for app_limits in self._enforced():
            app_limits.base.open()

    def close(self) -> None:
        """Close the idle connections; a later request makes new ones."""
        for app_limits in self._enforced():
            app_limits.base.close()

    @property
    def current(self) -> Verdict | None:
        """The verdict on the current request, with its results and header fields.

        None if no limit applies to the request, and outside of requests.
        """
        if not has_request_context():
            return None
        state, app_limits = RequestState.known(request), self._here()
        return state.verdict(app_limits) if state is not None and app_limits else None

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decision of each limit that applies to the current request."""
        verdict = self.current
        return () if verdict is None else tuple(result.decision for result in verdict.results)

    def rules(self, endpoint: str | None, method: str = "GET") -> tuple[ViewRule, ...]:
        """The rules of a route of the current application; None: of requests that no route matches.

        Each has its ``limiter``, whose ``peek``, ``reset`` and ``refund`` take the subject: an
        address, or the hash of a key.
        """
        app_limits = self._here()
        return () if app_limits is None else app_limits.rules(endpoint, method)

    def _here(self) -> AppLimits | None:
        """The limits of the current application; None: no limit is enforced in it."""
        return self._app_limits.get(current_app._get_current_object())  # type: ignore[attr-defined]

    def _enforced(self) -> list[AppLimits]:
        return [app_limits for app_limits in self._app_limits.values() if app_limits is not None]

    def _declare(self, limit: DeclaredLimit) -> Declaration:
        self._registry.declared(limit)
        for app, app_limits in self._app_limits.items():
            self._check_views(app)
            if app_limits is not None:
                app_limits.check(limit)

        def declare(target: Target) -> Target:
            # One decorator may limit several targets, each with a count of its own.
            own = limit if limit.scope is not None else replace(limit)
            limited = self._registry.limit(target, own, self._check_call)
            self._forget()
            return limited

        return Declaration(declare)

    def _check_views(self, app: Flask) -> None:
        for view in app.view_functions.values():
            self._registry.check_view(view)

    def _exempt(self, target: Target, exemption: object) -> Target:
        exempted = self._registry.exempt(target, exemption)
        self._forget()
        return exempted

    def _install(self, app: Flask, setup: Setup | None) -> None:
        """Enforce the limits in an application; without a setup, none of them."""
        if isinstance(app, LocalProxy):  # current_app, which Flask-AppBuilder passes
            app = app._get_current_object()
        if app in self._app_limits:
            raise InvalidSetting("app already enforces these limits: call init_app once for it")
        self._check_views(app)
        self._app_limits[app] = (
            None if setup is None else AppLimits(self._registry, app, setup, self._resolver)
        )

    def _forget(self) -> None:
        for app_limits in self._enforced():
            app_limits.forget()

    def _check_call(self, limit: DeclaredLimit, function: Callable[..., Any]) -> None:
        """Check the limit of a function that is called, unless the request has passed it already."""
        if not has_request_context():
            return
        state = RequestState.known(request)
        if state is not None and state.has_passed(limit):
            return
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        if app not in self._app_limits:
            self._called_elsewhere(function)
        elif (app_limits := self._app_limits[app]) is not None:
            app_limits.check_call(limit, function)

    def _called_elsewhere(self, function: Callable[..., Any]) -> None:
        """Refuse a call of a limited function in an application without ``init_app``."""
        raise InvalidSetting(
            f"{function.__name__} is limited, but its limits are not enforced in this app: call init_app"
        )
