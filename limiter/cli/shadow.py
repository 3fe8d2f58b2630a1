"""``limiter shadow``: ask a running decision service; it needs no store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import click

from limiter.cli.exit_codes import REFUSED, UNDECIDED, fail
from limiter.errors import InvalidSetting
from limiter.settings import ADMIN_TOKEN, tokens

#: Seconds for the service's response.
_TIMEOUT = 10.0
_PATH = "/v1/shadow"

#: A policy's entry, or a subject's, as the service returns it.
_Entry = dict[str, Any]


@click.command(
    epilog="""\b
Exit codes:
  0  done
  2  the command line or a variable is wrong
  3  the service did not answer
  4  the service refused: another address, a wrong token
"""
)
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Print this many subjects of each policy.",
)
@click.option("--key", metavar="SUBJECT", help="Print only what is known of one subject.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def shadow(urls: tuple[str, ...], top: int, key: str | None, as_json: bool) -> None:
    """Show which subjects the policies in shadow mode would have denied most.

    URL is the operators' address of a running decision service, that of limiter serve --operators.
    With several, their numbers are added up: give one for each instance. LIMITER_ADMIN_TOKEN must have
    the token. A service has counted since it started, or since the policy's text changed.

    A subject is shown by the digest that log lines and limiter explain show. To find a user that you
    know, give --key. It takes the subject, or the value that a request has for the policy's key.

    The service counts in bounded memory. Where it does not know a number exactly, both bounds are printed.

    \b
    Examples:
      limiter shadow http://127.0.0.1:8001
      limiter shadow http://127.0.0.1:8001 --key user:42
    """
    from limiter.server.shadow import add_up

    policies = add_up(entry for url in urls for entry in _asked(url))
    policies = [_first(each, top) if key is None else _about(each, key) for each in policies]
    if as_json:
        click.echo(json.dumps({"policies": policies}))
        return
    lines = _lines if key is None else _lines_about
    for policy in policies:
        for line in lines(policy):
            click.echo(line)
    if not policies:
        click.echo("no policy is in shadow mode: set shadow = true in the policy file")


def _asked(url: str) -> list[_Entry]:
    """Return the service's report, or exit."""
    address = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise click.BadParameter(
            f"{url!r}: expected an address like http://127.0.0.1:8001", param_hint="URL"
        )
    try:
        token, _ = tokens()
    except InvalidSetting as error:
        raise click.UsageError(str(error)) from None
    if token is None:
        raise click.UsageError(f"{ADMIN_TOKEN} is not set: give it the token of the service")
    request = Request(  # noqa: S310 (http or https, see above)
        address.rstrip("/") + _PATH, headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with build_opener(_NoRedirects).open(request, timeout=_TIMEOUT) as response:
            policies: list[_Entry] = json.load(response)["policies"]
            return policies
    except HTTPError as error:
        with error:
            fail(REFUSED, f"{url} answered {error.code}: {_advice(error)}")
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        fail(UNDECIDED, f"{url} did not answer as a decision service does: {reason}")


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which would send the token to another server."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def _advice(error: HTTPError) -> str:
    if error.code in (403, 404):
        return (
            "ask the operators' address, that of limiter serve --operators, of a service that has "
            f"{ADMIN_TOKEN}"
        )
    if error.code == 401:
        return f"{ADMIN_TOKEN} is not the token of this service"
    if error.code == 429:
        wait = error.headers.get("Retry-After", "some")
        return f"too many wrong tokens came from this machine; wait {wait} seconds"
    return str(error.reason)


def _first(policy: _Entry, top: int) -> _Entry:
    """Return a policy's entry with its most denied subjects alone."""
    subjects, others = policy["subjects"][:top], policy["subjects"][top:]
    most = max([policy["others_at_most"], *(each["at_most"] for each in others)])
    return {**policy, "subjects": subjects, "others_at_most": most}


def _about(policy: _Entry, key: str) -> _Entry:
    """Return a policy's entry with what is known of one subject.

    ``logged_as`` has its digests: that of the subject itself, and that of a request with this value.
    """
    from limiter.web.subjects import disguised, meant, named

    subjects = meant(key, policy["key"], policy["unidentified"] == "address")
    digests = sorted({disguised(named(subject)) for subject in subjects})
    counted = [
        {**each, "place": _place(each, policy["subjects"])}
        for each in policy["subjects"]
        if each["subject"] in digests
    ]
    return {**policy, "subjects": counted, "logged_as": digests}


def _place(subject: _Entry, subjects: Sequence[_Entry]) -> list[int]:
    """Return the first and the last place that a subject can have among all of them."""
    return [
        1 + sum(each["at_least"] > subject["at_most"] for each in subjects),
        1 + sum(each["at_most"] > subject["at_least"] for each in subjects if each is not subject),
    ]


def _lines(policy: _Entry) -> Iterator[str]:
    yield _title(policy)
    rows = [(_number(each), _share(each, policy), each["subject"]) for each in policy["subjects"]]
    if rows:
        width = max(len(number) for number, _, _ in rows)
        yield f"  {'denials':>{max(width, 7)}}   share  subject"
        for number, share, subject in rows:
            yield f"  {number:>{max(width, 7)}}  {share:>6}  {subject}"
    if policy["others_at_most"]:
        yield f"  each other subject: {policy['others_at_most']:,} at most"


def _lines_about(policy: _Entry) -> Iterator[str]:
    yield _title(policy)
    yield f"  logged as {' or '.join(policy['logged_as'])}"
    for each in policy["subjects"]:
        first, last = each["place"]
        place = f"{first}" if first == last else f"{first} to {last}"
        yield f"  {_number(each)} denials ({_share(each, policy)}), place {place}"
    if not policy["subjects"]:
        most = policy["others_at_most"]
        yield f"  {most:,} denials at most" if most else "  no denials"


def _title(policy: _Entry) -> str:
    from limiter.policyfile.explain import amount

    limits = "; ".join(map(amount, policy["limits"]))
    if not policy["denials"]:
        return f"{policy['policy']}: {limits}: would have denied no request"
    requests = "1 request" if policy["denials"] == 1 else f"{policy['denials']:,} requests"
    since = datetime.fromisoformat(policy["first"]).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{policy['policy']}: {limits}: would have denied {requests} since {since}"


def _number(subject: _Entry) -> str:
    least, most = subject["at_least"], subject["at_most"]
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _share(subject: _Entry, policy: _Entry) -> str:
    return f"{subject['at_most'] / policy['denials']:.1%}"
