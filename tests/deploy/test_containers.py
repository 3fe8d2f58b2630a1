"""The image and the pod, without a container: their own commands, as their user, on a read-only root.

The RUN instructions of deploy/Dockerfile install into a folder; only `/venv` and `/source` are replaced.
The commands then run in a mount namespace of their own. Its root file system is read-only, and only the
folders that the container has in memory can be written.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.demo.children import Child
from service.demo.servers import HOST, free_port
from tests.deploy.serving import Serving
from tests.deploy.support import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    command,
    container,
    instructions,
    last,
    manifest,
    option,
    run,
)
from tests.service.support import is_alive
from tests.waiting import until

#: Debian's Python 3.13: another user can execute it, unlike one in a home folder.
PYTHON = Path("/usr/bin/python3.13")
PIP = f"{sys.executable} -m pip"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="needs the rights to mount"
    ),
    pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} is not installed"),
]


class Image:
    """What the image has: `/venv` in a folder that every user can read, and its environment."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / "venv"
        self.source = folder / "source"

    def build(self) -> None:
        """Run the instructions of the first stage."""
        for stage, name, arguments in instructions():
            if stage == 1 and name == "COPY":
                *sources, target = arguments.split()
                for source in sources:
                    self._copy(source, target)
            elif stage == 1 and name == "RUN":
                for words in arguments.replace("/venv", str(self.venv)).split(" && "):
                    self._run(words)

    def _run(self, words: str) -> None:
        """Run a command of the build, with programs of this machine."""
        words = re.sub(r"^pip ", f"{PIP} ", re.sub(r"^python ", f"{PYTHON} ", words))
        env = {"PATH": os.defpath, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run(shlex.split(words), cwd=self.source, env=env, check=True, timeout=200)

    def _copy(self, source: str, target: str) -> None:
        """Copy as COPY does: a folder's content, or a file into a folder."""
        destination = self.source / target
        if (ROOT / source).is_dir():
            shutil.copytree(
                ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            destination.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, destination)

    def environment(self) -> dict[str, str]:
        """The variables of the last stage, and nothing of this process."""
        pairs = dict(pair.split("=", 1) for pair in shlex.split(last("ENV")))
        pairs["PATH"] = pairs["PATH"].replace("/venv", str(self.venv))
        return {**pairs, "PATH": pairs["PATH"].replace("$PATH", os.defpath)}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image, built from the lock file."""
    with tempfile.TemporaryDirectory(prefix="limiter-image-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        built = Image(Path(folder))
        built.source.mkdir()
        built.build()
        yield built


def contained(
    words: Sequence[str], user: str, in_memory: Mapping[str, str], *binds: str
) -> list[str]:
    """The command that runs ``words`` as a container would: as this user, on a read-only root.

    ``in_memory`` has the folders that can be written, with their sizes. ``binds`` are pairs: a folder, and
    its place.
    """
    uid, gid = user.split(":")
    steps = ["mount -o remount,bind,ro /"]
    for folder, size in in_memory.items():
        steps.append(f"mount -t tmpfs -o size={size},mode=1777 tmpfs {folder}")
    for source, place in zip(binds[::2], binds[1::2], strict=True):
        steps.append(f"mkdir -p {place} && mount -o bind {source} {place}")
        steps.append(f"mount -o remount,bind,ro {place}")
    rights = (
        f"setpriv --reuid={uid} --regid={gid} --clear-groups --bounding-set=-all --no-new-privs"
    )
    script = " && ".join([*steps, f"exec {rights} {shlex.join(words)}"])
    return ["/usr/bin/unshare", "--mount", "--propagation=private", "/bin/sh", "-c", script]


@contextmanager
def running(words: list[str], environment: Mapping[str, str], log: Path) -> Iterator[Serving]:
    """Run a container's command, with ports of its own, until the end of the block."""
    port, operators = free_port(), free_port()
    changed = [
        word.replace("0.0.0.0:8000", f"{HOST}:{port}").replace(
            "0.0.0.0:8001", f"{HOST}:{operators}"
        )
        for word in words
    ]
    with log.open("wb") as output:
        child = Child("container", changed, env=dict(environment), cwd="/", output=output)
    service = Serving(child, port, operators, log)
    try:
        until(lambda: child.alive and is_alive(f"{HOST}:{port}"), what=log.read_text)
        yield service
    finally:
        child.stop()


@pytest.mark.slow(11)
def test_the_image_serves_and_is_healthy(image: Image, store: str, tmp_path: Path) -> None:
    words = [*command("ENTRYPOINT"), *command("CMD")]
    environment = image.environment() | {"LIMITER_STORE": store, "LIMITER_PREFIX": tmp_path.name}
    in_memory = {"/tmp": "16m", "/dev/shm": "64m"}  # noqa: S108 (`--tmpfs /tmp`; Docker's own size of /dev/shm)
    with running(
        contained(words, last("USER"), in_memory), environment, tmp_path / "log"
    ) as service:
        check = [word.replace(":8000", f":{service.port}") for word in command("HEALTHCHECK")]
        subprocess.run(check, env=image.environment(), check=True, timeout=10)
        assert service.ask("/forward-auth") == 204
        assert (
            'limiter_decisions_total{outcome="allowed",policy="default"} 1.0' in service.metrics()
        )

        user = f"/proc/{service.process.pid}/status"
        ids = re.findall(r"^[UG]id:\s+(\d+)", Path(user).read_text(), re.MULTILINE)
        assert ":".join(ids) == last("USER")
        service.process.signal(signal.Signals[last("STOPSIGNAL")])
        assert service.process.process.wait(30) == 0, service.log.read_text()
    for line in service.log.read_text().splitlines():
        assert json.loads(line)["level"] in ("info", "warning"), line


def test_the_image_has_the_locked_packages_and_no_tools(image: Image) -> None:
    folders = {path.name.split("-")[0].lower() for path in image.venv.glob("lib/*/*/*.dist-info")}
    lock = re.findall(r"^([\w.-]+)==", (DEPLOY / "requirements.lock").read_text(), re.MULTILINE)

    assert folders == {name.replace("-", "_") for name in lock} - {"setuptools"} | {"slotgate"}
    assert {path.name for path in (image.venv / "bin").glob("limiter")} == {"limiter"}
    run("/bin/sh", "-c", f"{PIP} --python {image.venv}/bin/python check")


def config_map(folder: Path, text: str) -> None:
    """Write a ConfigMap's file as the kubelet does: links, of which one is replaced in one step."""
    version = Path(tempfile.mkdtemp(dir=folder, prefix="..version-"))
    version.chmod(0o755)
    (version / "policies.toml").write_text(text)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "policies.toml").is_symlink():
        (folder / "policies.toml").symlink_to("..data/policies.toml")


