"""What is wrong with a policy file: all of it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limiter.errors import InvalidSetting


class Fault(NamedTuple):
    """One thing that is wrong, and where."""

    file: str
    line: int
    key: str
    """The key's full name, as in ``policies.api.limits``; empty where it is the file as such."""
    said: str
    """What is wrong, and what is accepted."""
    is_sentence: bool = False
    """Whether ``said`` has a subject of its own; else it says what the key, or the file, is."""

    def __str__(self) -> str:
        between = ": " if self.is_sentence else " "
        return (
            f"{self.file}:{self.line}: " + (f"{self.key}{between}" if self.key else "") + self.said
        )

    def to_dict(self) -> dict[str, Any]:
        """File, line, key and what is wrong, ready for JSON."""
        return {"file": self.file, "line": self.line, "key": self.key, "said": self.said}


#: Beyond, they are counted: a file that is no policy file at all would have one for each line.
MOST_FAULTS = 100


class InvalidPolicyFile(InvalidSetting):
    """A policy file cannot be used; ``faults`` are all of the reasons, the message one a line."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)

    def __reduce__(self) -> tuple[type[InvalidPolicyFile], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)
