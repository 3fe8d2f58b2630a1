"""What is known of one request, from its arrival to the end of its response."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple

from flask import Response

from limiter.flask.limits import DeclaredLimit, ViewRule
from limiter.web.guard import Guard
from limiter.web.verdict import Result, Verdict, header_fields

_KEY = "limiter.flask"


class Entry(NamedTuple):
    """The verdict of one guard."""

    owner: object
    guard: Guard
    verdict: Verdict


class RequestState:
    """What was decided about a request; kept beside it, in its environment."""

    __slots__ = (
        *("_changing", "_closed", "_held", "_returned"),
        *("amounts", "clock_ahead", "entries", "free", "met"),
    )

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        #: Limits that have let the request pass, or have no say in it.
        self.met: list[frozenset[DeclaredLimit]] = []
        #: What dynamic limits returned for the request.
        self.amounts: dict[DeclaredLimit, Any] = {}
        #: Whether the request is free of all limits of a registry.
        self.free: dict[object, bool] = {}
        #: Seconds by which this process's clock is ahead of the store's; noted where dates are written.
        self.clock_ahead = 0.0
        self._held: list[Entry] = []
        #: What was given back already, by the id of what was asked.
        self._returned: set[int] = set()
        self._closed = False
        self._changing = Lock()

    @classmethod
    def of(cls, environ: dict[str, Any]) -> RequestState:
        """The request's, begun where it is new."""
        state: RequestState | None = environ.get(_KEY)
        if state is None:
            state = environ[_KEY] = cls()
        return state

    @staticmethod
    def known(environ: Mapping[str, Any]) -> RequestState | None:
        """The request's; None where no limit has looked at it."""
        return environ.get(_KEY)

    @property
    def is_under_way(self) -> bool:
        """Whether a limit has looked at the request, or its response has been closed."""
        return bool(self.free) or self._closed

    def within(self, environ: Mapping[str, Any]) -> dict[str, Any]:
        """The same environment of a request whose state is this one."""
        return {**environ, _KEY: self}

    def has_met(self, limit: DeclaredLimit) -> bool:
        """Whether a limit need not be asked any more."""
        return any(limit in met for met in self.met)

    def add(self, entry: Entry) -> None:
        """Note the verdict of a guard; its leases are held until the response is closed.

        What is taken after that (by a thread that outlives the request) is given straight back.
        """
        self.entries.append(entry)
        if not entry.verdict.leases:
            return
        with self._changing:
            if not self._closed:
                self._held.append(entry)
                return
        entry.guard.leave(entry.verdict)

    def verdict(self, owner: object) -> Verdict | None:
        """The verdicts of one extension's guards, as one."""
        verdicts = [entry.verdict for entry in self.entries if entry.owner is owner]
        if len(verdicts) < 2:
            return verdicts[0] if verdicts else None
        last = verdicts[-1]
        results = [result for verdict in verdicts for result in verdict.results]
        return Verdict(last.status, results, header_fields(results), last.body, last.error)

    def fields(self) -> list[tuple[str, str]]:
        """The header fields of all verdicts."""
        if len(self.entries) == 1:
            return self.entries[0].verdict.fields
        return header_fields(result for entry in self.entries for result in entry.verdict.results)

    def settle(self, owner: object, response: Response) -> None:
        """Give back, once, what by the response is not to be charged.

        Flask shows a second response where it failed to finish the first one.
        """
        for entry in self.entries:
            if entry.owner is owner and entry.verdict.allowed:
                unused = [
                    result
                    for result in entry.verdict.results
                    if id(result.part) not in self._returned and _is_unused(result, response)
                ]
                if unused:
                    self._returned.update(id(result.part) for result in unused)
                    entry.guard.give_back(entry.verdict, unused)

    def leave(self) -> None:
        """The response is closed: give the leases back."""
        with self._changing:
            self._closed = True
            held, self._held = self._held, []
        for entry in held:
            entry.guard.leave(entry.verdict)


def _is_unused(result: Result, response: Response) -> bool:
    deduct_when = result.rule.limit.deduct_when if isinstance(result.rule, ViewRule) else None
    return deduct_when is not None and result.decision.allowed and not deduct_when(response)
