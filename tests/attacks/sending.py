"""Sends requests unchanged, byte by byte, from a client's address."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, StreamEnded, StreamReset
from h2.exceptions import H2Error

from service.demo.servers import HOST
from tests.attacks.catalogue import SENT, Attack, http2_fields, written
from tests.attacks.machines import Target

#: Seconds to wait for the first bytes of a response, and then for more (some servers keep the connection).
_TIMEOUT = 2.0
_MORE = 0.1
#: After this many requests in a row that a server refuses (not by a limit), no more are sent.
_REFUSED = 3
_HONEST = 50
_FREE = written("GET {free}")
_ENDS = (StreamEnded, StreamReset, ConnectionTerminated)

_runs = itertools.count(1)


def _client(run: int) -> str:
    return f"127.{16 + run // 62_500}.{run // 250 % 250 + 1}.{run % 250 + 1}"


def connect(port: int, client: str, timeout: float = _TIMEOUT) -> socket.socket:
    """Connect from that address."""
    return socket.create_connection((HOST, port), timeout, source_address=(client, 0))


def exchange(port: int, client: str, text: str, timeout: float = _TIMEOUT) -> bytes:
    """Send a request; return the response, or what arrived of it before the timeout."""
    got = b""
    hides = (
        " HTTP/1.1\r\n" in text.partition("\r\n\r\n")[2]
    )  # a second request, with a response of its own
    with suppress(OSError), connect(port, client, timeout) as sent:
        sent.sendall(text.encode("latin-1"))
        while piece := sent.recv(65_536):
            got += piece
            if _is_whole(got, hides):
                break
            sent.settimeout(_MORE)
    return got


def _is_whole(got: bytes, hides: bool) -> bool:
    head, _, body = got.lower().partition(b"\r\n\r\n")
    if hides and b"\nconnection: close" not in head:
        return False
    length = re.search(rb"\ncontent-length: *(\d+)", head)
    return body.endswith(b"\r\n0\r\n\r\n") if length is None else len(body) >= int(length[1])


def exchange_http2(port: int, client: str, short: str) -> bytes:
    """Send a header block over HTTP/2, unchanged; return the response's bytes, if it is complete."""
    config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
    spoken = H2Connection(config)
    got = b""
    with suppress(OSError, H2Error), connect(port, client, _MORE * 10) as sent:
        spoken.initiate_connection()
        spoken.send_headers(1, http2_fields(short), end_stream=True)
        sent.sendall(spoken.data_to_send())
        while piece := sent.recv(65_536):
            got += piece
            if any(isinstance(event, _ENDS) for event in spoken.receive_data(piece)):
                return got
            sent.sendall(spoken.data_to_send())
    return b""


def speaks_http2(target: Target) -> bool:
    """Whether a target answers HTTP/2 at its plain port: by a SETTINGS frame."""
    got = exchange_http2(target.port, "127.15.0.1", "GET /up")
    return got[3:4] == b"\x04" and not got.startswith(b"HTTP")


def send(target: Target, attack: Attack, variants: Sequence[str]) -> tuple[int, int, bytes]:
    """Send 20 requests; return how many were served, how many were sent, and a response."""
    run = next(_runs)
    client = attack.peer or _client(run)
    name = attack.ran.replace("{c}", str(run))
    before = target.ran(name) if target.counts_at else 0
    good, refused, sent = 0, 0, 0
    send_one = exchange_http2 if attack.http2 else exchange
    answer = b""
    while sent < SENT and (refused < _REFUSED or attack.cycle):
        text = variants[sent % len(variants)]
        sent += 1
        text = text.replace("{c}", str(run)).replace("{n}", str(sent))
        answer = send_one(target.port, client, text)
        status = answer[9:12]
        good += status[:1] == b"2"
        refused = refused + 1 if not answer or (status[:1] == b"4" and status != b"429") else 0
    return target.ran(name) - before if target.counts_at else good, sent, answer


def besiege(target: Target, attack: Attack) -> tuple[int, int]:
    """Hold connections; return how many of 50 ordinary requests are answered within 5 s, and 50."""
    client = _client(next(_runs))
    held = []
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.5):
            for one in held:
                with suppress(OSError):
                    one.send(b"x")

    def honest(_: int) -> bool:
        return exchange(target.port, HOST, _FREE.replace("{free}", free), 5.0)[9:12] == b"200"

    free = "/free" if target.counts_at else "/healthz"
    first = attack.send[0].replace("{free}", free)
    slow = threading.Thread(target=trickle, daemon=True)
    pool = ThreadPoolExecutor(_HONEST)
    try:
        for _ in range(attack.held):
            one = connect(target.port, client)
            held.append(one)
            one.sendall(first.encode("latin-1"))
        if first:
            slow.start()
        time.sleep(0.5)  # until the servers read them
        done, _ = wait([pool.submit(honest, number) for number in range(_HONEST)], timeout=5.0)
        return sum(one.result() for one in done), _HONEST
    finally:
        stop.set()
        for one in held:
            one.close()
        pool.shutdown(wait=True)
        deadline = time.monotonic() + 90
        while not honest(0) and time.monotonic() < deadline:
            time.sleep(0.2)  # the next attack needs an unchanged server
