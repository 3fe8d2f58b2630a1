"""TLS that fails, client certificates, and certificates that are renewed."""

from __future__ import annotations

import os
import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from limiter import StoreUnavailable
from limiter.transport.attempts import FIRST_PAUSE, MOST_PAUSE
from limiter.transport.node import IDLE_KEPT
from service.demo.servers import HOST, Certificates, Cluster, Server
from tests import tls
from tests.parallel import in_threads
from tests.proxy import Proxy
from tests.transport.conftest import MakeLimiter, Maker
from tests.transport.support import decides_within, outcome
from tests.waiting import until

both = pytest.mark.parametrize("make_any", ["threads", "asyncio"], indirect=True)


@pytest.fixture
def strict(certificates: Certificates, tls_server: Server, tls_cluster: Cluster) -> Iterator[None]:
    """The servers with TLS ask for a client certificate."""
    files = {"ssl_certfile": certificates.certificate, "ssl_keyfile": certificates.key}
    with ExitStack() as stack:
        for server in (tls_server, *tls_cluster.nodes):
            admin = stack.enter_context(server.client(**files))
            admin.config_set("tls-auth-clients", "yes")
            stack.callback(admin.config_set, "tls-auth-clients", "no")
        yield


@both
def test_handshakes_that_fail_are_few(
    make_any: Maker, tls_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share an SSL context, and there is a pause between two of them."""
    made = []
    make_context = ssl.create_default_context

    def counted() -> ssl.SSLContext:
        made.append(1)
        return make_context()

    monkeypatch.setattr(ssl, "create_default_context", counted)
    with Proxy((HOST, tls_server.port)) as proxy:
        limiter = make_any(proxy.url.replace("redis", "rediss"), timeout=0.1)
        began = time.monotonic()
        while time.monotonic() - began < 0.6 or proxy.connections < 2:
            assert outcome(lambda: limiter.hit("u")) == "StoreUnavailable"
        assert proxy.connections <= 4 + (time.monotonic() - began) / MOST_PAUSE
    assert len(made) == 1


@both
def test_a_server_that_is_back_is_soon_connected(make_any: Maker, own: Server) -> None:
    """Also after many attempts that failed."""
    limiter = make_any(own.url, timeout=0.1)
    own.kill()
    began = time.monotonic()
    while time.monotonic() - began < 4 * FIRST_PAUSE + 2 * MOST_PAUSE:
        assert outcome(lambda: limiter.hit("u")) == "StoreUnavailable"
    own.restart()
    decides_within(limiter, "u", MOST_PAUSE)


@both
@pytest.mark.usefixtures("strict")
def test_a_client_certificate_by_a_url(
    make_any: Maker, certificates: Certificates, tls_server: Server, tls_cluster: Cluster
) -> None:
    """The parameters are the same for every scheme; without them the error names them."""
    own = f"&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}"
    for url, scheme, other in (
        (tls_server.url, "rediss", "valkeys"),
        (tls_cluster.url, "rediss+cluster", "valkeys+cluster"),
    ):
        assert make_any(url + own).hit("u")
        assert make_any((url + own).replace(scheme, other)).hit("u")
        with pytest.raises(StoreUnavailable, match="give ssl_certfile and ssl_keyfile"):
            make_any(url).hit("u")


@both
@pytest.mark.usefixtures("strict")
def test_a_client_certificate_that_is_renewed(
    make_any: Maker, certificates: Certificates, tls_server: Server, tmp_path: Path
) -> None:
    """The next connection uses it: the SSL context is made anew."""
    wrong = tls.issue(tmp_path, trustme.CA())
    url = f"{tls_server.url}&ssl_certfile={wrong.certificate}&ssl_keyfile={wrong.key}"
    limiter = make_any(url)
    with pytest.raises(StoreUnavailable):
        limiter.hit("u")
    shutil.copyfile(certificates.certificate, wrong.certificate)
    shutil.copyfile(certificates.key, wrong.key)
    decides_within(limiter, "u", 5.0)


def test_threads_that_ended_leave_no_descriptor(
    make_limiter: MakeLimiter, tls_server: Server
) -> None:
    """Each of them may have had its own connection; a bounded number is kept."""
    limiter = make_limiter(tls_server.url, timeout=20.0)
    before = len(os.listdir("/proc/self/fd"))
    in_threads(200, lambda _: limiter.hit("u"))
    until(lambda: len(os.listdir("/proc/self/fd")) <= before + IDLE_KEPT)
    limiter.close()
    assert len(os.listdir("/proc/self/fd")) <= before
