"""The process with another revision's library: ``python -m bench.other_side FILE_NUMBER``.

It gets a part, makes that part's cases, and then runs one for each name that it reads. ``against.py`` is
at the other end of the pipe. The revision's ``limiter`` comes first on the path, and this checkout's
``bench`` after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from bench.sections import Failed

#: The function of each part that returns its cases.
CASES = {
    "hit": ("bench.hits", "cases"),
    "async": ("bench.coroutines", "cases"),
    "cluster": ("bench.hits", "cluster_cases"),
    "server": ("bench.server_time", "cases"),
    "memory": ("bench.memory", "cases"),
}


def main() -> None:
    """Answer requests until the other end closes the pipe."""
    with Connection(int(sys.argv[1])) as connection, ExitStack() as stack, suppress(EOFError):
        calls: dict[str, Callable[[], Any]] = {}
        connection.send(_result(lambda: _make(connection, stack, calls)))
        while True:
            connection.send(_result(calls[connection.recv()]))


def _make(
    connection: Connection, stack: ExitStack, calls: dict[str, Callable[[], Any]]
) -> tuple[list[str], dict[str, str]]:
    """Add the calls of the part's cases; return their names, and why other cases cannot be made."""
    part, side, effort = connection.recv()
    module, function = CASES[part]
    reasons = {}
    for name, make in getattr(import_module(module), function)(side, effort, stack).items():
        try:
            calls[name] = make()
        except Exception as error:  # most often an argument that the older library does not have
            reasons[name] = _text(error)
    if not calls:
        raise Failed(f"it can make no case: {next(iter(reasons.values()), 'there is none')}")
    return list(calls), reasons


def _result(call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns, or its error as one that can be sent."""
    try:
        return call()
    except Exception as error:
        return Failed(_text(error))


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
