"""docs/choose-a-limit.md: the log that ships, and the commands that the page runs on it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

import pytest

from limiter.policyfile.reading import read
from service.demo.servers import HOST, Server, free_port
from tests.cli.support import run
from tests.server.serving import serving
from tests.service.support import ROOT, get
from tests.waiting import until

DOCS = ROOT / "docs"
LOG = DOCS / "access.log.gz"
PAGE = (DOCS / "choose-a-limit.md").read_text()


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The program that makes the log."""
    spec = importlib.util.spec_from_file_location("access_log", DOCS / "access_log.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its classes
    spec.loader.exec_module(module)
    return module


def test_the_log_is_what_its_program_makes(program: ModuleType) -> None:
    lines = gzip.decompress(LOG.read_bytes()).decode().splitlines()
    assert lines == list(program.lines())
    assert lines != list(program.lines(seed=20))
    assert LOG.stat().st_size < 200_000


def test_the_log_has_each_kind_of_client(program: ModuleType) -> None:
    """The page says how many requests each of them makes."""
    hits = program.Shop(program.SEED).hits()
    by_address = Counter(hit.address for hit in hits)
    assert by_address["192.0.2.10"] == by_address["192.0.2.11"] == 2_700
    assert by_address["203.0.113.66"] == by_address["203.0.113.67"] == 1_500
    assert by_address["203.0.113.99"] == 900
    assert max(Counter(int(hit.second) for hit in hits if hit.path == "/api/prices").values()) >= 30
    documentation = re.compile(r"192\.0\.2\.|198\.51\.100\.|203\.0\.113\.|2001:db8:")
    assert all(map(documentation.match, by_address))
    evening = sum(20 * 3600 <= hit.second < 20.25 * 3600 for hit in hits)
    assert evening > 10 * sum(4 * 3600 <= hit.second < 4.25 * 3600 for hit in hits)


def examples(console: str) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with the output that is shown."""
    for example in re.split(r"^\$ ", console, flags=re.M)[1:]:
        command, _, shown = example.partition("\n")
        yield command, shown


def pattern(shown: str) -> str:
    """What an output must match: ``...`` stands for lines that the page leaves out, and times vary."""
    escaped = re.sub(r"since 20\d\d-.* UTC", "since T", shown)
    escaped = re.escape(escaped).replace(re.escape("...\n"), r"(?:.*\n)+")
    return escaped.replace("since\\ T", r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@pytest.mark.slow(15)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_every_command_prints_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the page's order: a policy file replaces the one before, and the service reads it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(LOG, folder)
    monkeypatch.chdir(folder)
    variables: dict[str, str] = {}
    ports = {"127.0.0.1:8001": f"{HOST}:{free_port()}"}
    with ExitStack() as stack:
        for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S):
            if kind == "toml":
                (folder / "shop.toml").write_text(block)
                if "LIMITER_STORE" in variables:
                    wait_for(block, ports["127.0.0.1:8001"], variables["LIMITER_ADMIN_TOKEN"])
            elif kind == "sh":
                variables |= re.findall(r"(LIMITER_\w+)=(\S+)", block)
                variables["LIMITER_STORE"] = stack.enter_context(Server()).url
                settings = {**variables, "LIMITER_POLICIES": str(folder / "shop.toml")}
                operators = f"--operators={ports['127.0.0.1:8001']}"
                service = serving(tmp_path / "log", operators, LIMITER_TIMEOUT="5", **settings)
                _, url = stack.enter_context(service)
                ports["127.0.0.1:8000"] = url.removeprefix("http://")
            else:
                for command, shown in examples(block):
                    words = command
                    for port, own in ports.items():
                        words = words.replace(port, own)
                    printed = output_of(words, **variables)
                    assert re.fullmatch(pattern(shown), printed), (command, printed)
    assert (folder / "guess.png").read_bytes().startswith(b"\x89PNG")


def output_of(words: str, **variables: str) -> str:
    """Return what a command that succeeds prints; ``limiter`` alone needs no process of its own."""
    if words.startswith("limiter "):
        done = run(words.removeprefix("limiter "), **variables)
        assert done.exit_code == 0, (words, done.output)
        return done.output
    return subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=True).stdout


def wait_for(text: str, operators: str, token: str) -> None:
    """Wait until the service has read a policy file."""
    expected = [named.description for named in read(text, "shop.toml").policies.values()]
    bearer = {"Authorization": f"Bearer {token}"}

    def in_force() -> bool:
        answer = get(f"http://{operators}/v1/policies", bearer)
        return json.loads(answer.text)["policies"] == json.loads(json.dumps(expected))

    until(in_force)
