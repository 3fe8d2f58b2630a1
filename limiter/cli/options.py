"""What the commands that ask a store share: their options, and the limiter that these mean."""

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

#: A process that asks once has to connect first.
_TIMEOUT = 2.0

store_option = click.option(
    "--store", metavar="URL", help="Where the state is.  [default: LIMITER_STORE]"
)
_LIMITS = (
    click.argument("limits", nargs=-1, metavar="[LIMIT]..."),
    click.argument("key"),
    store_option,
    click.option(
        "--algorithm",
        type=click.Choice(list(ALGORITHMS)),
        help="Of every limit.  [default: LIMITER_ALGORITHM, or sliding_log]",
    ),
)
_REST = (
    click.option(
        "--name", help="Limiters with one name share their state.  [default: LIMITER_NAME]"
    ),
    click.option("--tag", help="Subjects with one tag lie in one slot of a cluster."),
    click.option(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help=f"For the decision, connecting included.  [default: LIMITER_TIMEOUT, or {_TIMEOUT:g}]",
    ),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")


def _all(options: tuple[Callable[[_Function], _Function], ...], function: _Function) -> _Function:
    for option in reversed(options):
        function = option(function)
    return function


#: The arguments and options of a call about a subject and its limits.
about_limits = partial(_all, (*_LIMITS, *_REST, _JSON, _QUIET))
#: The options of one that brings its own arguments.
about_leases = partial(_all, (store_option, *_REST))


class Wait(click.FloatRange):
    """Seconds from 0; to Click alone, what is no number is in any range."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The seconds."""
        found: float = super().convert(value, param, ctx)
        if isnan(found):
            self.fail(f"{value}: accepted are seconds from 0", param, ctx)
        return found


def subject(text: str) -> bytes:
    """A key or a tag as it was typed, whatever its bytes."""
    return text.encode(errors="surrogateescape")


def optional_tag(text: str | None) -> bytes | None:
    """A tag as it was typed, if one was."""
    return None if text is None else subject(text)


def limiter_of_strings(limits: tuple[str, ...], key: str, **options: Any) -> Limiter:
    """A limiter by the command line, and by the environment where that is silent.

    Raises:
        click.UsageError: Something is missing, or stands in another's place.
        InvalidSetting, InvalidPolicy: As the limiter.

    """
    try:
        read_limits(key)
    except InvalidPolicy:
        pass
    else:
        raise click.UsageError(f"{key!r} is a limit: the last argument is KEY, whom it is for")
    given = {**options, "limits": "; ".join(limits) or None}
    return _limiter(given, "no limit: give it before KEY, as in 100/minute, or in LIMITER_LIMITS")


def limiter_of_leases(limit: int, lease: float, **options: Any) -> Limiter:
    """A limiter of leases; what the environment says of limits is not about them.

    Raises:
        click.UsageError: Something is missing.
        InvalidSetting, InvalidPolicy: As the limiter.

    """
    given = {**options, "limits": Concurrency(limit, lease=lease)}
    return _limiter(given, "", hidden=("algorithm",))


def needs_store(store: str | None, environ: Mapping[str, str]) -> str:
    """The store's URL.

    Raises:
        click.UsageError: There is none, or one that ends with the command.

    """
    found = store or environ.get(settings.VARIABLES["store"])
    if not found:
        raise click.UsageError(
            "no store: give --store, as in redis://127.0.0.1:6379/0, or LIMITER_STORE"
        )
    if found == MEMORY:
        raise click.UsageError(
            f"store is {MEMORY}, which ends with this command: accepted is one that others share"
        )
    return found


def environment(*hidden: str) -> Mapping[str, str]:
    """The environment, without what the command line says."""
    return settings.with_config({}, hidden)


def _limiter(given: dict[str, Any], lacks: str, hidden: tuple[str, ...] = ()) -> Limiter:
    given = {name: value for name, value in given.items() if value is not None}
    environ = environment(*given, *hidden)
    given["store"] = needs_store(given.get("store"), environ)
    if not (given.get("limits") or environ.get(settings.VARIABLES["limits"])):
        raise click.UsageError(lacks)
    return Limiter.from_env(environ, **{"timeout": _TIMEOUT, **given})
