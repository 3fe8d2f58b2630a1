"""docs/choose-a-limit.md: the log that ships, and the commands that the page runs on it."""

from __future__ import annotations

import gzip
import importlib.util
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
LOG = DOCS / "access.log.gz"


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
