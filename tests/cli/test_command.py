"""The command group: its list, its examples, completion, and its messages if something is missing."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from limiter.__main__ import main
from limiter.cli.lazy import LazyGroup
from limiter.command import cli
from tests.cli.support import run, shell, unmeasured
from tests.service.support import ROOT, clean_environment

QUICKSTART = (ROOT / "docs/quickstart.md").read_text()

COMMANDS = [
    *("hit", "peek", "refund", "reset", "hold", "check", "explain", "simulate", "serve"),
    *("shadow", "scripts", "doctor", "acl", "bench"),
]


def command(name: str) -> click.Command:
    """A command of the group."""
    assert isinstance(cli, LazyGroup)
    result = cli.get_command(click.Context(cli), name)
    assert result is not None
    return result


def test_help_lists_every_command() -> None:
    """Each on one whole line, on a terminal of 80 columns."""
    for option in ("--help", "-h"):
        printed = run(option).stdout
        assert re.findall(r"^  (\w+)  +\S.*\.$", printed, re.M) == COMMANDS
    assert run("--version").stdout == f"limiter, version {version('slotgate')}\n"
    assert run("nonsense").exit_code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_listed_command_exists(name: str) -> None:
    """It can be imported, and has a help of its own."""
    assert command(name).name == name
    assert command(name).help


def test_help_imports_no_command() -> None:
    """Nor what they need; and calling a store needs no Flask, no TOML and no service."""
    code = """
import sys
from limiter.command import cli
try:
    cli(sys.argv[1:], prog_name="limiter")
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""
    found = {}
    for words in (["--help"], ["hit", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=ROOT,
            env=unmeasured(),
            capture_output=True,
            text=True,
            check=True,
        )
        found[words[0]] = set(done.stderr.split())
    ours = {
        name
        for name in found["--help"]
        if name.partition("limiter.cli")[2][:1] == "." or name == "limiter.cli"
    }
    assert ours == {"limiter.cli", "limiter.cli.exit_codes", "limiter.cli.lazy"}
    for modules in found.values():
        assert not modules & {"flask", "tomllib", "tomli", "limiter.policyfile", "service"}


def examples() -> list[tuple[str, str]]:
    """Every example line of a help text, with the command that it shows."""
    found = []
    for name in COMMANDS:
        text = command(name).help or ""
        lines = re.findall(r"^ +(limiter .*)$", text, re.M)
        lines += re.findall(r"Example: (limiter [^;\n]+)", text)
        found += [(name, line.strip()) for line in lines]
    return found


def test_every_command_has_examples() -> None:
    """Except for the measurements."""
    assert {name for name, _ in examples()} == set(COMMANDS) - {"bench"}


@pytest.mark.parametrize(
    ("name", "line"),
    [  # A service does not end, and must run before it can be asked: see tests/server.
        example for example in examples() if example[0] not in ("serve", "shadow")
    ],
    ids=lambda value: str(value)[:40],
)
def test_examples_run(name: str, line: str, store: str, subject: str, tmp_path: Path) -> None:
    """With another address, subject and program, but otherwise as they are written."""
    assert line.startswith(f"limiter {name}")
    line = line.replace("redis://127.0.0.1:6379/0", store)
    for key in ("user:42", "org:7", "nightly-report", "nightly-backup", "thumbnails"):
        line = line.replace(f" {key}", f" {subject}")
    line = re.sub(r"-- (rsync|convert) .*", "-- echo ran", line).replace("redis-cli", "cat")
    if name in ("check", "explain", "simulate"):
        line = line.replace("policies.toml", "docs/policies.example.toml")
        line = re.sub(r"access\.log\S*", "tests/simulate/access.log", line)
        line = line.replace("report.html", f"{tmp_path}/report.html")
    done = shell(line, LIMITER_STORE=store)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    # The example file shows what ForwardAuth cannot do, and what no log reports, so it has warnings.
    expected = {"warning"} if name in ("check", "simulate") else set()
    assert {line.partition(":")[0] for line in done.stderr.splitlines()} == expected
    if " -- echo ran" in line:
        assert done.stdout == "ran\n"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("limiter h", {"hit", "hold"}),
        ("limiter hit --al", {"--algorithm"}),
        ("limiter hit --algorithm sliding_", {"sliding_log", "sliding_window"}),
        ("limiter scripts con", {"concurrency"}),
    ],
)
def test_completion(typed: str, completed: set[str]) -> None:
    """The completions of click, requested as a shell's function does."""
    words = shlex.split(typed)
    done = shell(
        "limiter",
        _LIMITER_COMPLETE="bash_complete",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(words) - 1),
    )
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == completed
    assert done.stderr == ""


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_the_completion_script(kind: str) -> None:
    """The text for ``eval``, for each shell that click knows."""
    done = shell("limiter", _LIMITER_COMPLETE=f"{kind}_source")
    assert "_LIMITER_COMPLETE=" in done.stdout
    assert done.returncode == 0
    if kind == "bash":
        assert shell(f"{done.stdout}\ncomplete -p limiter").returncode == 0


