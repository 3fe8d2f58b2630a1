"""A rolling restart of every instance behind Traefik, under load: no request fails."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest

from service.demo.servers import HOST
from tests.e2e.support import Demo
from tests.waiting import soon

pytestmark = [
    pytest.mark.slow(25),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

RATE = 200
CONNECTIONS = 25
#: Flask instances answer the first path; decision services decide about the second one.
PATHS = ("/demo-service/hello", "/demo-service/protected/hello")
#: Seconds of load before the restart and after it.
AROUND = 1.0
#: The most seconds that the restart may take.
MOST = 90.0


def test_no_request_fails_while_every_instance_restarts(tmp_path: Path, store: str) -> None:
    """200 requests a second on kept connections, through Traefik with the files that are shipped."""
    limits = {"LIMITER_LIMITS": "1000000/minute", "LIMITER_ALGORITHM": "fixed_window"}
    with Demo(tmp_path, "--store", store, LIMITER_TIMEOUT="5", **limits) as demo:
        demo.wait_for("Try in another terminal")
        assert f"  kill -USR1 {demo.process.pid}\n" in demo.log
        before = {process.pid for process in demo.look()}
        stay = {demo.process.pid, demo.child("traefik"), demo.child("service.upstream")}
        outcomes, seconds = asyncio.run(_load(demo))
        after = {process.pid for process in demo.look()}
        assert demo.stop(signal.SIGTERM) == 0, demo.log

    assert set(outcomes) == {"200"}, outcomes
    assert outcomes.total() >= RATE * seconds / 10  # a busy machine is slower
    restarted = re.findall(r"^Restarting (.*) \.\.\. ready after", demo.log, re.M)
    assert restarted == ["instance-1 and decision-1", "instance-2 and decision-2"]
    assert stay <= after
    assert len(before - after) >= 4 * 2  # each instance has a master and a worker
    assert "Traceback" not in demo.log
    assert demo.left_behind() == []


async def _load(demo: Demo) -> tuple[Counter[str], float]:
    """Restart every instance under load; return the outcomes of requests, and the seconds of load."""
    over = asyncio.Event()
    clients = [asyncio.create_task(_client(demo.port, over, n)) for n in range(CONNECTIONS)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.sleep(AROUND)
    demo.process.send_signal(signal.SIGUSR1)

    async def is_restarted() -> bool:
        assert demo.process.poll() is None, demo.log
        return "Every instance has restarted" in demo.log

    try:
        await soon(is_restarted, MOST, what=lambda: demo.log)
        await asyncio.sleep(AROUND)
    finally:
        over.set()
        outcomes = await asyncio.gather(*clients)
    return sum(outcomes, Counter()), loop.time() - began


async def _client(port: int, over: asyncio.Event, number: int) -> Counter[str]:
    """Send requests at a steady rate on one connection; return how many had each status, or an error."""
    outcomes: Counter[str] = Counter()
    paths = cycle(PATHS)
    loop = asyncio.get_running_loop()
    due = loop.time() + number / RATE
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        while not over.is_set():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += CONNECTIONS / RATE
            writer.write(f"GET {next(paths)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            outcomes[await _status(reader)] += 1
        writer.close()
        await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError) as error:
        outcomes[repr(error)] += 1
    return outcomes


async def _status(reader: asyncio.StreamReader) -> str:
    """Read a response, and return its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = re.search(r"^content-length: (\d+)", head, re.I | re.M)
    assert length is not None, head
    await reader.readexactly(int(length[1]))
    return head.split(" ")[1]
