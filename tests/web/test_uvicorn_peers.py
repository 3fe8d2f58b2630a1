"""Whether uvicorn hides trusted proxies, by its command line."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from limiter.web.uvicorn_peers import hides_proxies

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1"))
DOCKER = (ip_network("172.18.0.0/16"),)


@pytest.mark.parametrize(
    ("command", "environ", "trusted", "hides"),
    [
        ("/usr/bin/uvicorn app:app", {}, LOOPBACK, True),
        ("/venv/lib/uvicorn/__main__.py app:app --workers 2", {}, LOOPBACK, True),
        ("uvicorn.exe app:app", {}, LOOPBACK, True),
        ("uvicorn app:app --no-proxy-headers", {}, LOOPBACK, False),
        ("uvicorn app:app", {"UVICORN_PROXY_HEADERS": "False"}, LOOPBACK, False),
        ("uvicorn app:app", {"UVICORN_PROXY_HEADERS": "true"}, LOOPBACK, True),
        # It replaces the addresses of other proxies than the trusted ones.
        ("uvicorn app:app", {}, DOCKER, False),
        ("uvicorn app:app --forwarded-allow-ips 10.0.0.1,172.18.0.2", {}, DOCKER, True),
        ("uvicorn app:app --forwarded-allow-ips=*", {}, DOCKER, True),
        ("uvicorn app:app --forwarded-allow-ips=unknown", {}, DOCKER, False),
        ("uvicorn app:app", {"FORWARDED_ALLOW_IPS": "172.18.0.0/24"}, DOCKER, True),
        ("uvicorn app:app", {"UVICORN_FORWARDED_ALLOW_IPS": "*"}, DOCKER, True),
        # Another program.
        ("/usr/bin/gunicorn app:app", {}, LOOPBACK, False),
        ("/srv/uvicorn/serve.py", {}, LOOPBACK, False),
        ("", {}, LOOPBACK, False),
    ],
)
def test_uvicorn(command: str, environ: dict[str, str], trusted: Any, hides: bool) -> None:
    assert hides_proxies(command.split(), environ, trusted) == hides
