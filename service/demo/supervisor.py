"""Starts the parts of the demo, watches them, and stops them all at the end."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from service.demo import checks
from service.demo.checks import CHECKOUT, DemoError
from service.demo.children import Child, stop
from service.demo.output import Log, say
from service.demo.servers import HOST, Cluster, ServerError, free_port
from service.one_policy import AnyPolicies

#: Seconds that one part may take to start on a busy machine.
START_TIMEOUT = 30.0

# The demo replaces these lines of the static file: a container may listen on every address and on any port.
_ADDRESS = '    address: ":9000"\n'
_INSIDE = f'    address: "{HOST}:9001"\n'


class Options(NamedTuple):
    """The options of the command line."""

    port: int
    nodes: int
    instances: int
    store: str | None


class Stopped(Exception):
    """A signal asks the demo to stop."""


class Demo:
    """A cluster, service instances and Traefik, which run until a signal asks the demo to stop."""

    def __init__(self, options: Options, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = dict(environ)
        self._environ.pop("GUNICORN_CMD_ARGS", None)  # it would override the demo's own arguments
        # A busy laptop must not turn the counts of `ab` into fallbacks.
        self._environ["LIMITER_TIMEOUT"] = self._environ.get("LIMITER_TIMEOUT") or "1"
        policies = self._environ.get("LIMITER_POLICIES")
        if policies:  # the instances run in another folder
            self._environ["LIMITER_POLICIES"] = str(Path(policies).absolute())
        share = self._environ.get("LIMITER_LOCAL_SHARE") or str(options.instances)
        self._environ["LIMITER_LOCAL_SHARE"] = share
        self._store = options.store or self._environ.get("LIMITER_STORE") or None
        self._stop_asked = threading.Event()
        self._cluster: Cluster | None = None
        self._children: list[tuple[Child, Log]] = []
        #: By name: the port of each instance, and the one for operators.
        self._instances: dict[str, list[int]] = {}
        self._width = len(f"instance-{options.instances}")

    def run(self) -> None:
        """Run until a signal asks the demo to stop; raise DemoError if a part fails."""
        with (
            self._signals(),
            TemporaryDirectory(prefix="limiter-demo-", ignore_cleanup_errors=True) as folder,
        ):
            self._folder = Path(folder)
            try:
                self._start()
                while True:
                    self._pause(0.1)
                    self._watch_cluster()
            except Stopped:
                say("\nStopping ...")
            except ServerError as error:
                raise DemoError(str(error)) from None
            finally:
                self._stop()
        say("Everything has stopped.")

    def _start(self) -> None:
        began = time.monotonic()
        traefik = checks.dependencies(embedded=self._store is None)
        self._environ["LIMITER_STORE"] = self._store or f"redis+cluster://{HOST}:1"
        checks.instances(self._environ, self._options.instances)
        policies = checks.policies(self._environ)
        checks.port(self._options.port)
        if self._store is not None:
            checks.store(policies)
        else:
            self._start_cluster()
        self._start_instances()
        self._start_traefik(traefik)
        self._announce(policies, time.monotonic() - began)

    def _start_cluster(self) -> None:
        with _progress(f"Starting a cluster of {self._options.nodes} nodes"):
            self._cluster = Cluster(self._options.nodes)
            self._cluster.start(self._pause)
        self._environ["LIMITER_STORE"] = self._cluster.url

    def _start_instances(self) -> None:
        count = self._options.instances
        with _progress(f"Starting {count} service instance{'s' if count > 1 else ''}"):
            self._start_upstream()
            for number in range(1, count + 1):
                # Names of one length: `ab` counts responses of different lengths as failed.
                self._start_instance(f"instance-{number:0{len(str(count))}}")
            for name, (port, _) in self._instances.items():
                self._wait_for(name, port, "/readyz")
            self._wait_for("upstream", self._upstream, "/")

    def _start_instance(self, name: str) -> None:
        """Start one instance, on an address of its own and another one for operators."""
        app = f"service.app:create_app({name!r})"
        self._environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._folder_of(name))
        self._instances[name] = self._start_gunicorn(name, "service/gunicorn.conf.py", app, 2)

    def _start_upstream(self) -> None:
        """Start the upstream that ForwardAuth protects."""
        app = "service.upstream:create_app('upstream')"
        (self._upstream,) = self._start_gunicorn("upstream", "service/upstream.conf.py", app, 1)

    def _start_gunicorn(self, name: str, config: str, app: str, addresses: int) -> list[int]:
        """Start a gunicorn, and return the ports on which it serves."""
        with ExitStack() as stack:
            # gunicorn inherits the listening sockets, so that no other process can take a chosen port.
            listeners = [
                stack.enter_context(socket.create_server((HOST, 0))) for _ in range(addresses)
            ]
            command = [sys.executable, "-m", "gunicorn", "--config", config, "--name", name]
            for listener in listeners:
                command += ["--bind", f"fd://{listener.fileno()}"]
            keep = tuple(listener.fileno() for listener in listeners)
            self._launch(name, [*command, app], keep=keep)
            return [listener.getsockname()[1] for listener in listeners]

    def _start_traefik(self, traefik: Path) -> None:
        with _progress("Starting Traefik"):
            static = (CHECKOUT / "traefik/traefik.yml").read_text()
            inside = free_port()
            for line, port in ((_ADDRESS, self._options.port), (_INSIDE, inside)):
                static = static.replace(line, f'    address: "{HOST}:{port}"\n')
            copy = self._folder_of("traefik") / "traefik.yml"
            copy.write_text(static)
            self._environ["SERVICE_ADDRESSES"] = ",".join(
                f"{HOST}:{port}" for port, _ in self._instances.values()
            )
            self._environ["INSIDE_ADDRESS"] = f"{HOST}:{inside}"
            self._environ["UPSTREAM_ADDRESS"] = f"{HOST}:{self._upstream}"
            self._launch("traefik", [str(traefik), f"--configFile={copy}"])
            self._wait_for("traefik", self._options.port, "/healthz")

    def _folder_of(self, name: str) -> Path:
        """Make a folder for the files of one part; the demo removes it at the end."""
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _launch(self, name: str, command: list[str], keep: tuple[int, ...] = ()) -> None:
        child = Child(
            name, command, env=self._environ, cwd=CHECKOUT, output=subprocess.PIPE, keep=keep
        )
        self._children.append((child, Log(child, self._width)))

    def _wait_for(self, name: str, port: int, path: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while (answer := _get(port, path))[0] != 200:
            if time.monotonic() > deadline:
                raise DemoError(f"{name} did not serve {path} in time: {answer[1]}")
            self._pause(0.02)

    def _pause(self, seconds: float) -> None:
        """Wait; raise if a signal asks the demo to stop, or if a child has ended."""
        if self._stop_asked.wait(seconds):
            raise Stopped
        for child, log in self._children:
            if not child.alive:
                log.close()
                output = " / ".join(log.last) or "it printed nothing"
                raise DemoError(f"{child.name} ended ({child.ending}): {output}")

    def _watch_cluster(self) -> None:
        for node in self._cluster.nodes if self._cluster is not None else []:
            if not node.alive:
                raise DemoError(f"The {node.reason()}")

    def _announce(self, policies: AnyPolicies, seconds: float) -> None:
        page = f"http://localhost:{self._options.port}/"
        url, protected = f"{page}demo-service/hello", f"{page}demo-service/protected/hello"
        # No comment after a command: some shells do not accept a pasted one.
        commands = [f"curl -i {url}", f"curl -i {protected}", f"ab -n 1000 -c 100 {url}"]
        about = "The second command goes through ForwardAuth to an upstream without a limiter."
        if policy := checks.unknown_policy(policies):
            commands.remove(f"curl -i {protected}")
            about = f"ForwardAuth is left out: there is no policy {policy}, which traefik/dynamic.yml uses."
        lines = "".join(f"  {command}\n" for command in commands)
        rules = policies.guard.rules
        limits = " and ".join(map(repr, rules[0].limiter.policies))
        if policies.path is not None:
            limits = f"{policies.path}: {', '.join(rule.name for rule in rules)}"
        port = "" if self._options.port == 9000 else f" DEMO='--port {self._options.port}'"
        instances = self._instances.items()
        where = "".join(f"  {name:12} http://{HOST}:{own}\n" for name, (own, _) in instances)
        metrics = [f"http://{HOST}:{operators}/metrics" for _, (_, operators) in instances]
        nodes = self._cluster.nodes if self._cluster is not None else []
        store = ", ".join(f"{node.host}:{node.port}" for node in nodes) or "the given one"
        say(
            f"Ready after {seconds:.1f} s; Ctrl-C stops everything. "
            f"In a browser, {page} shows all algorithms at work.\n\n"
            f"  {'traefik':12} {page}\n"
            f"{where}"
            f"  {'store':12} {store}\n"
            f"  {'metrics':12} {', '.join(metrics)}\n"
            f"  {'limit':12} {limits}\n\n"
            f"Try in another terminal:\n\n{lines}\n"
            f"{about}\n"
            "All commands spend the same limit. ab is in Debian's package apache2-utils.\n"
            "For another algorithm, stop this demo with Ctrl-C, and start it with:\n\n"
            f'  LIMITER_ALGORITHM=token_bucket LIMITER_LIMITS="100/minute" make demo{port}\n'
        )

    def _stop(self) -> None:
        # Traefik first: its health checks would warn of instances that end before it.
        for is_traefik in (True, False):
            stop(child for child, _ in self._children if (child.name == "traefik") == is_traefik)
        for _, log in self._children:
            log.close()
        if self._cluster is not None:
            self._cluster.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let signals set a flag: if they raised an exception, a child just started could be lost."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` ignores it
            numbers.append(signal.SIGHUP)
        before = {
            number: signal.signal(number, lambda *_: self._stop_asked.set()) for number in numbers
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _progress(what: str) -> Iterator[None]:
    say(f"{what} ...")
    began = time.monotonic()
    yield
    say(f"{what} ... ready after {time.monotonic() - began:.1f} s")


def _get(port: int, path: str) -> tuple[int, str]:
    """Return the status and the text of a response, or 0 and the error."""
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()
