"""The site that ``make docs`` builds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.support import ROOT, clean_environment

#: The titles of the pages, in their order.
TITLES = [
    "Quickstart",
    "Choose an algorithm",
    "Choose a limit",
    "Flask",
    "From Flask-Limiter",
    "FastAPI, ASGI, WSGI, Django",
    "Testing an application that is limited",
    "Token budgets for language models",
    "The decision service",
    "In front of any service",
    "Policies",
    "Stores",
    "Operate",
    "Security",
    "Run the decision service",
    "Runbook",
    "How exact",
    "How fast",
    "What it survives",
    "Hazards",
    "API",
    "The Lua contract",
    "Why a script, and not INCR",
    "Contributing",
    "Changelog",
]


@pytest.mark.slow(20)
def test_the_site_has_no_warning_and_no_dead_link(tmp_path: Path) -> None:
    """Sphinx checks every link between pages and to headings; a warning is an error."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "docs",
            tmp_path,
        ],
        cwd=ROOT,
        env={**clean_environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "index.html").read_text()
    contents = re.findall(
        r'toctree-l1"><a class="reference internal" href="[\w-]+.html">(.*?)</a>', front
    )
    assert contents == TITLES
    assert "Take <code" in (tmp_path / "api.html").read_text()
    assert (tmp_path / "searchindex.js").stat().st_size > 10_000
