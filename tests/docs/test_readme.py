"""What the README shows is what happens."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from limiter.policies import ALGORITHMS
from limiter.settings import VARIABLES
from service.demo.servers import Server
from tests.e2e.support import Demo
from tests.service.support import ROOT

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(kind: str) -> list[str]:
    """The README's code blocks of one kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.M | re.S)


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Each command of a console block, and the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block: str, store: str) -> None:
    """Every Python block runs as it stands, but for the address of the store."""
    assert "redis://127.0.0.1:6379/0" in block

    exec(compile(block.replace("redis://127.0.0.1:6379/0", store), "README.md", "exec"), {})  # noqa: S102


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not installed")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_console_shows_what_is_printed(tmp_path: Path) -> None:
    """Every command, run against the demo, prints the lines shown below it, in that order."""
    with Server() as server, Demo(tmp_path, f"--store={server.url}") as demo:
        demo.wait_for("make demo")
        for block in blocks("console"):
            server.client().flushall()
            for command, shown in commands(block):
                command = command.replace("localhost:9000", f"127.0.0.1:{demo.port}")
                output = subprocess.run(
                    ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
                ).stdout
                printed = [_general(line) for line in output.splitlines()]
                at = 0
                for line in map(_general, shown):
                    assert line in printed[at:], (
                        f"{line!r} is not in what {command!r} printed: {output}"
                    )
                    at = printed.index(line, at) + 1
        assert demo.stop() == 0


def _general(line: str) -> str:
    """A line without what differs from run to run: the seconds left, and which instance answered."""
    line = re.sub(r'instance-\d+"', 'instance-N"', line)
    return re.sub(r"(t=|Retry-After: )\d+", r"\g<1>N", line.rstrip())


def test_every_algorithm_and_variable_is_in_it() -> None:
    """The tables name what exists, and promise no algorithm that does not."""
    rows = re.findall(r"^\| `(\w+)`", README, re.M)

    assert set(ALGORITHMS) == {row for row in rows if not row.startswith("LIMITER_")}
    assert set(VARIABLES.values()) <= set(re.findall(r"LIMITER_\w+", README))


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_every_file_that_it_points_to_exists(text: str) -> None:
    """A link within the repository leads somewhere."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_every_make_target_that_it_names_exists() -> None:
    """A reader can type what stands there."""
    makefile = (ROOT / "Makefile").read_text()
    for target in set(
        re.findall(
            r"make ([a-z-]+)",
            "".join([*blocks("sh"), *re.findall(r"`[^`]+`", README + CONTRIBUTING)]),
        )
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
