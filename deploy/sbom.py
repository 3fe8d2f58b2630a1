"""Write the software bill of materials of a release, in CycloneDX's JSON.

It lists the packages of the decision service: those of the image's lock file, without setuptools, which
only builds our own. Each has its version, the hashes of its files, and the packages that it needs.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

DEPLOY = Path(__file__).parent
NAME = "slotgate"
VERSION = str(runpy.run_path(str(DEPLOY.parent / "limiter" / "version.py"))["__version__"])


class Locked(NamedTuple):
    """A package of a lock file, and the names of the packages that need it."""

    name: str
    version: str
    hashes: list[str]
    needed_by: list[str]


def locked(text: str) -> Iterator[Locked]:
    """Read a lock file of uv, with its comments."""
    for name, version, rest in re.findall(r"^([\w.-]+)==(\S+)(.*\n(?:[ ]+.*\n)*)", text, re.M):
        hashes = re.findall(r"--hash=sha256:([0-9a-f]+)", rest)
        yield Locked(name, version, hashes, re.findall(r"#(?: via)? +([\w.-]+)", rest))


def component(name: str, version: str, hashes: list[str]) -> Component:
    """Make the entry of a package of PyPI; its hashes are those of all its files."""
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/simple/{name}/"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in hashes],
    )
    package = PackageURL("pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=package,
        bom_ref=str(package),
        external_references=[files] if hashes else [],
    )


def bill(text: str) -> str:
    """Return the bill of a lock file's packages."""
    packages = {each.name: each for each in locked(text)}
    # What the service needs is needed by it, or by something that it needs.
    needed = {NAME}
    while (
        more := {each.name for each in packages.values() if needed.intersection(each.needed_by)}
        - needed
    ):
        needed |= more
    root = component(NAME, VERSION, [])
    root.licenses.add(DisjunctiveLicense(id="MIT"))
    entries = {name: component(*packages[name][:3]) for name in sorted(needed - {NAME})}
    bom = Bom(components=entries.values())
    bom.metadata.component = root
    for name, entry in {**entries, NAME: root}.items():
        uses = [other for other in entries if name in packages[other].needed_by]
        bom.register_dependency(entry, [entries[other] for other in uses])
    written = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(written):
        raise ValueError(f"the bill is not CycloneDX: {error}")
    return written


def write(folder: Path) -> Path:
    """Write the bill of the image's packages into a folder; return its path."""
    path = folder / f"{NAME}-{VERSION}.cdx.json"
    path.write_text(bill((DEPLOY / "requirements.lock").read_text()))
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
