"""``python -m bench.accuracy``."""

from __future__ import annotations

from bench.accuracy.command import accuracy

if __name__ == "__main__":
    accuracy(prog_name="python -m bench.accuracy")
