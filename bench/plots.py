"""The pictures of a report."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from bench import decision_service, peers, service_cases
from bench.goals import GOALS
from bench.sections import Curve, Figures, Section

COLOURS = ("#3b6fb6", "#e08a2b", "#4c9a5b")
GOAL = "#b3261e"


def draw(section: Section, folder: Path) -> list[str]:
    """Draw the section's plots; return the files' names."""
    if not (section.figures or section.records or section.curves):
        return []
    style(10, title=11)
    if section.part == "ab":
        return _requests(section, folder)
    if section.part == "profile":
        return _layers(section.figures, folder)
    files = [file for curve in section.curves for file in _curve(curve, folder)]
    rest = section.figures
    if section.part == "memory":
        files += _bars(section.part, _only(rest, "subject"), "bytes a subject", folder, "memory")
        files += _bars(section.part, _only(rest, "entry"), "bytes an entry", folder, "entries")
    elif section.part == "service":
        ratios = _named(rest, service_cases.NAMES)
        axis = "time of a request / that of a bare ASGI application"
        files += _bars(section.part, ratios, axis, folder, "service")
        names = [f"{case}{decision_service.BY_BEFORE}" for case in service_cases.NAMES]
        axis = "time of a request now / with the other revision"
        files += _bars(section.part, _named(rest, names), axis, folder, "service-before")
    elif rest:
        axis = {
            "hit": "time of a decision / redis-py's evalsha of return 1",
            "async": "time of a decision / redis-py's evalsha of return 1",
            "cluster": "time of a decision / redis-py's evalsha of return 1",
            "flask": "time of a request / that of the route without a limiter",
            "forward-auth": "time of a request / that of the route without a limit",
            "server": "time in the server / the reference script",
            "subjects": "bytes a subject, all in all",
            "shards": "calls of the busiest shard / mean",
        }[section.part]
        files += _bars(section.part, rest, axis, folder, section.part)
    return files


def _named(figures: Figures, names: Collection[str]) -> Figures:
    return {
        server: {name: spread for name, spread in by_case.items() if name in names}
        for server, by_case in figures.items()
    }


def _only(figures: Figures, word: str) -> Figures:
    return {
        server: {name: spread for name, spread in by_case.items() if word in name}
        for server, by_case in figures.items()
    }


def _bars(part: str, figures: Figures, axis: str, folder: Path, file: str) -> list[str]:
    """Draw a group of horizontal bars for each case, with its goal as a line."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for by_case in figures.values() for name in by_case))
    if not names:
        return []
    goals = [goal for goal in GOALS if goal.part == part]
    drawn = False
    figure, axes = pyplot.subplots(figsize=(9, 0.9 + 0.48 * len(names)), layout="constrained")
    height = 0.8 / len(figures)
    most = max(spread.median for by_case in figures.values() for spread in by_case.values())
    for index, (server, by_case) in enumerate(figures.items()):
        at = [row - 0.4 + height * (index + 0.5) for row in range(len(names))]
        shown = [(y, by_case[name]) for y, name in zip(at, names, strict=True) if name in by_case]
        axes.barh(
            [y for y, _ in shown],
            [spread.median for _, spread in shown],
            height=height * 0.92,
            color=COLOURS[index % len(COLOURS)],
            label=server,
            xerr=[
                [spread.median - spread.low for _, spread in shown],
                [spread.high - spread.median for _, spread in shown],
            ],
            error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
        )
        for y, spread in shown:
            digits = 1 if part in ("memory", "subjects") else 2
            label = f"{spread.median:.{digits}f}"
            axes.text(
                min(spread.high, 1.15 * most) + 0.01 * most, y, label, va="center", fontsize=8
            )
        for y, name in zip(at, names, strict=True):
            for goal in goals:
                if goal.figure == name and goal.judges(server):
                    label = "_" if drawn else "goal: at most"
                    ends = [y - height / 2, y + height / 2]
                    axes.plot([goal.most] * 2, ends, color=GOAL, lw=2, label=label)
                    drawn = True
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, most * 1.25)
    axes.set_xlabel(axis)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.4, 1.0 + 1.1 / (2 + len(names))),
        ncols=4,
        frameon=False,
    )
    return [save(figure, folder, file)]


