"""Examine a store: whether the limiter's promises hold on it, and what its operator should change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import IntEnum
from itertools import pairwise
from math import gcd
from statistics import median
from typing import NamedTuple

from limiter.keys import KeySpeller
from limiter.scripts import OF_RECORDS
from limiter.transport import connect
from limiter.transport.inspection import Facts, Server, inspect, number
from limiter.transport.slots import SLOTS

#: The first versions that have all that the scripts use.
_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}

#: The part of ``maxmemory`` in use from which a server is called nearly full.
_NEARLY_FULL = 0.9


class Level(IntEnum):
    """How much a finding matters."""

    OK = 0
    WARNING = 1
    FAULT = 2


class Finding(NamedTuple):
    """One line of the report."""

    level: Level
    topic: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.found}: {self.advice}" if self.advice else self.found


#: Topics of the server itself: with a fault in one of them, the limiter's promises do not hold on it.
PROMISES = ("server", "clock", "struct")


class Report(NamedTuple):
    """What was found about a store."""

    where: str
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Level:
        """The highest level of a finding."""
        return max(finding.level for finding in self.findings)


def examine(store: object, prefix: str, timeout: float, connect_timeout: float = 2.0) -> Report:
    """Ask every primary of a store, as a limiter's user; write nothing.

    ``timeout`` is the limiter's, in seconds, with which the round trip is compared. Each primary may take
    ``connect_timeout``.

    Raises:
        InvalidSetting: ``store`` or ``prefix`` is wrong.
        StoreUnavailable, StoreRefused: A primary did not answer, or refused the connection.

    """
    key, _ = KeySpeller(prefix, "doctor", None).state("doctor")
    with closing(connect(store, connect_timeout, connect_timeout)) as transport:
        facts = inspect(transport, key, connect_timeout)
    return Report(facts.where, tuple(findings(facts, timeout)))


def findings(facts: Facts, timeout: float) -> list[Finding]:
    """Judge what a store answered: one finding for each topic, of the server for which it is worst."""
    found = [_server, _clock, _struct, _rights, _memory]
    report = [_worst(facts, judge) for judge in found]
    report[1:1] = [_topology(facts), _tls(facts)]
    report += [_replicas(facts)]
    if facts.is_cluster:
        report += [_worst(facts, _coverage)]
    report += [_worst(facts, lambda server: _round_trip(server, timeout))]
    return report


def _worst(facts: Facts, judge: Callable[[Server], Finding]) -> Finding:
    judged = [(judge(server), server) for server in facts.servers]
    worst, server = max(judged, key=lambda each: each[0].level)
    if worst.level and len(judged) > 1:
        return worst._replace(found=f"{server.where.removeprefix('store ')}: {worst.found}")
    return worst


def name_of(server: Server) -> tuple[str, str]:
    """Return a server's product and version, as it names itself."""
    versions = dict(_versions(server))
    others = [name for name in versions if name != "redis"]
    name = others[0] if others else server.hello.get("server", "redis").lower()
    return name, versions.get(name) or server.hello.get("version", "")


def _versions(server: Server) -> Iterator[tuple[str, str]]:
    for field, value in (server.info or {}).items():
        match = re.fullmatch(r"([a-z]+)_version", field)
        if match and match[1] not in ("gcc", "os"):
            yield match[1], value


def _server(server: Server) -> Finding:
    name, version = name_of(server)
    shown = f"{name.capitalize()} {version}".strip()
    if server.refusal and not server.missing:
        return _fault("server", shown, f"it runs no Lua script ({server.refusal})")
    oldest = _OLDEST.get(name)
    if oldest is None:
        advice = "it was not tried; the checks below are all that is known"
        return Finding(Level.WARNING, "server", shown, advice)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < oldest:
        accepted = ".".join(map(str, oldest))
        return _fault("server", shown, f"expected {accepted} or later")
    return Finding(Level.OK, "server", shown)


def _fault(topic: str, found: str, advice: str) -> Finding:
    return Finding(Level.FAULT, topic, found, advice)


def _unknown(topic: str) -> Finding:
    return Finding(Level.WARNING, topic, "not known, since no script ran")


def _not_in_info(server: Server) -> str:
    why = "was refused" if server.info is None else "does not say it"
    return f"not known, since INFO {why}"


def _topology(facts: Facts) -> Finding:
    if not facts.is_cluster:
        hello = facts.servers[0].hello
        if hello.get("role", "master") != "master":
            advice = "it accepts no charges; give the address of the primary"
            return _fault("topology", "this server is a replica", advice)
        if hello.get("mode") == "cluster":
            advice = "it decides about some subjects only; give the store as redis+cluster://"
            return _fault("topology", "this server is a node of a cluster", advice)
        if facts.sentinels[1]:
            return _sentinel(*facts.sentinels, facts.servers[0])
        return Finding(Level.OK, "topology", "one server")
    primaries = "1 primary" if len(facts.servers) == 1 else f"{len(facts.servers)} primaries"
    shown = f"a cluster of {primaries}"
    if facts.slots < SLOTS:
        advice = "subjects of the other slots are decided by on_error; see CLUSTER SLOTS"
        found = f"{shown}, {facts.slots:,} of {SLOTS:,} slots have an owner"
        return Finding(Level.WARNING, "topology", found, advice)
    return Finding(Level.OK, "topology", f"{shown}, all {SLOTS:,} slots have an owner")


