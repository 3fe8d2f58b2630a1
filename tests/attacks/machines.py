"""Starts the targets: the service, proxies with the documented configurations, and upstreams."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from service.demo.servers import HOST, free_port
from tests.proxies.support import (
    TRUSTED,
    Behind,
    block,
    configured,
    passing_on,
    port_of,
    run_proxy,
    run_traefik,
)
from tests.server.serving import serving
from tests.service.support import ROOT, started
from tests.wsgi.support import listens

PROXIES = ("nginx", "caddy", "envoy", "traefik", "nginx+traefik", "traefik+traefik")
UPSTREAMS = ("flask", "fastapi", "aiohttp", "express", "fastify")
#: Targets without a proxy: applications that limit in process, and the service itself.
OTHERS = ("middleware/flask", "middleware/fastapi", "flask-limiter/flask", "service/-")
#: FlaskLimiter's keys for the equivalent policies of the file.
FLASK_LIMITER_KEYS = {
    "address": "address",
    "id": "path:id",
    "api-key": "api-key",
    "cookie": "cookie:session",
    "user": "header:X-User",
}

#: Header fields that policies use as keys; the documented configurations show how to add them.
_COUNTED_BY = ("Authorization", "X-Api-Key", "Cookie", "X-User", "X-Cost")

_OUTER_NGINX = """
server {
    listen 127.0.0.1:8080;
    location / {
        proxy_pass http://127.0.0.1:8002;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
}
"""


class Target(NamedTuple):
    """An address that is attacked."""

    name: str
    """The proxy and the upstream: ``nginx/flask``."""
    port: int
    counts_at: int
    """The port of the upstream, which reports how often its handlers ran; 0 without one."""
    policies: tuple[str, ...] = ()
    """The policies for which the target is used; an empty set means all."""

    def ran(self, name: str) -> int:
        """Return how often the upstream's handler of that name has run."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{HOST}:{self.counts_at}/-/ran", timeout=70) as response:
            return int(json.load(response).get(name, 0))


def missing(upstream: str) -> str:
    """Return why an upstream cannot be started; an empty text if it can."""
    if upstream in ("express", "fastify"):
        folders = os.environ.get("NODE_PATH", "").split(os.pathsep)
        there = shutil.which("node") and any(Path(one, upstream).is_dir() for one in folders if one)
        return "" if there else f"{upstream} is not in NODE_PATH"
    return "" if importlib.util.find_spec(upstream) else f"{upstream} is not installed"


@contextmanager
def _run(log: Path, *command: str, **variables: str) -> Iterator[int]:
    """Run a program until it listens at the port that stands for PORT in its command."""
    port = free_port()
    words = [word.replace("PORT", str(port)) for word in command]
    with started(log, words, lambda: listens(port), **variables):
        yield port


def _gunicorn(app: str) -> list[str]:
    config = ["--config", "service/upstream.conf.py", "--bind", f"{HOST}:PORT"]
    return [sys.executable, "-m", "gunicorn", *config, f"tests.attacks.upstreams:{app}()"]


def _uvicorn(app: str) -> list[str]:
    where = ["--factory", "--host", HOST, "--port", "PORT", "--log-level", "warning"]
    return [sys.executable, "-m", "uvicorn", *where, f"tests.attacks.upstreams:{app}"]


def _upstream(kind: str) -> list[str]:
    if kind == "flask":
        return _gunicorn("flask_app")
    if kind == "fastapi":
        return _uvicorn("fastapi_app")
    if kind == "aiohttp":
        app = "tests.attacks.upstreams:aiohttp_app"
        return [sys.executable, "-m", "aiohttp.web", "-H", HOST, "-P", "PORT", app]
    return ["/usr/bin/env", "node", str(ROOT / "tests/attacks/upstream.js"), kind, "PORT"]


class Machines:
    """All running targets; ``skipped`` has the reasons for the others."""

    def __init__(self, stack: ExitStack, folder: Path, store: str, policies: Path) -> None:
        self.targets: list[Target] = []
        self.skipped: dict[str, str] = {}
        self._stack = stack
        self._folder = folder
        self._upstreams: dict[str, int] = {}
        self._variables = {
            "LIMITER_STORE": store,
            "LIMITER_POLICIES": str(policies),
            "LIMITER_TRUSTED_PROXIES": TRUSTED,
        }
        variables = self._settings()
        self._service, url = stack.enter_context(serving(folder / "service.log", **variables))
        self._service_port = port_of(url)

    def start(self, name: str) -> None:
        """Start one target, or store the reason why it cannot start."""
        proxy, _, upstream = name.partition("/")
        reason = "" if upstream == "-" else missing(upstream)
        try:
            if reason:
                pytest.skip(reason)
            if proxy in PROXIES:
                self._behind(proxy, upstream)
            elif proxy == "service":
                self.targets.append(Target(name, self._service_port, 0))
            elif proxy == "middleware":
                make = _gunicorn if upstream == "flask" else _uvicorn
                self._in_process(name, make(f"middleware_{upstream}"))
            else:
                for policy, key in FLASK_LIMITER_KEYS.items():
                    self._in_process(name, _gunicorn("limited_flask"), (policy,), ATTACKED_KEY=key)
        except pytest.skip.Exception as error:
            self.skipped[name] = str(error)

    def _settings(self, **more: str) -> dict[str, str]:
        return {**self._variables, "LIMITER_PREFIX": f"attacks-{secrets.token_hex(4)}", **more}

    def _in_process(
        self, name: str, command: list[str], policies: tuple[str, ...] = (), **more: str
    ) -> None:
        log = self._folder / f"{name.replace('/', '-')}{len(self.targets)}.log"
        variables = self._settings(**more)
        if policies:
            del variables["LIMITER_POLICIES"]
        port = self._stack.enter_context(_run(log, *command, **variables))
        self.targets.append(Target(name, port, port, policies))

    def _behind(self, proxy: str, upstream: str) -> None:
        if upstream not in self._upstreams:
            log = self._folder / f"{upstream}.log"
            self._upstreams[upstream] = self._stack.enter_context(_run(log, *_upstream(upstream)))
        behind = Behind(self._service, self._service_port, self._upstreams[upstream])
        outer, _, kind = proxy.rpartition("+")
        port = self._proxy(f"{proxy}-{upstream}", kind, behind, _trusting if outer else _counting)
        if outer:
            behind = behind._replace(upstream_port=port)
            port = self._outer(f"{proxy}-{upstream}-outer", outer, behind)
        self.targets.append(Target(f"{proxy}/{upstream}", port, self._upstreams[upstream]))

    def _proxy(self, name: str, kind: str, behind: Behind, change: Callable[[str], str]) -> int:
        folder = self._folder / name
        folder.mkdir()
        command, text, file = configured(kind, folder)
        text = change(text)
        port, inside = free_port(), free_port()
        ports = {8000: behind.service_port, 8002: behind.upstream_port, 8080: port, 9001: inside}
        for documented, real in ports.items():
            text = re.sub(rf"\b{documented}\b", str(real), text)
        (folder / file).write_text(text)
        for routes in folder.glob("traefik/dynamic.yml"):
            routes.write_text(change(routes.read_text()))
        self._stack.enter_context(run_proxy(folder, kind, command, port, behind, inside))
        return port

    def _outer(self, name: str, kind: str, behind: Behind) -> int:
        """Start a plain proxy in front of the one that asks the service."""
        if kind == "nginx":
            return self._proxy(
                name, kind, behind, lambda text: text.replace(block("nginx"), _OUTER_NGINX)
            )
        folder = self._folder / name
        folder.mkdir()
        http = passing_on(behind.upstream_port)
        return self._stack.enter_context(run_traefik(folder, "outer", http, behind)).port


#: Edits of the documented configurations: they serve one host (and 127.0.0.1), and no other.
_ONE_HOST = {
    "server {\n    listen 127.0.0.1:8080;\n": "server {\n    listen 127.0.0.1:8080 default_server;\n"
    "    return 421;\n}\nserver {\n    listen 127.0.0.1:8080;\n    server_name shop.example 127.0.0.1;\n",
    "http://127.0.0.1:8080 {\n": "http://shop.example:8080, http://127.0.0.1:8080 {\n\tbind 127.0.0.1\n",
    'domains: ["*"]': 'domains: ["shop.example", "shop.example:80", "127.0.0.1:8080"]',
    '"PathPrefix(`/`)"': '"(Host(`shop.example`) || Host(`127.0.0.1`)) && PathPrefix(`/`)"',
}


def _counting(text: str) -> str:
    """Return a configuration for one host, which passes the keys' header fields to the service."""

    def add(line: re.Match[str]) -> str:
        names = [name.lower() if line[2] else name for name in _COUNTED_BY]
        return line[0] + "".join(f"{line[1]}{name}{line[2]}\n" for name in names)

    for documented, edited in _ONE_HOST.items():
        text = text.replace(documented, edited)
    return re.sub(r"^( *- (?:\{ exact: )?)origin((?: \})?)\n", add, text, flags=re.M | re.I)


def _trusting(text: str) -> str:
    """Return Traefik's configuration with a trusted outer proxy, as its comment says."""
    entry = "    asDefault: true\n"
    trusted = f"    forwardedHeaders:\n      trustedIPs:\n        - {TRUSTED}\n"
    return _counting(text.replace(entry, entry + trusted))


def check_documents() -> None:
    """Refuse to run if the documents no longer have the texts that are edited."""
    routes, static = (ROOT / "traefik/dynamic.yml").read_text(), ROOT / "traefik/traefik.yml"
    blocks = [block("nginx"), block("caddyfile"), block("yaml", "static_resources:")]
    for text, edited in zip(blocks, _ONE_HOST, strict=False):
        assert text.count(edited) == 1, edited
    assert all(_counting(text) != text for text in (blocks[2], routes))
    assert _trusting(static.read_text()) != static.read_text()
