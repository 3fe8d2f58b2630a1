"""Write a report as text: a table with a column for each policy, and the subjects that were denied most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limiter.policyfile.explain import numbers
from limiter.simulate.report import PolicyReport, Report
from limiter.simulate.words import moment, part, size

#: The width of a table; policies that do not fit are in another table below.
_WIDTH = 100
_BETWEEN = "  "


def lines_of(report: Report) -> Iterator[str]:
    """Yield the lines of a report."""
    yield from _summary(report)
    columns = [_column(policy) for policy in report.policies]
    while columns:
        yield ""
        count = _fitting(columns)
        yield from _table(columns[:count])
        del columns[:count]
    for policy in report.policies:
        if policy.worst:
            yield ""
            yield f"{policy.name}: the subjects that were denied most often"
            width = max(len(each.subject) for each in policy.worst)
            for each in policy.worst:
                yield f"  {each.subject:{width}}  {each.denied:,} of {each.requests:,} requests"


def _summary(report: Report) -> Iterator[str]:
    if report.begin_us is None or report.end_us is None:
        yield f"no requests in {report.lines:,} lines"
    else:
        shadow = any(policy.shadow and policy.denied for policy in report.policies)
        yield (
            f"{report.requests:,} requests from {moment(report.begin_us)} to {moment(report.end_us)}, of "
            f"which {part(report.denied, report.requests)} would be denied"
            f"{' (policies in shadow mode deny none)' * shadow}"
        )
    if report.refused:
        yield f"{report.refused:,} requests would be refused: no usable key, or a cost above the limits"
    if report.unreadable:
        yield f"{report.unreadable:,} of {report.lines:,} lines are no entries of a log, such as:"
        yield from (f"  {example}" for example in report.examples)


#: The titles of the rows of a table.
_TITLES = (
    "",
    "limits",
    "requests",
    "denied",
    "subjects",
    "denied subjects",
    "  once or twice only",
    "first denial",
    "busiest second",
    "  requests in it",
    "memory in Redis",
    "  subjects' keys",
)


def _column(policy: PolicyReport) -> list[str]:
    """Return the cells of a policy, in the order of ``_TITLES``."""
    first, busiest, memory = policy.first_denial_us, policy.busiest, policy.memory
    return [
        policy.name + " (shadow)" * policy.shadow,
        numbers(policy.limits),
        f"{policy.requests:,}",
        part(policy.denied, policy.requests),
        f"{policy.subjects:,}",
        part(policy.denied_subjects, policy.subjects),
        part(policy.seldom_denied, policy.denied_subjects),
        "-" if first is None else moment(first),
        "-" if busiest is None else moment(busiest.time_us),
        "-" if busiest is None else f"{busiest.requests:,}",
        size(memory.bytes),
        f"{memory.keys:,}",
    ]


def _fitting(columns: Sequence[Sequence[str]]) -> int:
    """Return how many columns fit side by side, at least one."""
    left = _WIDTH - max(map(len, _TITLES))
    for count, column in enumerate(columns):
        left -= max(map(len, column)) + len(_BETWEEN)
        if left < 0:
            return max(1, count)
    return len(columns)


def _table(columns: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in (_TITLES, *columns)]
    for row in zip(_TITLES, *columns, strict=True):
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield _BETWEEN.join(cells).rstrip()
