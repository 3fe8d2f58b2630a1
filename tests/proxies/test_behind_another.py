"""A proxy that asks the service, behind an outer one that passes on all fields of its clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.demo.servers import HOST
from tests.proxies.support import MARKS, OUTER, TRUSTED, Front, front_by_file, run_passing_on
from tests.proxies.test_forward_auth import A_PREFLIGHT, FORGED, POLICIES

pytestmark = MARKS

#: Fields that change the client's request, besides those that change its address.
ANOTHER_REQUEST = [
    {"X-Forwarded-Method": "OPTIONS", **A_PREFLIGHT},
    {"X-Forwarded-Method": "DELETE"},
    {"X-Forwarded-Uri": "/free"},
    {"X-Forwarded-Host": "elsewhere"},
    {"X-Forwarded-Method": "DELETE", "X-Forwarded-Uri": "/free", "X-Forwarded-Host": "elsewhere"},
]


@pytest.fixture(
    scope="module",
    params=[
        ("traefik", "traefik"),
        *(("nginx", kind) for kind in ("traefik", "short-traefik", "nginx", "caddy", "envoy")),
    ],
    ids="-".join,
)
def outer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store: str
) -> Iterator[Front]:
    before, kind = request.param
    folder = tmp_path_factory.mktemp(f"{before}-{kind}")
    more = {
        "outer": HOST if before == "traefik" else OUTER,
        "LIMITER_TRUSTED_PROXIES": f"{TRUSTED},{OUTER}",
    }
    with (
        front_by_file(folder, kind, POLICIES, store, **more) as inner,
        run_passing_on(folder, before, inner) as found,
    ):
        yield found


def ask(outer: Front, client: str, fields: dict[str, str]) -> int:
    return outer.ask(client, path="/limited/x", fields=fields).status


def test_clients_are_counted_separately(outer: Front) -> None:
    for client in ("127.31.0.1", "127.31.0.2"):
        assert [ask(outer, client, {}) for _ in range(4)] == [200, 200, 200, 429]


def test_a_client_does_not_choose_who_it_is(outer: Front) -> None:
    statuses = [ask(outer, "127.32.0.1", fields) for fields in FORGED]

    # Some answer 400 to a Connection field that names fields which they set.
    assert statuses[:-1] == [200] * 3 + [429] * (len(FORGED) - 4)
    assert statuses[-1] in (400, 429)


@pytest.mark.parametrize("number", range(len(ANOTHER_REQUEST)))
def test_a_client_does_not_choose_the_limited_request(outer: Front, number: int) -> None:
    """With an earlier configuration of Traefik, 20 of 20 requests were served in each of these cases."""
    client = f"127.33.0.{1 + number}"
    statuses = [ask(outer, client, ANOTHER_REQUEST[number]) for _ in range(20)]

    assert statuses.count(200) == 3, statuses
