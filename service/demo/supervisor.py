"""Starts the parts of the demo, watches them, restarts instances, and stops all parts at the end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from service.demo import checks
from service.demo.checks import CHECKOUT, DemoError
from service.demo.children import Child, stop_at_once
from service.demo.output import Log, say
from service.demo.servers import HOST, Cluster, ServerError, free_port
from service.one_policy import AnyPolicies

#: Seconds that one part may take to start, or to stop after its drain, on a busy machine.
START_TIMEOUT = 30.0

#: Seconds for which a restarted instance still gets no request: Traefik checks an instance that was away
#: every 0.5 s (`unhealthyInterval` in traefik/dynamic.yml).
SEEN_AFTER = 1.5

# The demo replaces these lines of the static file: a container may listen on every address and on any port.
_ADDRESS = '    address: ":9000"\n'
_INSIDE = f'    address: "{HOST}:9001"\n'


class Options(NamedTuple):
    """The options of the command line."""

    port: int
    nodes: int
    instances: int
    store: str | None


class Instance(NamedTuple):
    """A server that the demo can restart."""

    name: str
    command: list[str]
    """How it is started; the addresses follow."""
    flags: list[str]
    """The option for each of its addresses."""
    ports: list[int]


class Stopped(Exception):
    """A signal asks the demo to stop."""


class Demo:
    """A cluster, Flask instances, decision services and Traefik, which run until a signal stops them."""

    def __init__(self, options: Options, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = dict(environ)
        self._environ.pop("GUNICORN_CMD_ARGS", None)  # it would override the demo's own arguments
        # A busy laptop must not turn the counts of `ab` into fallbacks.
        self._environ["LIMITER_TIMEOUT"] = self._environ.get("LIMITER_TIMEOUT") or "1"
        policies = self._environ.get("LIMITER_POLICIES")
        if policies:  # the instances run in another folder
            self._environ["LIMITER_POLICIES"] = str(Path(policies).absolute())
        # Flask instances and decision services spend the same units.
        share = self._environ.get("LIMITER_LOCAL_SHARE") or str(2 * options.instances)
        self._environ["LIMITER_LOCAL_SHARE"] = share
        self._store = options.store or self._environ.get("LIMITER_STORE") or None
        self._stop_asked = threading.Event()
        self._roll_asked = threading.Event()
        self._cluster: Cluster | None = None
        self._children: dict[str, tuple[Child, Log]] = {}
        #: The children that were asked to end.
        self._ending: set[str] = set()
        self._apps: list[Instance] = []
        self._decisions: list[Instance] = []
        self._width = len(f"decision-{options.instances}")

    def run(self) -> None:
        """Run until a signal asks the demo to stop; raise DemoError if a part fails."""
        with (
            self._signals(),
            TemporaryDirectory(prefix="limiter-demo-", ignore_cleanup_errors=True) as folder,
        ):
            self._folder = Path(folder)
            self._environ["TMPDIR"] = folder  # the demo removes also what a killed instance leaves
            try:
                self._start()
                while True:
                    self._pause(0.1)
                    self._watch_cluster()
                    if self._roll_asked.is_set():
                        self._roll()
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
            self._cluster = Cluster(self._options.nodes, options=["--maxmemory", "100mb"])
            self._cluster.start(self._pause)
        self._environ["LIMITER_STORE"] = self._cluster.url

    def _start_instances(self) -> None:
        """Start all instances at the same time, and wait for each."""
        count = self._options.instances
        plural = "s" if count > 1 else ""
        with _progress(
            f"Starting {count} Flask instance{plural} and {count} decision service{plural}"
        ):
            upstream = _gunicorn("upstream", "service/upstream.conf.py", "service.upstream")
            self._launch_instance(upstream)
            (self._upstream,) = upstream.ports
            for number in range(1, count + 1):
                # Names of one length: `ab` counts responses of different lengths as failed.
                suffix = f"{number:0{len(str(count))}}"
                self._apps.append(
                    _gunicorn(f"instance-{suffix}", "service/gunicorn.conf.py", "service.app")
                )
                self._decisions.append(_decision_service(f"decision-{suffix}"))
            for instance in self._all():
                self._launch_instance(instance)
            for instance in self._all():
                self._wait_for(instance.name, instance.ports[0], "/readyz")
            self._wait_for("upstream", self._upstream, "/")

    def _all(self) -> list[Instance]:
        """Return all instances that the demo can restart."""
        return [*self._apps, *self._decisions]

    def _launch_instance(self, instance: Instance) -> None:
        """Start an instance: on any ports at first, later on the same ones."""
        with ExitStack() as stack:
            # It inherits the listening sockets, so that no other process can take a chosen port.
            listeners = [stack.enter_context(_listener(port)) for port in instance.ports]
            instance.ports[:] = [listener.getsockname()[1] for listener in listeners]
            command, keep = list(instance.command), [listener.fileno() for listener in listeners]
            for flag, number in zip(instance.flags, keep, strict=True):
                command += [flag, f"fd://{number}"]
            self._launch(instance.name, command, keep)

    def _start_traefik(self, traefik: Path) -> None:
        with _progress("Starting Traefik"):
            static = (CHECKOUT / "traefik/traefik.yml").read_text()
            inside = free_port()
            for line, port in ((_ADDRESS, self._options.port), (_INSIDE, inside)):
                static = static.replace(line, f'    address: "{HOST}:{port}"\n')
            copy = self._folder_of("traefik") / "traefik.yml"
            copy.write_text(static)
            self._environ["APP_ADDRESSES"] = _addresses(self._apps)
            self._environ["DECISION_ADDRESSES"] = _addresses(self._decisions)
            self._environ["INSIDE_ADDRESS"] = f"{HOST}:{inside}"
            self._environ["UPSTREAM_ADDRESS"] = f"{HOST}:{self._upstream}"
            self._launch("traefik", [str(traefik), f"--configFile={copy}"])
            self._wait_for("traefik", self._options.port, "/healthz")

    def _folder_of(self, name: str) -> Path:
        """Make a folder for the files of one part; the demo removes it at the end."""
        folder = self._folder / name
        folder.mkdir()
        return folder

    def _launch(self, name: str, command: list[str], keep: Collection[int] = ()) -> None:
        child = Child(
            name,
            command,
            env=self._environ,
            cwd=CHECKOUT,
            output=subprocess.PIPE,
            death_signal=signal.SIGINT,  # on SIGTERM an instance would drain
            keep=keep,
        )
        self._children[name] = child, Log(child, self._width)

    def _wait_for(self, name: str, port: int, path: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while (answer := _get(port, path))[0] != 200:
            if time.monotonic() > deadline:
                raise DemoError(f"{name} did not serve {path} in time: {answer[1]}")
            self._pause(0.02)

    def _pause(self, seconds: float) -> None:
        """Wait; raise if a signal asks the demo to stop, or if a child has ended by itself."""
        if self._stop_asked.wait(seconds):
            raise Stopped
        for child, log in self._children.values():
            if not child.alive and child.name not in self._ending:
                log.close()
                output = " / ".join(log.last) or "it printed nothing"
                raise DemoError(f"{child.name} ended ({child.ending}): {output}")

    def _watch_cluster(self) -> None:
        for node in self._cluster.nodes if self._cluster is not None else []:
            if not node.alive:
                raise DemoError(f"The {node.reason()}")

    def _roll(self) -> None:
        """Restart all instances, of each kind one at a time: the others answer meanwhile."""
        say("Restarting every instance ...")
        began = time.monotonic()
        for pair in zip(self._apps, self._decisions, strict=True):
            with _progress(f"Restarting {' and '.join(instance.name for instance in pair)}"):
                self._restart(pair)
        self._roll_asked.clear()
        say(f"Every instance has restarted after {time.monotonic() - began:.1f} s")

    def _restart(self, instances: Collection[Instance]) -> None:
        """Stop instances, which first drain, and start them again on the same ports."""
        self._ending = {instance.name for instance in instances}
        ending = [self._children[name] for name in self._ending]
        for child, _ in ending:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + START_TIMEOUT
        while late := [child.name for child, _ in ending if child.alive]:
            if time.monotonic() > deadline:
                raise DemoError(f"{late[0]} did not stop in time")
            self._pause(0.05)
        for child, log in ending:
            child.kill()  # what is left of its group
            log.close()
        for instance in instances:
            self._launch_instance(instance)
        self._ending = set()
        for instance in instances:
            self._wait_for(instance.name, instance.ports[0], "/readyz")
        self._pause(SEEN_AFTER)

    def _announce(self, policies: AnyPolicies, seconds: float) -> None:
        page = f"http://localhost:{self._options.port}/"
        url, protected = f"{page}demo-service/hello", f"{page}demo-service/protected/hello"
        # No comment after a command: some shells do not accept a pasted one.
        commands = [f"curl -i {url}", f"curl -i {protected}", f"ab -n 1000 -c 100 {url}"]
        lines = "".join(f"  {command}\n" for command in commands)
        rules = policies.guard.rules
        limits = " and ".join(map(repr, rules[0].limiter.policies))
        if policies.path is not None:
            limits = f"{policies.path}: {', '.join(rule.name for rule in rules)}"
        port = "" if self._options.port == 9000 else f" DEMO='--port {self._options.port}'"
        where = "".join(f"  {one.name:12} http://{HOST}:{one.ports[0]}\n" for one in self._all())
        metrics = [f"http://{HOST}:{one.ports[1]}/metrics" for one in self._decisions]
        restart = (
            "This command restarts all instances, one of each kind at a time, and no request fails:\n\n"
            f"  kill -USR1 {os.getpid()}\n\n"
        )
        if self._options.instances == 1:  # nothing answers meanwhile
            restart = ""
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
            "In the second one, Traefik asks a decision service, and then an upstream without a limiter.\n"
            "All commands spend the same limit. ab is in Debian's package apache2-utils.\n"
            f"{restart}"
            "For another algorithm, stop this demo with Ctrl-C, and start it with:\n\n"
            f'  LIMITER_ALGORITHM=token_bucket LIMITER_LIMITS="100/minute" make demo{port}\n'
        )

    def _stop(self) -> None:
        # Traefik first: its health checks would warn of instances that end before it.
        if "traefik" in self._children:
            self._children["traefik"][0].stop()
        instances = [child for name, (child, _) in self._children.items() if name != "traefik"]
        stop_at_once(instances)
        for _, log in self._children.values():
            log.close()
        if self._cluster is not None:
            self._cluster.stop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let signals set a flag: if they raised an exception, a child just started could be lost."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # `nohup` ignores it
            numbers.append(signal.SIGHUP)
        flags = dict.fromkeys(numbers, self._stop_asked) | {signal.SIGUSR1: self._roll_asked}
        before = {
            number: signal.signal(number, lambda *_, flag=flag: flag.set())
            for number, flag in flags.items()
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _gunicorn(name: str, config: str, module: str) -> Instance:
    """Return an instance of a WSGI application."""
    command = [sys.executable, "-m", "gunicorn", "--config", config, "--name", name]
    return Instance(name, [*command, f"{module}:create_app({name!r})"], ["--bind"], [0])


def _decision_service(name: str) -> Instance:
    """Return an instance of the decision service."""
    command = [sys.executable, "-m", "limiter", "serve"]
    return Instance(name, command, ["--bind", "--operators"], [0, 0])


def _listener(port: int) -> socket.socket:
    """Listen on a port; without one, on a port that no outgoing connection takes during a restart."""
    return socket.create_server((HOST, port or free_port()))


def _addresses(instances: Iterable[Instance]) -> str:
    return ",".join(f"{HOST}:{instance.ports[0]}" for instance in instances)


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
