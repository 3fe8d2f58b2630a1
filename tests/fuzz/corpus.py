"""The kept inputs: one text file for each target, one input a line, so that a change can be read."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

_FOLDER = Path(__file__).parent / "corpus"


def path_of(target: str) -> Path:
    """Return the file of a target's inputs."""
    return _FOLDER / f"{target}.txt"


def inputs(target: str) -> list[bytes]:
    """Return the kept inputs of a target, in the order of the file."""
    path = path_of(target)
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return [_read(line) for line in lines]


def keep(target: str, kept: Iterable[bytes]) -> None:
    """Write a target's inputs, the shortest first."""
    ordered = sorted(set(kept), key=lambda data: (len(data), data))
    path_of(target).write_text("".join(f"{_written(data)}\n" for data in ordered), "ascii")


def unpack(target: str, folder: Path) -> None:
    """Write each input as a file, as libFuzzer reads them."""
    for data in inputs(target):
        (folder / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def _written(data: bytes) -> str:
    return repr(data)[2:-1] if b"'" not in data or b'"' in data else repr(data + b'"')[2:-2]


def _read(line: str) -> bytes:
    return line.encode("ascii").decode("unicode_escape").encode("latin-1")
