"""The examples of the README and of the pages for new users do what the pages show."""

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

README, CONTRIBUTING, QUICKSTART, OPERATE, SPEED, SURVIVAL = (
    (ROOT / name).read_text()
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/quickstart.md",
        "docs/operate.md",
        "docs/how-fast.md",
        "docs/survival.md",
    )
)

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), Path("lua/README.md")]
PAGES += [path.relative_to(ROOT) for path in sorted((ROOT / "docs").glob("*.md"))]


def blocks(kind: str, *pages: str) -> list[str]:
    """Return the code blocks of one kind on these pages, in order."""
    return [
        block
        for page in pages
        for block in re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S)
    ]


def commands(block: str) -> list[tuple[str, list[str]]]:
    """Return each command of a console block, with the lines that the page shows below it."""
    shown: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            shown.append((line[2:], []))
        elif line.strip():
            shown[-1][1].append(line)
    return shown


@pytest.mark.parametrize("block", blocks("python", README, QUICKSTART))
def test_python_runs(block: str, store: str) -> None:
    """Every Python block runs unchanged, except for the address of the store."""
    assert "redis://127.0.0.1:6379/0" in block

    code = compile(block.replace("redis://127.0.0.1:6379/0", store), "page.md", "exec")
    exec(code, {"__name__": "page"})  # noqa: S102


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not installed")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    """Run against the demo, it prints the lines shown below it, in that order."""
    with Server() as server, Demo(tmp_path, f"--store={server.url}") as demo:
        demo.wait_for("make demo")
        for block in blocks("console", README, SPEED):
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
    """Replace what differs from run to run in a line: the remaining seconds, and the instance."""
    line = re.sub(r'instance-\d+"', 'instance-N"', line)
    return re.sub(r"(t=|Retry-After: )\d+", r"\g<1>N", line.rstrip())


def test_the_readme_has_the_figures_of_the_pages() -> None:
    """A new run changes the pages, and then the README."""
    (measured,) = re.findall(r"^\*\*Measured\.\*\*.*?^$", README, re.M | re.S)
    ours, theirs, calls = re.findall(r"\d[\d.,]*\d", re.sub(r"\(.*?\)", "", measured))

    assert f"| fixed_window, allowed | {ours} |" in SPEED
    assert f"| Flask-Limiter, fixed window | {theirs} |" in SPEED
    assert f"0 of {calls} calls were late" in SURVIVAL
    assert "0 were charged twice" in SURVIVAL


def test_the_tables_name_every_algorithm_and_variable() -> None:
    """The algorithms are in the README, the variables in docs/operate.md."""
    assert set(ALGORITHMS) <= set(re.findall(r"^\| `(\w+)`", README, re.M))
    assert set(VARIABLES.values()) <= set(re.findall(r"^\| `(LIMITER_\w+)`", OPERATE, re.M))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_file_that_a_page_links_to_exists(page: Path) -> None:
    """The test checks links within the repository; Sphinx checks those within the site."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page.parent / target).exists(), target


def test_every_make_target_on_the_pages_exists() -> None:
    """A reader can run every ``make`` command of README and CONTRIBUTING."""
    makefile = (ROOT / "Makefile").read_text()
    for target in set(
        re.findall(
            r"make ([a-z-]+)",
            "".join([*blocks("sh", README), *re.findall(r"`[^`]+`", README + CONTRIBUTING)]),
        )
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
