"""Reading the scripts: headers are true, sums are true, and nothing is there that went wrong before."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from limiter import keys
from limiter import scripts as loader
from limiter.policies import ALGORITHMS, Concurrency
from tests import scripts
from tests.contract import checks
from tests.contract.source import SRC

TEXTS = {path.stem: path.read_text() for path in sorted(scripts.V1.glob("*.lua"))}
SINGLES = {name: text for name, text in TEXTS.items() if name != "several"}


@pytest.mark.parametrize("name", TEXTS)
def test_a_script_keeps_its_header_and_the_rules(name):
    """Title, words, keys, clock and expiry; for one policy, arguments and reply as well."""
    checks.check_text(name, TEXTS[name])


def test_a_block_of_several_is_what_the_policy_s_own_script_takes():
    """Whoever can call one script can call the other."""
    checks.check_blocks(TEXTS["several"], SINGLES)


def test_headers_say_the_same_of_what_they_share():
    """Of all rates, the first three arguments, the reply and what is written are one contract."""
    headers = [text.split("]]")[0] for name, text in SINGLES.items() if name != "concurrency"]

    assert len({re.search(r"^ARGV\[1\].*?(?=^ARGV\[4\])", h, re.M | re.S)[0] for h in headers}) == 1
    assert len({header[header.index("Returns") :] for header in headers}) == 1


def test_the_sums_are_true():
    """A file's SHA-1 is its id for EVALSHA, and stands in SHA1SUMS, which lists nothing else."""
    listed = [
        tuple(line.split("  ")) for line in (scripts.V1 / "SHA1SUMS").read_text().splitlines()
    ]

    assert listed == [(loader.script(name).sha, f"{name}.lua") for name in TEXTS]
    assert listed == [(scripts.sha1(name), f"{name}.lua") for name in TEXTS]


def test_the_fragments_joined_are_what_is_committed(tmp_path):
    """Nobody edits a complete script by hand, or a fragment without joining."""
    subprocess.run([sys.executable, SRC / "join.py", tmp_path], check=True)

    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(written) == {"SHA1SUMS", *(f"{name}.lua" for name in TEXTS)}
    assert written == {name: (scripts.V1 / name).read_text() for name in written}


def test_the_commands_are_those_of_the_acl():
    """``limiter acl`` grants what the scripts call, and nothing besides."""
    assert set().union(*map(checks.commands, TEXTS.values())) == set(loader.COMMANDS)


@pytest.mark.parametrize("name", TEXTS)
def test_lua_5_1_reads_the_file_as_it_is(name):
    """No preprocessor stands between the file and the server."""
    compiler = shutil.which("luac5.1") or shutil.which("luac")
    if compiler is None:
        pytest.skip("luac5.1 is not installed")

    subprocess.run([compiler, "-p", scripts.V1 / f"{name}.lua"], check=True)


def test_every_algorithm_has_its_script():
    """A user may choose what a script decides, alone and among several."""
    assert {policy.script for policy in (*ALGORITHMS.values(), Concurrency)} == set(SINGLES)


def test_the_version_is_in_every_key(monkeypatch):
    """The next version's state lies beside this one's: neither reads the other's."""
    now = keys.KeySpeller("rl", "api").state("user:42", tag="org")[0]
    assert loader.folder().name == keys.VERSION
    assert now.endswith(b":" + keys.VERSION.encode())

    monkeypatch.setattr(keys, "VERSION", "v2")
    assert keys.KeySpeller("rl", "api").state("user:42", tag="org")[0] == now[:-2] + b"v2"
