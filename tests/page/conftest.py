"""The service's applications, and one real browser for the whole run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.support import Browser
from tests.service.conftest import make_app, make_by_file

__all__ = ["make_app", "make_by_file"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's Chromium, driven by its own driver."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium is not installed (Debian: chromium chromium-driver)")
    folder: Path = tmp_path_factory.mktemp("browser")
    found = Browser(chromium, driver, folder)
    try:
        yield found
    finally:
        found.quit()
