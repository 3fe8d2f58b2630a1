"""Checks of the functions that an application passes to a limit: how many arguments they take.

A function with wrong arguments is an error when it is passed, not at the first request. This module
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
    """Describe which functions of a request are accepted, for error messages."""
    return (
        f"a function without arguments, of the request, or of the request and the trusted networks, as in "
        f"{setting}=lambda request: ..."
    )


def of_request(setting: str, function: Callable[..., Any], usual: int = 2) -> OfRequest:
    """Wrap a function so that it can be called with the request and the trusted networks.

    The function may take both, the request alone, or nothing: its parameters without a default are
    counted. If the signature also allows ``usual`` arguments (as ``*args`` does), it gets that many.

    Raises:
        InvalidSetting: It takes other arguments, or it is asynchronous or a generator.

    """
    expected = f"expected {accepted(setting)}"
    signature = _signature(setting, function, expected)
    count = usual
    if signature is not None and not _binds(signature, usual):
        count = len(_required(signature))
        if count > 2 or not _binds(signature, count):
            raise InvalidSetting.of(setting, _called(function, signature), expected)
    if count == 0:
        return lambda request, trusted: function()  # noqa: ARG005 (it takes neither)
    if count == 1:
        return lambda request, trusted: function(request)  # noqa: ARG005 (it takes no networks)
    return function


def check_function(setting: str, function: object, *arguments: str, more: str = "") -> None:
    """Raise InvalidSetting unless this is a function that can be called with these arguments.

    ``more`` ends the message: what else is accepted, or what to do.
    """
    takes = f"of {' and '.join(arguments)}" if arguments else "without arguments"
    expected = f"expected a function {takes}{more}"
    if not callable(function):
        raise InvalidSetting.of(setting, repr(function), expected)
    signature = _signature(setting, function, expected)
    if signature is not None and not _binds(signature, len(arguments)):
        raise InvalidSetting.of(setting, _called(function, signature), expected)


def _signature(
    setting: str, function: Callable[..., Any], expected: str
) -> inspect.Signature | None:
    """Return the function's signature; None if Python does not know it, as for some written in C."""
    try:
        call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        is_late = any(_returns_late(candidate) for candidate in (function, call))
        signature = inspect.signature(function)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a proxy of Flask without context
        return None
    if is_late:
        value = f"{_called(function, signature)}, which is async or a generator"
        raise InvalidSetting.of(setting, value, f"{expected}; it must return its result itself")
    return signature


def _returns_late(function: Any) -> bool:
    """Whether a call returns something to await or to iterate in place of its result."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(is_kind(function) for is_kind in kinds)


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _required(signature: inspect.Signature) -> list[inspect.Parameter]:
    """Return the positional parameters without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    empty = inspect.Parameter.empty
    parameters = signature.parameters.values()
    return [each for each in parameters if each.kind in kinds and each.default is empty]


def _called(function: Any, signature: inspect.Signature) -> str:
    """Return the function's name and parameters, for a message."""
    return f"{getattr(function, '__name__', None) or type(function).__name__}{signature}"
