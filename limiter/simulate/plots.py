"""The plots of a simulation, as Vega-Lite specifications, and these as SVG or PNG.

A plot has colours of a theme: those of a picture are fixed, those of a page are CSS variables, so that the
page is light or dark as its reader prefers. No text of a log is in a plot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from math import log
from operator import add
from typing import Any, NamedTuple

import vl_convert

from limiter import units
from limiter.simulate.curves import LimitCurves
from limiter.simulate.report import Timeline
from limiter.simulate.words import a, duration

Spec = dict[str, Any]

#: The width of a bold character of a limit's name, at most.
_CHARACTER = 9
#: Pixels of a picture for each unit of length of a specification.
_SCALE = 2


class Theme(NamedTuple):
    """The colours, and the width of a plot without its axis."""

    text: str = "var(--text)"
    quiet: str = "var(--quiet)"
    line: str = "var(--line)"
    admitted: str = "var(--admitted)"
    denied: str = "var(--denied)"
    limit: str = "var(--limit)"
    width: int = 770
    height: int = 220


#: For a page on a wide screen, and for one on a phone or several plots side by side.
WIDE = Theme()
NARROW = Theme(width=270, height=170)
#: For a picture.
PRINT = Theme("#1a1d21", "#5a626b", "#d3d8de", "#00629b", "#b84700", "#7a3e9d")


class Mark(NamedTuple):
    """A limit that is drawn as a line."""

    label: str
    limit: int
    is_dashed: bool = False


def over_time(timeline: Timeline, theme: Theme) -> Spec:
    """Draw admitted and denied requests, one above the other."""
    width_us = timeline.width_us
    most = max(map(add, timeline.admitted, timeline.denied))
    # The first unit of time in which the highest rate is not a fraction.
    unit_us = next((each for each in _RATES if most * each >= width_us), _RATES[-1])
    rows = []
    for name, counts in (("admitted", timeline.admitted), ("denied", timeline.denied)):
        # The last value again, so that the last step is as wide as the others.
        for place, count in enumerate([*counts, *counts[-1:]]):
            time_ms = (timeline.begin_us + place * width_us) // units.MILLISECOND_US
            rows.append({"time": time_ms, "is": name, "rate": count * unit_us / width_us})
    length_us = len(timeline.admitted) * width_us
    steps = "" if width_us == units.SECOND_US else f", in steps of {duration(width_us)}"
    form, ticks = next((form, ticks) for most_us, form, ticks in _TIMES if length_us <= most_us)
    return {
        **_framed(theme),
        "data": {"values": rows},
        "mark": {"type": "area", "interpolate": "step-after"},
        "encoding": {
            "x": {
                "field": "time",
                "type": "temporal",
                "scale": {"type": "utc", "nice": False},
                "axis": {
                    "title": f"time in UTC{steps}",
                    "format": form,
                    "tickCount": theme.width // ticks,
                },
            },
            "y": {
                "field": "rate",
                "type": "quantitative",
                "stack": "zero",
                "axis": {"title": f"requests {a(duration(unit_us))}", "tickCount": 5},
            },
            "color": _colours("is", {"admitted": theme.admitted, "denied": theme.denied}),
            "order": {"field": "is", "sort": "ascending"},
            "description": {"field": "is"},
        },
    }


#: The units of time of a rate.
_RATES = (units.SECOND_US, 60 * units.SECOND_US, 3_600 * units.SECOND_US)
#: Up to a length of time in microseconds: how times are written, and the pixels for each.
_TIMES = (
    (600 * units.SECOND_US, "%H:%M:%S", 70),
    (3 * units.DAY_US // 2, "%H:%M", 60),
    (7 * units.DAY_US, "%b %d, %H:%M", 110),
    (366 * units.DAY_US, "%b %d", 70),
    (float("inf"), "%b %Y", 70),
)


def _framed(theme: Theme) -> Spec:
    return {"width": theme.width, "height": theme.height}


def denied_over_limit(curves: LimitCurves, marks: Sequence[Mark], theme: Theme, unit: str) -> Spec:
    """Draw the shares of requests and of subjects that would be denied, over the limit."""
    rows: list[dict[str, Any]] = [
        {
            "limit": point.limit,
            "of": of,
            "share": share,
            "text": f"limit {point.limit:,}: {share:.2%} of {of} denied",
        }
        for point in curves.points
        for of, share in (
            ("requests", point.requests / max(1, curves.requests)),
            ("subjects", point.subjects / max(1, curves.subjects)),
        )
    ]
    most = max(row["share"] for row in rows)
    limits = [point.limit for point in curves.points]
    domain = [min(limits), max(limits)]
    x = _limits(f"limit, {unit} per {duration(curves.policy.period_us)}", domain, theme)
    shares = {
        "x": x,
        "y": {
            "field": "share",
            "type": "quantitative",
            # Above the lines there is room for the names of the limits.
            "scale": {"domain": [0, 1.3 * most or 1]},
            "axis": {
                "title": "share denied",
                "format": ".3~%",
                "tickCount": 6,
                "labelExpr": "datum.value <= 1 ? datum.label : ''",
                "gridColor": {
                    "condition": {"test": "datum.value > 1", "value": "transparent"},
                    "value": theme.line,
                },
            },
        },
        "color": _colours("of", {"requests": theme.denied, "subjects": theme.admitted}),
    }
    shapes = {"domain": ["requests", "subjects"], "range": ["circle", "square"]}
    points = {
        "mark": {"type": "point", "filled": True, "size": 36, "opacity": 1},
        "encoding": {
            **shares,
            "shape": {
                "field": "of",
                "type": "nominal",
                "scale": shapes,
                "legend": {"title": None},
            },
            "description": {"field": "text"},
        },
    }
    lines = {"mark": {"type": "line", "strokeWidth": 1.5, "aria": False}, "encoding": shares}
    return {
        **_framed(theme),
        "layer": [
            {"data": {"values": rows}, "layer": [lines, points]},
            *_marked(marks, x, domain, theme),
        ],
    }


def peaks(curves: LimitCurves, marks: Sequence[Mark], theme: Theme, unit: str) -> Spec:
    """Draw how many subjects have which peak, with the limit as a line."""
    lowest = 0.7  # a bar of one subject must be seen on a scale without 0
    present = curves.policy.limit
    rows = [
        {
            "from": each.low,
            "to": each.high + 1,
            "subjects": each.subjects,
            "is": "up to the limit" if each.high <= present else "above the limit",
            "text": f"{each.low:,} to {each.high:,} {unit}: {each.subjects:,} subjects",
        }
        for each in curves.peaks
        if each.subjects
    ]
    domain = [1, curves.peaks[-1].high + 1]
    most = max(each.subjects for each in curves.peaks)
    powers = [10**power for power in range(len(str(most)))]
    period = duration(curves.policy.period_us)
    x = _limits(f"peak of a subject, {unit} in {a(period)}", domain, theme)
    colours = {"up to the limit": theme.admitted, "above the limit": theme.denied}
    bars = {
        "data": {"values": rows},
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": {**x, "field": "from", "bin": "binned"},
            "x2": {"field": "to"},
            "y": {
                "field": "subjects",
                "type": "quantitative",
                # Above the bars there is room for the names of the limits.
                "scale": {"type": "log", "domain": [lowest, most * (most + 9) ** 0.4]},
                "axis": {"title": "subjects", "format": "~s", "values": powers},
            },
            "y2": {"datum": lowest},
            "color": _colours("is", colours),
            "description": {"field": "text"},
        },
    }
    return {**_framed(theme), "layer": [bars, *_marked(marks, x, domain, theme)]}


def _limits(title: str, domain: list[int], theme: Theme) -> Spec:
    return {
        "field": "limit",
        "type": "quantitative",
        "scale": {"type": "log", "domain": domain, "nice": False},
        "axis": {"title": title, "format": "~s", "tickCount": theme.width // 60},
    }


def _marked(marks: Sequence[Mark], x: Spec, domain: list[int], theme: Theme) -> list[Spec]:
    """Draw each limit as a vertical line with its name, where the name crosses no other line."""
    low, high = domain
    shown = sorted(
        (mark for mark in marks if low <= mark.limit <= high), key=lambda mark: mark.limit
    )
    at = {key: value for key, value in x.items() if key != "bin"} | {"field": "limit"}
    placed = []
    for place, mark in enumerate(shown):
        name = f"{mark.label} {mark.limit:,}"
        left = log(mark.limit / low, high / low) * theme.width
        room = _CHARACTER * len(name)
        # The smallest limit has its name on its left, the others on their right, if there is room.
        is_left = left > room if place == 0 and len(shown) > 1 else left > theme.width - room
        placed.append((mark, name, is_left))
    if len(placed) > 1 and placed[-1][2]:
        placed.reverse()  # its name stands above the lines that begin lower
    layers: list[Spec] = []
    for row, (mark, name, is_left) in enumerate(placed):
        line = {
            "type": "rule",
            "color": theme.limit,
            "strokeWidth": 1.5,
            "strokeDash": [6, 3] if mark.is_dashed else [],
        }
        text = {
            "type": "text",
            "text": name,
            "align": "right" if is_left else "left",
            "dx": -5 if is_left else 5,
            "baseline": "top",
            "color": theme.limit,
            "fontWeight": "bold",
        }
        top = {"value": 15 * row}
        data = {"values": [{"limit": mark.limit}]}
        layers += [
            {
                "data": data,
                "mark": line,
                "encoding": {"x": at, "y": top, "y2": {"value": theme.height}},
            },
            {"data": data, "mark": text, "encoding": {"x": at, "y": {"value": 2 + 15 * row}}},
        ]
    return layers


def _colours(field: str, by_name: Mapping[str, str]) -> Spec:
    return {
        "field": field,
        "type": "nominal",
        "scale": {"domain": list(by_name), "range": list(by_name.values())},
        "legend": {"title": None},
    }


def _config(theme: Theme) -> Spec:
    return {
        "background": None,
        "font": "DejaVu Sans, Verdana, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": theme.quiet,
            "titleColor": theme.quiet,
            "titleFontWeight": "normal",
            "labelFontSize": 11,
            "titleFontSize": 11,
            "gridColor": theme.line,
            "domainColor": theme.line,
            "tickColor": theme.line,
            "labelOverlap": "greedy",
        },
        "axisX": {"grid": False},
        "axisY": {"minExtent": 42},
        "legend": {
            "orient": "top",
            "labelColor": theme.text,
            "labelFontSize": 12,
            "symbolSize": 90,
        },
        "text": {"fontSize": 11},
    }


def svg(spec: Spec, theme: Theme, title: str) -> str:
    """Render a plot as an element of a page; the values of a point are shown under the pointer."""
    text = vl_convert.vegalite_to_svg({**spec, "config": _config(theme)})
    text = re.sub(r'(<path aria-label="([^"]*)"[^>]*)/>', r"\1><title>\2</title></path>", text)
    text = re.sub(r"(\d\.\d)\d+", r"\1", text)  # tenths of a pixel are enough
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


class Panel(NamedTuple):
    """Plots of one policy, one below the other."""

    title: str
    plots: Sequence[tuple[str, Spec]]
    """The title of each plot, and the plot with the theme PRINT."""


def png(panels: Sequence[Panel]) -> bytes:
    """Render all plots as one picture."""
    shown = [
        {
            "vconcat": [{**plot, "title": title} for title, plot in panel.plots],
            "title": {"text": panel.title, "fontSize": 18, "offset": 18, "anchor": "start"},
            "resolve": {"scale": {"color": "independent", "shape": "independent"}},
        }
        for panel in panels
    ]
    config = {
        **_config(PRINT),
        "background": "white",
        "padding": 16,
        "concat": {"spacing": 28},
        "title": {"anchor": "start", "fontSize": 14, "color": PRINT.text},
    }
    resolve = {"scale": {"color": "independent", "shape": "independent"}}
    spec = {"vconcat": shown, "resolve": resolve, "config": config}
    return vl_convert.vegalite_to_png(spec, scale=_SCALE)
