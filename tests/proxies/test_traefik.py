"""How Traefik handles clients' forwarding fields, by its settings, and workers that end."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.demo.servers import HOST
from tests.proxies.support import (
    MARKS,
    TRUSTED,
    Behind,
    Front,
    behind,
    front,
    passing_on,
    run_traefik,
)
from tests.proxies.test_forward_auth import FORGED
from tests.server.serving import serving
from tests.waiting import until

pytestmark = MARKS

#: The three states of trustForwardHeader: a missing one differs from false.
SETTINGS: dict[str, dict[str, bool]] = {
    "unset": {},
    "false": {"trustForwardHeader": False},
    "true": {"trustForwardHeader": True},
}


def routes(found: Behind) -> dict[str, Any]:
    """A route for each setting, and one without ForwardAuth."""
    address = f"http://{HOST}:{found.service_port}/forward-auth/default"
    routers: dict[str, Any] = {"up": {"rule": "Path(`/up`)", "service": "upstream"}}
    middlewares = {}
    for name, setting in SETTINGS.items():
        rule = f"PathPrefix(`/{name}`)"
        routers[name] = {"rule": rule, "service": "upstream", "middlewares": [name]}
        middlewares[name] = {
            "forwardAuth": {"address": address, "maxResponseBodySize": 4096, **setting}
        }
    servers = [{"url": f"http://{HOST}:{found.upstream_port}"}]
    services = {"upstream": {"loadBalancer": {"servers": servers}}}
    return {"routers": routers, "middlewares": middlewares, "services": services}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[tuple[Path, Behind]]:
    folder = tmp_path_factory.mktemp("traefik")
    with behind(
        folder,
        LIMITER_STORE=store,
        LIMITER_PREFIX=f"traefik-{secrets.token_hex(4)}",
        LIMITER_LIMITS="3/minute",
    ) as running:
        yield folder, running


@pytest.fixture(scope="module")
def inner(found: tuple[Path, Behind]) -> Iterator[Front]:
    """A Traefik that trusts only proxies at 127.0.0.1."""
    folder, running = found
    with run_traefik(folder, "inner", routes(running), running, TRUSTED) as front:
        yield front


@pytest.fixture(scope="module")
def outer(found: tuple[Path, Behind], inner: Front) -> Iterator[Front]:
    """An outer Traefik in front of it."""
    folder, running = found
    with run_traefik(folder, "outer", passing_on(inner.port), running) as front:
        yield front


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_client_is_its_address_whatever_it_sends(inner: Front, setting: str) -> None:
    client = f"127.10.0.{1 + list(SETTINGS).index(setting)}"
    statuses = [inner.ask(client, path=f"/{setting}", fields=fields).status for fields in FORGED]

    assert statuses == [200] * 3 + [429] * (len(FORGED) - 3)


_FIELDS = """X-Forwarded-For x-forwarded-for X_Forwarded_For X-Forwarded_For X-FORWARDED-FOR Forwarded
X-Real-Ip X_Real_Ip X-Client-Ip CF-Connecting-IP True-Client-IP X-Forwarded-Uri X-Forwarded-Method
X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Prefix X-Forwarded-Server X-Original-Uri Connection Te
Upgrade"""
_NAMES = st.sampled_from(_FIELDS.split())
_ADDRESSES = st.ip_addresses().map(str)
_VALUES = st.one_of(
    _ADDRESSES,
    st.lists(_ADDRESSES, max_size=5).map(", ".join),
    _ADDRESSES.map('for="[{}]:1";by=_x'.format),
    st.lists(_NAMES, max_size=4).map(", ".join),
    st.sampled_from(
        ["", "unknown", "OPTIONS", "/free", "close", "::ffff:1.2.3.4", "1.2.3.4:80", "x" * 5_000]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
)


@pytest.mark.parametrize("setting", SETTINGS)
@settings(max_examples=60)
@given(fields=st.lists(st.tuples(_NAMES, _VALUES), min_size=1, max_size=5))
def test_nothing_that_a_client_sends_gets_it_past_its_limit(
    inner: Front, setting: str, fields: list[tuple[str, str]]
) -> None:
    client = f"127.14.0.{1 + list(SETTINGS).index(setting)}"
    while inner.ask(client, path=f"/{setting}").status == 200:
        pass
    with socket.create_connection((HOST, inner.port), 10, source_address=(client, 0)) as raw:
        lines = [
            f"GET /{setting} HTTP/1.1",
            "Host: x",
            *(f"{name}: {text}" for name, text in fields),
        ]
        raw.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        status = int(raw.recv(65_536).split(b" ")[1])

    assert status in (400, 429), (status, fields)


def test_clients_of_a_trusted_outer_proxy_are_counted_separately(outer: Front) -> None:
    for client in ("127.11.0.1", "127.11.0.2"):
        statuses = [outer.ask(client, path="/true", fields=fields).status for fields in FORGED]
        assert statuses == [200] * 3 + [429] * (len(FORGED) - 3)


@pytest.mark.parametrize("setting", ["unset", "false"])
def test_clients_of_an_outer_proxy_share_a_limit_in_the_other_settings(
    outer: Front, setting: str
) -> None:
    """Therefore the documents set true: else Traefik reports only the outer proxy's address."""
    statuses = [outer.ask(f"127.12.0.{number}", path=f"/{setting}").status for number in range(8)]

    assert 429 in statuses


def test_workers_are_replaced_under_load_without_an_error(tmp_path: Path, store: str) -> None:
    """Traefik repeats a request whose response is lost with its worker, which costs one more charge."""
    statuses: Counter[int] = Counter()
    stop = threading.Event()
    with front(
        tmp_path,
        "traefik",
        LIMITER_STORE=store,
        LIMITER_PREFIX=f"traefik-{secrets.token_hex(4)}",
        LIMITER_LIMITS="200/hour",
    ) as running:

        def load() -> None:
            while not stop.is_set():
                statuses[running.ask("127.13.0.1", path="/x").status] += 1

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            time.sleep(1.5)  # under load, which is what this is about
            running.service.signal(signal.SIGHUP)
        time.sleep(1.5)
        until(lambda: statuses[429])
        stop.set()
        for thread in threads:
            thread.join()

    assert set(statuses) == {200, 429}, statuses
    assert 200 - 2 * len(threads) <= statuses[200] <= 200, statuses


def test_an_instance_that_hangs_gets_no_requests(tmp_path: Path, store: str) -> None:
    """It accepts connections but does not answer; earlier requests to it end after a timeout."""
    variables = {
        "LIMITER_STORE": store,
        "LIMITER_PREFIX": f"traefik-{secrets.token_hex(4)}",
        "LIMITER_LIMITS": "10000/hour",
        "LIMITER_TRUSTED_PROXIES": TRUSTED,
    }
    waited: list[float] = []
    with serving(tmp_path / "other.log", **variables) as (other, url):
        address = url.removeprefix("http://")
        with front(tmp_path, "traefik", [address], **variables) as running:

            def served() -> bool:
                began = time.monotonic()
                status = running.ask("127.15.0.1", path="/x").status
                waited.append(time.monotonic() - began)
                return status == 200

            assert all(served() for _ in range(4))
            os.killpg(other.pid, signal.SIGSTOP)
            try:
                until(lambda: all(served() for _ in range(10)), what=lambda: f"waited {waited}")
            finally:
                os.killpg(other.pid, signal.SIGCONT)

    assert max(waited) < 15, waited  # Traefik's own timeout of 30 s has no setting
