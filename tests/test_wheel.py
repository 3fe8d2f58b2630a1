"""The wheel holds the library and its scripts: no service, no demo, no tests."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_the_library_and_nothing_else() -> None:
    """Every package of ``limiter/``, and the scripts of ``lua/``; the list is read from setup.cfg."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    options = setup["options"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "limiter").rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders}

    assert set(options["packages"].split()) == packages | {"limiter.lua"}
    assert options["package_dir"].split() == ["limiter.lua", "=", "lua"]
    assert not options.getboolean("include_package_data")
    data = dict(setup["options.package_data"])
    assert data.pop("limiter") == "py.typed"
    assert data.pop("limiter.server") == "openapi.json"
    assert data.pop("limiter.simulate") == "page.html"
    patterns = data.pop("limiter.lua").split(", ")
    scripts = {path.name for pattern in patterns for path in (ROOT / "lua").glob(pattern)}
    assert scripts == {path.name for path in (ROOT / "lua/v1").iterdir()} - {"vectors.json"}
    assert not data
