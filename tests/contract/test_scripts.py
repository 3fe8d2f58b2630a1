"""Checks of the scripts' text: headers, sums, and known faults."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from limiter import keys
from limiter import scripts as loader
from limiter.policies import ALGORITHMS, Concurrency
from limiter.transport import wire
from tests import scripts
from tests.contract import checks
from tests.contract.source import SRC, load_module

TEXTS = {path.stem: path.read_text() for path in sorted(scripts.V1.glob("*.lua"))}
SINGLES = {name: text for name, text in TEXTS.items() if name not in checks.LISTS}


@pytest.mark.parametrize("name", TEXTS)
def test_a_script_keeps_its_header_and_the_rules(name):
    """Checks title, banned text, keys, clock and expiry; but for long lists also arguments and reply."""
    checks.check_text(name, TEXTS[name])


def test_a_block_of_a_list_is_the_arguments_of_the_policy_s_script():
    """A program that can call one script can call the others; a reservation has no leases."""
    rates = {name: text for name, text in SINGLES.items() if name != "concurrency"}

    checks.check_blocks(TEXTS["several"], SINGLES)
    checks.check_blocks(TEXTS["reservation"], rates)


def test_a_policy_of_few_has_the_numbers_of_its_script():
    """A program that packs a call of one script can pack one of ``few``."""
    checks.check_policies_of_few(TEXTS["few"], SINGLES)


def test_the_numbers_of_the_algorithms_in_few_are_the_same_everywhere():
    """In the script, in the tables of the vectors, in the library and in these tests."""
    numbers = load_module("join").IN_FEW

    assert {name: int(number) for name, number in load_module("vectors").IN_FEW.items()} == numbers
    assert numbers == wire._IN_FEW == scripts.IN_FEW


def test_headers_of_rates_share_their_text():
    """All rates have the same first three arguments, reply, and rules for writes."""
    headers = [text.split("]]")[0] for name, text in SINGLES.items() if name != "concurrency"]

    assert len({re.search(r"^ARGV\[1\].*?(?=^ARGV\[4\])", h, re.M | re.S)[0] for h in headers}) == 1
    assert len({header[header.index("Returns") :] for header in headers}) == 1


def test_the_sums_are_correct():
    """SHA1SUMS lists the SHA-1 of each script, by which EVALSHA calls it, and nothing else."""
    listed = [
        tuple(line.split("  ")) for line in (scripts.V1 / "SHA1SUMS").read_text().splitlines()
    ]

    assert listed == [(loader.script(name).sha, f"{name}.lua") for name in TEXTS]
    assert listed == [(scripts.sha1(name), f"{name}.lua") for name in TEXTS]


def test_the_joined_fragments_are_the_committed_scripts(tmp_path):
    """A complete script was not edited by hand, and no fragment was edited without ``make lua``."""
    subprocess.run([sys.executable, SRC / "join.py", tmp_path], check=True)

    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(written) == {"SHA1SUMS", *(f"{name}.lua" for name in TEXTS)}
    assert written == {name: (scripts.V1 / name).read_text() for name in written}


def test_the_commands_are_those_of_the_acl():
    """``limiter acl`` grants the commands that the scripts call, and no others."""
    assert set().union(*map(checks.commands, TEXTS.values())) == set(loader.COMMANDS)


@pytest.mark.parametrize("name", TEXTS)
def test_lua_5_1_compiles_the_file(name):
    """The file needs no preprocessor."""
    compiler = shutil.which("luac5.1") or shutil.which("luac")
    if compiler is None:
        pytest.skip("luac5.1 is not installed")

    subprocess.run([compiler, "-p", scripts.V1 / f"{name}.lua"], check=True)


def test_every_algorithm_has_its_script():
    """Each algorithm of the library has a script, and each script an algorithm."""
    assert {policy.script for policy in (*ALGORITHMS.values(), Concurrency)} == set(SINGLES)


def test_the_version_is_in_every_key(monkeypatch):
    """State of another version has other keys, so no version reads another's state."""
    key = keys.KeySpeller("rl", "api").state("user:42", tag="org")[0]
    assert loader.folder().name == keys.VERSION
    assert key.endswith(b":" + keys.VERSION.encode())

    monkeypatch.setattr(keys, "VERSION", "v2")
    assert keys.KeySpeller("rl", "api").state("user:42", tag="org")[0] == key[:-2] + b"v2"