def test_a_pod_starts_takes_new_policies_and_drains(
    image: Image, store: str, tmp_path: Path
) -> None:
    spec = manifest("Deployment")["spec"]["template"]["spec"]
    pod = container()
    words = [*command("ENTRYPOINT"), *pod["args"]]
    words[words.index("--drain") + 1] = "2"
    given = {each["name"]: each["value"] for each in pod["env"]}
    given |= {"LIMITER_STORE": store, "LIMITER_TRUSTED_PROXIES": f"{HOST}/32"}
    assert option(words, "--workers") == "1"
    user = ":".join(str(spec["securityContext"][f"runAs{name}"]) for name in ("User", "Group"))
    mounts = {each["name"]: each["mountPath"] for each in pod["volumeMounts"]}
    volumes = {each["name"]: each for each in spec["volumes"]}
    memory = volumes["tmp"]["emptyDir"]
    assert memory["medium"] == "Memory"
    in_memory = {mounts["tmp"]: memory["sizeLimit"].removesuffix("i"), "/dev/shm": "64m"}  # noqa: S108
    # The place of the ConfigMap lies in memory here, since it does not exist on this machine.
    place = f"{mounts['tmp']}/etc"
    given["LIMITER_POLICIES"] = given["LIMITER_POLICIES"].replace(mounts["policies"], place)
    policies = image.venv.parent / "policies"
    policies.mkdir()
    config_map(policies, (KUBERNETES / "policies.toml").read_text())
    whole = contained(words, user, in_memory, str(policies), place)

    with running(whole, image.environment() | given, tmp_path / "log") as service:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert service.ask(pod[probe]["httpGet"]["path"]) == 200
        assert service.ask("/forward-auth/default") == 204

        config_map(policies, '[policies.other]\nlimits = "5/minute"\n')
        until(lambda: service.ask("/forward-auth/other") == 204, what=service.log.read_text)

        service.process.signal(signal.SIGTERM)
        ready = pod["readinessProbe"]["httpGet"]["path"]
        until(lambda: service.ask(ready) == 503)
        assert service.ask(pod["livenessProbe"]["httpGet"]["path"]) == 200
        assert service.ask("/forward-auth/other") == 204
        assert service.process.process.wait(spec["terminationGracePeriodSeconds"]) == 0


def test_a_pod_with_a_wrong_variable_ends_with_one_line(image: Image) -> None:
    words = contained([*command("ENTRYPOINT"), *command("CMD")], last("USER"), {"/tmp": "16m"})  # noqa: S108
    done = subprocess.run(
        words,
        env=image.environment() | {"LIMITER_STORE": "http://redis"},
        cwd="/",  # a checkout in /tmp would be out of reach
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "LIMITER_STORE" in done.stderr
