"""The demo's output of its child processes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from service.demo.children import Child
from service.demo.output import Log
from service.demo.supervisor import Demo, Options


def test_a_child_whose_own_children_live_on_is_not_waited_for() -> None:
    """They still hold its pipe."""
    command = ["/bin/sh", "-c", "sleep 30 & echo began; kill -9 $$"]
    child = Child("x", command, output=subprocess.PIPE)
    log = Log(child, 1)
    child.process.wait(10)
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 20
    assert list(log.last) == ["began"]
    child.kill()
    log.close()


def test_a_policy_file_is_the_same_for_those_who_run_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = Demo(Options(9000, 3, 2, None), {"LIMITER_POLICIES": "policies.toml"})
    assert demo._environ["LIMITER_POLICIES"] == str(tmp_path / "policies.toml")
