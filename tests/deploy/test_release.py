"""What `make release` builds: its metadata and its files, and that both distributions install and work."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from readme_renderer import markdown

from limiter.version import __version__
from service.demo.servers import HOST, free_port
from tests.deploy.support import DEPLOY
from tests.pythons import Version, environment, installed
from tests.service.support import ROOT, get, is_alive, started

REPOSITORY = "https://git.example/them/slotgate"
PAGE = f"{REPOSITORY}/blob/v{__version__}"
NAME = f"slotgate-{__version__}"
#: Without folders of a caller's own; an empty variable is none.
CLEAN = {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}

HIT = """
import limiter
limits = limiter.Limiter("2/hour", store="memory://")
print(limiter.__version__, [bool(limits.hit("user")) for _ in range(3)])
"""


class Built(NamedTuple):
    """A release: the folder with its files, and what the command printed."""

    folder: Path
    printed: str

    @property
    def wheel(self) -> Path:
        """The wheel."""
        return self.folder / f"{NAME}-py3-none-any.whl"

    @property
    def sdist(self) -> Path:
        """The source distribution."""
        return self.folder / f"{NAME}.tar.gz"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A release with an address, as `make release` builds it."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    done = subprocess.run(
        [sys.executable, DEPLOY / "release.py", folder],
        env={**os.environ, "REPOSITORY": f"{REPOSITORY}.git/", "COLUMNS": "500"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return Built(folder, done.stdout)


def of_sdist(path: Path) -> dict[str, bytes]:
    """The files of a source distribution, by their paths in it."""
    with tarfile.open(path) as archive:
        return {
            each.name.removeprefix(f"{NAME}/"): archive.extractfile(each).read()  # type: ignore[union-attr]
            for each in archive
            if each.isfile()
        }


def of_wheel(path: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    """The metadata of a wheel."""
    return Parser().parsestr(of_wheel(wheel)[f"{NAME}.dist-info/METADATA"].decode())


def tracked() -> set[str]:
    """The files of the repository."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(listed.stdout.splitlines())


