"""The tree of errors is as the module's docstring draws it."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import limiter
from limiter import Decision, SlidingLog, errors


def drawn() -> dict[str, str]:
    """Each error of the module's docstring, and its base there."""
    parents: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( *)\* (\w+)", errors.__doc__ or "", re.M):
        above = [(depth, other) for depth, other in above if depth < len(indent)]
        parents[name] = above[-1][1] if above else "Exception"
        above.append((len(indent), name))
    return parents


def test_the_tree_is_the_one_drawn() -> None:
    """The drawing has every error, in its place."""
    real = {
        name: kind.__mro__[1].__name__
        for name, kind in inspect.getmembers(limiter, inspect.isclass)
        if issubclass(kind, Exception)
    }
    assert real == drawn()


def test_the_drawing_marks_the_value_errors() -> None:
    """The caller's mistakes are also ValueErrors, the store's failures are not."""
    lines = [line for line in (errors.__doc__ or "").splitlines() if "* " in line]
    for line in lines:
        kind = getattr(limiter, line.split()[1])
        assert issubclass(kind, ValueError) == ("a ValueError" in line), line


def test_every_error_is_public() -> None:
    """Every error can be caught by its public name."""
    defined = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    assert defined - {"TypeVar"} < drawn().keys() <= set(limiter.__all__)


@pytest.mark.parametrize("name", sorted(set(drawn()) - {"RateLimited"}))
def test_errors_can_be_pickled(name: str) -> None:
    """An error of a worker process arrives as the same error."""
    error = getattr(limiter, name)("said")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is type(error)
    assert copy.args == error.args


def test_rate_limited_carries_the_decision() -> None:
    """The message names the policy and the time; the pickle keeps all."""
    decision = Decision((SlidingLog(5, 60),), [0, 0, 1_500_000, 2_000_000, 0, 1])
    error = limiter.RateLimited(decision)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(error) == str(copy) == "denied by SlidingLog(5, per=60): retry after 1.500000 s"
    assert copy.decision == error.decision == decision


@pytest.mark.parametrize(
    ("make", "setting", "value", "expected"),
    [
        (lambda: limiter.SlidingLog(0, 60), "limit", "0", "expected a whole number from 1"),
        (lambda: limiter.Concurrency(1, lease=0), "lease", "0", "expected seconds"),
        (lambda: limiter.parse_limits("5/x"), "limit", "'5/x'", "expected N/unit"),
        (
            lambda: limiter.Limiter("1/s", store="redis://:secret@:x"),
            "store",
            "'redis://:***@:***'",
            "expected redis://",
        ),
        (
            lambda: limiter.Limiter("1/s", store="memory://", on_error="x"),
            "on_error",
            "'x'",
            "expected raise",
        ),
        (
            lambda: limiter.Limiter("1/s", store="memory://").hit(""),
            "key",
            "''",
            "expected str",
        ),
    ],
)
def test_a_mistake_has_its_parts_as_attributes(
    make: Callable[[], object], setting: str, value: str, expected: str
) -> None:
    """A program that handles it need not read the message; a pickle keeps them."""
    with pytest.raises(limiter.Invalid) as raised:
        make()
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):  # noqa: S301
        assert (error.setting, error.value) == (setting, value)
        assert error.expected is not None
        assert error.expected.startswith(expected)
        assert str(error).endswith(f"{setting} is {value}: {error.expected}")


def test_no_code_of_ours_reads_our_messages() -> None:
    """So that messages can be reworded without a change of behaviour."""
    folder = Path(limiter.__file__).parent
    read = re.compile(r"str\(error\)\.(removeprefix|startswith|replace)|\bsaid\.startswith\(")
    transport = folder / "transport"  # which reads what servers say
    texts = [path for path in folder.rglob("*.py") if transport not in path.parents]
    assert [path.name for path in texts if read.search(path.read_text())] == []
