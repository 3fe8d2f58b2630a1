"""A limit as an application declares it, and the rule that it becomes for a route."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, TypedDict

from flask import Response, current_app
from flask import request as current

from limiter.client import Limiter
from limiter.errors import (
    InvalidCost,
    InvalidKey,
    InvalidPolicy,
    InvalidSetting,
    LimiterError,
    shown,
)
from limiter.flask import hooks
from limiter.grammar import Limits, read_limits
from limiter.keys import NAME, Key
from limiter.policies import Policy
from limiter.web.functions import check_function, of_request
from limiter.web.guard import Verdict
from limiter.web.identity import Network, Unidentified
from limiter.web.match import SkipReason
from limiter.web.request import Request
from limiter.web.rules import UNIDENTIFIED, Check, CostFunction, Rule
from limiter.web.subjects import (
    ACCEPTED_IN_PROGRAMS,
    TOKEN,
    Identity,
    KeySpec,
    checked_subject,
    hashed,
    identity,
)
from limiter.web.wiring import check_flag, chosen

#: Limits, a limiter, or a function that returns limits for the current request; None: it has none.
Amount = Limits | Limiter | Callable[[], "Limits | None"]

log = logging.getLogger("limiter.flask")

_LONGEST = 64

#: Arguments of a function whose signature is not known: none, since it can read ``flask.request``.
_USUAL = 0
#: The arguments of the other functions of a limit.
_FUNCTIONS = {"exempt_when": (), "deduct_when": ("the response",), "on_denied": ("the verdict",)}
#: For messages: what limits may be, and what to do if a view is given in their place.
AMOUNTS = (
    "a limit string, a policy, several policies, or a function that returns one of these, or None; "
    "or a Limiter"
)
PARENTHESES = 'above a view, write the limits in parentheses: @limits.limit("5/minute")'


class LimitOptions(TypedDict, total=False):
    """The options of ``FlaskLimiter.limit``."""

    key: KeySpec | None
    cost: int | CostFunction
    methods: Iterable[str]
    per_method: bool
    exempt_when: Callable[[], Any] | None
    deduct_when: Callable[[Response], Any] | None
    override_defaults: bool
    on_denied: Callable[[Verdict], Any] | None
    shadow: bool
    percent: float
    unidentified: str


@dataclass(frozen=True, eq=False)
class DeclaredLimit:
    """A limit as a decorator or the extension declares it.

    The fields are the arguments of ``FlaskLimiter.limit`` and ``shared_limit``, and ``message``, the text
    of the response to a denied request. ``identity`` is the key's; None: the extension's. The result of a
    function as ``scope`` becomes a part of the subject.

    """

    amount: Amount
    identity: Identity | None = None
    cost: int | CostFunction = 1
    methods: frozenset[str] = frozenset()
    per_method: bool = False
    exempt_when: Callable[[], Any] | None = None
    deduct_when: Callable[[Response], Any] | None = None
    override_defaults: bool = True
    scope: str | Callable[[str], str] | None = None
    on_denied: Callable[[Verdict], Response | None] | None = None
    shadow: bool = False
    percent: float = 100.0
    unidentified: str = "refuse"
    message: str | Callable[[], str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.amount, str):
            read_limits(self.amount)  # a mistake raises when the module is loaded
        elif isinstance(self.amount, Iterable):
            object.__setattr__(self, "amount", tuple(self.amount))
        if isinstance(self.amount, Limiter):
            if self.scope is not None or self.per_method:
                option = "per_method" if self.scope is None else "scope"
                raise InvalidSetting(
                    f"{option} cannot be combined with a Limiter, which is one count"
                )
        elif callable(self.amount):
            note = f" that returns the limits of a request; {PARENTHESES}"
            check_function("limits", self.amount, more=note)
        elif not (isinstance(self.amount, (str, Policy)) or _are_policies(self.amount)):
            raise InvalidPolicy.of("limits", repr(self.amount), f"expected {AMOUNTS}")
        is_number = isinstance(self.percent, (int, float)) and not isinstance(self.percent, bool)
        if not (is_number and 0 <= self.percent <= 100):
            raise InvalidSetting.of("percent", shown(self.percent), "expected 0 to 100")
        if callable(self.cost):
            object.__setattr__(self, "cost", of_request("cost", self.cost, _USUAL))
        else:
            checked_cost(self.cost)
        check_flag("shadow", self.shadow)
        chosen("unidentified", self.unidentified, UNIDENTIFIED)
        for name, arguments in _FUNCTIONS.items():
            value = getattr(self, name)
            if value is not None:
                check_function(name, value, *arguments)
        if not (self.scope is None or (isinstance(self.scope, str) and self.scope)):
            check_function("scope", self.scope, "the endpoint", more=", or a text")

    @property
    def by_response(self) -> Callable[[Response], int | None] | None:
        """The true cost of a request by its response: nothing if ``deduct_when`` does not count it."""
        deduct_when = self.deduct_when
        if deduct_when is None:
            return None
        return lambda response: None if deduct_when(response) else 0

    def is_about(self, method: str) -> bool:
        """Whether the limit applies to a method."""
        return not self.methods or method in self.methods


@dataclass(frozen=True)
class ViewRule(Rule):
    """The rule of a limit for one route and method."""

    limit: DeclaredLimit = field(kw_only=True)
    called: str = field(kw_only=True)
    """Its name in header fields and refusals; the limiter's name is for keys."""
    by_amount: Callable[[], ViewRule] | None = field(kw_only=True, default=None)
    """If the limit is a function: returns the rule for the current request."""

    @property
    def name(self) -> str:
        """The name of its route, its blueprint or its scope."""
        return self.called

    def consider(self, request: Request, trusted: Sequence[Network]) -> Check | SkipReason:
        """As ``Rule.consider``, with the functions of the limit.

        Raises:
            Unidentified: The request has no subject, and the limit refuses such requests.
            Mistake: One of the functions returned a wrong value.
            Exception: One of the functions raised it; the request does not pass.

        """
        limit = self.limit
        if limit.exempt_when is not None and limit.exempt_when():
            return SkipReason.EXEMPT_KEY
        try:
            rule = self if self.by_amount is None else self.by_amount()
            subject = self._subject(request, trusted, self._counts_apart(request))
            cost = limit.cost
            if callable(cost):
                cost = checked_cost(cost(request, trusted))  # type: ignore[call-arg]  # it takes both
            scope = _scope(limit.scope) if callable(limit.scope) else ()
        except Unidentified:
            raise
        except LimiterError as error:
            raise Mistake(str(error)) from error
        if subject is None:
            return SkipReason.UNIDENTIFIED
        if self.percent < 100 and not self._holds_for(subject):
            return SkipReason.PERCENT
        if scope:
            subject = (*scope, *(subject if isinstance(subject, tuple) else (subject,)))
        return Check(rule, subject, cost, None)