@pytest.mark.parametrize(
    ("lacking", "importing"), [("click", "click"), ("tomli", "limiter.policyfile")]
)
def test_a_missing_extra_is_one_line(lacking: str, importing: str) -> None:
    """It is not a denial: the exit code is 2."""
    code = f"""
import sys
class Lacking:
    def find_spec(self, name, *_):
        if name == "{importing}":
            raise ModuleNotFoundError("No module named '{lacking}'", name="{lacking}")
sys.meta_path.insert(0, Lacking())
sys.argv = ["limiter", "check", "policies.toml"]
from limiter.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"limiter: the command line needs {lacking}: in a checkout of slotgate, "
        "pip install '.[cli]'\n"
    )


@pytest.mark.parametrize("overwritten", [[], ["__init__.py", "base.py"]])
def test_another_package_of_the_name_is_one_line(tmp_path: Path, overwritten: list[str]) -> None:
    """PyPI's ``limiter`` in the same folder, installed before or after slotgate."""
    shutil.copytree(ROOT / "limiter", tmp_path / "limiter")

    def ask() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from limiter.__main__ import main; main()", "--help"],
            cwd=tmp_path,
            env={**clean_environment(), "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert ask().returncode == 0
    (tmp_path / "limiter-0.5.0.dist-info").mkdir()
    for name in overwritten:
        (tmp_path / "limiter" / name).write_text("class Limiter: pass")
    done = ask()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"limiter: {tmp_path} holds slotgate and another distribution, limiter 0.5.0, whose package has "
        "the same name: expected one of them; pip uninstall limiter slotgate, then install slotgate "
        "again\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
@pytest.mark.parametrize("line", ["--help", "scripts token_bucket"])
def test_a_full_disk_is_one_line(line: str) -> None:
    """Behind standard output, whatever prints; it is no denial. A reader that has gone is no error."""
    words = [sys.executable, "-m", "limiter", *line.split()]
    environment = clean_environment()
    with open("/dev/full", "wb") as full:
        done = subprocess.run(words, cwd=ROOT, env=environment, stdout=full, stderr=-1, check=False)
    expected = "limiter: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (5, expected)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, cwd=ROOT, env=environment, stdout=writing, stderr=-1, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_no_hint_names_a_package_index() -> None:
    """The package is on none."""
    for path in [*(ROOT / "limiter").rglob("*.py"), *(ROOT / "service").rglob("*.py")]:
        assert not re.search(r"pip install [^.]*slotgate", path.read_text()), path


def test_another_missing_module_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no extra contains the module, the traceback is not hidden."""
    monkeypatch.setitem(sys.modules, "limiter.command", None)
    with pytest.raises(ModuleNotFoundError, match="command"):
        main()


def test_the_session_of_the_quickstart(store: str) -> None:
    """Every command, in one shell, prints what the page shows, except the seconds."""
    (block,) = re.findall(r"^```shell-session\n(.*?)^```$", QUICKSTART, re.M | re.S)
    block = block.replace("redis://127.0.0.1:6379/0", store)
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    shown = [line for line in block.splitlines() if not line.startswith("$ ")]
    done = shell("; ".join(commands), LIMITER_PREFIX=f"page-{secrets.token_hex(4)}")
    assert done.stderr == ""
    assert [re.sub(r"\b[\d.]+ s$", "N s", line) for line in done.stdout.splitlines()] == [
        re.sub(r"\b[\d.]+ s$", "N s", line) for line in shown
    ]


def test_the_completion_of_the_quickstart() -> None:
    """The line of the page, in bash."""
    (line,) = re.findall(r'`(eval "\$\(_LIMITER_COMPLETE[^`]*)`', QUICKSTART)
    done = shell(f"{line}; complete -p limiter")
    assert (done.returncode, done.stderr) == (0, "")
    assert "_limiter_completion" in done.stdout
