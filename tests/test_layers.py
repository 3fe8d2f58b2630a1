"""Who may import whom (docs: the layers), read from the source and not from what happens to run.

One exception stands: ``service/demo/servers.py`` starts real servers, joins them to a cluster and
looks whether they are ready. It is a tool for the demo, the tests and the benchmarks, talks to
servers as an administrator does, and decides nothing; so it uses redis-py by itself.
"""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import limiter

ROOT = Path(__file__).parent.parent
CORE = [
    "acl",
    "call",
    "decision",
    "errors",
    "grammar",
    "keys",
    "plan",
    "policies",
    "scripts",
    "units",
    "version",
]
#: The only modules outside that the core needs: arithmetic, text and types. No I/O, no clock.
PURE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "datetime",
    "fractions",
    "functools",
    "hashlib",
    "math",
    "re",
    "struct",
    "typing",
}


def sources(*folders: str) -> list[Path]:
    """Every Python file of these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of these folders by its dotted name, parsed."""
    for path in sources(*folders):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    """The parsed file, which several tests read."""
    return ast.parse(path.read_text())


@cache
def imports(tree: ast.Module) -> set[str]:
    """Dotted names of all that a module imports, anywhere in it, each with the imported name."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of these packages, or in it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_there_are_modules_to_read() -> None:
    """An empty search would find no fault."""
    names = [name for name, _ in trees("limiter", "service")]
    assert {"limiter", "limiter.client", "limiter.transport.node", "service.app"} <= set(names)


def test_only_the_transport_imports_redis() -> None:
    """And the embedded server's tool, see above; valkey-py is nowhere."""
    users = {
        name
        for name, tree in trees("limiter", "service")
        if any(within(wanted, "redis", "valkey", "hiredis") for wanted in imports(tree))
    }
    assert {name for name in users if not within(name, "limiter.transport")} == {
        "service.demo.servers"
    }


def test_the_core_is_pure() -> None:
    """No I/O, no clock, no environment, no store; only the scripts' loader opens files."""
    core = [f"limiter.{name}" for name in CORE]
    for name, tree in trees("limiter"):
        if not within(name, *core):
            continue
        for wanted in imports(tree):
            outside = wanted.split(".")[0]
            if name == "limiter.scripts" and outside == "pathlib":
                continue
            if outside == "limiter":
                # ``from limiter import scripts`` and ``from limiter.scripts import Script``.
                assert within(wanted, *core), f"{name} imports {wanted}"
            else:
                assert outside in PURE, f"{name} imports {wanted}"
        called = {node.func.id for node in ast.walk(tree) if _is_plain_call(node)}
        assert not called & {"open", "print", "input", "eval", "exec"}, name


def _is_plain_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def test_the_transport_knows_no_client_and_no_policy() -> None:
    """It carries bytes and replies; beside its own it needs few modules, and none that decides."""
    for name, tree in trees("limiter/transport"):
        for wanted in imports(tree):
            if within(wanted, "limiter"):
                assert within(
                    wanted,
                    "limiter.call",
                    "limiter.errors",
                    "limiter.log_throttle",
                    "limiter.policies",
                    "limiter.scripts",
                    "limiter.threads",
                    "limiter.transport",
                    "limiter.version",
                ), f"{name} imports {wanted}"


def test_the_memory_store_needs_the_core_alone() -> None:
    """It decides in the process: no Redis, no scripts, no client."""
    core = [f"limiter.{name}" for name in CORE if name not in ("plan", "scripts")]
    for name, tree in trees("limiter/memory"):
        for wanted in imports(tree):
            if within(wanted, "limiter"):
                assert within(wanted, "limiter.memory", *core), f"{name} imports {wanted}"


def test_only_the_two_clients_know_the_round_trip() -> None:
    """The rest of a limiter is written once, for threads and for coroutines."""
    clients = [f"limiter.{name}" for name in ("client", "aio", "thread_core", "loop_core")]
    names = (
        "base",
        "changes",
        "core",
        "entered",
        "flows",
        "leases",
        "lines",
        "local",
        "reservations",
        "several",
    )
    shared = [f"limiter.{name}" for name in (*names, "denials", "prepaid", "call_cache")]
    for name, tree in trees("limiter"):
        wanted = imports(tree)
        if not within(name, "limiter.transport", "limiter.testing", "limiter.doctor", *clients):
            assert not [one for one in wanted if within(one, "limiter.transport")], name
        if name in shared:
            waiting = ("asyncio", "time.sleep", "threading")
            assert not [one for one in wanted if within(one, *clients, *waiting)], name


def test_the_web_adapters_know_decisions_not_stores() -> None:
    """Headers and identity work on values."""
    for name, tree in trees("limiter/web"):
        for wanted in imports(tree):
            assert not within(wanted, "limiter.transport", "service"), name


def test_the_simulation_has_no_store_and_no_clock() -> None:
    """Its time is that of the log; it decides by the code of ``memory://``."""
    for name, tree in trees("limiter/simulate"):
        for wanted in imports(tree):
            hidden = ("limiter.transport", "limiter.memory.store", "limiter.memory.clock", "time")
            assert not within(wanted, *hidden), f"{name} imports {wanted}"


