"""The report of a simulation as one HTML page, which needs no script and no network, and as a picture.

Names of subjects are text that clients chose. All text is escaped, and the page forbids scripts and
requests, so that even a mistake here would not run what a client sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from importlib.resources import files
from string import Template

from limiter.keys import Key
from limiter.policies import GCRA, Policy, TokenBucket
from limiter.policyfile.explain import numbers
from limiter.simulate import plots
from limiter.simulate.curves import LimitCurves, WorstSubject
from limiter.simulate.plots import NARROW, PRINT, WIDE, Mark, Panel, Spec
from limiter.simulate.report import PolicyReport, Report
from limiter.simulate.suggest import Suggestion
from limiter.simulate.suggestion_table import NOTES, tables
from limiter.simulate.words import duration, moment, part, size
from limiter.version import __version__
from limiter.web.subjects import spelled

#: Characters of a subject that are shown.
_LONGEST = 200


@dataclass
class Drawn:
    """A policy, and what is drawn of it.

    Attributes:
        report: The policy's report.
        curves: Of each of its limits.
        worst: The subjects that it denied most often.
        suggestions: For each of its limits, or none.

    """

    report: PolicyReport
    curves: Sequence[LimitCurves] = ()
    worst: Sequence[WorstSubject] = ()
    suggestions: Sequence[Suggestion] = ()

    def marks_of_peaks(self, curves: LimitCurves) -> list[Mark]:
        """The limits beside peaks: also a burst of another number, up to which a peak may pass."""
        policy = curves.policy
        burst = [Mark("burst", policy.capacity, True)] if policy.capacity != policy.limit else []
        return [*self.marks(curves), *burst]

    def marks(self, curves: LimitCurves) -> list[Mark]:
        """The limits that are drawn as lines: the present one, and the suggested one of its algorithm."""
        present = curves.policy
        suggested = [
            trial.policy.limit
            for suggestion in self.suggestions
            for trial in suggestion.limits
            if _is_alike(trial.policy, present) and trial.policy.limit != present.limit
        ]
        return [
            Mark("limit", present.limit),
            *(Mark("suggested", limit, True) for limit in suggested),
        ]


def _is_alike(suggested: Policy, present: Policy) -> bool:
    """Whether two policies differ in their limit alone."""
    if isinstance(suggested, TokenBucket) and isinstance(present, GCRA):
        suggested = GCRA(suggested.limit, timedelta(microseconds=suggested.period_us))
    return (
        suggested.identity == present.identity
        and suggested.period_us == present.period_us
        and present.capacity == present.limit
    )


def html(report: Report, drawn: Sequence[Drawn], show: Callable[[Key], str] = spelled) -> str:
    """Return the page; ``show`` writes subjects as text."""
    title = f"Simulation of {', '.join(report.logs) or 'a log'}"
    content = "\n".join(
        [
            f"<h1>{_text(title)}</h1>",
            f"<p>{_text(_read(report))}</p>",
            _list(report.warnings),
            *(part for policy in drawn for part in _policy(policy, show)),
            f"<footer>limiter simulate {_text(__version__)}. Times are in UTC.</footer>",
        ]
    )
    template = files("limiter.simulate").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(title=_text(title), content=content)


def png(drawn: Sequence[Drawn]) -> bytes:
    """Return the plots as a picture, of the policies that have requests: at least one."""
    panels = [
        Panel(policy.report.name, list(_printed(policy)))
        for policy in drawn
        if policy.report.requests
    ]
    return plots.png(panels)


def _printed(drawn: Drawn) -> Iterator[tuple[str, Spec]]:
    unit = drawn.report.unit
    yield "Admitted and denied", plots.over_time(drawn.report.timeline, PRINT)
    for curves in drawn.curves:
        marks, of_peaks = drawn.marks(curves), drawn.marks_of_peaks(curves)
        name = f", {numbers([curves.policy])}"
        yield f"Denied by other limits{name}", plots.denied_over_limit(curves, marks, PRINT, unit)
        yield f"Subjects by their peak{name}", plots.peaks(curves, of_peaks, PRINT, unit)
    for worst in drawn.worst[:1]:
        title = "The subject that was denied most often"
        yield title, plots.over_time(worst.timeline, PRINT)


def _read(report: Report) -> str:
    if report.begin_us is None or report.end_us is None:
        return f"{report.lines:,} lines, no requests."
    counts = [
        f"{report.requests:,} requests from {moment(report.begin_us)} to {moment(report.end_us)}",
        f"{part(report.denied, report.requests)} denied",
    ]
    others = {
        "refused": report.refused,
        "lines not readable": report.unreadable,
        "lines too far out of order": report.late,
    }
    counts += [f"{count:,} {name}" for name, count in others.items() if count]
    ended = (
        " The simulation was interrupted before the end of the log." if report.interrupted else ""
    )
    return f"{'; '.join(counts)}.{ended}"


def _list(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return f'<ul class="warnings">{"".join(f"<li>{_text(each)}</li>" for each in warnings)}</ul>'


def _policy(drawn: Drawn, show: Callable[[Key], str]) -> Iterator[str]:
    report, unit = drawn.report, drawn.report.unit
    yield f"<section><h2>{_text(report.name)}</h2>"
    key = report.key if isinstance(report.key, str) else ", ".join(report.key)
    mode = " It is in shadow mode: requests that it denies pass." if report.shadow else ""
    limits = numbers(report.limits)
    yield (
        f'<p class="quiet">{_text(limits)}. It counts by <span class="key">{_text(key)}</span>.{mode}</p>'
    )
    yield _figures(report)
    if not report.requests:
        yield "</section>"
        return
    yield _figure(
        "Admitted and denied",
        "Requests over time, denied above admitted.",
        *(plots.over_time(report.timeline, theme) for theme in (WIDE, NARROW)),
    )
    for curves in drawn.curves:
        marks, name = drawn.marks(curves), numbers([curves.policy])
        of_peaks = drawn.marks_of_peaks(curves)
        burst = ", with its burst in proportion" if curves.policy.has_burst else ""
        yield _figure(
            f"Denied by other limits ({name})",
            f"The share of requests, and of subjects with at least one denial, under each limit{burst}.",
            *(plots.denied_over_limit(curves, marks, theme, unit) for theme in (WIDE, NARROW)),
        )
        yield _curve_table(curves)
        yield _figure(
            f"Subjects by their peak ({name})",
            f"A subject's peak is the most {unit} that it asked for within any "
            f"{duration(curves.policy.period_us)}. Bars are numbers of subjects, on a logarithmic scale.",
            *(plots.peaks(curves, of_peaks, theme, unit) for theme in (WIDE, NARROW)),
        )
    for suggestion in drawn.suggestions:
        yield from _suggestion(suggestion, unit)
    if drawn.suggestions:
        yield f"<p>{_text(' '.join(NOTES))}</p>"
    if drawn.worst:
        yield '<h3>Subjects that were denied most often</h3><div class="worst">'
        for worst in drawn.worst:
            denied = f"{part(worst.denied, worst.requests)} of {worst.requests:,} requests denied"
            plot = plots.svg(
                plots.over_time(worst.timeline, NARROW), NARROW, "requests of a subject"
            )
            yield (
                f"<figure><figcaption><bdi>{_subject(show(worst.subject))}</bdi><br>{denied}</figcaption>"
                f"{plot}</figure>"
            )
        yield "</div>"
    yield "</section>"


def _figures(report: PolicyReport) -> str:
    """The figures of the policy's report."""
    figures = [
        ("requests", f"{report.requests:,}", ""),
        ("denied", part(report.denied, report.requests), ""),
        ("subjects", f"{report.subjects:,}", ""),
        ("denied subjects", part(report.denied_subjects, report.subjects), ""),
    ]
    if report.denied_subjects:
        seldom = part(report.seldom_denied, report.denied_subjects)
        figures.append(
            ("denied once or twice only", seldom, "of denied subjects: likely false alarms")
        )
    if report.first_denial_us is not None:
        figures.append(("first denial", moment(report.first_denial_us), ""))
    if report.busiest is not None:
        busiest = report.busiest
        figures.append(
            ("busiest second", f"{busiest.requests:,} requests", moment(busiest.time_us))
        )
    if report.memory.keys:
        keys = f"estimated, {report.memory.keys:,} keys"
        figures.append(("most memory in Redis", size(report.memory.bytes), keys))
    if report.unidentified:
        figures.append(("without a usable key", f"{report.unidentified:,}", "requests"))
    if report.too_large:
        figures.append(("cost above every limit", f"{report.too_large:,}", "requests"))
    shown = (
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}{f'<small>{_text(note)}</small>' if note else ''}"
        f"</dd></div>"
        for name, value, note in figures
    )
    return f"<dl>{''.join(shown)}</dl>"


