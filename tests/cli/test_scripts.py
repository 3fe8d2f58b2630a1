"""``limiter scripts``: the list, the text, and loading on real servers."""

from __future__ import annotations

import json

import pytest

from limiter.scripts import names, script
from service.demo.servers import HOST, Cluster, Server
from tests.cli.support import run
from tests.service.support import ROOT
from tests.users import rule


def test_the_list() -> None:
    """The same names and SHA-1s as in SHA1SUMS."""
    sums = (ROOT / "lua" / "v1" / "SHA1SUMS").read_text().splitlines()
    assert run("scripts").stdout.splitlines() == [line.removesuffix(".lua") for line in sums]
    rows = json.loads(run("scripts --json").stdout)
    assert rows == [{"name": name, "sha1": script(name).sha} for name in names()]


@pytest.mark.parametrize("name", names())
def test_the_text(name: str) -> None:
    """Byte for byte: its SHA-1 is the listed one."""
    source = (ROOT / "lua" / "v1" / f"{name}.lua").read_bytes()
    assert run(f"scripts {name}").stdout_bytes == source
    assert json.loads(run(f"scripts {name} --json").stdout) == [
        {"name": name, "sha1": script(name).sha, "source": source.decode()}
    ]


def test_installing_on_every_primary(cluster: Cluster) -> None:
    """All scripts, or one; the output lists them."""
    shas = [script(name).sha for name in names()]
    clients = [node.client() for node in cluster.nodes]
    try:
        for client in clients:
            client.script_flush()
        done = run(f"scripts several --install --store {cluster.url}")
        assert (done.exit_code, done.stdout) == (
            0,
            f"{script('several').sha}  several  installed\n",
        )
        there = [name == "several" for name in names()]
        assert [client.script_exists(*shas) for client in clients] == [there] * 3
        done = run("scripts --install --json", LIMITER_STORE=cluster.url)
        assert json.loads(done.stdout) == [
            {"name": name, "sha1": script(name).sha} for name in names()
        ]
        assert [client.script_exists(*shas) for client in clients] == [[True] * len(shas)] * 3
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("scripts nonsense", "'nonsense' is not one of"),
        ("scripts --store redis://x", "--store is accepted only with --install"),
        ("scripts --install", "no store: give --store"),
        ("scripts --install --store memory://", "which ends with this command"),
        ("scripts --install --store http://x", "store is 'http://x': expected"),
        ("acl --user 'a b'", "--user: 'a b': expected 1 to 64 of A-Z a-z 0-9 _ . -"),
        ("acl --user a --prefix ''", "--prefix: '': expected 1 to 64 of A-Z a-z 0-9 _ . -"),
    ],
)
def test_a_mistake_is_2(line: str, message: str) -> None:
    """With a line that names what is accepted."""
    done = run(line)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_store_that_is_not_there_is_3() -> None:
    """No script is printed as installed."""
    done = run(f"scripts --install --store redis://{HOST}:1")
    assert (done.exit_code, done.stdout) == (3, "")


def test_a_store_that_refuses_is_4() -> None:
    """A user who may not load scripts."""
    with Server() as server, server.client() as client:
        client.execute_command(*rule(client, "api").split())
        client.acl_setuser("api", enabled=True, passwords=["+pw"], commands=["-script|load"])
        url = server.url.replace("redis://", "redis://api:pw@")
        done = run(f"scripts --install --store {url}")
        assert (done.exit_code, done.stdout) == (4, "")
        assert "script" in done.stderr.lower()
        client.acl_setuser("api", enabled=True, commands=["+script|load"])
        assert run(f"scripts --install --store {url}").exit_code == 0
