"""A folder for each run: everything as JSON, and a report with plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.accuracy import plots, prepaid, simulated
from bench.accuracy.bounds import BOUNDS
from bench.accuracy.contenders import Contender
from bench.accuracy.effort import Effort
from bench.accuracy.realtime import Behaviour, title
from bench.report import Run, markdown, new_folder
from bench.sections import Table
from limiter.policies import Policy

#: The behaviour of one policy under every load, in simulated time.
Loads = dict[str, simulated.Behaviour]

AHEAD = "a clock ahead"


@dataclass
class Results:
    """The results of a run."""

    effort: Effort
    exact: dict[str, list[tuple[str, Policy, Loads]]] = field(default_factory=dict)
    """By server: each policy with its name and its behaviour, in simulated time."""
    leases: dict[str, simulated.Behaviour] = field(default_factory=dict)
    real_server: str = ""
    real: list[tuple[Contender, Behaviour]] = field(default_factory=list)
    """All contenders with their behaviour, in real time."""
    prepaid_server: str = ""
    prepaid: prepaid.Results = field(default_factory=dict)
    """By policy, load and setting: four processes without and with prepaid units."""
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def summary(results: Results) -> list[dict[str, Any]]:
    """Make a row for each algorithm: ours in simulated time with the first limit, all in real time."""
    limit = results.effort.limit
    rows: dict[str, dict[str, Any]] = {}
    for measured in results.exact.values():
        for name, policy, loads in measured:
            if (policy.limit, policy.period_us) != (limit, results.effort.period_us):
                continue
            row = rows.setdefault(f"slotgate {name}", _row("slotgate", name))
            bound = BOUNDS[policy.algorithm]
            row["words"], row["bound"] = bound.words, bound.most(policy, policy.period_us)
            row["clock"] = "server"
            most = max(behaviour.most[policy.period_us] for behaviour in loads.values())
            row["most_exact"] = max(row["most_exact"] or 0, most)
            row["under_exact"] = loads[simulated.OVERLOAD].under
            errors = [error for behaviour in loads.values() for error in behaviour.errors_us]
            row["retry_exact_us"] = _range(errors, row["retry_exact_us"])
    for contender, behaviour in results.real:
        row = rows.setdefault(title(contender), _row(contender.library, contender.name))
        row |= {"words": contender.words, "bound": contender.bound, "clock": contender.clock}
        row["most_real"] = max(most for load, most in behaviour.most.items() if load != AHEAD)
        row["most_ahead"] = behaviour.most.get(AHEAD)
        row["under_real"] = behaviour.under
        row["retry_real_us"] = behaviour.error_us
        row["retry_uncertain_us"] = behaviour.uncertain_us
    return list(rows.values())


def _row(library: str, name: str) -> dict[str, Any]:
    fields = (
        *("words", "bound", "clock", "most_exact", "most_real", "most_ahead", "under_exact"),
        *("under_real", "retry_exact_us", "retry_real_us", "retry_uncertain_us"),
    )
    return {"library": library, "algorithm": name, **dict.fromkeys(fields)}


def _range(errors: Sequence[int], before: Sequence[int] | None) -> tuple[int, int] | None:
    every = [*errors, *(before or ())]
    return (min(every), max(every)) if every else None


def as_json(run: Run, results: Results) -> dict[str, Any]:
    """Return all results, ready for JSON."""
    return {
        "date": run.date,
        "seconds": round(run.seconds, 1),
        "load_average": {"before": run.load[0], "after": run.load[1]},
        "machine": run.machine,
        "effort": results.effort._asdict(),
        "violations": results.violations,
        "notes": results.notes,
        "summary": summary(results),
        "simulated": {
            server: [
                {
                    "algorithm": name,
                    "limit": policy.limit,
                    "period_us": policy.period_us,
                    "loads": {load: _plain(behaviour) for load, behaviour in loads.items()},
                }
                for name, policy, loads in measured
            ]
            for server, measured in results.exact.items()
        },
        "prepaid": {
            "server": results.prepaid_server,
            "cases": [
                {"algorithm": name, "load": load, "prepaid": most, **behaviour._asdict()}
                for (name, load, most), (_, behaviour) in results.prepaid.items()
            ],
        },
        "leases": {server: _plain(behaviour) for server, behaviour in results.leases.items()},
        "real": {
            "server": results.real_server,
            "contenders": [
                {
                    "library": contender.library,
                    "algorithm": contender.name,
                    "most": behaviour.most,
                    "under": behaviour.under,
                    "retry_errors": len(behaviour.errors_us),
                    "retry_us": behaviour.error_us,
                    "too_early_us": behaviour.early_us,
                    "uncertain_us": behaviour.uncertain_us,
                }
                for contender, behaviour in results.real
            ],
        },
    }


def _plain(behaviour: simulated.Behaviour) -> dict[str, Any]:
    errors = behaviour.errors_us
    return {
        "admitted": behaviour.admitted,
        "most": {str(window): most for window, most in behaviour.most.items()},
        "under": behaviour.under,
        "denials": len(errors),
        "retry_us": [min(errors), max(errors)] if errors else None,
    }


def write(parent: Path, name: str, run: Run, results: Results) -> Path:
    """Write the folder, and return it."""
    folder = new_folder(parent, f"{run.date}-{name}")
    with (folder / "results.json").open("w") as file:
        json.dump(as_json(run, results), file, indent=1)
        file.write("\n")
    pictures = plots.draw(summary(results), results.real, results.effort, folder)
    (folder / "report.md").write_text(_markdown(run, results, pictures))
    return folder


def _markdown(run: Run, results: Results, pictures: Mapping[str, str]) -> str:
    effort = results.effort
    per = f"{effort.limit} per {effort.period_us / 1e6:g} s"
    lines = [f"# How exact, measured on {run.date}", ""]
    lines += [
        f"* {name}: `{value}`" if name == "command" else f"* {name}: {value}"
        for name, value in run.machine.items()
    ]
    lines += [
        f"* load average before and after: {run.load[0]:.2f} and {run.load[1]:.2f}",
        f"* took {run.seconds:.0f} s",
        "",
        "What is measured and how: [docs/accuracy.md](../../../docs/accuracy.md#how-it-is-measured). "
        "Figures of real time vary with the machine's load by some milliseconds, and by a unit or two.",
        "",
    ]
    if results.violations:
        lines += [
            "**Our algorithms failed:**",
            "",
            *(f"* {violation}" for violation in results.violations),
            "",
        ]
    lines += [f"*Not measured*: {note}\n" for note in results.notes]
    if results.exact or results.real:
        lines += [f"## {per}, at most in one period", ""]
        lines += [f"![The most in one period]({pictures['most']})", ""]
        lines += [*markdown(_table(results)), ""]
    if results.real:
        lines += [f"## In real time, on {results.real_server}", "", *_real(results, pictures)]
    if results.prepaid:
        lines += [f"## Prepaid units, on {results.prepaid_server}", "", *_prepaid(results), ""]
    for server, measured in results.exact.items():
        lines += [f"## In simulated time, on {server}", "", *_exact(measured)]
        behaviour = results.leases[server]
        errors = _range(behaviour.errors_us, None)
        lines += [
            f"`concurrency`, {effort.limit} leases: at most {max(behaviour.most.values())} were held at "
            f"any instant. In {len(behaviour.errors_us)} denials the error of retry_after was "
            f"{_span(errors)} microseconds, if no holder released a lease earlier.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _table(results: Results) -> Table:
    columns = [
        "algorithm",
        "clock",
        "bound",
        "most, to the microsecond",
        "most, in real time",
        "most, one clock ahead",
        "under-admission",
        "`retry_after`: error",
    ]
    rows = []
    for row in summary(results):
        over = row["bound"]
        rows.append(
            [
                f"{row['library']} `{row['algorithm']}`"
                if row["library"] == "slotgate"
                else f"{row['library']} {row['algorithm']}",
                row["clock"],
                f"{row['bound']} ({row['words']})",
                _cell(row["most_exact"], over),
                _cell(row["most_real"], over),
                _cell(row["most_ahead"], over),
                under(row),
                error(row),
            ]
        )
    return Table("", columns, rows)


def _cell(most: int | None, bound: int) -> str:
    if most is None:
        return "-"
    return f"**{most}**" if most > bound else str(most)


def under(row: Mapping[str, Any]) -> str:
    """Write the under-admission in percent, from simulated time if it was measured there."""
    value = row["under_real"] if row["under_exact"] is None else row["under_exact"]
    return "-" if value is None else f"{abs(value) if abs(value) < 0.05 else value:.1f} %"


def error(row: Mapping[str, Any]) -> str:
    """Write the error of retry_after, from simulated time if it was measured there."""
    if row["retry_exact_us"] is not None:
        return f"{_span(row['retry_exact_us'])} us"
    if row["retry_real_us"] is None:
        return "-"
    median, low, high = (_milliseconds(value) for value in row["retry_real_us"])
    return "0 ms" if low == high == "0" else f"{low} to {high} ms, median {median}"


def _milliseconds(microseconds: float) -> str:
    value = round(microseconds / 1e3)
    return f"{value:+}" if value else "0"


def _span(errors: Sequence[int] | None) -> str:
    if errors is None:
        return "-"
    low, high = errors
    return str(low) if low == high else f"{low:+} to {high:+}"


def _real(results: Results, pictures: Mapping[str, str]) -> list[str]:
    loads = list(dict.fromkeys(load for _, behaviour in results.real for load in behaviour.most))
    most = [
        [title(contender), str(contender.bound)]
        + [_cell(behaviour.most.get(load), contender.bound) for load in loads]
        for contender, behaviour in results.real
    ]
    retry = [
        [
            title(contender),
            f"{len(behaviour.errors_us)}",
            *(f"{value / 1e3:.1f}" for value in behaviour.error_us or ()),
            f"{behaviour.uncertain_us / 1e3:.1f}",
        ]
        for contender, behaviour in results.real
        if behaviour.error_us
    ]
    columns = ["algorithm", "denials", "median", "least", "most", "known within"]
    return [
        "### The most in one period, by load",
        "",
        f"![Units admitted in the last period]({pictures['time']})",
        "",
        *markdown(Table("", ["algorithm", "bound", *loads], most)),
        "",
        "### `retry_after` less the true time, in milliseconds",
        "",
        "The part of the error that is certain: 0 if `retry_after` lies between the last denied call and "
        "the first admitted one.",
        "",
        f"![The error of retry_after]({pictures['retry']})",
        "",
        *markdown(Table("", columns, retry)),
        "",
    ]


def _prepaid(results: Results) -> list[str]:
    rows = []
    for (name, load, most), (policy, behaviour) in results.prepaid.items():
        bound = prepaid.bound(policy, most)
        of_calls = behaviour.calls - behaviour.admitted
        rows.append(
            [
                f"`{name}`",
                load,
                str(most or "off"),
                f"{_cell(behaviour.most, bound)} of {bound}",
                str(behaviour.most_of_own) if "aligned" in name else "-",
                f"{of_calls:,} of {behaviour.calls:,}",
                f"{behaviour.scripts / max(1, behaviour.admitted):.2f}",
            ]
        )
    columns = [
        *("algorithm", "load", "`prepaid`", "most in one period", "most in an own window"),
        *("denied", "script calls for each admitted"),
    ]
    rates = " and ".join(f"{rate:,}" for rate in prepaid.LOADS.values())
    return [
        f"{prepaid.PROCESSES} processes call one subject, whose limit is {prepaid.LIMIT:,} a second (burst "
        f"{prepaid.BURST}), at {rates} calls a second. `prepaid_hold` is {prepaid.HOLD} seconds.",
        "",
        *markdown(Table("", columns, rows)),
    ]


def _exact(measured: Sequence[tuple[str, Policy, Loads]]) -> list[str]:
    rows = []
    for name, policy, loads in measured:
        bound = BOUNDS[policy.algorithm].most
        cells = [
            f"{max(behaviour.most[window] for behaviour in loads.values())} of {bound(policy, window)}"
            for window in simulated.windows(policy.period_us)
        ]
        errors = [error for behaviour in loads.values() for error in behaviour.errors_us]
        rows.append(
            [
                name,
                f"{policy.limit} per {policy.per:g} s",
                *cells,
                f"{loads[simulated.OVERLOAD].under:.1f} %",
                f"{loads[simulated.EVEN].under:.1f} %",
                f"{len(errors)}",
                _span(_range(errors, None)),
            ]
        )
    columns = [
        *("algorithm", "limit", "most in P/4", "in P", "in 2 P", "in 5 P"),
        *("under-admission", "denied at the rate", "denials", "`retry_after`: error, us"),
    ]
    return [*markdown(Table("", columns, rows)), ""]
