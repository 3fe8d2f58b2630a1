"""The promises that must hold after each schedule."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from limiter import Decision, StoreUnavailable
from limiter.call import STRIDE
from limiter.transport.redirects import MOST_REDIRECTS
from tests.simulation.runs import RECOVERS_WITHIN, Outcome, Record
from tests.simulation.servers import Execution

#: Seconds by which a call may miss its deadline on the virtual clock: twice the part of the timeout by
#: which the timer of a connection may be late, and two milliseconds, since a poll of a socket ends in whole
#: ones.
GRACE_PART, MOST_GRACE, ROUNDING = 0.1, 0.020, 0.002
#: Errors after which a call is sure not to have run.
_UNSENT = re.compile("not sent within the deadline|no connection within the deadline")


def broken(record: Record) -> list[str]:
    """The promises that the schedule broke, each in one line."""
    return [*_answers(record), *_charges(record), *_pairs(record), *_rest(record)]


def _answers(record: Record) -> Iterator[str]:
    """Each call is answered in time, with a decision, StoreUnavailable, or what ``on_error`` says."""
    plan = record.plan
    most = plan.timeout + min(plan.timeout * GRACE_PART, MOST_GRACE) + ROUNDING
    for outcome in record.outcomes:
        name, result = _name(outcome), outcome.result
        if outcome.took is None:
            yield f"{name} has no answer"
        elif outcome.took > most:
            yield f"{name} took {outcome.took:.6f} s, with a timeout of {plan.timeout} s"
        if isinstance(result, asyncio.CancelledError):
            if outcome.planned.cancelled_after is None:
                yield f"{name} was cancelled by no caller"
        elif plan.is_calm and (isinstance(result, StoreUnavailable) or _is_degraded(result)):
            yield f"{name} was not decided by the store, and nothing kept it from that: {result!r}"
        elif isinstance(result, StoreUnavailable):
            if plan.on_error != "raise" and outcome.planned.kind != "refund":
                yield f"{name} raised {result!r}, with on_error={plan.on_error}"
        elif isinstance(result, BaseException):
            yield f"{name} raised {result!r}"
        elif _is_degraded(result) and plan.on_error == "raise":
            yield f"{name} was decided without the store"


def _charges(record: Record) -> Iterator[str]:
    """Each call ran at most once, its decision is its own, and the store charged what passed."""
    ran: dict[tuple[bytes, ...], list[Execution]] = defaultdict(list)
    for execution in record.ledger:
        ran[execution.keys].append(execution)
    groups: dict[tuple[tuple[bytes, ...], str, int], list[Outcome]] = defaultdict(list)
    for outcome in record.outcomes:
        if outcome.planned.kind == "pair":
            continue
        groups[outcome.keys, outcome.planned.kind, outcome.planned.cost].append(outcome)
    ran_for: dict[tuple[bytes, ...], list[Outcome]] = defaultdict(list)
    for outcome in record.outcomes:
        ran_for[outcome.keys].append(outcome)
    for (keys, kind, cost), outcomes in groups.items():
        mode = kind if kind in ("peek", "refund") else "hit"
        own = [each for each in ran[keys] if each.mode == mode]
        if (sent := record.redirected[keys]) > (MOST_REDIRECTS + 1) * len(ran_for[keys]):
            yield f"{sent} redirects were sent to calls for {keys}"
        if kind != "burst":
            own = [each for each in own if each.cost == cost]
            if len(own) > 1:
                yield f"{_name(outcomes[0])} ran {len(own)} times: {own}"
        charged = sum(each.charged for each in own)
        runnable = sum(not _UNSENT.search(str(each.result)) for each in outcomes)
        if charged > cost * runnable:
            yield f"{runnable} x {_name(outcomes[0])} may have run, and were charged {charged} units"
        decided = [
            each.result
            for each in outcomes
            if isinstance(each.result, Decision) and not each.result.degraded
        ]
        allowed = sum(decision.allowed for decision in decided) if mode == "hit" else 0
        if allowed * cost > charged:
            yield f"{allowed} x {_name(outcomes[0])} passed, and {charged} units were charged"
        shares, denials = _shares(own, cost)
        for decision in decided:
            if kind != "burst":
                is_own = bool(own) and _is_reply(decision, own[0])
            elif decision.allowed:
                is_own = shares[_rooms(decision)] > 0
                shares[_rooms(decision)] -= 1
            else:
                is_own = _rooms(decision) in denials
            if not is_own:
                yield f"{_name(outcomes[0])} got another call's reply {decision!r}; its own: {own}"


def _pairs(record: Record) -> Iterator[str]:
    """A call for two subjects is charged at most once to each, and passes only if it is charged to both."""
    for outcome in record.outcomes:
        if outcome.planned.kind != "pair":
            continue
        passed = isinstance(outcome.result, list) and bool(outcome.result)
        for keys in outcome.each_keys:
            own = [
                execution
                for execution in record.ledger
                if execution.mode == "hit" and set(keys) <= set(execution.keys)
            ]
            if len(own) > 1:
                yield f"{_name(outcome)} ran {len(own)} times for {keys}"
            if passed and not _is_degraded(outcome.result) and not any(e.charged for e in own):
                yield f"{_name(outcome)} passed, and was not charged to {keys}"


def _is_degraded(result: object) -> bool:
    decisions = result if isinstance(result, list) else [result]
    return any(getattr(each, "degraded", False) for each in decisions)


def _rooms(decision: Decision) -> tuple[int, ...]:
    return tuple(each.remaining for each in decision.each)


def _is_reply(decision: Decision, execution: Execution) -> bool:
    reply = execution.reply
    return _rooms(decision) == reply[1:-1:STRIDE] and (
        decision.granted == reply[0] or not decision.allowed
    )


def _shares(
    executions: list[Execution], cost: int
) -> tuple[Counter[tuple[int, ...]], set[tuple[int, ...]]]:
    """What remains for each of the joined calls that a script call admitted, and for denied ones.

    The units of those behind a call remain to it, so no two of them have the same numbers.
    """
    shares: Counter[tuple[int, ...]] = Counter()
    denials = set()
    for execution in executions:
        rooms = execution.reply[1:-1:STRIDE]
        shares.update(
            tuple(room + behind for room in rooms) for behind in range(0, execution.charged, cost)
        )
        if not execution.charged:
            denials.add(rooms)
    return shares, denials


def _rest(record: Record) -> Iterator[str]:
    """Nothing is left, no error was logged, and the limiter goes on after the last fault."""
    for line in record.logged:
        yield f"logged: {line}"
    for what in record.left:
        yield f"left open: {what}"
    if not record.recovered:
        yield f"no call was decided within {RECOVERS_WITHIN} s after the last fault"


def _name(outcome: Outcome) -> str:
    return f"{outcome.planned.kind} of {outcome.planned.subject} for {outcome.planned.cost}"
