"""Count what four processes admit together on a machine that is too busy for their timeout.

``python -m bench.survive.busy KIND STORE`` is one of the processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from limiter import AsyncLimiter, Limiter

LIMIT = 100
#: Processes, the callers of each, and how long they call.
PROCESSES, CALLERS, SECONDS = 4, 25, 3.0
#: Processes that do nothing but compute, for each processor.
_BURNERS = 4
#: They end by themselves, also if this process is killed before it stops them.
_BURN = "import time\nwhile time.process_time() < 30: pass"

_SETTINGS: dict[str, Any] = {
    "algorithm": "fixed_window",
    "on_error": "local",
    "local_share": PROCESSES,
    "denial_cache": 1.0,
}


def admitted(store: str, kind: str) -> int:
    """Return how many calls of one subject four processes admit within one period."""
    with ExitStack() as stack:
        burners = _BURNERS * (os.cpu_count() or 1)
        for _ in range(burners):
            burner = subprocess.Popen([sys.executable, "-c", _BURN])
            stack.callback(burner.wait)
            stack.callback(burner.kill)
        command = [sys.executable, "-m", "bench.survive.busy", kind, store]
        callers = [
            stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for _ in range(PROCESSES)
        ]
        return sum(int(process.communicate()[0]) for process in callers)


def main() -> None:
    """Call, and print how many calls were allowed."""
    kind, store = sys.argv[1:]
    logging.getLogger("limiter").setLevel(logging.ERROR)  # warnings of outages are expected
    print(_threads(store) if kind == "Limiter" else asyncio.run(_tasks(store)))


def _threads(store: str) -> int:
    limiter, allowed = Limiter(f"{LIMIT}/minute", store=store, **_SETTINGS), [0] * CALLERS

    def call(number: int) -> None:
        while time.monotonic() < end:
            allowed[number] += limiter.hit("threads").allowed

    end = time.monotonic() + SECONDS
    threads = [threading.Thread(target=call, args=[number]) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(allowed)


async def _tasks(store: str) -> int:
    limiter = AsyncLimiter(f"{LIMIT}/minute", store=store, **_SETTINGS)

    async def call() -> int:
        allowed = 0
        while time.monotonic() < end:
            allowed += (await limiter.hit("tasks")).allowed
            await asyncio.sleep(0)
        return allowed

    end = time.monotonic() + SECONDS
    return sum(await asyncio.gather(*[call() for _ in range(CALLERS)]))


if __name__ == "__main__":
    main()
