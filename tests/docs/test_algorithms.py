"""``docs/algorithms.md`` is right: its code, its figures, its picture."""

from __future__ import annotations

import contextlib
import io
import json
import re
import statistics
from pathlib import Path

import pytest

from bench.accuracy import picture, simulated
from bench.accuracy.effort import QUICK
from bench.accuracy.report import error, under
from bench.memory import SUBJECTS
from limiter import Concurrency, Limiter
from limiter.policies import ALGORITHMS, Policy

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "docs" / "algorithms.md"
PAGE = FILE.read_text()
ACCURACY = (ROOT / "docs/accuracy.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)

#: The policies of the page's figures: limits of a thousand a minute.
THOUSAND: dict[str, Policy] = {name: build(1_000, 60) for name, build in ALGORITHMS.items()}


def section(name: str) -> str:
    """Return the text under a heading."""
    match = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert match, f"{name} has no section"
    return match[1]


@pytest.mark.parametrize("name", [*ALGORITHMS, "concurrency"])
def test_every_algorithm_has_its_section(name):
    """It has source, state, bound and advice, and a row in the tables above."""
    text = section(name)

    for what in ("**Source**", "**State", "ound**", "**Choose it**", "```python"):
        assert what in text, what
    assert f"(#{name})" in section("Which one")
    assert f"| `{name}` |" in section("Which one")
    idea = text.partition("* **Source**")[0]
    assert idea.count(". ") + idea.count(".\n") >= 3


@pytest.mark.parametrize("on", ["memory", "server"])
@pytest.mark.parametrize("block", BLOCKS)
def test_code_prints_what_the_page_shows(block, on, store, subject):
    """Every block prints it, with ``memory://`` and on a server."""
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.M)
    assert len(expected) == len(re.findall(r"^ *print\(", block, re.M))
    if on == "server":
        for number in range(block.count('"memory://"')):
            own = f'"{store}", name="{subject}-{number}"'
            block = block.replace('"memory://"', own, 1)

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block, FILE.name, "exec"), {})  # noqa: S102

    assert printed.getvalue().splitlines() == expected


def size(client, policy: Policy, subject: str) -> int:
    """Return the bytes of a subject after two hits, without the names of its keys."""
    client.flushall()
    with Limiter(policy, store=client.url, name="api", timeout=5.0) as limiter:
        limiter.hit(subject)
        limiter.hit(subject)
    return sum(client.memory_usage(key, samples=0) - len(key) for key in client.keys("*"))


def test_the_bytes_are_those_of_this_server():
    """The page's bytes are right within a sixth, since allocators and servers differ."""
    from service.demo.servers import Server

    with Server() as server, server.client() as client:
        client.url = server.url
        for name, policy in THOUSAND.items():
            (cell,) = re.findall(rf"^\| `{name}` \| ([\d./ ]+)", section("Which one"), re.M)
            stated = float(cell.split("/")[1])
            if policy.key_type == "list":
                client.flushall()
                with Limiter(policy, store=server.url, name="api", timeout=5.0) as limiter:
                    limiter.hit("user:42", cost=1_000)
                (key,) = client.keys("*")
                measured = client.memory_usage(key, samples=0) / 1_000
            else:
                measured = statistics.mean(size(client, policy, subject) for subject in SUBJECTS)
            assert measured == pytest.approx(stated, rel=1 / 6), name
        client.flushall()
        with Limiter(Concurrency(1_000), store=server.url, name="api", timeout=5.0) as limiter:
            leases = [limiter.hold("user:42") for _ in range(100)]
            for lease in leases:
                lease.__enter__()
            (key,) = client.keys("*")
            measured = client.memory_usage(key, samples=0) / 100
            for lease in leases:
                lease.release()
        (cell,) = re.findall(r"^\| `concurrency` \| ([\d./ ]+)", section("Which one"), re.M)
        assert measured == pytest.approx(float(cell.split("/")[1]), rel=1 / 6)


def test_an_attacker_reaches_the_figures_of_the_table():
    """The figures are those of simulated time, for a limit of 20."""
    effort = QUICK._replace(limit=20, period_us=2_000_000)
    for name, policy in simulated.policies(20, 2_000_000):
        by_load = simulated.measure("memory://", policy, effort, lambda: None)
        most = max(behaviour.most[policy.period_us] for behaviour in by_load.values())
        (reached,) = re.findall(
            rf"^\| `{policy.algorithm}` (?:\|[^|]+){{2}}\| ([^|]+) \|", section("Which one"), re.M
        )
        plain, _, aligned = reached.partition("; aligned ")
        assert str(most) == (aligned if "aligned" in name else plain), name


def test_the_text_about_the_picture_is_true():
    """The number of requests is right, and three algorithms admit the same."""
    load = picture.load()
    assert f"The same {len(load)} requests" in PAGE
    at_most = {
        name: [result.admitted for result in picture.outcomes(policy, load)].count(True)
        for name, policy in picture.kinds()
    }
    assert at_most["token_bucket"] == at_most["gcra"] == at_most["leaky_bucket"]
    assert picture.FILE.read_bytes().startswith(b"\x89PNG")


def test_the_table_is_that_of_the_committed_run():
    """Every row has the figures of the report; and that run found no violation."""
    (folder,) = set(re.findall(r"bench/results/[\w-]+-accuracy", PAGE + ACCURACY))
    results = json.loads((ROOT / folder / "results.json").read_text())
    assert results["violations"] == []
    assert f"(../{folder}/report.md)" in ACCURACY
    for row in results["summary"]:
        most = row["most_real"] if row["most_exact"] is None else row["most_exact"]
        name = row["algorithm"]
        if row["library"] == "slotgate":
            name = "`fixed_window`, aligned" if "," in name else f"`{name}`"
        else:
            name = f"{row['library']} {name}"
        ahead = row["most_ahead"]
        cells = [row["bound"], most, f"**{ahead}**" if ahead > row["bound"] else ahead]
        line = "| " + " | ".join(map(str, [name, *cells, under(row), error(row)])) + " |"
        assert line in ACCURACY, line