# --- the address ---


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://git.example/them/slotgate", REPOSITORY),
        ("https://git.example/them/slotgate.git", REPOSITORY),
        ("https://user:token@git.example/them/slotgate/", REPOSITORY),
        ("https://git.example:8443/them/slotgate", "https://git.example:8443/them/slotgate"),
        ("git@git.example:them/slotgate.git", REPOSITORY),
        ("git.example:them/slotgate", REPOSITORY),
        ("ssh://git@git.example:2222/them/slotgate.git", REPOSITORY),
        ("/srv/git/slotgate.git", None),
        ("../slotgate", None),
        ("file:///srv/git/slotgate.git", None),
        ("http://git.example/them/slotgate", None),
        ("ssh://builder/slotgate.git", None),
        ("https://git.example", None),
        ("https://git.example:x/them/slotgate", None),
        ("", None),
    ],
)
def test_a_remote_s_address_without_its_password(
    remote: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded(monkeypatch, REPOSITORY="", **origin(remote))["address"]() == expected


def loaded(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    """The names of the program, which runs with these variables of the environment."""
    monkeypatch.syspath_prepend(DEPLOY)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(DEPLOY / "release.py"))


def origin(remote: str) -> dict[str, str]:
    """Variables by which git has this remote."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "remote.origin.url",
        "GIT_CONFIG_VALUE_0": remote,
    }


def test_without_an_address_no_index_accepts_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classifier is that of a checkout, which names no address either."""
    program = loaded(monkeypatch, REPOSITORY="", **origin("/srv/git/slotgate"))
    with monkeypatch.context() as patch:
        patch.setitem(program["main"].__globals__, "build", lambda dist, address: [dist, address])
        program["main"](Path("dist"))

    printed = capsys.readouterr().out
    assert "made:\n  dist\n  None\n" in printed
    assert "make release REPOSITORY=https://" in printed
    setup = (ROOT / "setup.cfg").read_text()
    assert "\n    Private :: Do Not Upload\n\n[options]\n" in setup
    assert "project_urls" not in setup


@pytest.mark.parametrize("given", ["http://git.example/a/b", "git@git.example:a/b", "https://x"])
def test_another_address_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as refused:
        loaded(monkeypatch, REPOSITORY=given)["address"]()
    assert refused.value.code == (
        f"REPOSITORY is {given}: expected https://host/owner/name; give the repository's address"
    )


def test_a_folder_without_git_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the unpacked source distribution is."""
    program = loaded(monkeypatch)
    monkeypatch.setitem(program["main"].__globals__, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as refused:
        program["main"](tmp_path / "dist")
    assert f"{tmp_path} is no git checkout: expected one" in str(refused.value.code)
    assert not (tmp_path / "dist").exists()


# --- what is built ---


@pytest.mark.slow(5)
def test_the_command_says_what_it_made(built: Built) -> None:
    """Among it the check of twine."""
    assert built.printed.count("PASSED") == 2
    for name in os.listdir(built.folder):
        assert f"\n  {built.folder / name}\n" in built.printed
    assert sorted(os.listdir(built.folder)) == sorted(
        [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz", f"{NAME}.cdx.json"]
    )
    assert "warning: no address" not in built.printed


def test_the_wheel_holds_the_library_and_nothing_else(built: Built) -> None:
    """Every file of ``limiter/``, and the scripts: no service, no demo, no tests."""
    scripts = {path.name for path in (ROOT / "lua/v1").iterdir()} - {"vectors.json"}
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}

    assert set(of_wheel(built.wheel)) == (
        {name for name in tracked() if name.startswith("limiter/")}
        | {f"limiter/lua/v1/{name}" for name in scripts}
        | {f"{NAME}.dist-info/{name}" for name in about}
    )


def test_the_source_distribution_holds_the_tracked_files_and_no_stray_one(built: Built) -> None:
    """Documents, tests and the sources of the scripts, too; not what only this repository needs."""
    files = of_sdist(built.sdist)
    left_out = re.compile(r"\.ci/|\.git|bench/results/")
    expected = {name for name in tracked() if not left_out.match(name)}
    made = {name for name in files if name.startswith("slotgate.egg-info/")} | {"PKG-INFO"}

    assert set(files) - made == expected
    assert {"LICENSE", "CHANGELOG.md", "lua/src/join.py", "tests/conftest.py"} <= expected
    changed = {name for name in expected if files[name] != (ROOT / name).read_bytes()}
    assert changed == {"README.md", "setup.cfg"}


def test_the_metadata_is_that_of_the_source_distribution(built: Built) -> None:
    described = metadata(built.wheel)

    assert of_sdist(built.sdist)["PKG-INFO"] == of_wheel(built.wheel)[f"{NAME}.dist-info/METADATA"]
    assert described["Version"] == __version__
    assert described["License-Expression"] == "MIT"
    assert described["Author"] in (ROOT / "LICENSE").read_text()
    assert not [name for name in described.get_all("Classifier", []) if "Private" in name]
    assert described.get_all("Project-URL") == [
        f"Source, {REPOSITORY}",
        f"Documentation, {PAGE}/docs/index.md",
        f"Changelog, {PAGE}/CHANGELOG.md",
        f"Issues, {REPOSITORY}/issues",
    ]


def test_the_page_of_an_index_has_absolute_links_to_files_of_the_tag(built: Built) -> None:
    """Rendered as PyPI does."""
    page = markdown.render(metadata(built.wheel).get_payload())
    targets = re.findall(r'(?:href|src)="(.*?)"', page)
    ours = [each for each in targets if each.startswith(REPOSITORY)]

    assert not [each for each in targets if not re.match("https://|http://localhost:9000/|#", each)]
    assert {each.removeprefix(f"{REPOSITORY}/raw/v{__version__}/") for each in ours} >= {
        "docs/page.png"
    }
    for each in ours:
        path = re.sub(rf"^{REPOSITORY}/(blob|raw)/v{re.escape(__version__)}/|#.*", "", each)
        assert path in tracked(), each
    # Every relative link of the page that is kept has become one of them.
    relative = re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(ours) == len(relative) > 20


# --- installed ---


def check_bare(distribution: Path, home: Path, python: str) -> None:
    """Without an extra, the library works, and the command names the extra that it needs."""
    programs = environment(home, python, str(distribution))
    assert run(programs / "python", "-c", HIT) == (0, f"{__version__} [True, True, False]\n")
    code, said = run(programs / "limiter", "--help")
    assert code == 2
    assert said.startswith("limiter: the command line needs click: ")
    assert said.endswith("pip install '.[cli]'\n")


def check_server(distribution: Path, home: Path, python: str) -> None:
    """With the extra for it, the command and the service work."""
    programs = environment(home, python, f"slotgate[server] @ {distribution.as_uri()}")
    assert run(programs / "python", "-c", HIT) == (0, f"{__version__} [True, True, False]\n")
    code, said = run(programs / "limiter", "--help")
    assert code == 0
    assert "serve " in said
    code, said = run(programs / "limiter", "--version")
    assert (code, said) == (0, f"limiter, version {__version__}\n")
    address = f"{HOST}:{free_port()}"
    command = [str(programs / "limiter"), "serve", "--bind", address, "--drain", "0"]
    log = home / "log"
    with started(
        log, command, lambda: is_alive(address), **CLEAN, LIMITER_STORE="memory://"
    ) as child:
        assert get(f"http://{address}/readyz").status == 200
        child.stop()


def run(program: Path, *arguments: str) -> tuple[int, str]:
    """Run a program of an environment, elsewhere; return its code and what it prints."""
    done = subprocess.run(
        [program, *arguments],
        cwd=program.parent,
        env={**os.environ, **CLEAN},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


@pytest.mark.slow(20)
@pytest.mark.timeout(300)
def test_both_install_into_an_empty_environment_of_each_python(
    built: Built, tmp_path: Path
) -> None:
    """On each Python that is found; ``test_pythons.py`` fails in CI if that is this one alone."""

    def check(version: Version, python: str) -> None:
        home = tmp_path / "{}.{}".format(*version)
        check_bare(built.sdist, home / "bare", python)
        check_server(built.wheel, home / "server", python)

    with ThreadPoolExecutor(2) as pool:
        checks = {
            version: pool.submit(check, version, python) for version, python in installed().items()
        }
    for version, done in checks.items():
        assert done.exception() is None, (version, done.exception())
    assert sys.version_info[:2] in checks
