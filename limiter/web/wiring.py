"""Makes a guard from a middleware's arguments, and header fields from its verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from limiter import settings
from limiter.aio import AsyncLimiter
from limiter.client import Limiter
from limiter.errors import InvalidPolicy, InvalidSetting
from limiter.web import limiter_calls, problems
from limiter.web.by_response import of_arguments
from limiter.web.functions import accepted, of_request
from limiter.web.guard import AsyncGuard, Guard
from limiter.web.headers import FORMS
from limiter.web.identity import ADDRESS_FROM, Network
from limiter.web.rules import Cost, CostFunction, Rule, fixed_cost, one_unit
from limiter.web.subjects import ACCEPTED_IN_PROGRAMS, Identity, KeySpec, by_address, identity
from limiter.web.verdict import Observer, Verdict

#: Seconds of the denial cache where requests are limited, unless a setting says otherwise.
DENIAL_CACHE = 1.0

_AnyGuard = TypeVar("_AnyGuard", Guard, AsyncGuard)
_AnyLimiter = TypeVar("_AnyLimiter", bound="Limiter | AsyncLimiter")

Field = tuple[str, str]

#: The verdicts' key in the WSGI environ, or in the ASGI scope.
VERDICTS = "limiter.verdicts"

#: Fields that are lists: the items of two limiters are joined.
_LISTS = ("ratelimit-policy", "ratelimit")


class StoreSettings(TypedDict, total=False):
    """The settings of a middleware's limiter; missing ones are read from LIMITER_*."""

    store: object
    name: str | None
    prefix: str | None
    algorithm: str | None
    on_error: str | None
    local_share: int | None
    timeout: float | None
    connect_timeout: float | None
    key_secret: str | bytes | None
    denial_cache: float | None
    denial_cache_size: int | None
    prepaid: int | None
    prepaid_hold: float | None


class LimitSettings(StoreSettings, total=False):
    """The arguments that every limit of requests has, but for the key and the cost."""

    refund_unless: Iterable[str | int] | None
    true_cost: str | None

    enabled: bool
    form: str | None
    trusted: str | Iterable[str | Network] | None
    address_from: str | None
    observe: Observer | None


class GuardSettings(LimitSettings, total=False):
    """The arguments of each middleware, which ``source`` takes."""

    key: KeySpec | None
    cost: int | CostFunction | None


def source(
    guard_class: type[_AnyGuard],
    limiter_class: type[Limiter] | type[AsyncLimiter],
    limits: Any,
    *,
    enabled: bool = True,
    key: KeySpec | None = None,
    cost: int | CostFunction | None = None,
    form: str | None = None,
    trusted: str | Iterable[str | Network] | None = None,
    address_from: str | None = None,
    observe: Observer | None = None,
    refund_unless: Iterable[str | int] | None = None,
    true_cost: str | None = None,
    **given: Any,
) -> Callable[[], _AnyGuard]:
    """Return a function that returns the guard of each request.

    ``limits`` are what a limiter takes, or a limiter, a rule, several rules, a guard, or an object whose
    ``guard`` may change while it runs. Missing arguments are read from the environment. If ``enabled`` is
    False, no argument and no variable is read, and every request passes.

    Raises:
        InvalidSetting: A setting is invalid, or ``limits`` have a setting of their own in its place.
        InvalidPolicy: A limit is invalid.
        InvalidCost: The cost is more than the limits ever admit at once.

    """
    check_flag("enabled", enabled)
    if not enabled:
        empty = guard_class([], ())
        return lambda: empty
    by_response = {"refund_unless": refund_unless, "true_cost": true_cost}
    rule_settings = {"key": key, "cost": cost, "form": form, **by_response, **given}
    if isinstance(limits, (Guard, AsyncGuard)) or hasattr(limits, "guard"):
        of_guard = {"trusted": trusted, "address_from": address_from, "observe": observe}
        _refuse({**rule_settings, **of_guard}, "a guard")
        return _guards(guard_class, limits)
    rules = _rules(limits)
    if rules:
        _refuse(rule_settings, "rules")
    elif rules is None:
        if isinstance(limits, (Limiter, AsyncLimiter)):
            _refuse(given, "a limiter")
        else:
            limits = limiter_by(limiter_class, limits, given)
        rules = [
            Rule(
                limits,
                identity=identity_by(key),
                cost=_cost(cost),
                form=chosen("form", form, FORMS),
                by_response=of_arguments(limits.policies, **by_response),
                unit="" if true_cost is None else "units",
            )
        ]
        if isinstance(cost, int):
            limiter_calls.plan(limits).checked(cost, least=1)
    for rule in rules:
        if not isinstance(rule.limiter, limiter_class):
            raise InvalidSetting(f"{rule.limiter!r}: expected {limiter_class.__name__}")
    guard = guard_class(
        rules, networks(trusted), observe, chosen("address_from", address_from, ADDRESS_FROM)
    )
    return lambda: guard


def is_plain(limits: Any) -> bool:
    """Whether these are limits alone, without names, keys and stores."""
    brings = (Limiter, AsyncLimiter, Guard, AsyncGuard)
    return not isinstance(limits, brings) and not hasattr(limits, "guard") and not _rules(limits)