def test_no_modules_import_each_other() -> None:
    """Nor in a circle of several; what a function or a type checker alone imports counts, too."""
    graph = dict(trees("limiter", "service"))
    needs = {
        name: {
            wanted for path in imports(tree) if (wanted := _module(path, graph)) not in ("", name)
        }
        for name, tree in graph.items()
    }
    # A module whose imports are all done is in no circle; those that are left are in one, or import one.
    while free := [name for name, wanted in needs.items() if not wanted & needs.keys()]:
        for name in free:
            del needs[name]
    assert not needs, {name: sorted(wanted & needs.keys()) for name, wanted in needs.items()}


def _module(path: str, modules: Collection[str]) -> str:
    """The module that an import means: ``limiter.plan.Part`` is of ``limiter.plan``; outside, nothing."""
    while path and path not in modules:
        path = path.rpartition(".")[0]
    return path


#: The public names of a limiter; adapters use its core for all others.
PUBLIC = """clear close from_env hit hit_all hold name on_error open peek policies refund reserve
reserve_all reset timeout unsettled wait"""


@pytest.mark.parametrize("kind", [limiter.Limiter, limiter.AsyncLimiter])
def test_a_limiter_has_the_documented_names_alone(kind: Any) -> None:
    """With another public name, such as ``forget``, a user might call it and mean ``reset``."""
    made = kind("5/minute", store="memory://")
    assert [name for name in dir(made) if not name.startswith("_")] == PUBLIC.split()


def test_one_module_of_the_adapters_reaches_for_the_core() -> None:
    """It is ``limiter.web.limiter_calls``; the calls of a core go through it."""
    readers = {
        name
        for name, tree in trees(
            "limiter/web", "limiter/flask", "limiter/compat", "limiter/server", "service"
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "_core"
    }
    assert readers == {"limiter.web.limiter_calls"}


_OF_THE_PROCESS = ("os.environ", "os.environb", "os.getenv")


def test_one_module_reads_the_environment() -> None:
    """It is ``limiter.settings``."""
    readers = set()
    for name, tree in trees("limiter"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in _OF_THE_PROCESS:
                readers.add(name)
        assert not [w for w in imports(tree) if w in ("os.environ", "os.getenv")], name
    assert readers == {"limiter.settings"}


def test_one_module_reads_the_scripts() -> None:
    """No other module has a path into lua/: no string that ends in .lua, none that is the folder's."""
    readers = set()
    for name, tree in trees("limiter", "service"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
                if "\n" not in text and (text == "lua" or text.endswith((".lua", "SHA1SUMS"))):
                    readers.add(name)
    assert readers == {"limiter.scripts"}


def test_nothing_shipped_imports_tests_or_bench() -> None:
    """The installed package works without them."""
    for name, tree in trees("limiter", "service"):
        for wanted in imports(tree):
            assert not within(wanted, "tests", "bench"), f"{name} imports {wanted}"
            if within(name, "limiter"):
                assert not within(wanted, "service"), f"{name} imports {wanted}"


def test_the_service_uses_public_names_only() -> None:
    """What ``limiter`` exports, the web adapters, policy files, and the settings that are the service's."""
    settings = ("is_in_process", "policies_path", "trusted_proxies")
    settings += ("tokens", "ADMIN_TOKEN", "API_TOKEN", "METRICS_FOLDER", "metrics_folder")
    settings += ("with_config", "from_environment")
    parts = ("web", "policyfile", "server", "flask", "doctor")
    packages = [f"limiter.{part}" for part in parts]
    public = {f"limiter.{name}" for name in limiter.__all__}
    public |= {f"limiter.settings.{name}" for name in settings}
    public |= {"limiter.log_throttle.ThrottleFilter", "limiter.wsgi.LimiterMiddleware"}
    for name, tree in trees("service", "limiter/server"):
        for wanted in imports(tree):
            if within(wanted, "limiter"):
                known = wanted in public or within(wanted, *packages)
                assert known, f"{name} imports {wanted}"
                assert wanted in public or "._" not in wanted, f"{name} imports {wanted}"


def test_the_library_needs_redis_alone() -> None:
    """Everything else that it imports is Python's own; extras stay outside of the core's imports."""
    optional = (
        "limiter.cli",
        "limiter.command",
        "limiter.__main__",
        "limiter.web",
        "limiter.policyfile",
        "limiter.fastapi",
        "limiter.flask",
        "limiter.compat",
        "limiter.server",
        "limiter.simulate.plots",
    )
    for name, tree in trees("limiter"):
        if within(name, *optional):
            continue
        outside = {wanted.split(".")[0] for wanted in imports(tree)} - {
            "limiter",
            "redis",
            "hiredis",
            "typing_extensions",  # for type checkers alone, see below
        }
        assert not outside - sys.stdlib_module_names, name


def test_no_module_imports_what_only_type_checkers_need() -> None:
    """The library does not depend on typing_extensions: its imports stand under TYPE_CHECKING."""
    for name, whole in trees("limiter", "service"):
        if not [w for w in imports(whole) if within(w, "typing_extensions")]:
            continue
        tree = copy.deepcopy(whole)
        for node in [*ast.walk(tree)]:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        assert not [w for w in imports(tree) if within(w, "typing_extensions")], name


@pytest.mark.parametrize("name", sorted(set(limiter.__all__) - {"__version__"}))
def test_public_names_are_explained(name: str) -> None:
    """Each has a docstring of its own."""
    assert getattr(limiter, name).__doc__
