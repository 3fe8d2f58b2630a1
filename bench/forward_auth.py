"""Ways in which Traefik calls the service: requests a second, and sockets left in TIME_WAIT.

`python -m bench.forward_auth` prints a table. Traefik's forwardAuth keeps two idle connections over HTTP/1
and closes the others; over HTTP/2 it keeps one for all calls. Traefik's load balancer keeps a configured
number, so forwardAuth may call Traefik itself, which passes the call on. The port of a closed connection is
blocked for a minute, and one address has about 28,000 ports.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from bench.sections import Failed
from bench.through_traefik import parse
from service.demo.checks import dependencies
from service.demo.children import Child
from service.demo.servers import HOST, Server, free_port

CHECKOUT = Path(__file__).parent.parent
#: A limit that denies no request.
OPEN = {"LIMITER_LIMITS": "100000000/hour", "LIMITER_ALGORITHM": "fixed_window"}
CONNECTIONS = 32

_START_TIMEOUT = 30.0
_TIME_WAIT = "06"
_STATIC = """
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
entryPoints:
  web: {{ address: "{host}:{port}", asDefault: true }}
  inside: {{ address: "{host}:{inside}", forwardedHeaders: {{ trustedIPs: [127.0.0.1/32] }} }}
providers: {{ file: {{ filename: "{folder}/dynamic.yml" }} }}
log: {{ level: FATAL }}
"""
_DYNAMIC = """
http:
  routers:
    bare: {{ rule: "Path(`/bare`)", service: upstream }}
    limiter: {{ rule: "PathPrefix(`/forward-auth/`)", entryPoints: [inside], service: limiter }}
{routers}
  middlewares:
{middlewares}
  services:
    upstream:
      loadBalancer:
        serversTransport: kept
        servers: [{{ url: "http://{host}:{upstream}" }}]
    limiter:
      loadBalancer:
        serversTransport: kept
        servers: [{{ url: "http://{host}:{service}" }}]
  serversTransports:
    kept: {{ maxIdleConnsPerHost: 256 }}
