"""The examples of ``lua/README.md`` run on a server, in both forms, and its lists match the scripts."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import redis

from limiter import scripts as loader
from service.demo.servers import Server
from tests.contract import checks

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "lua" / "README.md").read_text()
MARK = "--- next ---"


def examples() -> list[tuple[str, str]]:
    """Return every command of the page with the output that the page shows, in order."""
    shown = []
    for block in re.findall(r"```console\n(.*?)```", README, re.S):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            shown.append((command, output))
    return shown


def test_the_examples_print_what_the_page_shows(server: Server, tmp_path):
    """The commands run in one shell, against a server that has none of their keys."""
    client = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if client is None:
        pytest.skip("redis-cli is not installed")
    with redis.Redis.from_url(server.url) as cleaner:
        for key in cleaner.scan_iter(match="rl:{user:4?}:docs:*"):
            cleaner.delete(key)
    # At a terminal redis-cli writes "1) (integer) 3". In $(...) it writes bare text, so force the first.
    shim = tmp_path / "redis-cli"
    shim.write_text(
        f'#!/bin/sh\n[ "$1" = -x ] || set -- --no-raw "$@"\nexec {client} -p {server.port} "$@"\n'
    )
    shim.chmod(0o755)
    shown = examples()
    program = "\n".join(f"{command}\necho '{MARK}'" for command, _ in shown)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    ran = subprocess.run(
        ["bash", "-euc", program],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert len(shown) > 5
    assert ran.stdout.split(f"{MARK}\n") == [output for _, output in shown] + [""]

    with redis.Redis.from_url(server.url) as packer:
        shas = {name: packer.script_load(loader.script(name).source) for name in loader.names()}
        names = {"struct": struct, "client": packer, "sha": shas["fixed_window"], **shas}
        for block in re.findall(r"```python\n(.*?)```", README, re.S):
            example = doctest.DocTestParser().get_doctest(block, names, "README", None, None)
            assert len(example.examples) > 2
            assert doctest.DocTestRunner().run(example).failed == 0
    assert README.count("```python") == 2


def test_the_commands_are_those_of_the_acl():
    """The page lists the commands that ``limiter acl`` grants."""
    (listed,) = re.findall(r"The scripts call `([A-Z ]+)`", README)

    assert listed.lower().split() == sorted(loader.COMMANDS)


def test_the_packed_numbers_are_those_of_the_headers():
    """The page lists a policy's own numbers as its script takes them."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (`\w+_us`(?:, `\w+`)*) \|$", README, re.M))
    for name, listed in rows.items():
        numbers = checks.arguments(loader.script(name).source.decode()).numbers
        own = numbers[numbers.index("limit") + 1 :]
        assert re.findall(r"\w+", listed) == [number for number in own if number != "step"]
    assert set(rows) == set(loader.names()) - set(checks.LISTS)


def test_every_script_is_on_the_page():
    """The table at the top names each file of the folder."""
    named = set(re.findall(r"^\| `(\w+)` \|", README.partition("## Try it")[0], re.M))

    assert named == {path.stem for path in loader.folder().glob("*.lua")}


def test_every_error_of_a_script_is_on_the_page():
    """A caller finds every error that a script may return."""
    errors = set()
    for path in loader.folder().glob("*.lua"):
        for text in re.findall(r'error_reply\("([^"]+)"\)', path.read_text()):
            errors.add(text.replace(f"of {path.stem} v1", "of <script> v1"))

    assert all(f"`{text}`" in README for text in errors)
