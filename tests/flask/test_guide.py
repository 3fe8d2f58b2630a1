"""The guide for users of Flask-Limiter: its code runs, and its tables are complete."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from limiter.compat.flask_limiter import config, extension
from limiter.flask import FlaskLimiter
from limiter.flask.limits import LimitOptions
from limiter.settings import VARIABLES
from limiter.web.wiring import StoreSettings
from tests.flask.support import statuses

theirs: Any = pytest.importorskip("flask_limiter", reason="flask-limiter is not installed")

GUIDE = (Path(__file__).parent.parent.parent / "docs" / "from-flask-limiter.md").read_text()
ADDRESS = "redis://127.0.0.1:6379/0"
#: What stands in code beside names of ours: values, places, and names of what we return.
WORDS = """address header NAME api key LimitExceeded verdict decision Decision results blueprint callable
rule limiter peek refund reset FlaskLimiter endpoint ratelimit util get_remote_address redis unix
fixed_window sliding_log sliding_window token_bucket gcra leaky_bucket Concurrency allow local True delta
seconds socket_timeout socket_connect_timeout memory clear app extensions initialized flask INFO"""
#: What each Python block's application answers to what it is asked.
ASKED = [
    (["/slow", "/slow", "/ping", "/ping"], [200, 429, 200, 200]),
    (["/slow", "/slow", "/ping", "/ping"], [200, 429, 200, 200]),
    (["/report", "/search", *["POST /login"] * 6], [200, 400, *[401] * 5, 429]),
]


def blocks() -> list[str]:
    """The guide's Python blocks, in order; the one for Flask-AppBuilder has its own test."""
    texts = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.M | re.S)
    return [block for block in texts if "flask_appbuilder" not in block]


def rows(header: str) -> list[list[str]]:
    """The cells of the rows below a table's header."""
    found = []
    for line in GUIDE[GUIDE.index(header) :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


FEATURES = rows("| Flask-Limiter 4.1 | `limiter.compat")
KEYS = rows("| configuration |")


@pytest.mark.parametrize(("block", "asked"), list(zip(blocks(), ASKED, strict=True)))
def test_code_runs(
    block: str, asked: tuple[list[str], list[int]], store: str, subject: str
) -> None:
    """With the address of the test's store and a prefix, but otherwise as it is written."""
    calls, found = asked
    assert ADDRESS in block
    name: dict[str, Any] = {"__name__": "guide"}
    mine = f'"{store}", {"key_" if "compat" in block else ""}prefix="{subject}"'
    exec(compile(block.replace(f'"{ADDRESS}"', mine), "from-flask-limiter.md", "exec"), name)  # noqa: S102
    extension = name.get("limits") or name["limiter"]

    assert statuses(name["app"], *calls) == found
    extension.close()


def named(cells: list[str]) -> set[str]:
    """Every name in code, without its arguments."""
    code = " ".join(word for cell in cells for word in re.findall(r"`[^`]+`", cell))
    return set(re.findall(r"[A-Za-z_]{2,}", code))


def test_every_argument_and_name_of_flask_limiter_has_a_row() -> None:
    listed = named([row[0] for row in FEATURES])
    wanted = {*theirs.__all__}
    for method in (theirs.Limiter.__init__, theirs.Limiter.limit, theirs.Limiter.shared_limit):
        wanted |= {*inspect.signature(method).parameters}
    wanted |= {name for name in dir(theirs.Limiter) if not name.startswith("_")}
    internal = {"self", "limit_value", "flags", "identify_request", "context", "logger"}

    assert wanted - listed - internal == set()


def test_every_key_of_flask_limiter_has_a_row() -> None:
    keys = vars(theirs.constants.ConfigVars)

    assert {row[0].strip("`") for row in KEYS} == {
        value for name, value in keys.items() if name.isupper()
    }


@pytest.mark.parametrize("row", KEYS, ids=lambda row: row[0])
def test_keys(row: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """The second column is true for each key: read, read with one value, not read, or refused."""
    key, effect, _ = row
    key = key.strip("`")
    values: dict[str, Any] = {"delta-seconds": "delta-seconds", "True": True}
    setting = {key: name for name, key in config.KEYS.items()}.get(key)
    if effect == "read":
        assert key in {*config.KEYS.values(), *config.HEADERS, config.ENABLED}
        assert setting not in config.REFUSED
        config.read({}, {key: 1})
    elif effect.startswith("not read, with a warning"):
        config.read({}, {key: "anything"})
        assert key in caplog.text
    elif effect == "-":
        with pytest.raises(ValueError, match=setting or key):
            config.read({}, {key: "anything"})
    else:
        config.read({}, {key: values[effect.strip("`")]})
        with pytest.raises(ValueError, match=str(setting)):
            config.read({}, {key: "anything else"})


@pytest.mark.parametrize("row", [*FEATURES, *KEYS], ids=lambda row: row[0][:40])
def test_every_name_of_this_package_exists(row: list[str]) -> None:
    """Each name in the last two columns."""
    compat = importlib.import_module("limiter.compat.flask_limiter")
    arguments = {
        argument
        for owner in (FlaskLimiter, compat.Limiter)
        for name, method in vars(owner).items()
        if callable(method) and (name == "__init__" or not name.startswith("_"))
        for argument in inspect.signature(method).parameters
    }
    known = {
        *arguments,
        *LimitOptions.__annotations__,
        *StoreSettings.__annotations__,
        *extension.LimitOptions.__annotations__,
        *config.Settings.__annotations__,
        *dir(FlaskLimiter),
        *dir(compat.Limiter),
        *dir(compat),
        *VARIABLES.values(),
        *WORDS.split(),
    }

    assert named(row[1:]) - known == set()
