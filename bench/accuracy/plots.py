"""The pictures of a report on accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.accuracy.contenders import Contender
from bench.accuracy.effort import Effort
from bench.accuracy.realtime import Behaviour, title
from bench.plots import COLOURS, GOAL, save, style

OURS, _THEIRS, _AHEAD = COLOURS[0], "#8a94a6", COLOURS[1]


def draw(
    rows: Sequence[Mapping[str, Any]],
    real: Sequence[tuple[Contender, Behaviour]],
    effort: Effort,
    folder: Path,
) -> dict[str, str]:
    """Draw the plots of the measured parts; return the files' names."""
    style(9, title=9)
    files = {"most": _most(rows, effort, folder)}
    if real:
        files["time"] = _over_time(real, effort, folder)
        files["retry"] = _retry(real, folder)
    return files


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['library']} {row['algorithm']}"


def _most(rows: Sequence[Mapping[str, Any]], effort: Effort, folder: Path) -> str:
    """Draw the most admitted in one period, and the most with one client's clock ahead."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.34 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        most = max(row["most_exact"] or 0, row["most_real"] or 0)
        colour = OURS if row["library"] == "slotgate" else _THEIRS
        axes.barh(place - 0.19, most, height=0.36, color=colour)
        _number(axes, most, row["bound"], place - 0.19)
        if row["most_ahead"] is not None:
            label = "one of two clients' clocks half a period ahead" if place == 0 else "_"
            axes.barh(place + 0.19, row["most_ahead"], height=0.36, color=_AHEAD, label=label)
            _number(axes, row["most_ahead"], row["bound"], place + 0.19)
        label = "bound of this kind" if place == 0 else "_"
        axes.plot([row["bound"]] * 2, [place - 0.42, place + 0.42], color=GOAL, lw=1.5, label=label)
    axes.axvline(effort.limit, color="#333333", lw=0.8, ls=":", label=f"limit {effort.limit}")
    axes.set_yticks(range(len(rows)), [_named(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"most admitted in any {effort.period_us / 1e6:g} s")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, folder, "most")


def _number(axes: Any, most: int, bound: int, y: float) -> None:
    """Write the number beside the end of its bar, but not on the line of the bound."""
    beside = max(most, bound) if -4 < most - bound <= 0 else most
    axes.text(beside + 0.4, y, str(most), va="center", fontsize=7)


def _over_time(real: Sequence[tuple[Contender, Behaviour]], effort: Effort, folder: Path) -> str:
    """Draw the units admitted in the last period over time, under two loads."""
    from matplotlib import pyplot

    columns = 4
    count = -(-len(real) // columns)
    figure, grid = pyplot.subplots(
        count,
        columns,
        figsize=(10, 1.45 * count + 0.5),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    shown = (("window's own seam", OURS), ("a clock ahead", _AHEAD))
    for place, axes in enumerate(grid.flat):
        if place >= len(real):
            axes.set_axis_off()
            continue
        contender, behaviour = real[place]
        for load, colour in shown:
            times = behaviour.admitted_us.get(load)
            if times:
                xs, ys = in_last_period(times, effort.period_us)
                axes.step(
                    xs, ys, where="post", color=colour, lw=0.9, label=load if not place else "_"
                )
        axes.axhline(effort.limit, color="#333333", lw=0.7, ls=":")
        axes.axhline(contender.bound, color=GOAL, lw=0.8)
        axes.set_title(title(contender), fontsize=7.5)
        axes.tick_params(labelsize=7)
        if place + columns >= len(real):
            axes.set_xlabel("seconds", fontsize=7)
    figure.supylabel("admitted in the last period", fontsize=8)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, folder, "time")


def in_last_period(times_us: Sequence[int], period_us: int) -> tuple[list[float], list[int]]:
    """Return a curve: seconds, and the units admitted in the period that ends there."""
    changes = sorted([(at, 1) for at in times_us] + [(at + period_us, -1) for at in times_us])
    xs, ys, now = [0.0], [0], 0
    for at, change in changes:
        now += change
        xs.append(at / 1e6)
        ys.append(now)
    return xs, ys


def _retry(real: Sequence[tuple[Contender, Behaviour]], folder: Path) -> str:
    """Draw the error of retry_after."""
    from matplotlib import pyplot

    shown = [(contender, behaviour) for contender, behaviour in real if behaviour.error_us]
    figure, axes = pyplot.subplots(figsize=(8, 1.1 + 0.24 * len(shown)), layout="constrained")
    for place, (contender, behaviour) in enumerate(shown):
        median, low, high = (value / 1e3 for value in behaviour.error_us or (0, 0, 0))
        colour = OURS if contender.ours else _THEIRS
        axes.plot([low, high], [place, place], color=colour, lw=5, solid_capstyle="butt")
        axes.plot([median], [place], "|", color="#111111", ms=9, mew=1.5)
    axes.axvline(0, color="#333333", lw=0.7)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_yticks(range(len(shown)), [title(contender) for contender, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel(
        "retry_after less the true time, milliseconds (left: too early, right: too late)"
    )
    return save(figure, folder, "retry")
