"""``limiter doctor`` on real servers: each finding, with what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from limiter.doctor import Level, findings
from limiter.transport.inspection import Facts, Scripts, Server, inspect
from service.demo.servers import HOST, Certificates, Cluster, Watched
from service.demo.servers import Server as RealServer
from tests.cli.support import run
from tests.users import rule


def checks(store: str, **environ: str) -> dict[str, tuple[str, str]]:
    """Return what the command reports about a store: of each topic the level, and the text."""
    # On a busy machine, a round trip may take longer than a service would wait.
    done = run(f"doctor --json --store '{store}'", **{"LIMITER_TIMEOUT": "5", **environ})
    rows = json.loads(done.stdout)["checks"]
    found = {row["topic"]: (row["level"], f"{row['found']}|{row['advice']}") for row in rows}
    assert done.exit_code == any(level == "fault" for level, _ in found.values())
    return found


def test_a_server_that_has_all(any_store: str) -> None:
    found = checks(any_store)

    assert {level for topic, (level, _) in found.items() if topic != "memory"} == {"ok"}
    assert found["server"][1].split()[0] in ("Valkey", "Redis")
    assert found["memory"][0] == "warning"  # the tests' servers have no maxmemory
    assert found["clock"][1] == "moves inside scripts in steps of 1 us|"
    lines = run(f"doctor --store {any_store}", LIMITER_TIMEOUT="5").stdout.splitlines()
    assert len(lines) == len(found) + 1
    assert re.match(r"ok +round trip +\d+\.\d\d ms, at most ", lines[-1])


def test_it_connects_as_the_limiter_and_writes_nothing(own: RealServer) -> None:
    """The user of `limiter acl` has all rights that are asked; what it may not ask is said."""
    with own.client() as admin:
        admin.execute_command(rule(admin, "narrow"))
        admin.execute_command("ACL SETUSER narrow >secret")
        found = checks(own.url.replace("://", "://narrow:secret@"))
        assert admin.dbsize() == 0

    assert {level for level, _ in found.values()} == {"ok"}
    assert found["memory"][1].startswith("not known, since INFO was refused")
    assert found["replicas"][1].startswith("not known, since INFO was refused")


def test_missing_rights_are_named(own: RealServer) -> None:
    with own.client() as admin:
        admin.execute_command(rule(admin, "narrow").replace(" +hset", "").replace(" +zadd", ""))
        admin.execute_command("ACL SETUSER narrow >secret")
    store = own.url.replace("://", "://narrow:secret@")
    with own.client() as admin:  # a user who makes no reservations by an id
        admin.execute_command(rule(admin, "earlier").replace(" +get", "").replace(" +set", ""))
        admin.execute_command("ACL SETUSER earlier >secret")
    assert checks(own.url.replace("://", "://earlier:secret@"))["rights"] == (
        "warning",
        "the store's user lacks +get +set|only /v1/reserve needs it; `limiter acl` prints all rights",
    )
    expected = "the store's user lacks +hset +zadd|grant what `limiter acl` prints"

    assert checks(store)["rights"] == ("fault", expected)


def test_a_user_who_may_not_run_scripts_is_no_fault_of_the_server(own: RealServer) -> None:
    with own.client() as admin:
        admin.execute_command(rule(admin, "narrow").replace(" +eval ", " "))
        admin.execute_command("ACL SETUSER narrow >secret")
    found = checks(own.url.replace("://", "://narrow:secret@"))

    assert found["rights"] == (
        "fault",
        "the store's user lacks +eval|grant what `limiter acl` prints",
    )
    assert found["server"][0] == "ok"
    assert found["clock"] == ("warning", "not known, since no script ran|")


def test_settings_that_forget_limits(own: RealServer) -> None:
    with own.client() as admin:
        admin.config_set("maxmemory", "64mb")
        admin.config_set("maxmemory-policy", "allkeys-lru")
        level, text = checks(own.url)["memory"]
        assert (level, text.partition("|")[2]) == (
            "warning",
            "a full server forgets limits; set maxmemory-policy noeviction",
        )
        admin.config_set("maxmemory-policy", "noeviction")
        assert checks(own.url)["memory"][0] == "ok"


def test_a_cluster(cluster: Cluster) -> None:
    found = checks(cluster.url)

    assert found["topology"] == (
        "ok",
        "a cluster of 3 primaries, all 16,384 slots have an owner|",
    )
    assert found["coverage"] == ("ok", "cluster-require-full-coverage is no|")
    node = cluster.nodes[1]
    with node.client() as admin:
        admin.config_set("cluster-require-full-coverage", "yes")
        level, text = checks(cluster.url)["coverage"]
        admin.config_set("cluster-require-full-coverage", "no")
    assert level == "warning"
    assert text.startswith(f"{HOST}:{node.port}: cluster-require-full-coverage is yes|")


def test_a_node_of_a_cluster_and_a_replica_are_no_stores(
    cluster: Cluster, own: RealServer, server: RealServer
) -> None:
    level, text = checks(f"redis://{HOST}:{cluster.nodes[0].port}")["topology"]
    assert (level, text.partition("|")[0]) == ("fault", "this server is a node of a cluster")
    with own.client() as admin:
        admin.execute_command("REPLICAOF", HOST, server.port)
        level, text = checks(own.url)["topology"]
    assert (level, text) == (
        "fault",
        "this server is a replica|it accepts no charges; give the address of the primary",
    )


def test_sentinels() -> None:
    with Watched(0) as watched:
        address = f"{HOST}:{watched.servers[0].port}"
        expected = f"Sentinel: 3 sentinels, primary at {address}|"
        assert checks(watched.url)["topology"] == ("ok", expected)
        watched.sentinels[1].kill()
        level, text = checks(watched.url)["topology"]
    assert level == "warning"
    assert text.startswith(f"Sentinel: 2 of 3 sentinels name the primary at {address}|the others")


def test_tls(certificates: Certificates, tls_binary: Path) -> None:
    with RealServer(tls_binary, tls=certificates) as server:
        assert checks(server.url)["TLS"] == ("ok", "the server's certificate is checked|")
        unchecked = checks(f"rediss://{HOST}:{server.port}?ssl_cert_reqs=none")["TLS"]
    assert unchecked[0] == "warning"


def test_a_server_on_which_promises_do_not_hold_is_refused_by_name(foreign: str) -> None:
    found = checks(foreign)

    assert found["server"][1].startswith("Fakeredis ")
    assert found["struct"] == (
        "fault",
        "Lua's library struct is missing|"
        "fakeredis cannot run the limiter's scripts; use another server",
    )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (f"--store redis://{HOST}:1", 3, "Connection refused: does a server listen there?"),
        ("--store memory://", 2, "store is memory://, which ends with this command"),
        ("", 2, "no store: give --store"),
        (f"--timeout 0 --store redis://{HOST}:1", 2, "timeout is 0.0: expected"),
        (f"--prefix a{{b --store redis://{HOST}:1", 2, "prefix is 'a{b': expected"),
    ],
)
def test_what_cannot_be_checked(options: str, code: int, message: str) -> None:
    done = run(f"doctor {options}")

    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr


def test_a_wrong_password_is_refused(own: RealServer) -> None:
    done = run(f"doctor --store redis://stranger:wrong@{HOST}:{own.port}")

    assert done.exit_code == 4
    assert "refused our credentials or rights" in done.stderr
    assert "wrong" not in done.stderr.replace("username-password", "")


#: Answers of servers that cannot be run here.
FOUND = Server(
    "store a:1", {"server": "redis", "version": "8.0.2", "role": "master"}, {}, None, None, "", ""
)


def scripts(*times_us: int, seconds: float = 0.001) -> Scripts:
    """Return what a script read on a server."""
    return Scripts(times_us, (seconds,) * len(times_us), has_struct=True)


@pytest.mark.parametrize(
    ("server", "topic", "level", "text"),
    [
        (
            FOUND._replace(scripts=scripts(*[10**15] * 3)),
            "clock",
            Level.FAULT,
            "time stands still inside scripts: redis cannot decide about time; use another server",
        ),
        (
            FOUND._replace(scripts=scripts(10**15, 10**15 + 10_000, 10**15 + 30_000)),
            "clock",
            Level.WARNING,
            "moves inside scripts in steps of 10 ms: limits of shorter periods are not exact",
        ),
        (
            FOUND._replace(scripts=scripts(5, 7)),
            "clock",
            Level.FAULT,
            "a script reads 5 us since 1970: set the server's clock",
        ),
        (
            FOUND._replace(refusal="unknown command"),
            "server",
            Level.FAULT,
            "Redis 8.0.2: it runs no Lua script (unknown command)",
        ),
        (
            FOUND._replace(info={"redis_version": "6.2.14", "gcc_version": "12"}),
            "server",
            Level.FAULT,
            "Redis 6.2.14: expected 7.0 or later",
        ),
        (
            FOUND._replace(info={"redis_version": "7.2.4", "valkey_version": "9.1.2"}),
            "server",
            Level.OK,
            "Valkey 9.1.2",
        ),
        (
            FOUND._replace(scripts=scripts(10**15, 10**15 + 1, seconds=0.06)),
            "round trip",
            Level.WARNING,
            "60.00 ms, at most 60.00 ms; the timeout is 0.1 s: on_error decides when a call is late; "
            "use a nearer server, or a longer timeout",
        ),
        (
            FOUND._replace(
                info={"maxmemory_policy": "noeviction", "maxmemory": "100", "used_memory": "91"}
            ),
            "memory",
            Level.WARNING,
            "noeviction, 0 MiB of 0 MiB used: a full server accepts no charges, and on_error decides; "
            "give it more",
        ),
    ],
)
def test_findings_about_servers_that_cannot_be_run_here(
    server: Server, topic: str, level: Level, text: str
) -> None:
    report = findings(Facts("store a:1", False, None, (server,), 0, 0), 0.1)
    (found,) = [each for each in report if each.topic == topic]

    assert (found.level, str(found)) == (level, text)


class OddTransport(SimpleNamespace):
    """Leads to a server of another make, which knows HELLO, INFO, EVAL and CLUSTER SLOTS."""

    where, checks_certificates = "store a:1", None

    def primaries(self, _deadline: float) -> list[Any]:
        """Return the only server."""
        return [self]

    def sentinels(self) -> tuple[int, int]:
        """Return that there are none."""
        return (0, 0)

    def ask(self, _node: object, encoded: bytes, _deadline: float) -> Any:
        """Answer as this server would."""
        if b"SLOTS" in encoded:
            return [[0, 16_383, [b"a", 1], [b"b", 1]]]  # no ids of nodes
        if b"EVAL" in encoded:  # the second script asks for the rights
            return None if b"acl_check_cmd" in encoded else [b"1700000000", b"1", 1]
        return self.info if b"INFO" in encoded else b"OK"


@pytest.mark.parametrize(
    "info", [b"", b"maxmemory:unlimited\r\nmaxmemory_policy:noeviction\r\nconnected_slaves:\r\n"]
)
@pytest.mark.parametrize("is_cluster", [False, True])
def test_what_a_server_does_not_say_is_not_known(info: bytes, is_cluster: bool) -> None:
    transport = cast("Any", OddTransport(info=info, is_cluster=is_cluster))
    report = {each.topic: each for each in findings(inspect(transport, b"key", 1.0), 0.1)}
    unsaid = "not known, since INFO does not say it"

    assert report["memory"].found == f"{unsaid}; see that maxmemory-policy is noeviction"
    assert report["replicas"].found == ("1" if is_cluster else unsaid)
    assert report["rights"].found == (
        "not known, since the server cannot check them; grant what `limiter acl` prints"
    )


def test_slots_without_an_owner_are_reported() -> None:
    """A cluster has some while it is built, and after a primary without replicas has died."""
    report = findings(Facts("store a:1", True, None, (FOUND,), 16_382, 0), 0.1)

    assert (report[1].level, report[1].found) == (
        Level.WARNING,
        "a cluster of 1 primary, 16,382 of 16,384 slots have an owner",
    )