def _curve(curve: Curve, folder: Path) -> list[str]:
    """Draw a panel for each server, with a line for each line of the table."""
    from matplotlib import pyplot

    if not curve.file or not any(curve.lines.values()):
        return []
    figure, (row,) = pyplot.subplots(
        1,
        len(curve.lines),
        figsize=(1 + 5 * len(curve.lines), 5),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    values: list[float] = []
    for axes, (server, by_line) in zip(row, curve.lines.items(), strict=True):
        for index, (line, points) in enumerate(by_line.items()):
            numbers = sorted(points)
            medians = [points[number].median for number in numbers]
            axes.plot(
                numbers,
                medians,
                "--" if line.startswith((peers.BARE, *peers.NAMES)) else "-",
                marker="o",
                markersize=4,
                color=f"C{index}",
                label=line if axes is row[0] else "_",
            )
            values += medians
        axes.set_title(server)
        axes.set_xlabel(curve.axis)
        numbers = sorted({number for points in by_line.values() for number in points})
        axes.set_xscale("log", base=10 if max(numbers) > 1_000 else 2)
        if max(numbers) <= 1_000:
            axes.set_xticks(numbers, [str(number) for number in numbers])
    row[0].set_ylabel(curve.unit)
    if min(values) > 0 and max(values) > 30 * min(values):
        row[0].set_yscale("log")
    else:
        row[0].set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return [save(figure, folder, curve.file)]


def _layers(figures: Figures, folder: Path) -> list[str]:
    """Draw the time that each layer adds."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1.4 + 0.6 * len(figures)), layout="constrained")
    colours = pyplot.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for row, by_case in enumerate(figures.values()):
        before = 0.0
        for index, (layer, spread) in enumerate(by_case.items()):
            added = spread.median - before
            label = layer if row == 0 else "_"
            axes.barh(row, max(0.0, added), left=before, color=colours[index], label=label)
            before = max(before, spread.median)
    axes.set_yticks(range(len(figures)), list(figures))
    axes.invert_yaxis()
    axes.set_xlabel("time / redis-py's evalsha of return 1")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return [save(figure, folder, "profile")]


def _requests(section: Section, folder: Path) -> list[str]:
    """Draw the requests a second, and the 99th percentile, by the number of connections."""
    from matplotlib import pyplot

    records = section.records
    algorithms = list(dict.fromkeys(record["algorithm"] for record in records))
    connections = list(dict.fromkeys(record["connections"] for record in records))
    figure, grid = pyplot.subplots(
        2, 4, figsize=(12, 6), layout="constrained", sharex=True, sharey="row"
    )
    width = 0.8 / len(algorithms)
    panels = [(limit, keep) for limit in ("open", "tight") for keep in (True, False)]
    for column, (limit, keep) in enumerate(panels):
        for index, algorithm in enumerate(algorithms):
            at = {
                record["connections"]: record
                for record in records
                if (record["limit"], record["keep_alive"], record["algorithm"])
                == (limit, keep, algorithm)
            }
            xs = [
                place - 0.4 + width * (index + 0.5)
                for place, count in enumerate(connections)
                if count in at
            ]
            for axes, field in (
                (grid[0][column], "requests_per_second"),
                (grid[1][column], "p99_ms"),
            ):
                ys = [at[count].get(field, 0.0) for count in connections if count in at]
                label = algorithm if column == 0 else "_"
                colour = COLOURS[index % len(COLOURS)]
                axes.bar(xs, ys, width=width * 0.92, color=colour, label=label)
        kept = "keep-alive" if keep else "no keep-alive"
        grid[0][column].set_title(f"{limit} limit, {kept}")
        grid[1][column].set_xticks(range(len(connections)), [str(count) for count in connections])
        grid[1][column].set_xlabel("connections")
    grid[0][0].set_ylabel("requests a second")
    grid[1][0].set_ylabel("99 % answered within, ms")
    grid[0][0].legend(frameon=False, fontsize=8)
    return [save(figure, folder, "ab")]


def style(font: int, *, title: int, weight: str = "bold") -> None:
    """Set the common style, with these sizes."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {
        "font.size": font,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": title,
        "axes.titleweight": weight,
    }


def save(figure: Any, folder: Path, name: str) -> str:
    """Write a figure into the folder; return the file's name."""
    from matplotlib import pyplot

    file = f"{name}.png"
    figure.savefig(folder / file, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return file
