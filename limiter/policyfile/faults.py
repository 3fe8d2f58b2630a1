"""What is wrong with a policy file: all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limiter.errors import InvalidSetting


class Fault(NamedTuple):
    """One thing that is wrong, and where."""

    file: str
    line: int
    key: str
    """The key's full name, as in ``policies.api.limits``; empty where it is the file as such."""
    said: str
    """What is wrong, and what is accepted."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: "
        if self.key:
            where += self.key + (" " if self.said.startswith("is ") else ": ")
        return where + self.said


class InvalidPolicyFile(InvalidSetting):
    """A policy file cannot be used; ``faults`` are all of the reasons, the message one a line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)

    def __reduce__(self) -> tuple[type[InvalidPolicyFile], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)
