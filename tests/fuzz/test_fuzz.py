"""The kept inputs, a short run of each target, and planted faults that each target must find."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limiter import grammar, units
from limiter.policies import TokenBucket
from limiter.policyfile import faults
from limiter.server import bodies
from limiter.transport import async_connection, connection, slots, wire
from limiter.web import forward_auth, identity, match, paths, request, trusted_field
from tests.fuzz import __main__ as command
from tests.fuzz import corpus, targets

ATHERIS = importlib.util.find_spec("atheris") is not None
needs_atheris = pytest.mark.skipif(not ATHERIS, reason="atheris has no wheel for this system")

#: Inputs that each target's run tries.
RUNS = 1_000


@pytest.mark.parametrize("name", targets.CODE)
def test_the_kept_inputs_show_no_fault(name: str) -> None:
    check = targets.load(name).check
    kept = corpus.inputs(name)
    assert kept
    for data in kept:
        check(data)
    check(b"")


@pytest.mark.parametrize("name", targets.CODE)
def test_inputs_are_written_as_they_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fuzzer gets each input as a file; the text file is the same after it was written again."""
    kept = corpus.inputs(name)
    corpus.unpack(name, tmp_path)
    assert sorted(file.read_bytes() for file in tmp_path.iterdir()) == sorted({*kept})
    text = corpus.path_of(name).read_text()
    monkeypatch.setattr(corpus, "_FOLDER", tmp_path)
    others = [bytes(range(256)), b"'\"", b"\\x41\n\r\0", b""]
    corpus.keep(name, [*kept, *others])
    assert sorted(corpus.inputs(name)) == sorted({*kept, *others})
    corpus.keep(name, kept)
    assert corpus.path_of(name).read_text() == text


class _Backwards(deque[Any]):
    """Calls in the wrong order."""

    def popleft(self) -> Any:
        return self.pop()


def _always(result: Any) -> Callable[..., Any]:
    return lambda *_, **__: result


# ruff: noqa: ARG005 (a function takes what the one that it replaces does)
#: Faults, by target: what is replaced, and by what.
PLANTED: dict[str, list[tuple[Any, str, Any]]] = {
    "limits": [
        (grammar, "_number", lambda digits, part: int(digits[:1])),
        (units, "unit_us", lambda name: 1_000_000),
        (TokenBucket, "capacity", property(lambda self: self.limit)),
    ],
    "policies": [
        (faults, "spelled", lambda path: ".".join(map(str, path))),
        (faults.Notes, "line", _always(0)),
        (request.Request, "is_preflight", property(lambda self: 1 / 0)),
    ],
    "paths": [
        (paths, "_undotted", list),
        (paths, "_without_parameters", str),
        (paths, "_TARGET", re.compile(".*", re.DOTALL)),
        (match._Spelling, "_wildcard", lambda self, wildcard: "[^/]*"),
    ],
    "fields": [
        (identity, "outermost", lambda text, trusted: identity.parse(text.split(",")[0])),
        (trusted_field, "is_trusted", _always(True)),
        (request, "_unquoted", str),
        (request, "bare_host", str),
        (forward_auth.paths, "is_target", _always(True)),
    ],
    "bodies": [
        (bodies, "cost", lambda body, least=1: 2),
        (bodies, "members", lambda value, accepted, name="": value),
        (bodies, "flag", _always(False)),
        (bodies, "MOST_BYTES", 20),
    ],
    "replies": [
        (async_connection, "deque", _Backwards),
        (slots, "_slot", lambda number, least=0: int(number)),
        (wire, "checked", lambda call, reply: [reply]),
        (connection.Connection, "is_open", _always(True)),
    ],
}


@pytest.mark.parametrize(
    ("name", "planted"),
    [(name, fault) for name, each in PLANTED.items() for fault in each],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_a_planted_fault_is_found(
    name: str, planted: tuple[Any, str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept inputs alone are enough: a target that noticed nothing would be no check."""
    check = targets.load(name).check
    identity._known.cache_clear()
    monkeypatch.setattr(*planted)
    found = None
    for data in corpus.inputs(name):
        try:
            check(data)
        except Exception as error:  # any of them ends the fuzzer
            found = error
    identity._known.cache_clear()
    assert found is not None


@needs_atheris
@pytest.mark.slow(5)
@pytest.mark.parametrize("name", targets.CODE)
def test_a_short_run_finds_no_fault(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed is fixed, so that a run does not depend on chance: ``make fuzz`` looks for new faults."""
    assert command.run([name], ["-seed=1", f"-runs={RUNS}"], 1, tmp_path) == []
    shown = capsys.readouterr().out
    last = re.findall(rf"^{name}: ([\d,]+) executions, ([\d,]+) branches", shown, re.M)[-1]
    executions, branches = (int(number.replace(",", "")) for number in last)
    assert executions >= RUNS
    assert branches > 100


@needs_atheris
@pytest.mark.slow
def test_a_fault_is_written_with_the_command_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fuzzer finds a fault that no kept input shows."""
    monkeypatch.setattr(command, "ENGINE", [sys.executable, "-c", _PLANTING])
    [fault] = command.run(["limits"], ["-seed=1", "-max_total_time=60"], 1, tmp_path)
    told = "limits: a fault, shown by: python -m tests.fuzz --replay "
    assert fault.startswith(told)
    file = Path(fault.removeprefix(told))
    assert file.parent == tmp_path / "crashes"
    assert (
        command.main(["--replay", str(file)]) == 0
    )  # the fault was planted in the other process only
    assert capsys.readouterr().out.endswith("no fault\n")
    monkeypatch.setattr(grammar, "_number", _without_sevens)
    with pytest.raises(KeyError):
        command.main(["--replay", str(file)])


_own_number = grammar._number


def _without_sevens(digits: str, part: str) -> int:
    if digits == "77":
        raise KeyError
    return _own_number(digits, part)


_PLANTING = """
import sys
from tests.fuzz.engine import fuzz
def plant():
    from limiter import grammar
    from tests.fuzz.test_fuzz import _without_sevens
    grammar._number = _without_sevens
fuzz(sys.argv[1], sys.argv[2:], plant)
"""


@needs_atheris
def test_a_fuzzer_that_fails_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not begin has found nothing, and must not look like one without faults."""
    monkeypatch.setattr(command, "ENGINE", [sys.executable, "-c", "raise SystemExit('no atheris')"])
    [fault] = command.run(["limits"], [], 1, tmp_path)
    assert fault.startswith("limits: the fuzzer failed")
    assert "no atheris" in fault
