"""Faults to plant in the library: a simulation that finds none of them would be worth little.

Each is a function of the library with other lines. A fault whose lines are missing is an error: after a
change of the library, change it, too.
"""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.simulation.plans import Plan


class Fault(NamedTuple):
    """Some lines of one function or several, and what stands in their place."""

    name: str
    clients: tuple[bool, ...]
    """Whose code it is in: that of event loops (True), that of threads (False), or that of both."""
    edits: tuple[tuple[str, str, str], ...]
    """The module below ``limiter.transport`` with the function, its lines, and the lines instead."""
    needs: str | None = None
    """The mishap, or the part of the weather, without which it shows in no schedule."""

    def may_show(self, plan: Plan) -> bool:
        """Whether a schedule may reach the lines."""
        happens = {name for _, name, _ in plan.mishaps}
        happens |= {name for name, value in plan.weather._asdict().items() if value}
        return plan.in_loop in self.clients and (self.needs is None or self.needs in happens)


LOOP, THREADS, BOTH = (True,), (False,), (True, False)

FAULTS = [
    Fault(
        "a call without a reply is sent again (threads)",
        THREADS,
        (
            (
                "base:Transport.run",
                "node.distrust(connection)\nraise",
                "reply = node.take(deadline).execute(encoded, deadline)",
            ),
        ),
    ),
    Fault(
        "a call without a reply is sent again (loop)",
        LOOP,
        (
            (
                "async_base:LoopTransport._handle_errors",
                "return _unless_error(reply, node.where)",
                "if isinstance(reply, StoreUnavailable):\n"
                "    reply = await (await node.take(deadline)).send(encoded, deadline)\n"
                "return _unless_error(reply, node.where)",
            ),
        ),
    ),
    Fault(
        "the newest call gets the first reply",
        LOOP,
        (("async_connection:AsyncConnection.data_received", "sent.popleft()[1]", "sent.pop()[1]"),),
    ),
    Fault(
        "a cancelled call gives up its place in the queue",
        LOOP,
        (
            (
                "async_connection:AsyncConnection.data_received",
                "pending = sent.popleft()[1]",
                "pending = sent.popleft()[1]\n"
                "while pending.cancelled() and sent:\n"
                "    pending = sent.popleft()[1]",
            ),
        ),
    ),
    Fault(
        "a connection is used again after a timeout",
        THREADS,
        (
            (
                "connection:Connection.execute",
                "except TimeoutError as error:\n    self.close()",
                "except TimeoutError as error:",
            ),
            ("base:Transport.run", "node.distrust(connection)", "node.give(connection)"),
        ),
    ),
    Fault(
        "a caller waits for a connection without a deadline (loop)",
        LOOP,
        (
            (
                "async_node:AsyncNode.take",
                "await asyncio.wait([connecting], timeout=left)",
                "await asyncio.wait([connecting])",
            ),
        ),
    ),
    Fault(
        "a caller waits for a connection without a deadline (threads)",
        THREADS,
        (
            (
                "node:Node._wait",
                "self._changed.wait(min(left, pause or self._connect_timeout))",
                "self._changed.wait(pause or self._connect_timeout)",
            ),
        ),
    ),
    Fault(
        "ASKING is forgotten (loop)",
        LOOP,
        (("async_base:LoopTransport._handle_errors", "if redirects.asking:", "if False:"),),
        "slots move",
    ),
    Fault(
        "ASKING is forgotten (threads)",
        THREADS,
        (("base:Transport._handle_error", "if redirects.asking:", "if False:"),),
        "slots move",
    ),
    Fault(
        "MOVED is followed without a bound",
        BOTH,
        (("redirects:Redirects._action", " and self._followed < MOST_REDIRECTS", ""),),
        "two nodes send a call back and forth",
    ),
    Fault(
        "the slot table of a node is believed that decides nothing",
        BOTH,
        (("slots:SlotTable.begin_reading", "frozenset(self._doubted)", "frozenset()"),),
        "a primary is cut off for good",
    ),
    Fault(
        "after NOSCRIPT the call is sent without the script",
        BOTH,
        (("redirects:Redirects._action", "self.command = encode_with_text(self._call)", "pass"),),
    ),
    Fault(
        "a call waits for a reply on a connection that was closed",
        LOOP,
        (
            (
                "async_connection:AsyncConnection.fail",
                "calls = (*self.sent, *self._not_sent())",
                "calls = (*self._not_sent(),)",
            ),
        ),
    ),
    Fault(
        "a call under way leaves a connection after close (loop)",
        LOOP,
        (("async_base:LoopTransport.in_use", "self._close_nodes()", "pass"),),
    ),
    Fault(
        "a call under way leaves a connection after close (threads)",
        THREADS,
        (("reader:TableTransport.close", "self._limit.most = 0", "pass"),),
    ),
    Fault(
        "a connection of a node that has left is kept",
        THREADS,
        (("node:Node.leave", "self._limit = IdleLimit(0)", "pass"),),
    ),
    Fault(
        "a connection is taken over that was reset",
        LOOP,
        (("redispy:taken_over", " or transport.is_closing()", ""),),
        "reset",
    ),
    Fault(
        "one more of the joined calls passes than was charged",
        LOOP,
        (
            (
                "joined:JoinedCalls._answer",
                "served = int(reply[0]) // cost",
                "served = int(reply[0]) // cost + 1",
            ),
        ),
    ),
    Fault(
        "all joined calls get the same remaining units",
        LOOP,
        (("joined:_share", "behind -= cost", "pass"),),
    ),
    Fault(
        "no caller is notified of a new connection",
        THREADS,
        (
            ("node:Node._open_one", "self._changed.notify_all()", "pass"),
            ("node:Node.give", "self._changed.notify_all()", "pass"),
        ),
    ),
]


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Plant a fault while the body runs."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for where, old, new in fault.edits:
            module_name, _, path = where.partition(":")
            module = importlib.import_module(f"limiter.transport.{module_name}")
            holder: Any = module
            *outer, name = path.split(".")
            for part in outer:
                holder = getattr(holder, part)
            found = vars(holder)[name]
            setattr(holder, name, _changed(inspect.unwrap(found), old, new))
            undo.append((holder, name, found))
        yield
    finally:
        for holder, name, found in reversed(undo):
            setattr(holder, name, found)


def _changed(function: Any, old: str, new: str) -> Any:
    """The function with other lines, indented as the old ones."""
    source = textwrap.dedent(inspect.getsource(function))
    before = source.partition(old.partition("\n")[0])[0]
    indent = before[before.rfind("\n") + 1 :]
    indent = indent if not indent.strip() else ""
    old, new = (text.replace("\n", f"\n{indent}") for text in (old, new))
    assert source.count(old) == 1, f"{function.__qualname__} has no such lines: change the fault"
    made: dict[str, Any] = {}
    code = compile(
        source.replace(old, new),
        inspect.getfile(function),
        "exec",
        __future__.annotations.compiler_flag,
    )
    exec(code, function.__globals__, made)  # noqa: S102 (our own source, changed)
    return made[function.__name__]
