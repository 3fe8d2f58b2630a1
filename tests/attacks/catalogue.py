"""Reads attacks.toml, and expands its short requests."""

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
        name: The name in reports.
        point: The point of the list of weaknesses; "more" if it is not in that list.
        send: The variants; each is sent 20 times from a client address of its own.
        policy: The name of the policy that is in force.
        ran: The upstream's handler that must run for a request to count as served.
        limit: How many of the 20 requests may be served.
        cycle: Whether the 20 requests go through the variants in turn.
        where: The targets (a pattern of names).
        counted: The targets where more may be served, as documented, and is only counted.
        peer: The address that sends; by default one that no other attack has.
        held: For a siege: the number of connections that each send the first request, and stay open.
            Then 50 ordinary requests are sent, and all must be served within 5 seconds.
        http2: Whether to send over HTTP/2.

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
    """Expand a short request, by the rules in attacks.toml."""
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
#: The settings beside the limit in the policy file, by the policy's name.
POLICIES: dict[str, str] = _FILE["policies"]
#: The request of an ordinary client of each policy (exactly 5 of 20 are served), and the handler.
HONEST = {
    policy: Attack(
        "honest clients", "", (written(said["send"]),), policy, said.get("ran", "orders")
    )
    for policy, said in _FILE["honest"].items()
}