class Mistake(Exception):
    """A function of the application returned a wrong value for a request.

    The answer is 500, since it is an error of the program: the request does not pass.
    """


def by_key(key: KeySpec) -> Identity:
    """The identity of a ``key``.

    Raises:
        InvalidSetting: The key is neither a known setting nor a function.

    """
    if not callable(key):
        return identity(key, ACCEPTED_IN_PROGRAMS)
    read, warn = of_request("key", key, _USUAL), _hooks_warning(key)

    def find(request: Request, trusted: Sequence[Network]) -> Key:
        try:
            subject = checked_subject(read(request, trusted))
        except Unidentified:
            warn(request)
            raise
        if isinstance(subject, tuple):
            return hashed("keys", repr(tuple(map(_text, subject))))
        return hashed("key", _text(subject))

    return find


def _hooks_warning(key: Any) -> Callable[[Request], None]:
    """A function that warns, once, if a key function finds no subject while hooks run after it."""
    warned: set[str] = set()

    def warn(request: Request) -> None:
        later = "" if warned else hooks.waiting(current_app, request.environ)
        if later:
            warned.add(later)
            log.warning(
                "key function %s returned no subject, and %s run after the limits: if it reads what they "
                "set, %s",
                getattr(key, "__qualname__", None) or repr(key),
                later,
                hooks.TO_DO,
            )

    return warn


def check_names(options: Mapping[str, Any], accepted: type) -> None:
    """Raise TypeError if an option is not a key of a TypedDict."""
    for name in options:
        if name not in accepted.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")


def named_methods(methods: Iterable[str]) -> frozenset[str]:
    """The methods of these names.

    Raises:
        InvalidSetting: They are not a list of names.

    """
    is_list = isinstance(methods, Iterable) and not isinstance(methods, str)
    names = list(methods) if is_list else []
    if not (is_list and all(isinstance(name, str) and TOKEN.fullmatch(name) for name in names)):
        raise InvalidSetting.of(
            "methods", repr(names or methods), "expected a list of names, like ['POST']"
        )
    return frozenset(name.upper() for name in names)


def checked_cost(cost: object) -> int:
    """A cost that was checked.

    Raises:
        InvalidCost: It is not a whole number from 0.

    """
    if isinstance(cost, int) and not isinstance(cost, bool) and cost >= 0:
        return int(cost)
    raise InvalidCost.of("cost", shown(cost), "expected a whole number from 0")


def state_name(*parts: str) -> str:
    """The parts joined by dots, as a limiter's name; hashed if a name cannot hold them."""
    name = ".".join(parts)
    if NAME.fullmatch(name):
        return name
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{parts[0][: _LONGEST - 1 - len(digest)]}.{digest}"


def header_name(text: str) -> str:
    """A name for a header field: quotes and characters outside ASCII are replaced."""
    plain = "".join(sign if " " <= sign <= "~" and sign not in '"\\' else "_" for sign in text)
    return plain[:_LONGEST] or "_"


def _scope(scope_of: Callable[[str], Any]) -> tuple[str]:
    """The scope that a function returns for the current request, as a part of the subject.

    The endpoint, if the function returns nothing.
    """
    endpoint = current.endpoint or ""
    return (hashed("scope", _text(scope_of(endpoint) or endpoint)),)


def _are_policies(amount: object) -> bool:
    return (
        isinstance(amount, tuple)
        and amount != ()
        and all(isinstance(policy, Policy) for policy in amount)
    )


def _text(part: object) -> str:
    if isinstance(part, bytes):
        return part.decode("utf-8", "surrogateescape")
    if isinstance(part, bool) or not isinstance(part, (str, int)):
        raise InvalidKey.of(
            "key",
            shown(part),
            "expected from a key function str, bytes, int, a tuple of those, "
            "and None for no subject",
        )
    return str(part)
