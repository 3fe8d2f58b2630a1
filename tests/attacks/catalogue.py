"""The attacks of attacks.toml, and the requests that stand there in short, written out."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SENT = 20
LIMIT = 5


@dataclass(frozen=True)
class Attack:
    """Requests that try to be served more often than the limit admits.

    Attributes:
        name: In reports.
        point: Of the issue; "more" where it is not in it.
        send: Variants; each is sent 20 times by a client address of its own.
        policy: The name of the policy that is in force.
        ran: What the upstream must have run for a request to count as served.
        limit: How often that may be, of 20.
        cycle: Send the variants in turn, 20 requests together.
        where: Targets (a pattern of names).
        counted: Targets where the outcome is only counted, and no more than documented.
        peer: The address that sends; one that nothing else has where none is named.
        held: A siege: this many connections each send the first request, and are kept open.
            "Served" are then 50 honest requests within 5 seconds, and all must be.
        http2: Sent over HTTP/2.

    """

    name: str
    point: str
    send: tuple[str, ...]
    policy: str = "address"
    ran: str = "orders"
    limit: int = LIMIT
    cycle: bool = False
    where: str = "[!s]*"
    counted: str = ""
    peer: str = ""
    held: int = 0
    http2: bool = False


def written(short: str) -> str:
    """Write out a request that stands in short; attacks.toml says how."""
    if short.startswith("RAW "):
        return short.removeprefix("RAW ")
    head, _, body = short.partition(" || ")
    line, *fields = head.split(" | ")
    if not any(one.startswith("Host:") for one in fields):
        fields.insert(0, "Host: shop.example")
    if not any(one.startswith("Connection:") for one in fields):
        fields.append("Connection: close")
    return "\r\n".join([f"{line} HTTP/1.1", *fields, "", body])


def http2_fields(short: str) -> list[tuple[str, str]]:
    """Write out a header block for HTTP/2."""
    line, *fields = short.split(" | ")
    method, _, path = line.partition(" ")
    pseudo = [(":method", method), (":scheme", "http"), (":path", path)]
    if not any(one.startswith(":authority") for one in fields):
        pseudo.append((":authority", "shop.example"))
    return pseudo + [(name, value) for name, _, value in (one.partition(" ") for one in fields)]


_FILE: dict[str, Any] = tomllib.loads((Path(__file__).parent / "attacks.toml").read_text())


def _replaced(short: str) -> str:
    for name, text in _FILE["texts"].items():
        short = short.replace(f"{{{name}}}", text)
    return re.sub(r"\{([^{}]+)\*(\d+)\}", lambda found: found[1] * int(found[2]), short)


def _attack(name: str, said: dict[str, Any]) -> Attack:
    short = [*said.pop("send", []), *(f"GET {one}" for one in said.pop("targets", []))]
    send = tuple(map(_replaced, short))
    return Attack(name, send=send if said.get("http2") else tuple(map(written, send)), **said)


ATTACKS = tuple(_attack(name, said) for name, said in _FILE["attacks"].items())
#: What the policy file says beside the limit, by the name of the policy.
POLICIES: dict[str, str] = _FILE["policies"]
#: How an honest client of a policy calls, of whose 20 requests exactly 5 are served, and what then runs.
HONEST = {
    policy: Attack(
        "honest clients", "", (written(said["send"]),), policy, said.get("ran", "orders")
    )
    for policy, said in _FILE["honest"].items()
}
