"""A proxy that asks, behind another one that passes on whatever its clients say of themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.demo.servers import HOST
from tests.proxies.support import MARKS, OUTER, TRUSTED, Front, front_by_file, run_passing_on
from tests.proxies.test_forward_auth import A_PREFLIGHT, FORGED, POLICIES

pytestmark = MARKS

#: Besides those by which a client is another one, those by which its request is.
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
        *(("nginx", kind) for kind in ("traefik", "nginx", "caddy", "envoy")),
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


def test_clients_are_told_apart(outer: Front) -> None:
    for client in ("127.31.0.1", "127.31.0.2"):
        assert [ask(outer, client, {}) for _ in range(4)] == [200, 200, 200, 429]


def test_a_client_does_not_choose_who_it_is(outer: Front) -> None:
    statuses = [ask(outer, "127.32.0.1", fields) for fields in FORGED]

    # Some answer 400 to a Connection field that names what they have set.
    assert statuses[:-1] == [200] * 3 + [429] * (len(FORGED) - 4)
    assert statuses[-1] in (400, 429)


@pytest.mark.parametrize("number", range(len(ANOTHER_REQUEST)))
def test_a_client_does_not_choose_what_it_is_limited_for(outer: Front, number: int) -> None:
    """Behind Traefik's own configuration of before, 20 of 20 were served in each of these."""
    client = f"127.33.0.{1 + number}"
    statuses = [ask(outer, client, ANOTHER_REQUEST[number]) for _ in range(20)]

    assert statuses.count(200) == 3, statuses
