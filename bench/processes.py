"""Processor time and memory of other processes, as Linux counts them."""

from __future__ import annotations

import re
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worked(pid: int) -> float:
    """Return the seconds of processor time of a process's threads."""
    total = 0
    for clock in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(clock.read_text().split()[0])
        except OSError:  # a thread that has ended
            continue
    return total / 1e9


def own_memory(pid: int) -> int:
    """Return the bytes that a process shares with no other."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.M)))