def _sentinel(agreeing: int, sentinels: int, primary: Server) -> Finding:
    address = primary.where.removeprefix("store ").removesuffix(" (TLS)")
    if agreeing < sentinels:
        found = f"Sentinel: {agreeing} of {sentinels} sentinels name the primary at {address}"
        advice = "the others do not answer, or are cut off; most are needed for a failover"
        return Finding(Level.WARNING, "topology", found, advice)
    shown = f"Sentinel: {sentinels} sentinels, primary at {address}"
    return Finding(Level.OK, "topology", shown)


def _tls(facts: Facts) -> Finding:
    if facts.is_checked is None:
        found = "no TLS; outside of a private network use rediss://"
        return Finding(Level.OK, "TLS", found)
    if not facts.is_checked:
        advice = "a machine on the way can read and answer; remove ssl_cert_reqs=none"
        return Finding(Level.WARNING, "TLS", "the server's certificate is not checked", advice)
    return Finding(Level.OK, "TLS", "the server's certificate is checked")


def _clock(server: Server) -> Finding:
    if server.scripts is None:
        return _unknown("clock")
    times = server.scripts.times_us
    if times[0] == times[-1]:
        advice = f"{name_of(server)[0]} cannot decide about time; use another server"
        return _fault("clock", "time stands still inside scripts", advice)
    if min(times) < 1_000_000_000_000_000:
        return _fault("clock", f"a script reads {times[0]} us since 1970", "set the server's clock")
    grain = gcd(*[after - before for before, after in pairwise(times)])
    # Some steps of a clock of 1 us have a common factor by chance.
    shown = "1 us" if grain < 100 else f"{grain / 1000:g} ms"
    if grain > 1000:
        advice = "limits of shorter periods are not exact"
        return Finding(Level.WARNING, "clock", f"moves inside scripts in steps of {shown}", advice)
    return Finding(Level.OK, "clock", f"moves inside scripts in steps of {shown}")


def _struct(server: Server) -> Finding:
    if server.scripts is None:
        return _unknown("struct")
    if not server.scripts.has_struct:
        advice = f"{name_of(server)[0]} cannot run the limiter's scripts; use another server"
        return _fault("struct", "Lua's library struct is missing", advice)
    return Finding(Level.OK, "struct", "Lua's library struct is there")


def _rights(server: Server) -> Finding:
    if server.missing is None and server.scripts is None:
        return _unknown("rights")
    if server.missing is None:
        found = "not known, since the server cannot check them; grant what `limiter acl` prints"
        return Finding(Level.OK, "rights", found)
    if server.missing and {*server.missing.split()} <= {f"+{name}" for name in OF_RECORDS}:
        advice = "only /v1/reserve needs it; `limiter acl` prints all rights"
        found = f"the store's user lacks {server.missing}"
        return Finding(Level.WARNING, "rights", found, advice)
    if server.missing:
        advice = "grant what `limiter acl` prints"
        return _fault("rights", f"the store's user lacks {server.missing}", advice)
    return Finding(Level.OK, "rights", "the store's user may run all that the scripts need")


def _memory(server: Server) -> Finding:
    policy = (server.info or {}).get("maxmemory_policy")
    most, used = number(server.info, "maxmemory"), number(server.info, "used_memory")
    if policy is None or most is None or used is None:
        found = f"{_not_in_info(server)}; see that maxmemory-policy is noeviction"
        return Finding(Level.OK, "memory", found)
    room = f"{_bytes(used)} of {_bytes(most)} used" if most else f"{_bytes(used)} used"
    shown = f"{policy}, {room}"
    if policy != "noeviction":
        advice = "a full server forgets limits; set maxmemory-policy noeviction"
        return Finding(Level.WARNING, "memory", shown, advice)
    if not most:
        advice = "without maxmemory, the server takes all of the machine's memory; set it"
        return Finding(Level.WARNING, "memory", shown, advice)
    if used > _NEARLY_FULL * most:
        advice = "a full server accepts no charges, and on_error decides; give it more"
        return Finding(Level.WARNING, "memory", shown, advice)
    return Finding(Level.OK, "memory", shown)


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _replicas(facts: Facts) -> Finding:
    if facts.replicas is None:
        return Finding(Level.OK, "replicas", _not_in_info(facts.servers[0]))
    if not facts.replicas:
        found = "none; while a primary is away, on_error decides"
        return Finding(Level.OK, "replicas", found)
    return Finding(Level.OK, "replicas", str(facts.replicas))


def _coverage(server: Server) -> Finding:
    found = server.full_coverage
    topic, name = "coverage", "cluster-require-full-coverage"
    if found is None:
        return Finding(
            Level.OK, topic, f"not known, since CONFIG was refused; see that {name} is no"
        )
    if found != "no":
        advice = f"one primary that is away stops all others; set {name} no"
        return Finding(Level.WARNING, topic, f"{name} is {found}", advice)
    return Finding(Level.OK, topic, f"{name} is no")


def _round_trip(server: Server, timeout: float) -> Finding:
    if server.scripts is None:
        return _unknown("round trip")
    seconds = server.scripts.seconds
    usual, worst = median(seconds), max(seconds)
    shown = f"{usual * 1000:.2f} ms, at most {worst * 1000:.2f} ms; the timeout is {timeout:g} s"
    if worst > timeout / 2:
        advice = "on_error decides when a call is late; use a nearer server, or a longer timeout"
        return Finding(Level.WARNING, "round trip", shown, advice)
    return Finding(Level.OK, "round trip", shown)
