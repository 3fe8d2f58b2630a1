"""What is known of one request, from its arrival to the end of its response."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple

from flask import Request, Response

from limiter.flask.limits import DeclaredLimit
from limiter.flask.plain import Admission
from limiter.web.guard import Guard
from limiter.web.settling import settle
from limiter.web.verdict import Verdict, header_fields

#: The key of the leases in a WSGI environment.
_LEASES = "limiter.flask.leases"
#: The attribute of Flask's request that is its state.
_STATE = "_limiter_state"


class Entry(NamedTuple):
    """The verdict of one guard."""

    owner: object
    guard: Guard
    verdict: Verdict

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The verdict's header fields."""
        return self.verdict.fields


class ResponseLeases:
    """The leases that are held until a response is closed; kept in the environment of its request."""

    def __init__(self) -> None:
        self.is_limited = False
        """Whether limits are checked for the request."""
        self._closed = False
        self._held: list[Entry] = []
        self._changing = Lock()

    @classmethod
    def within(cls, environ: dict[str, Any]) -> tuple[ResponseLeases, dict[str, Any]]:
        """Make the leases of a run of the application, and its environment.

        An environment with leases is of another run: a view calls the application, a middleware retries,
        or the application has several extensions. Then this run gets a copy.
        """
        leases = cls()
        if _LEASES in environ:
            return leases, {**environ, _LEASES: leases}
        environ[_LEASES] = leases
        return leases, environ

    @staticmethod
    def known(environ: Mapping[str, Any]) -> ResponseLeases | None:
        """The leases of a request; None if there are none to come."""
        return environ.get(_LEASES)

    def hold(self, entry: Entry) -> bool:
        """Hold the leases of a verdict; False if the response has been closed."""
        with self._changing:
            if not self._closed:
                self._held.append(entry)
            return not self._closed

    def close(self) -> None:
        """Release the leases: the response is closed."""
        with self._changing:
            self._closed = True
            held, self._held = self._held, []
        for entry in held:
            entry.guard.leave(entry.verdict)


class RequestState:
    """The verdicts on a request; an attribute of Flask's request, so that each run has its own."""

    __slots__ = ("amounts", "clock_ahead", "entries", "free", "passed")

    def __init__(self) -> None:
        self.entries: list[Entry | Admission] = []
        #: Limits that admitted the request, or do not apply to it.
        self.passed: list[frozenset[DeclaredLimit]] = []
        #: What dynamic limits returned for the request.
        self.amounts: dict[DeclaredLimit, Any] = {}
        #: By registry: whether the request is exempt from all of its limits.
        self.free: dict[object, bool] = {}
        #: Seconds by which this process's clock is ahead of the store's, for dates in header fields.
        self.clock_ahead = 0.0

    @classmethod
    def of(cls, request: Request) -> RequestState:
        """The state of a request; a new request gets one."""
        state = cls.known(request)
        if state is None:
            state = cls()
            setattr(request, _STATE, state)
            leases = ResponseLeases.known(request.environ)
            if leases is not None:
                leases.is_limited = True
        return state

    @staticmethod
    def known(request: Request) -> RequestState | None:
        """The state of a request; None if no limit was checked."""
        return getattr(request, _STATE, None)

    def has_passed(self, limit: DeclaredLimit) -> bool:
        """Whether a limit needs no further check."""
        return any(limit in passed for passed in self.passed)

    def add(self, entry: Entry, environ: Mapping[str, Any]) -> None:
        """Record the verdict of a guard; its leases are held until the response is closed.

        A lease that is taken later, by a thread that outlives the request, is released at once.
        """
        self.entries.append(entry)
        if entry.verdict.leases:
            leases = ResponseLeases.known(environ)
            if leases is None or not leases.hold(entry):
                entry.guard.leave(entry.verdict)

    def verdict(self, owner: object) -> Verdict | None:
        """The verdicts of one extension's guards, combined."""
        verdicts = [entry.verdict for entry in self.entries if entry.owner is owner]
        if len(verdicts) < 2:
            return verdicts[0] if verdicts else None
        last = verdicts[-1]
        results = tuple(result for verdict in verdicts for result in verdict.results)
        return Verdict(last.status, results, header_fields(results), last.body, last.error)

    def fields(self) -> list[tuple[str, str]]:
        """The header fields of all verdicts."""
        if len(self.entries) == 1:
            return self.entries[0].fields
        return header_fields(result for entry in self.entries for result in entry.verdict.results)

    def settle(self, owner: object, response: Response) -> None:
        """Refund, once, what the response does not charge.

        Flask passes a second response if it could not finish the first one.
        """
        for entry in self.entries:
            if type(entry) is Entry and entry.owner is owner:
                refunded = [each.result for each in settle(entry.verdict, response)]
                if refunded:
                    entry.verdict.refund(refunded)