def _rules(limits: Any) -> list[Rule] | None:
    """Return the rules, if these are rules (perhaps none); else None."""
    if isinstance(limits, Rule):
        return [limits]
    if isinstance(limits, Collection) and not isinstance(limits, str):
        rules = [rule for rule in limits if isinstance(rule, Rule)]
        return rules if len(rules) == len(limits) else None
    return None


def _guards(guard_class: type[_AnyGuard], given: Any) -> Callable[[], _AnyGuard]:
    """Return a function that returns this guard, or the current guard of this object."""
    if isinstance(given, guard_class):
        return lambda: given
    if isinstance(getattr(given, "guard", None), guard_class):
        return lambda: given.guard
    raise InvalidSetting(f"{given!r}: expected {guard_class.__name__}")


def limiter_by(
    limiter_class: Callable[..., _AnyLimiter], limits: Any, given: Mapping[str, Any]
) -> _AnyLimiter:
    """Make a limiter with the given settings (not None), and with the environment's for the rest.

    Raises:
        InvalidSetting, InvalidPolicy: As the limiter does; the message names an invalid variable.

    """
    given = {
        name: value for name, value in {**given, "limits": limits}.items() if value is not None
    }
    defaults = {"denial_cache": DENIAL_CACHE, **given}
    complete = {**settings.from_environment(None, defaults), **given}
    if not isinstance(complete["limits"], str) and "algorithm" not in given:
        complete.pop("algorithm", None)  # the variable is for limit strings
    try:
        return limiter_class(**complete)
    except (InvalidSetting, InvalidPolicy) as error:
        if error.setting in given or (isinstance(error, InvalidPolicy) and limits is not None):
            raise
        raise settings.named(error) from None


def limiters(guard: _AnyGuard) -> list[Any]:
    """Return every limiter of a guard, once."""
    return list({id(rule.limiter): rule.limiter for rule in guard.rules}.values())


def fields_of(verdicts: Sequence[Verdict]) -> list[Field]:
    """Return the header fields of several verdicts about one response, each name once.

    Lists are joined. Retry-After is the longest; any other field is the last verdict's.
    """
    merged: dict[str, Field] = {}
    for name, value in (field for verdict in verdicts for field in verdict.fields):
        before = merged.get(name.lower())
        if before is not None and name.lower() in _LISTS:
            value = f"{before[1]}, {value}"
        elif before is not None and name.lower() == "retry-after":
            value = max(before[1], value, key=int)
        merged[name.lower()] = (name, value)
    return list(merged.values())


def added_fields(present: Collection[str], fields: Iterable[Field]) -> list[Field]:
    """Return the fields to add to a response that has the ``present`` ones (names in lower case)."""
    return [
        (name, value)
        for name, value in fields
        if name.lower() in _LISTS or name.lower() not in present
    ]


def refusal(verdict: Verdict) -> tuple[list[Field], bytes]:
    """Return the header fields and the body of a refusal."""
    body = verdict.body.encode()
    fields = [
        ("Content-Type", problems.MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return [*fields, *verdict.fields], body


def identity_by(key: KeySpec | None) -> Identity:
    """Return the identity for a ``key``; None is the client's address.

    Raises:
        InvalidSetting: There is no such key.

    """
    if key is None:
        return by_address
    return of_request("key", key) if callable(key) else identity(key, ACCEPTED_IN_PROGRAMS)


def _cost(cost: int | CostFunction | None) -> Cost:
    if cost is None:
        return one_unit
    if callable(cost):
        return of_request("cost", cost)
    if isinstance(cost, int) and not isinstance(cost, bool) and cost >= 1:
        return fixed_cost(cost)
    expected = f"expected a whole number from 1, or {accepted('cost')}"
    raise InvalidSetting.of("cost", repr(cost), expected)


def chosen(setting: str, value: str | None, accepted: Sequence[str]) -> str:
    """Return a setting's value, one of the accepted ones; None is the first of them.

    Raises:
        InvalidSetting: It is another one.

    """
    if value is None or value in accepted:
        return value or accepted[0]
    raise InvalidSetting.of(setting, repr(value), f"expected {', '.join(accepted)}")


def check_flag(setting: str, value: object) -> None:
    """Raise InvalidSetting unless a value is True or False."""
    if not isinstance(value, bool):
        raise InvalidSetting.of(setting, repr(value), "expected True or False")


def networks(trusted: str | Iterable[str | Network] | None) -> tuple[Network, ...]:
    """Return the networks of trusted proxies; None is those of LIMITER_TRUSTED_PROXIES.

    Raises:
        InvalidSetting: A text is no network.

    """
    if trusted is None:
        return settings.trusted_proxies()
    parts = trusted.split(",") if isinstance(trusted, str) else trusted
    try:
        return tuple(settings.network(str(part)) for part in parts)
    except (TypeError, ValueError) as error:
        raise InvalidSetting.of(
            "trusted", repr(trusted), f"{error}; expected networks, and unix"
        ) from None


def _refuse(given: Mapping[str, Any], what: str) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise InvalidSetting(
            f"{names[0]} cannot be combined with {what}, which has its own: give one of them"
        )
