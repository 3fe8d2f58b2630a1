"""The packages that CI and the image install, and the list of them that a release carries."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import runpy
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from limiter.version import __version__
from tests.deploy.support import DEPLOY, ROOT

#: What `make lock` resolves for, as markers see it; the tools need Python 3.11.
TARGETS = [
    {"python_version": version, "python_full_version": f"{version}.9", "sys_platform": "linux"}
    | {"platform_system": "Linux", "platform_machine": machine, "os_name": "posix", "extra": ""}
    | {"platform_python_implementation": "CPython", "implementation_name": "cpython"}
    for version in ("3.11", "3.12", "3.13", "3.14")
    for machine in ("x86_64", "aarch64")
]


class Locked(NamedTuple):
    """A line of a lock file: its requirement, and its hashes."""

    requirement: Requirement
    hashes: frozenset[str]

    @property
    def version(self) -> str:
        """The only version that it accepts."""
        (only,) = self.requirement.specifier
        assert only.operator == "=="
        return only.version

    def applies(self, target: dict[str, str] | None = None) -> bool:
        """Whether its marker is true there, or in this Python."""
        marker = self.requirement.marker
        return marker is None or marker.evaluate(target)


def lines_of(path: Path) -> list[Locked]:
    """The lines of a lock file; each has hashes."""
    text = re.sub(r"^ *#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    found = []
    for line in text.strip().splitlines():
        words, *hashes = line.split(" --hash=")
        assert hashes, line
        found.append(Locked(Requirement(words), frozenset(each.strip() for each in hashes)))
    return found


ALL, IMAGE = lines_of(ROOT / "requirements.lock"), lines_of(DEPLOY / "requirements.lock")


def test_the_lock_file_is_what_setup_cfg_asks_for() -> None:
    """Run `make lock` after a change of a range, or of an extra's list."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = {line for each in wanted for line in each.splitlines() if line and line[0] != "#"}
    for target in TARGETS:
        versions = {each.requirement.name: each.version for each in ALL if each.applies(target)}
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate(target):
                version = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), (requirement, target)


def test_the_image_has_versions_that_ci_tests() -> None:
    every = {(each.requirement.name, each.version): each.hashes for each in ALL}

    assert {(each.requirement.name, each.version): each.hashes for each in IMAGE}.items() <= (
        every.items()
    )


@pytest.mark.skipif(not os.environ.get("LOCKED"), reason="the environment has the newest versions")
def test_this_environment_has_the_locked_versions() -> None:
    """As `.ci/run` says. The newest versions are those of ``test_pythons.py``."""
    for each in ALL:
        if each.applies():
            assert importlib.metadata.version(each.requirement.name) == each.version


def test_a_releases_bill_has_the_services_packages_and_no_others() -> None:
    text = (DEPLOY / "requirements.lock").read_text()
    # Here: to import them takes two seconds, which each worker would need to collect the tests.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    written = runpy.run_path(str(DEPLOY / "sbom.py"))["bill"](text)
    bill = json.loads(written)

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("slotgate", __version__)
    parts = {
        (each["name"], each["version"]): {
            file["content"] for file in each["externalReferences"][0]["hashes"]
        }
        for each in bill["components"]
    }
    assert parts == {
        (each.requirement.name, each.version): {file[len("sha256:") :] for file in each.hashes}
        for each in IMAGE
        if each.requirement.name != "setuptools"
    }
    # The graph is that of the packages' own metadata.
    uses = {each["ref"]: set(each.get("dependsOn", [])) for each in bill["dependencies"]}
    refs = {each["name"]: each["bom-ref"] for each in bill["components"]}
    assert set(uses) == {*refs.values(), root["bom-ref"]}
    assert {refs[name] for name in ("redis", "starlette", "uvicorn", "gunicorn")} <= (
        uses[root["bom-ref"]]
    )
    assert refs["hiredis"] in uses[refs["redis"]]
