"""The pictures of a run: the course of each event, and the times of its slowest calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.plots import COLOURS, GOAL, save, style
from bench.survive.application import TIMEOUT

_COLUMNS = 4
_FALLBACK = "#9bb8dc"


def draw(events: list[dict[str, Any]], folder: Path) -> list[str]:
    """Draw the pictures, and return the files' names; none if no event could be made."""
    if not events:
        return []
    style(8, title=8, weight="normal")
    first = events[0]["server"]
    shown = [event for event in events if event["server"] == first]
    return [
        _courses(shown, folder),
        _slowest(events, folder),
    ]


def _courses(events: list[dict[str, Any]], folder: Path) -> str:
    """Draw the calls of each tenth of a second, with the outages behind them."""
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    rows = -(-len(events) // _COLUMNS)
    figure, grid = pyplot.subplots(
        rows, _COLUMNS, figsize=(14, 1.5 * rows + 0.6), layout="constrained", squeeze=False
    )
    panels = grid.ravel()
    for axes in panels[len(events) :]:
        axes.set_axis_off()
    for axes, event in zip(panels, events, strict=False):
        course = event["course"]
        at = [course["from"] + course["bin"] * (n + 0.5) for n in range(len(course["decided"]))]
        a_second = 1 / course["bin"]
        for began, ended in course["outages"]:
            axes.axvspan(began, max(ended, began + 0.03), color="#dddddd", lw=0)
        below = [0.0] * len(at)
        for name, colour, label in (
            ("decided", COLOURS[0], "decided"),
            ("fallback", _FALLBACK, "decided by on_error=local"),
            ("undecided", GOAL, "undecided"),
        ):
            rates = [count * a_second for count in course[name]]
            above = [low + rate for low, rate in zip(below, rates, strict=True)]
            axes.fill_between(at, below, above, step="mid", color=colour, lw=0, label=label)
            below = above
        axes.set_title(event["name"], loc="left")
        axes.margins(x=0)
        axes.set_ylim(bottom=0)
    for axes in grid[:, 0]:
        axes.set_ylabel("calls a second")
    for axes in panels[max(0, len(events) - _COLUMNS) : len(events)]:
        axes.set_xlabel("seconds")
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(Patch(color="#dddddd"))
    figure.legend(
        handles,
        [*labels, "the store is out, or connections end"],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    return save(figure, folder, "courses")


def _slowest(events: list[dict[str, Any]], folder: Path) -> str:
    """Draw the slowest call of each event beside the deadline."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(event["name"] for event in events))
    servers = list(dict.fromkeys(event["server"] for event in events))
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.24 * len(names)), layout="constrained")
    height = 0.8 / len(servers)
    for number, server in enumerate(servers):
        by_name = {
            event["name"]: 1e3 * event["figures"]["slowest"]
            for event in events
            if event["server"] == server
        }
        at = [row - 0.4 + height * (number + 0.5) for row in range(len(names))]
        axes.barh(
            at,
            [by_name.get(name, 0.0) for name in names],
            height=height * 0.9,
            color=COLOURS[number % len(COLOURS)],
            label=server,
        )
    axes.axvline(1e3 * TIMEOUT, color=GOAL, lw=1.2, label="deadline")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlabel("slowest call, ms, with the machine's stalls")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return save(figure, folder, "slowest")
