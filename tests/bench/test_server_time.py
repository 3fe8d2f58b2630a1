"""The part ``server`` replays script calls in any form: decimal text, or packed numbers."""

from __future__ import annotations

import struct
from contextlib import closing
from functools import partial

import pytest

from bench.ratios import Cost
from bench.sections import Failed
from bench.server_time import Case, Replay, granted, heard, words_of
from bench.subjects import ALLOWING
from service.demo.servers import Server

#: Every byte, so also those that MONITOR escapes.
BYTES = bytes(range(256))
#: Replies with the six numbers of a decision, packed if the argument is.
SCRIPT = """
local granted = #ARGV[1] > 20 and struct.unpack("<d", ARGV[1]) or tonumber(ARGV[1])
if #ARGV[1] > 20 then
  return struct.pack("<dddddd", granted, 7, 0, 255, 0, 1790000000000000)
end
return {granted, 7, 0, 255, 0, 1790000000000000}
"""


def test_a_command_with_any_bytes_is_heard_as_it_was_sent(server: Server) -> None:
    """MONITOR escapes quotes, backslashes, and bytes that are not printable."""
    with server.client() as client:
        sha = client.script_load("return 1")
        words = heard(server, partial(client.evalsha, sha, 1, "key", BYTES, b"", b'"\\x41"'))

    assert words == [b"EVALSHA", sha.encode(), b"1", b"key", BYTES, b"", b'"\\x41"']


def test_a_line_of_monitor() -> None:
    """The time and the address before the words are no words."""
    line = r'1790000000.000001 [0 127.0.0.1:1] "EVALSHA" "\x00\xff\n\r\t\a\b\\\"" "a b"'

    assert words_of(line) == [b"EVALSHA", b'\x00\xff\n\r\t\a\b\\"', b"a b"]


@pytest.mark.parametrize("reply", [[1, 7, 0], struct.pack("<6d", 1, 7, 0, 255, 0, 1)])
def test_the_granted_units_of_both_forms(reply: list[int] | bytes) -> None:
    """A list begins with them, and so do packed doubles."""
    assert granted(reply) == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("units", [1, 0])
def test_a_call_of_both_forms_is_replayed(server: Server, packed: bool, units: int) -> None:
    """The chunk has a cost, and notices another decision than that of its case."""
    argument = struct.pack("<4d", units, 34, 92, 1e15) if packed else str(units)
    with (
        server.client(decode_responses=False) as sender,
        server.client() as client,
        closing(Replay(client, 1)) as replay,
    ):
        sha = client.script_load(SCRIPT)
        words = heard(server, partial(sender.evalsha, sha, 1, "key", argument))
        subject = ALLOWING["fixed_window"]

        assert isinstance(replay.hit(Case(subject, bool(units)), words)(), Cost)
        with pytest.raises(Failed, match="this case measures another"):
            replay.hit(Case(subject, not units), words)()
