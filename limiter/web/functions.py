"""Functions that an application gives to a limit: how many arguments they take is checked once.

A function with the wrong arguments is an error where it is given, not at the first request. This module
calls no function, and does not know what a function is for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from limiter.errors import InvalidSetting
from limiter.web.identity import Network
from limiter.web.request import Request

OfRequest = Callable[[Request, Sequence[Network]], Any]


def accepted(setting: str) -> str:
    """What a function of a request may take, for messages."""
    return (
        f"a function of nothing, of the request, or of the request and the trusted networks, as in "
        f"{setting}=lambda request: ..."
    )


def of_request(setting: str, function: Callable[..., Any], usual: int = 2) -> OfRequest:
    """The function, to be called with the request and the trusted networks, of which it may take fewer.

    The parameters without a default are counted. Where others (``*args``, or some with a default) leave
    it open, the function is called with as many arguments as is ``usual`` in its framework.

    Raises:
        InvalidSetting: It takes others, or it is asynchronous or a generator.

    """
    expected = f"accepted is {accepted(setting)}"
    signature = _signature(setting, function, expected)
    count = usual
    if signature is not None and not _binds(signature, usual):
        count = len(_required(signature))
        if count > 2 or not _binds(signature, count):
            raise InvalidSetting.of(setting, _called(function, signature), expected)
    if count == 0:
        return lambda request, trusted: function()  # noqa: ARG005 (it looks at neither)
    if count == 1:
        return lambda request, trusted: function(request)  # noqa: ARG005 (nor at these)
    return function


def check_function(setting: str, function: object, *arguments: str, more: str = "") -> None:
    """Raise InvalidSetting where this is no function that can be called with these arguments.

    ``more`` is what else is accepted, or what to do.
    """
    takes = f"of {' and '.join(arguments)}" if arguments else "without arguments"
    expected = f"accepted is a function {takes}{more}"
    if not callable(function):
        raise InvalidSetting.of(setting, repr(function), expected)
    signature = _signature(setting, function, expected)
    if signature is not None and not _binds(signature, len(arguments)):
        raise InvalidSetting.of(setting, _called(function, signature), expected)


def _signature(
    setting: str, function: Callable[..., Any], expected: str
) -> inspect.Signature | None:
    """The function's signature; None where Python does not know it, as of some that are written in C."""
    try:
        call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        is_late = any(_returns_late(one) for one in (function, call))
        signature = inspect.signature(function)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: one of Flask's proxies
        return None
    if is_late:
        value = f"{_called(function, signature)}, which is async or a generator"
        raise InvalidSetting.of(setting, value, f"{expected}; it must return its result itself")
    return signature


def _returns_late(function: Any) -> bool:
    """Whether a call gives no result, but what would have to be awaited or iterated."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _required(signature: inspect.Signature) -> list[inspect.Parameter]:
    """The positional parameters without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    every = signature.parameters.values()
    return [one for one in every if one.kind in kinds and one.default is inspect.Parameter.empty]


def _called(function: Any, signature: inspect.Signature) -> str:
    """The function as its definition begins, for a message."""
    return f"{getattr(function, '__name__', None) or type(function).__name__}{signature}"