def _figure(title: str, caption: str, wide: Spec, narrow: Spec) -> str:
    """A plot in two widths, of which the page shows one."""
    return (
        f"<h3>{_text(title)}</h3><figure><figcaption>{_text(caption)}</figcaption>"
        f'<div class="wide">{plots.svg(wide, WIDE, title)}</div>'
        f'<div class="narrow">{plots.svg(narrow, NARROW, title)}</div></figure>'
    )


def _curve_table(curves: LimitCurves) -> str:
    rows = [
        (
            f"{point.limit:,}",
            part(point.requests, curves.requests),
            part(point.subjects, curves.subjects),
        )
        for point in curves.points
    ]
    table = _table(("limit", "requests denied", "subjects denied"), rows)
    return f"<details><summary>The same in numbers</summary>{table}</details>"


def _suggestion(suggestion: Suggestion, unit: str) -> Iterator[str]:
    for table in tables(suggestion, unit):
        yield f"<h3>{_text(table.title[0].upper() + table.title[1:])}</h3>"
        yield _table(table.head, table.rows)
    if suggestion.notes:
        yield f"<p>{_text(' '.join(suggestion.notes))}</p>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f'<th scope="col">{_text(title)}</th>' for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _subject(subject: str) -> str:
    """Escape a subject, of which a long one is cut."""
    return _text(subject if len(subject) <= _LONGEST else f"{subject[:_LONGEST]}…")


def _text(text: str) -> str:
    """Escape a text; characters that do not print, or change a line's direction, are shown as codes."""
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
    return escape(shown)
