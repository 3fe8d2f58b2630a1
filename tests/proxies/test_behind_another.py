"""A proxy that asks the service, behind an outer one that passes on all fields of its clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from service.demo.servers import HOST
from tests.proxies.support import (
    MARKS,
    OUTER,
    TRUSTED,
    Behind,
    Front,
    behind,
    by_file,
    front,
    run_passing_on,
)
from tests.proxies.test_forward_auth import A_PREFLIGHT, FORGED, OWN_FIELDS, POLICIES

pytestmark = MARKS

#: Fields that change the client's request, besides those that change its address.
ANOTHER_REQUEST = [
    {"X-Forwarded-Method": "OPTIONS", **A_PREFLIGHT},
    {"X-Forwarded-Method": "DELETE"},
    {"X-Forwarded-Uri": "/free"},
    {"X-Forwarded-Host": "elsewhere"},
    {"X-Forwarded-Method": "DELETE", "X-Forwarded-Uri": "/free", "X-Forwarded-Host": "elsewhere"},
]


KINDS = [
    ("traefik", "traefik"),
    *(("nginx", kind) for kind in ("traefik", "short-traefik", "nginx", "caddy", "envoy")),
]


class Outer(NamedTuple):
    """The outer proxy, and the network of its clients: each pair of proxies has one of its own."""

    proxy: Front
    network: str

    def status(self, client: int, fields: dict[str, str]) -> int:
        """The status for this client of the network."""
        return self.proxy.ask(f"{self.network}.{client}", path="/limited/x", fields=fields).status


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[Behind]:
    """One service and one upstream behind all proxies."""
    folder = tmp_path_factory.mktemp("behind")
    trusted = {"LIMITER_TRUSTED_PROXIES": f"{TRUSTED},{OUTER}"}
    with behind(folder, **by_file(folder, POLICIES, store), **trusted) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def outer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, found: Behind
) -> Iterator[Outer]:
    before, kind = request.param
    folder = tmp_path_factory.mktemp(f"{before}-{kind}")
    calls_from = HOST if before == "traefik" else OUTER
    with (
        front(folder, kind, outer=calls_from, changes=OWN_FIELDS.get(kind), found=found) as inner,
        run_passing_on(folder, before, inner) as proxy,
    ):
        yield Outer(proxy, f"127.31.{KINDS.index(request.param)}")


def test_clients_are_counted_separately(outer: Outer) -> None:
    for client in (1, 2):
        assert [outer.status(client, {}) for _ in range(4)] == [200, 200, 200, 429]


def test_a_client_does_not_choose_who_it_is(outer: Outer) -> None:
    statuses = [outer.status(3, fields) for fields in FORGED]

    # Some answer 400 to a Connection field that names fields which they set.
    assert statuses[:-1] == [200] * 3 + [429] * (len(FORGED) - 4)
    assert statuses[-1] in (400, 429)


@pytest.mark.parametrize("number", range(len(ANOTHER_REQUEST)))
def test_a_client_does_not_choose_the_limited_request(outer: Outer, number: int) -> None:
    """With an earlier configuration of Traefik, 20 of 20 requests were served in each of these cases."""
    statuses = [outer.status(4 + number, ANOTHER_REQUEST[number]) for _ in range(20)]

    assert statuses.count(200) == 3, statuses
