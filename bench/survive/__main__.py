"""``python -m bench.survive``."""

from __future__ import annotations

from bench.survive.command import survive

if __name__ == "__main__":
    survive(prog_name="python -m bench.survive")
