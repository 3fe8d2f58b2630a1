r"""Try every attack on the limiter, behind each proxy, in front of each framework, and in process.

\b
    python -m tests.attacks
    python -m tests.attacks --only 'nginx/*/*' --only '*/express/cookie*' --json attacks.json

The proxies have the configurations of docs/forward-auth.md and traefik/. Programs that are not installed
are skipped, and listed: aiohttp (pip install aiohttp); Express and Fastify (npm install --prefix FOLDER
express cookie-parser fastify @fastify/cookie, and NODE_PATH=FOLDER/node_modules in the environment).

The limit is 5, and each attack sends 20 requests. The table shows how many of them were served: how
often the framework's handler ran. If an attack has several variants, it shows the worst (--json has each).
The mark "!" means more than the limit admits; "~" means the same where the documents allow it. For a siege,
such as 20 slow bodies, the table shows how many of 50 ordinary requests were answered within 5 seconds.

\b
Exit code 1: an attack was served more often than the limit admits ("!").
Exit code 2: ordinary clients were not limited to exactly 5, so that the results show nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from limiter import LimiterError
from limiter.policyfile import Policies
from service.demo.servers import HOST, Server
from tests.attacks.catalogue import ATTACKS, HONEST, LIMIT, POLICIES, SENT, Attack, written
from tests.attacks.machines import OTHERS, PROXIES, UPSTREAMS, Machines, Target, check_documents
from tests.attacks.sending import besiege, exchange, send, speaks_http2

_HONEST = Attack("honest clients", "", (written("GET /orders"),))

NAMES = [f"{proxy}/{upstream}" for proxy in PROXIES[:4] for upstream in UPSTREAMS]
NAMES += [f"{proxy}/{upstream}" for proxy in PROXIES[4:] for upstream in ("flask", "express")]
NAMES += OTHERS


def policy_file(policy: str) -> str:
    """Return a policy file in which this policy is in force."""
    return f'[policies.default]\nlimits = "{LIMIT}/hour"\n{POLICIES[policy]}\n'


def _is_known(policy: str, folder: Path, store: str) -> bool:
    path = folder / "try.toml"
    path.write_text(policy_file(policy))
    try:
        Policies(str(path), store=store).close()
    except LimiterError:
        return False
    return True


class Run:
    """One run, and its results."""

    def __init__(self, only: tuple[str, ...], say: Any) -> None:
        self._only = [pattern.split("/", 2) for pattern in only or ("*/*/*",)]
        self._say = say
        self.found: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.skipped: dict[str, str] = {}
        self._http2: dict[str, bool] = {}

    def wanted(self, target: str, attack: Attack | None = None) -> bool:
        """Whether this attack, by default any, is tried on the target."""
        words = target.split("/") if attack is None else [*target.split("/"), attack.name]
        return any(all(map(fnmatchcase, words, pattern)) for pattern in self._only) and (
            attack is None or fnmatchcase(target, attack.where)
        )

    def all(self) -> None:
        """Start all targets, and try all attacks."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacks-")))
            store = stack.enter_context(Server()).url
            policies = folder / "policies.toml"
            policies.write_text(policy_file("address"))
            machines = Machines(stack, folder, store, policies)
            for name in filter(self.wanted, NAMES):
                self._say(f"starting {name}")
                machines.start(name)
            self.skipped = machines.skipped
            for policy in POLICIES:
                attacks = [one for one in ATTACKS if one.policy == policy]
                targets = [one for one in machines.targets if policy in (one.policies or POLICIES)]
                pairs = [(a, t) for a in attacks for t in targets if self.wanted(t.name, a)]
                if not pairs:
                    continue
                if not _is_known(policy, folder, store):
                    self.skipped[f"policy {policy}"] = "this version has no such policy"
                    continue
                policies.write_text(policy_file(policy))
                time.sleep(2.5)  # a changed file is in force within two seconds
                asked = list(dict.fromkeys(target for _, target in pairs))
                for target in asked:  # the old policy may decide about one more request
                    exchange(target.port, HOST, written("GET /up"))
                time.sleep(0.5)
                for target in asked:
                    self._check(target, policy)
                for attack in dict.fromkeys(attack for attack, _ in pairs):
                    self._say(f"{policy}: {attack.name}")
                    for target in (target for one, target in pairs if one is attack):
                        self._try(attack, target)

    def _check(self, target: Target, policy: str) -> None:
        """Check that ordinary requests are limited: if not, the harness is wrong."""
        if not target.counts_at:
            return
        served, sent, answer = send(target, honest := HONEST.get(policy, _HONEST), honest.send)
        if (served, sent) != (LIMIT, SENT):
            fault = (
                f"{policy} {target.name}: {served} of {sent} honest requests served, not {LIMIT}"
            )
            self.faults.append(f"{fault}; the last answer was {answer[:300]!r}")
            self._say(self.faults[-1])

    def _try(self, attack: Attack, target: Target) -> None:
        if attack.http2:
            if target.name not in self._http2:
                self._http2[target.name] = speaks_http2(target)
            if not self._http2[target.name]:
                self.skipped[f"{target.name} over HTTP/2"] = "it speaks none at a plain port"
                return
        asserted = not fnmatchcase(target.name, attack.counted)
        groups = [attack.send] if attack.cycle or attack.held else [(one,) for one in attack.send]
        for group in groups:
            if attack.held:
                served, sent = besiege(target, attack)
                is_open = served < 0.9 * sent  # a busy machine may answer some too late
            else:
                served, sent, _ = send(target, attack, group)
                is_open = served > attack.limit
            self.found.append(
                {
                    "attack": attack.name,
                    "point": attack.point,
                    "target": target.name,
                    "request": list(group) if attack.cycle else group[0],
                    "served": served,
                    "sent": sent,
                    "limit": sent if attack.held else attack.limit,
                    "open": is_open,
                    "asserted": asserted,
                }
            )
            if is_open and asserted:
                self._say(f"! {target.name}: {served} of {sent}: {group[0][:100]!r}")


