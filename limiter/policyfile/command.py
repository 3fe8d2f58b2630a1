"""``limiter check`` and ``limiter explain``; they import what they need when they run."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from limiter.policyfile.reading import PolicyFile

_as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command()
@click.argument("file", type=click.Path())
@_as_json
def check(file: str, as_json: bool) -> None:
    """Check a policy file, and print all of its errors.

    The exit code is 0 if the file is right, else 1; no store is needed. Warnings do not change it: they
    name policies that do not do what they seem to. Those that begin with "behind ForwardAuth" concern you
    if a proxy asks the decision service.

    Example: limiter check policies.toml
    """
    from limiter.policyfile.explain import numbers, other_limits

    policy_file = _read(file, as_json)
    warnings = sorted(
        (*policy_file.warnings, *policy_file.forward_auth_warnings),
        key=lambda warning: warning.line,
    )
    if as_json:
        policies = [named.description for named in policy_file.policies.values()]
        advice = [warning.to_dict() for warning in warnings]
        result = {"file": file, "ok": True, "policies": policies, "warnings": advice}
        click.echo(json.dumps(result))
        return
    for name, named in policy_file.policies.items():
        mark = " (the default)" if named.rule.is_default else ""
        click.echo(f"{name}{mark}: {numbers(named.rule.limiter.policies)}")
        for part, limits in other_limits(named.rule):
            click.echo(f"  {part}: {numbers(limits)}")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    count = len(policy_file.policies)
    click.echo(f"{file} is right: {count} {'policy' if count == 1 else 'policies'}")


class _Explain(click.Command):
    """Says why an argument is missing, if ``--forward-auth`` has taken it for a policy's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        by_option = "--forward-auth" in args
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            if not by_option:
                raise
            hint = (
                "The word behind --forward-auth is read as a policy's name: write the option last."
            )
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None


@click.command(cls=_Explain)
@click.argument("file", type=click.Path())
@click.argument("method")
@click.argument("path")
@click.option(
    "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="May be repeated."
)
@click.option(
    "--peer",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Address of the other end of the connection: the client, or a proxy.",
)
@click.option("--host", help="Host of the request; without it, the header Host, or localhost.")
@click.option(
    "--forward-auth",
    "policy",
    is_flag=False,
    flag_value="",
    metavar="[POLICY]",
    help="Show the answer to a proxy that asks all policies, or one by its name.",
)
@_as_json
def explain(
    file: str,
    method: str,
    path: str,
    headers: tuple[str, ...],
    peer: str,
    host: str | None,
    policy: str | None,
    as_json: bool,
) -> None:
    """Show which policies apply to a request, with subjects and limits, and why the others do not.

    PATH is what a client sends in its request line, read as ForwardAuth reads it: escapes are decoded, a
    query is left out, and all readings of a path count. The command calls no store and charges nothing.
    It reads LIMITER_TRUSTED_PROXIES. The exit code is 0, 1 if the file is wrong, or 2 if the command
    line or the variable is wrong.

    With --forward-auth, a proxy asks: --peer is its address, METHOD, PATH and --host are what it reports,
    and each --header is a field that it passes on. A word behind --forward-auth is the name of a policy,
    so write the option last, or before another option.

    \b
    Examples:
      limiter explain policies.toml GET /api/orders --header 'X-Forwarded-For: 203.0.113.9'
      limiter explain policies.toml GET /a --header 'X-Forwarded-For: 203.0.113.9' --forward-auth
    """
    from limiter.errors import InvalidSetting
    from limiter.policyfile import explain as explanation
    from limiter.settings import trusted_proxies
    from limiter.web.paths import path_of
    from limiter.web.request import Request, bare_host, joined

    fields = joined(map(_field, headers))
    host = host or fields.get("host", "localhost")
    target = os.fsencode(path).decode("latin-1")
    decoded = path_of(target, method.upper())
    if decoded is None and policy is None:
        raise click.BadParameter(
            f"{path!r}: expected what a request line has, without blanks: /orders?a=b, "
            f"http://host/orders, and * with OPTIONS",
            param_hint="PATH",
        )
    policy_file = _read(file, as_json)
    try:
        trusted = trusted_proxies()
    except InvalidSetting as error:
        raise click.UsageError(str(error)) from None
    answer = None
    if policy is None:
        request = Request(
            method.upper(), bare_host(host), decoded or "/", fields, peer, target=target
        )
        entries = explanation.explain(policy_file, request, trusted)
    else:
        reported = {
            "x-forwarded-method": method,
            "x-forwarded-host": host,
            "x-forwarded-uri": target,
        }
        request = Request("GET", "localhost", "/forward-auth", {**reported, **fields}, peer)
        entries, answer = explanation.forward_auth(policy_file, request, trusted, policy)
    if as_json:
        result = {"file": file, "policies": entries}
        click.echo(json.dumps(result if answer is None else {**result, "forward_auth": answer}))
        return
    for line in explanation.as_text(entries, answer):
        click.echo(line)


def _field(header: str) -> tuple[str, str]:
    """The name and value of a header field of the command line."""
    name, colon, value = header.partition(":")
    if not (colon and name.strip()):
        raise click.BadParameter(f"{header!r}: expected 'Name: value'", param_hint="--header")
    return name.strip(), value.strip()


def _read(file: str, as_json: bool) -> PolicyFile:
    from limiter.policyfile.faults import InvalidPolicyFile
    from limiter.policyfile.reading import read
    from limiter.policyfile.text import text_of

    try:
        return read(text_of(file), file)
    except InvalidPolicyFile as error:
        if as_json:
            faults = [fault.to_dict() for fault in error.faults]
            click.echo(json.dumps({"file": file, "ok": False, "errors": faults}))
        else:
            click.echo(str(error), err=True)
        raise SystemExit(1) from None
