"""Real processes and threads that call one limiter at once, and the replies that they got."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

from hypothesis import strategies as st

from limiter import Limiter
from limiter.policies import ALGORITHMS, Policy
from tests.histories import Admitted
from tests.model import MODELS, model_of
from tests.model.base import Answer, Model
from tests.parallel import child
from tests.waiting import PATIENCE


class Planned(NamedTuple):
    """One call of one thread: the pause before it, its key, and its cost."""

    gap_us: int
    key: str
    cost: int


class DecidedCall(NamedTuple):
    """One call that was decided: the script's reply but for the time, which stands in front."""

    decided_us: int
    key: str
    cost: int
    reply: tuple[int, ...]

    @property
    def granted(self) -> int:
        """Units that the call took."""
        return self.reply[0]


def hammer(
    store: str, policies: Sequence[Policy], plan: Sequence[Sequence[Sequence[Planned]]]
) -> list[DecidedCall]:
    """Make every planned call, by process, by thread, in order; all threads begin together."""
    return in_processes(_work, [(store, policies, threads) for threads in plan])


def in_processes(work: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Run ``work`` in a process for each of ``arguments``; return the calls that were decided.

    Its last argument is a pipe for ``begin_together``, so that the threads of all processes do.
    """
    with ExitStack() as stack:
        pipes = [stack.enter_context(child(work, *words))[1] for words in arguments]
        for pipe in pipes:
            assert pipe.recv() == "ready"
        for pipe in pipes:
            pipe.send("go")
        return [call for pipe in pipes for call in pipe.recv()]


def begin_together(pipe: Connection, works: Sequence[Callable[[list[Any]], None]]) -> None:
    """Run each of ``works`` in a thread, at the pipe's signal; send the calls that they list."""
    decided: list[Any] = []
    start = threading.Barrier(len(works) + 1)

    def begin(work: Callable[[list[Any]], None]) -> None:
        start.wait()
        work(decided)

    threads = [threading.Thread(target=begin, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    pipe.send("ready")
    pipe.recv()
    start.wait()
    for thread in threads:
        thread.join()
    pipe.send(decided)


def _work(
    store: str, policies: Sequence[Policy], plan: Sequence[Sequence[Planned]], pipe: Connection
) -> None:
    with Limiter(policies, store=store, timeout=PATIENCE) as limiter:
        begin_together(pipe, [partial(_call, limiter, calls) for calls in plan])


def _call(limiter: Limiter, plan: Sequence[Planned], decided: list[DecidedCall]) -> None:
    for gap_us, key, cost in plan:
        if gap_us:
            time.sleep(gap_us / 1e6)  # the gap is what the example draws
        # A store's reply is of doubles, which the models' fractions would make inexact.
        *reply, decided_us = map(int, limiter.hit(key, cost)._reply)
        decided.append(DecidedCall(decided_us, key, cost, tuple(reply)))


def admitted(decided: Sequence[DecidedCall]) -> list[Admitted]:
    """The history of admitted calls."""
    return [Admitted(call.decided_us, call.granted) for call in decided if call.granted]


def drawn_policies(most: int, periods: st.SearchStrategy[float]) -> st.SearchStrategy[Policy]:
    """Policies of the library of every algorithm, with counts from 1 to ``most``."""
    return st.one_of(
        *(
            st.builds(ALGORITHMS[name], st.integers(1, most), periods, **model.options(most))
            for name, model in MODELS.items()
        )
    )


def policy_of(model: Model) -> Policy:
    """The library's policy for this model."""
    more = {name: getattr(model, name) for name in model.options(1)}
    return ALGORITHMS[model.algorithm](model.limit, model.period_us / 1e6, **more)


def replay(policy: Policy, decided: Sequence[DecidedCall]) -> None:
    """Fail unless a single caller, with the same calls at the same times, would have got the same replies.

    The store decides in some order, and says when. So a concurrent history is right exactly if it is
    that of a single caller; only calls of one and the same microsecond have to be tried in turn.
    """
    explain(model_of(policy), decided, lambda model, now_us, call: model.hit(now_us, call.cost))


class Decided(Protocol):
    """A decided call: its time and its reply."""

    @property
    def decided_us(self) -> int:
        """The store's time."""

    @property
    def reply(self) -> tuple[int, ...]:
        """The script's reply but for the time."""


def explain(
    model: Model, decided: Iterable[Decided], say: Callable[[Any, int, Any], Answer]
) -> None:
    """Fail unless the model, called one call after the other, gives the same replies."""
    by_time = sorted(decided, key=lambda call: call.decided_us)
    for now_us, at_once in itertools.groupby(by_time, key=lambda call: call.decided_us):
        calls = list(at_once)
        found = _fitting(model, now_us, calls, say)
        assert found is not None, f"{model} at {now_us} cannot have decided so: {calls}"
        model = found


def _fitting(
    model: Model, now_us: int, calls: list[Decided], say: Callable[[Any, int, Any], Answer]
) -> Model | None:
    """The model after these calls in an order that explains every reply; None if there is none."""
    if not calls:
        return model
    for number, call in enumerate(calls):
        tried = copy.deepcopy(model) if len(calls) > 1 else model
        if tuple(say(tried, now_us, call)[1:]) == call.reply:
            found = _fitting(tried, now_us, calls[:number] + calls[number + 1 :], say)
            if found is not None:
                return found
    return None