def _worst(cells: list[dict[str, Any]]) -> str:
    if not cells:
        return "-"
    cell = max(
        cells, key=lambda one: (one["open"], abs(one["served"] - one["limit"] * one["open"]))
    )
    mark = ("!" if cell["asserted"] else "~") if cell["open"] else ""
    return f"{cell['served']}{mark}"


def table(found: list[dict[str, Any]]) -> str:
    """Return a table for each proxy: attacks in rows, upstreams in columns."""
    lines: list[str] = []
    names = list(dict.fromkeys(one["target"] for one in found))
    groups: dict[str, list[str]] = {}
    for name in names:
        proxy = name.split("/")[0]
        groups.setdefault(proxy if proxy in PROXIES[:4] else "others", []).append(name)
    for group, members in groups.items():
        titles = members if group == "others" else [name.split("/")[1] for name in members]
        widths = [max(len(title), 4) for title in titles]
        head = "  ".join(title.rjust(width) for title, width in zip(titles, widths, strict=True))
        lines += ["", f"{group:<44}  point  allowed  {head}"]
        for attack in dict.fromkeys(one["attack"] for one in found if one["target"] in members):
            rows = [one for one in found if one["attack"] == attack]
            cells = [_worst([one for one in rows if one["target"] == name]) for name in members]
            row = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{attack:<44}  {rows[0]['point']:<5}  {rows[0]['limit']:>7}  {row}")
    return "\n".join(lines)


@click.command(help=(__doc__ or "").replace(r"\b", "\b"))
@click.option(
    "--only", multiple=True, metavar="PROXY/UPSTREAM/ATTACK", help="Patterns; may be repeated."
)
@click.option(
    "--json", "path", type=click.Path(dir_okay=False), help="Write every count to this file."
)
@click.option(
    "--list", "listing", is_flag=True, help="Name the targets and the attacks, and try none."
)
def main(only: tuple[str, ...], path: str | None, listing: bool) -> None:
    """Try every attack."""
    if listing:
        click.echo("\n".join([*NAMES, "", *(f"{one.point:<5} {one.name}" for one in ATTACKS)]))
        return
    check_documents()
    began = time.monotonic()
    run = Run(only, lambda text: click.echo(f"{time.monotonic() - began:4.0f} s  {text}", err=True))
    run.all()
    click.echo(table(run.found))
    holes = [one for one in run.found if one["open"] and one["asserted"]]
    click.echo(
        f"\n{len(holes)} of {len(run.found)} variants were served more often than the limit admits"
    )
    for name, why in run.skipped.items():
        click.echo(f"left out: {name}: {why}")
    for fault in run.faults:
        click.echo(f"the harness is wrong: {fault}")
    if path:
        Path(path).write_text(
            json.dumps({"found": run.found, "skipped": run.skipped, "faults": run.faults}, indent=1)
        )
    sys.exit(2 if run.faults else 1 if holes else 0)


if __name__ == "__main__":
    main()
