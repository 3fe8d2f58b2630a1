"""Build a release: a source distribution, a wheel made from it, and the list of the service's packages.

The metadata of a release names the address of its repository, and an index shows README.md on a page of its
own, so the links of both must be absolute. No file of the repository has this address. ``REPOSITORY`` gives
it, or the git remote ``origin``; both distributions are built from a copy of the tracked files, in which it
stands. So pip installs a checkout without git, and a wheel that is built from the source distribution has
the same metadata.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import sbom

ROOT = Path(__file__).parent.parent
PRIVATE = "    Private :: Do Not Upload\n"
NO_ADDRESS = f"""\
warning: no address of a repository is known. So the packages have relative links, and the classifier
  "{PRIVATE.strip()}": PyPI refuses them. To give the address, set the git remote "origin", or run
  make release REPOSITORY=https://github.com/OWNER/NAME"""
UNCOMMITTED = """\
warning: tracked files differ from the last commit. A release has the files of its tag: commit them first"""

#: A remote as ssh's own programs write it: user@host:path.
_SCP = re.compile(r"(?:[^@/:]+@)?([^@/:]+):(?!/)(.+)")
#: The target of a link or an image in Markdown that is no address, and no section of the same page.
_RELATIVE = re.compile(r"(!?)(\[[^][]*\])\((?![a-z]+:|#)([^)\s]+)\)")
_BUILD = ("uv", "build", "--quiet", "--no-build-isolation", "--no-create-gitignore")


def hosted(remote: str) -> str | None:
    """Return the https form of a remote's address, without a user; None if no host has it."""
    if match := _SCP.fullmatch(remote):
        remote = "ssh://{}/{}".format(*match.groups())
    try:
        parts = urlsplit(remote)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    path = parts.path.rstrip("/").removesuffix(".git")
    if parts.scheme not in ("https", "ssh") or "." not in host or not path:
        return None
    suffix = f":{port}" if parts.scheme == "https" and port else ""
    return f"https://{host}{suffix}{path}"


def address() -> str | None:
    """Return the repository's address, if one is known."""
    if given := os.environ.get("REPOSITORY"):
        if not given.startswith("https://") or (found := hosted(given)) is None:
            sys.exit(
                f"REPOSITORY is {given}: expected https://host/owner/name; give the repository's address"
            )
        return found
    remote = git("config", "--get", "remote.origin.url", check=False)
    return hosted(remote.strip())


def git(*arguments: str, check: bool = True) -> str:
    """Return what a command of git prints."""
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        check=check,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def absolute(text: str, repository: str, version: str) -> str:
    """Make the links and images of a page absolute, in the form of GitHub."""

    def replaced(match: re.Match[str]) -> str:
        form = "raw" if match[1] else "blob"
        return f"{match[1]}{match[2]}({repository}/{form}/v{version}/{match[3]})"

    return _RELATIVE.sub(replaced, text)


def write_address(folder: Path, repository: str, version: str) -> None:
    """Write the repository's address into the metadata and the README.md of a copy of the files."""
    setup, readme = folder / "setup.cfg", folder / "README.md"
    page = f"{repository}/blob/v{version}"
    addresses = f"""\
project_urls =
    Source = {repository}
    Documentation = {page}/docs/index.md
    Changelog = {page}/CHANGELOG.md
    Issues = {repository}/issues
"""
    head, tail = setup.read_text().split(PRIVATE)
    setup.write_text(head + addresses + tail)
    readme.write_text(absolute(readme.read_text(), repository, version))


def build(dist: Path, repository: str | None) -> list[Path]:
    """Build both distributions, and the list of packages; check them as an index would."""
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in git("ls-files", "-z").strip("\0").split("\0"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        if repository:
            write_address(folder, repository, sbom.VERSION)
        # Without isolation, the installed setuptools builds it: with LOCKED=1, the locked one.
        run(*_BUILD, "--python", sys.executable, "--out-dir", str(dist), str(folder))
    made = sorted(dist.iterdir())
    run("twine", "check", "--strict", *map(str, made))
    return [*made, sbom.write(dist)]


def run(program: str, *arguments: str) -> None:
    """Run a program of this Python's packages."""
    subprocess.run([sys.executable, "-m", program, *arguments], check=True)  # noqa: S603


def main(dist: Path) -> None:
    """Build a release into a folder, and say what it has and what is next."""
    if not (ROOT / ".git").exists():
        sys.exit(
            f"{ROOT} is no git checkout: expected one, whose tracked files are released; clone it"
        )
    repository = address()
    made = build(dist, repository)
    print("made:", *made, sep="\n  ")
    if repository:
        print(
            f"The links go to {repository}, to the tag v{sbom.VERSION}: push this tag before you upload."
        )
    else:
        print(NO_ADDRESS)
    if git("status", "--porcelain", "--untracked-files=no"):
        print(UNCOMMITTED)
    print('The next steps stand in CONTRIBUTING.md, "To release".')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
