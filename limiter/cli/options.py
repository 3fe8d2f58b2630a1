"""Options of the commands that need a store, and the limiter that is built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isnan
from typing import Any, TypeVar

import click

from limiter import Concurrency, Limiter, settings
from limiter.errors import InvalidPolicy
from limiter.grammar import read_limits
from limiter.memory.transport import MEMORY
from limiter.policies import ALGORITHMS

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Longer than a limiter's own: a process that makes one call must connect first.
_TIMEOUT = 2.0

store_option = click.option(
    "--store", metavar="URL", help="The store that holds the state.  [default: LIMITER_STORE]"
)
_LIMITS = (
    click.argument("limits", nargs=-1, metavar="[LIMIT]..."),
    click.argument("key"),
    store_option,
    click.option(
        "--algorithm",
        type=click.Choice(list(ALGORITHMS)),
        help="The algorithm of every limit.  [default: LIMITER_ALGORITHM, or sliding_log]",
    ),
)
_REST = (
    click.option(
        "--name", help="Limiters with the same name share state.  [default: LIMITER_NAME]"
    ),
    click.option("--tag", help="Subjects with the same tag share a slot of a cluster."),
    click.option(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help=f"Time for the decision, with connecting.  [default: LIMITER_TIMEOUT, or {_TIMEOUT:g}]",
    ),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Print only errors.")


def _all(options: tuple[Callable[[_Function], _Function], ...], function: _Function) -> _Function:
    for option in reversed(options):
        function = option(function)
    return function


#: The arguments and options of a call about a subject and its limits.
about_limits = partial(_all, (*_LIMITS, *_REST, _JSON, _QUIET))
#: The options of a command that has its own arguments.
about_leases = partial(_all, (store_option, *_REST))


class Wait(click.FloatRange):
    """Seconds from 0, without NaN, which Click's range accepts."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds."""
        seconds: float = super().convert(value, param, ctx)
        if isnan(seconds):
            self.fail(f"{value}: expected seconds from 0", param, ctx)
        return seconds


def subject(text: str) -> bytes:
    """The bytes of a key or a tag as it was typed, UTF-8 or not."""
    return text.encode(errors="surrogateescape")


def optional_tag(text: str | None) -> bytes | None:
    """The bytes of a tag, if one was typed."""
    return None if text is None else subject(text)


def limiter_of_strings(limits: tuple[str, ...], key: str, **options: Any) -> Limiter:
    """The limiter of the command line; the environment gives what is missing there.

    Raises:
        click.UsageError: An argument is missing, or in a wrong place.
        InvalidSetting, InvalidPolicy: As ``Limiter``.

    """
    try:
        read_limits(key)
    except InvalidPolicy:
        pass
    else:
        raise click.UsageError(f"{key!r} is a limit: the last argument is KEY, the subject")
    given = {**options, "limits": "; ".join(limits) or None}
    return _limiter(given, "no limit: give it before KEY, as in 100/minute, or in LIMITER_LIMITS")


def limiter_of_leases(limit: int, lease: float, **options: Any) -> Limiter:
    """A limiter of leases; LIMITER_LIMITS and LIMITER_ALGORITHM are not read.

    Raises:
        click.UsageError: There is no store.
        InvalidSetting, InvalidPolicy: As ``Limiter``.

    """
    given = {**options, "limits": Concurrency(limit, lease=lease)}
    return _limiter(given, "", hidden=("algorithm",))


def needs_store(store: str | None, environ: Mapping[str, str]) -> str:
    """The store's URL.

    Raises:
        click.UsageError: There is none, or it is ``memory://``.

    """
    url = store or environ.get(settings.VARIABLES["store"])
    if not url:
        raise click.UsageError(
            "no store: give --store, as in redis://127.0.0.1:6379/0, or LIMITER_STORE"
        )
    if url == MEMORY:
        raise click.UsageError(
            f"store is {MEMORY}, which ends with this command: expected one that other processes share"
        )
    return url


def environment(*hidden: str) -> Mapping[str, str]:
    """The environment, without the variables of the settings in ``hidden``."""
    return settings.with_config({}, hidden)


def _limiter(given: dict[str, Any], missing: str, hidden: tuple[str, ...] = ()) -> Limiter:
    given = {name: value for name, value in given.items() if value is not None}
    environ = environment(*given, *hidden)
    given["store"] = needs_store(given.get("store"), environ)
    if not (given.get("limits") or environ.get(settings.VARIABLES["limits"])):
        raise click.UsageError(missing)
    return Limiter.from_env(environ, **{"timeout": _TIMEOUT, **given})
