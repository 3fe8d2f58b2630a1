"""``limiter simulate``; it imports what it needs when it runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limiter.cli.exit_codes import BY_SIGNAL, by_exit_code, fail
from limiter.policies import ALGORITHMS
from limiter.simulate.formats import CSV, FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

    from limiter.policyfile.faults import Fault
    from limiter.policyfile.reading import PolicyFile
    from limiter.simulate.observed import Observed
    from limiter.simulate.report import Report
    from limiter.simulate.suggest import Suggestion

#: The library that draws plots, which no other part needs.
_DRAWS = "vl_convert"
#: If the policies were forgotten, a log is read in their place.
_HINT = "; the last argument is the policy file: without one, give --limits"

_CODES = """\b
Exit codes:
  0    the report is complete
  1    the policy file is wrong, or a log cannot be read or has no known format
  2    the command line or a variable is wrong
  5    standard output cannot be written
  130  interrupted: the report is about the part that was read
"""


@click.command(epilog=_CODES)
@click.argument("logs", nargs=-1, required=True, metavar="LOG... [POLICIES]", type=click.Path())
@click.option("--limits", metavar="LIMITS", help="Use these limits, as in 100/minute, and no file.")
@click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), help="The algorithm of --limits.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="The subject of --limits, as in header:X-Api-Key; may be repeated.  [default: address]",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice([*FORMATS, CSV]),
    help="The format of all logs.  [default: recognised from the first lines]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 86_400),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Sort lines that are out of order by up to this time; leave out the others.",
)
@click.option("--hash", "is_hashed", is_flag=True, help="Show subjects as short hashes.")
@click.option(
    "--suggest",
    metavar="SHARE",
    help="Find the smallest limits that never deny this share of the subjects, as in 99.5%.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the report with plots as one page, which needs no network.",
)
@click.option(
    "--png",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write the plots as a picture.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@by_exit_code()
def simulate(
    logs: tuple[str, ...],
    limits: str | None,
    algorithm: str | None,
    keys: tuple[str, ...],
    format_: str | None,
    tolerance: float,
    is_hashed: bool,
    suggest: str | None,
    html: str | None,
    png: str | None,
    as_json: bool,
) -> None:
    """Replay access logs through policies, and say what these would have denied.

    Each LOG is a file, also compressed by gzip, bzip2 or xz, or - for standard input. Formats: combined
    (nginx, Apache), traefik, envoy and caddy (their JSON), csv with named columns, and json (objects with
    time, method, host, path, address, headers and status). POLICIES is a policy file; with --limits there
    is none.

    --html and --png need the extra slotgate[simulate]. A second look at the requests, for --suggest, --html
    and --png, takes place in a temporary file.

    No store is needed. Each request is decided at the time of its line, as a store would have decided
    then. LIMITER_TRUSTED_PROXIES names the proxies whose X-Forwarded-For counts, if the log has it;
    LIMITER_KEY_SECRET decides whom a percentage includes.

    \b
    Examples:
      limiter simulate access.log policies.toml
      limiter simulate access.log policies.toml --suggest 99.5% --html report.html
      limiter simulate access.log.*.gz --limits "100/minute; 1000/hour" --algorithm token_bucket
    """
    from limiter.errors import InvalidSetting
    from limiter.settings import trusted_proxies
    from limiter.simulate.caveats import caveats
    from limiter.simulate.fields import needed
    from limiter.simulate.logs import STANDARD_INPUT, Counts, Reading, UnknownFormat
    from limiter.simulate.observed import Observed
    from limiter.simulate.replay import Replay
    from limiter.simulate.suggest import read_share
    from limiter.simulate.suggestion_table import NOTES
    from limiter.simulate.suggestion_table import lines_of as lines_of_suggestion
    from limiter.simulate.table import lines_of

    if isnan(tolerance):
        raise click.BadParameter("expected a number from 0", param_hint="--tolerance")
    for option, target in (("--html", html), ("--png", png)):
        if target and not Path(target).parent.is_dir():  # before the work
            why = f"the folder of {target} does not exist: create it first"
            raise click.BadParameter(why, param_hint=option)
    if (html or png) and find_spec(_DRAWS) is None:
        fail(2, f"plots need {_DRAWS}: in a checkout of slotgate, pip install '.[simulate]'")
    try:
        share = None if suggest is None else read_share(suggest)
    except InvalidSetting as error:
        raise click.BadParameter(str(error), param_hint="--suggest") from None
    if limits is None:
        *paths, policies = logs
        if not paths:
            raise click.UsageError(
                "no policies: the last argument is a policy file; or give --limits"
            )
        for option, value in (("--algorithm", algorithm), ("--key", keys)):
            if value:
                raise click.UsageError(f"{option} is only for --limits; a policy file has its own")
        file = _read(policies)
    else:
        paths, file = list(logs), _of_limits(limits, algorithm, keys)
        if paths[-1].endswith(".toml"):
            raise click.UsageError(
                f"{paths[-1]} is no log: give a policy file or --limits, not both"
            )
    if paths.count(STANDARD_INPUT) > 1:
        raise click.UsageError("- stands for standard input: give it once")
    try:
        trusted = trusted_proxies()
    except InvalidSetting as error:
        raise click.UsageError(str(error)) from None
    counts, fields = Counts(), needed(file)
    observed = Observed(file) if share or html or png else None
    if observed is not None:
        click.get_current_context().call_on_close(observed.close)
    replay = Replay(file, trusted, None if observed is None else observed.add)
    is_interrupted = False
    try:
        with _progress(paths) as advance:
            reading = Reading(fields, format_, round(tolerance * 1e6), advance)
            replay.run(reading.entries(paths, counts))
    except KeyboardInterrupt:
        is_interrupted = True
    except UnknownFormat as error:
        fail(1, error)
    except OSError as error:
        what = (
            f"{error.filename} cannot be read" if error.filename else "no room for a temporary file"
        )
        fail(1, f"{what}: {error.strerror}")
    report = replay.report(is_hashed)
    report.logs, report.interrupted = paths, is_interrupted
    report.lines, report.unreadable = counts.lines, counts.unreadable
    report.examples, report.late = counts.examples, counts.late
    report.warnings = list(caveats(file, replay, report, counts))
    if observed and sys.stderr.isatty():
        click.echo("limiter: simulating other limits", err=True)
    suggestions = {
        place: list(observed.suggestions(place, share))
        for place in range(len(report.policies))
        if observed and share
    }
    if as_json:
        result = report.to_dict()
        if share:
            each = chain.from_iterable(suggestions.values())
            result["suggestions"] = [suggestion.to_dict() for suggestion in each]
        click.echo(json.dumps(result))
    else:
        for line in lines_of(report):
            click.echo(line)
        for place, policy in enumerate(report.policies):
            for suggestion in suggestions.get(place, ()):
                click.echo()
                for line in lines_of_suggestion(suggestion, policy.unit):
                    click.echo(line)
        if suggestions:
            click.echo("\n" + "\n".join(NOTES))
        for warning in report.warnings:
            click.echo(f"warning: {warning}", err=True)
    if observed and (html or png):
        _draw(report, observed, suggestions, is_hashed, html, png)
    if is_interrupted:
        click.echo("limiter: interrupted: the report is about the part that was read", err=True)
        raise SystemExit(BY_SIGNAL + 2)


def _draw(
    report: Report,
    observed: Observed,
    suggestions: dict[int, list[Suggestion]],
    is_hashed: bool,
    html: str | None,
    png: str | None,
) -> None:
    """Write the page and the picture."""
    from limiter.simulate import page
    from limiter.web.subjects import disguised, spelled

    drawn = [
        page.Drawn(
            policy,
            list(observed.curves(place)),
            observed.worst(place),
            suggestions.get(place, ()),
        )
        for place, policy in enumerate(report.policies)
    ]
    if html:
        _write(html, page.html(report, drawn, disguised if is_hashed else spelled).encode())
    if png:
        if not any(policy.requests for policy in report.policies):
            fail(1, f"{png} is not written: there are no requests to draw")
        _write(png, page.png(drawn))


def _write(path: str, data: bytes) -> None:
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        fail(1, f"{path} cannot be written: {error.strerror}")


def _read(path: str) -> PolicyFile:
    from limiter.cli.options import environment
    from limiter.policyfile.faults import InvalidPolicyFile
    from limiter.policyfile.reading import in_memory, read
    from limiter.policyfile.text import text_of
    from limiter.settings import VARIABLES

    # The secret and the prefix of the service: the first decides whom a percentage includes.
    names = ("key_secret", "prefix")
    common = {name: value for name in names if (value := environment().get(VARIABLES[name]))}
    try:
        return read(text_of(path), path, in_memory(**common))
    except InvalidPolicyFile as error:
        hint = "" if path.endswith(".toml") else _HINT
        fail(1, f"{error}{hint}")


def _of_option(fault: Fault) -> str:
    """Write a fault without the table that the user has not written."""
    return fault.message if fault.is_sentence else f"{fault.key.rpartition('.')[2]} {fault.message}"


def _of_limits(limits: str, algorithm: str | None, keys: tuple[str, ...]) -> PolicyFile:
    """Return the file of one policy that applies to all requests."""
    from limiter.errors import InvalidPolicy, InvalidSetting
    from limiter.grammar import parse_limits
    from limiter.policyfile.faults import InvalidPolicyFile
    from limiter.policyfile.reading import read
    from limiter.web.subjects import identity

    try:
        parse_limits(limits, algorithm)
    except InvalidPolicy as error:
        raise click.BadParameter(str(error), param_hint="--limits") from None
    table: dict[str, Any] = {"limits": limits}
    if algorithm is not None:
        table["algorithm"] = algorithm
    if keys:
        try:
            identity(keys)
        except InvalidSetting as error:
            raise click.BadParameter(str(error), param_hint="--key") from None
        table["key"] = list(keys)
    # A text and a list of texts are the same in JSON and in TOML.
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
    try:
        return read(f"[policies.default]\n{settings}", "--limits")
    except InvalidPolicyFile as error:  # such as a limit that is given twice
        raise click.UsageError("; ".join(map(_of_option, error.faults))) from None


@contextmanager
def _progress(paths: list[str]) -> Iterator[Callable[[int], object] | None]:
    """Show the progress on standard error, if that is a terminal, and the length is known."""
    if not sys.stderr.isatty() or not all(map(os.path.isfile, paths)):
        yield None
        return
    length = sum(map(os.path.getsize, paths))
    with click.progressbar(length=length, label="reading", file=sys.stderr) as bar:
        yield bar.update