"""
_ROUTER = '    {name}: {{ rule: "Path(`/{name}`)", service: upstream, middlewares: [{name}] }}'
_MIDDLEWARE = """    {name}:
      forwardAuth:
        address: "{scheme}://{host}:{port}/forward-auth/default"
        trustForwardHeader: true
        maxResponseBodySize: 4096"""

#: Ways to call, with options of the service's gunicorn; None: Traefik calls itself, and then "http1".
KINDS = {
    "itself": None,
    "http1": ["--keep-alive", "120"],
    "http1-closing": ["--keep-alive", "0"],
    "http2": ["--http-protocols", "h2,h1"],
}


class Run(NamedTuple):
    """One run of `ab`."""

    requests_per_second: float
    waiting_per_second: float
    """Sockets in TIME_WAIT at the called address, per second of the run."""


@click.command()
@click.option("--repetitions", default=3, show_default=True, type=click.IntRange(1, 20))
@click.option("--requests", default=4_000, show_default=True, type=click.IntRange(100, 50_000))
def forward_auth(repetitions: int, requests: int) -> None:
    """Measure each way to call the service, and a route without a call, each time in a random order."""
    runs_by_way: dict[str, list[Run]] = {name: [] for name in ("bare", *KINDS)}
    with _system() as (port, ports):
        for _ in range(repetitions):
            for name in random.sample(list(runs_by_way), len(runs_by_way)):
                runs_by_way[name].append(_run(port, name, ports.get(name), requests))
    click.echo("| way | requests/s | sockets in TIME_WAIT per second |\n|---|--:|--:|")
    for name, runs in runs_by_way.items():
        rate = statistics.median(run.requests_per_second for run in runs)
        waiting = statistics.median(run.waiting_per_second for run in runs)
        low = min(run.requests_per_second for run in runs)
        high = max(run.requests_per_second for run in runs)
        click.echo(f"| {name} | {rate:,.0f} ({low:,.0f} to {high:,.0f}) | {waiting:,.0f} |")


def _run(port: int, name: str, called: int | None, requests: int) -> Run:
    before = 0 if called is None else _waiting(called)
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as folder:
        percentages = Path(folder, "percentages.csv")
        words = ["ab", "-q", "-k", "-s", "30", "-n", str(requests), "-c", str(CONNECTIONS)]
        words += ["-e", str(percentages), f"http://{HOST}:{port}/{name}"]
        began = time.monotonic()
        ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        seconds = time.monotonic() - began
        if ran.returncode:
            raise Failed(f"`ab` failed: {ran.stderr.strip() or ran.stdout.strip()}")
        result = parse(ran.stdout, percentages.read_text())
    if result["ok"] != requests:
        raise Failed(f"{name}: {result['ok']} of {requests} requests passed: {result}")
    after = 0 if called is None else _waiting(called)
    return Run(result["requests_per_second"], max(0, after - before) / seconds)


def _waiting(port: int) -> int:
    """Count the sockets in TIME_WAIT with this port at one end."""
    end = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    words = [line.split()[1:4] for line in lines]
    return sum(
        state == _TIME_WAIT and (a.endswith(end) or b.endswith(end)) for a, b, state in words
    )


@contextmanager
def _system() -> Iterator[tuple[int, dict[str, int]]]:
    """Start everything; yield Traefik's port, and the port that each way calls."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="limiter-bench-")))
        server = stack.enter_context(Server())
        certificate = _certificate(folder)
        upstream, port = free_port(), free_port()
        environ = {name: value for name, value in os.environ.items() if name[:8] != "LIMITER_"}
        environ |= {**OPEN, "LIMITER_STORE": server.url, "LIMITER_TIMEOUT": "5"}
        _gunicorn(stack, environ, "service/upstream.conf.py", "service.upstream", upstream)
        ports = {name: free_port() for name in KINDS}
        for name, options in KINDS.items():
            if options is None:
                continue
            secure = certificate if name == "http2" else []
            extra = [*options, *secure]
            _gunicorn(
                stack, environ, "service/gunicorn.conf.py", "service.app", ports[name], *extra
            )
        routers = "\n".join(_ROUTER.format(name=name) for name in KINDS)
        middlewares = "\n".join(
            _MIDDLEWARE.format(
                name=name,
                host=HOST,
                port=ports[name],
                scheme="https" if name == "http2" else "http",
            )
            for name in KINDS
        )
        places = {"host": HOST, "port": port, "folder": folder, "upstream": upstream}
        places |= {"inside": ports["itself"], "service": ports["http1"]}
        (folder / "traefik.yml").write_text(_STATIC.format(**places))
        (folder / "dynamic.yml").write_text(
            _DYNAMIC.format(**places, routers=routers, middlewares=middlewares)
        )
        environ["SSL_CERT_FILE"] = str(folder / "certificate.pem")
        traefik = dependencies(embedded=False)
        child = Child("traefik", [traefik, f"--configFile={folder}/traefik.yml"], env=environ)
        stack.callback(child.stop)
        for name in ("bare", *KINDS):
            _wait(port, name)
        yield port, ports


def _certificate(folder: Path) -> list[str]:
    """Make a certificate for this run; return gunicorn's options for HTTPS."""
    if shutil.which("openssl") is None:
        raise Failed("`openssl` is not installed")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=limiter",
        "-addext",
        f"subjectAltName=IP:{HOST}",
    ]
    words += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, capture_output=True, check=True)
    return ["--certfile", str(certificate), "--keyfile", str(key)]


def _gunicorn(
    stack: ExitStack, environ: dict[str, str], config: str, module: str, port: int, *more: str
) -> None:
    command = [sys.executable, "-m", "gunicorn", "--config", config, "--bind", f"{HOST}:{port}"]
    command += ["--log-level", "error", *more, f"{module}:create_app()"]
    child = Child("gunicorn", command, env=environ, cwd=CHECKOUT)
    stack.callback(child.stop)


def _wait(port: int, name: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    command = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        f"http://{HOST}:{port}/{name}",
    ]
    while (status := subprocess.run(command, capture_output=True, check=False).stdout) != b"200":
        if time.monotonic() > deadline:
            raise Failed(f"/{name} is not served: {status.decode()}")
        time.sleep(0.1)


if __name__ == "__main__":
    forward_auth()
