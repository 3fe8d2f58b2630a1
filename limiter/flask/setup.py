"""The settings of one application's limits, and the functions that make their limiters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flask import Response

from limiter.client import Limiter
from limiter.flask.limits import DeclaredLimit
from limiter.flask.refusals import refuse
from limiter.flask.request_state import RequestState
from limiter.grammar import Limits
from limiter.web.guard import Observer, Verdict
from limiter.web.identity import Network, TrustedNetworks
from limiter.web.subjects import Identity

#: Makes a limiter with a name and limits.
Make = Callable[[str, Limits], Limiter]


def write_fields(response: Response, state: RequestState) -> None:
    """Write the decisions into the response's header."""
    headers = response.headers
    for name, value in state.fields():
        headers.set(name, value)


@dataclass
class Setup:
    """The settings that all limits of an application share.

    Attributes:
        name: Prefix of the name of every limiter.
        base: The limiter whose store all others share.
        make: Makes a limiter on the store of ``base``.
        preflights: How CORS preflights count: as ``Rule.preflights``.
        write: Writes the decisions into a response.
        refuse: Makes the exception for a refusal.
        fallback: Limits that each process decides by itself while the store does not.
        make_fallback: Makes a limiter for ``fallback``.
        identity, application, ...: As the arguments of ``FlaskLimiter``.

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

    def __post_init__(self) -> None:
        self.trusted = TrustedNetworks(self.trusted)


def maker(base: Limiter, algorithm: str | None, settings: Mapping[str, Any]) -> Make:
    """A function that makes limiters on the store of ``base``; the algorithm is for limit strings."""
    kept = {name: value for name, value in settings.items() if name not in ("store", "name")}

    def make(name: str, limits: Limits) -> Limiter:
        chosen = algorithm if isinstance(limits, str) else None
        return Limiter(limits, store=base, name=name, algorithm=chosen, **kept)

    return make
