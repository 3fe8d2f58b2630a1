"""Logs as files: order, tolerance, compression, several at once, and what cannot be read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sys
import zlib
from pathlib import Path

import pytest

from limiter.simulate.logs import Counts, Reading, UnknownFormat


def line(at: float, path: str = "/") -> str:
    """A line of JSON at this second."""
    return f'{{"time": {at}, "path": "{path}", "address": "192.0.2.7"}}\n'


def written(folder: Path, text: str | bytes, name: str = "access.log") -> str:
    """Write a log; return its path."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def times(paths: list[str], counts: Counts | None = None, **settings: object) -> list[float]:
    """The seconds of all entries."""
    reading = Reading(**settings)  # type: ignore[arg-type]
    return [entry.time_us / 1e6 for entry in reading.entries(paths, counts or Counts())]


def test_lines_within_the_tolerance_are_sorted(tmp_path: Path) -> None:
    """Those at the same time stay in the order of the log; those beyond it are counted and left out."""
    counts = Counts()
    text = (
        line(20, "/a") + line(12) + line(30) + line(20, "/b") + line(19.9) + line(31) + line(20.5)
    )
    path = written(tmp_path, text)
    entries = list(Reading().entries([path], counts))
    assert [entry.time_us / 1e6 for entry in entries] == [12, 20, 20, 30, 31]
    assert [entry.target for entry in entries[1:3]] == ["/a", "/b"]
    assert (counts.lines, counts.late, counts.unreadable) == (7, 2, 0)
    assert times([path], tolerance_us=0) == [20, 30, 31]


def test_a_long_log_is_sorted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the parts fall."""
    monkeypatch.setattr("limiter.simulate.logs._AT_ONCE", 20)
    draw = random.Random(19)
    seconds = [1_000 + number / 10 + draw.uniform(-4, 4) for number in range(2_000)]
    read_bytes: list[int] = []
    path = written(tmp_path, "".join(map(line, seconds)))
    assert times([path], advance=read_bytes.append) == pytest.approx(sorted(seconds))
    assert len(read_bytes) > 10
    assert sum(read_bytes) == Path(path).stat().st_size


def test_several_logs_are_merged(tmp_path: Path) -> None:
    """By time, also if each has a format of its own, or is compressed."""
    first = written(tmp_path, gzip.compress((line(1) + line(4)).encode()), "a.gz")
    second = written(tmp_path, "time,path\n2,/\n3,/\n5,/\n", "b.csv")
    third = written(tmp_path, bz2.compress(line(6).encode()), "c")
    fourth = written(tmp_path, lzma.compress(line(7).encode()), "d")
    empty = written(tmp_path, "", "empty")
    counts = Counts()
    assert times([first, second, third, fourth, empty], counts) == [1, 2, 3, 4, 5, 6, 7]
    assert (counts.lines, counts.unreadable) == (8, 0)


def test_a_compression_that_python_lacks_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As zstd before Python 3.14; the message says what to do."""
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    path = written(tmp_path, b"\x28\xb5\x2f\xfd and more", "access.log.zst")
    with pytest.raises(UnknownFormat, match=r"has no compression\.zstd: decompress it first"):
        times([path])


@pytest.mark.parametrize("at_once", [1, 2, 3, 4_096])
def test_one_time_far_ahead_makes_no_other_line_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """It is left out, and counted; a pause that the next line confirms is none, and neither is the end."""
    monkeypatch.setattr("limiter.simulate.logs._AT_ONCE", at_once)
    counts = Counts()
    seconds = [9_999_999, 1, 2, 9_999_999, 3, 4, 7_000, 6_995, 7_001, 9_999_999, 7_002, 20_000]
    path = written(tmp_path, "".join(map(line, seconds)))
    assert times([path], counts) == [1, 2, 3, 4, 6_995, 7_000, 7_001, 7_002, 20_000]
    assert (counts.lines, counts.late) == (12, 3)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed or not; it stays open."""
    for content in (line(1).encode(), gzip.compress(line(1).encode())):
        raw = io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)))  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdin", raw)
        assert times(["-"]) == [1]
        assert not raw.closed


def test_unreadable_lines_are_counted_and_shown(tmp_path: Path) -> None:
    """The first of them, each with its place and the reason, shortened; empty lines do not count."""
    bad = ["no JSON", '{"time": "noon"}', "x" * 200, '{"path": 1}', "[]", "{}"]
    text = "\n" + line(1) + "\n".join(bad) + "\n\n" + line(2)
    path, counts = written(tmp_path, text.encode() + b"\xff\xfe\n"), Counts()
    assert times([path], counts) == [1, 2]
    assert (counts.lines, counts.unreadable) == (9, 7)
    assert counts.examples == [
        f"{path}:3: 'no JSON' (it is no JSON)",
        f"{path}:4: '{{\"time\": \"noon\"}}' (the time is 'noon')",
        f"{path}:5: '{'x' * 80}...' (it is no JSON)",
        f"{path}:6: '{{\"path\": 1}}'",
        f"{path}:7: '[]' (it is no JSON object)",
    ]


def test_a_damaged_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    """As when a log is copied while it is compressed: no line before the damage is lost."""
    text = "".join(line(at) for at in range(1, 50_000)).encode()
    whole = gzip.compress(text)
    counts = Counts()
    found = times([written(tmp_path, whole[: len(whole) * 2 // 3])], counts)
    assert found[:3] == [1, 2, 3]
    before_damage = zlib.decompressobj(wbits=31).decompress(whole[: len(whole) * 2 // 3])
    assert len(found) >= before_damage.count(b"\n") - 400  # gzip's last block of 8 KB
    assert (counts.lines, counts.unreadable) == (len(found) + 1, 1)
    assert f":{len(found) + 1}: the file is damaged" in counts.examples[0]
    for whole in (bz2.compress(text[:400_000], 1), lzma.compress(text)):
        middle = len(whole) * 2 // 3
        damaged = whole[:middle] + bytes(100) + whole[middle + 100 :]
        counts = Counts()
        found = times([written(tmp_path, damaged)], counts)
        assert found[:3] == [1, 2, 3]
        assert (counts.lines, counts.unreadable) == (len(found) + 1, 1)


def test_a_mark_of_the_byte_order_and_binary_lines(tmp_path: Path) -> None:
    """Programs of Windows write the mark; bytes that are no text are shown shortened."""
    csv_with_mark = written(tmp_path, b"\xef\xbb\xbftime,path\r\n7,/\r\n", "marked.csv")
    assert times([csv_with_mark]) == [7]
    with pytest.raises(UnknownFormat) as raised:
        times([written(tmp_path, b"\xff" * 200, "binary")])
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


def test_a_closed_standard_input_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a service without one."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(OSError, match="standard input"):
        times(["-"])


def test_a_format_is_found_behind_other_lines_or_named(tmp_path: Path) -> None:
    """Such as messages of the proxy itself; an unknown one is an error, that says what to do."""
    path = written(tmp_path, "starting\n" + line(1))
    assert times([path]) == [1]
    assert times([path], format="json") == [1]
    assert times([path], format="combined") == []
    unknown = written(tmp_path, "a b c\n")
    with pytest.raises(UnknownFormat, match="has lines of no known format, such as 'a b c'"):
        times([unknown])
    with pytest.raises(UnknownFormat, match="names no column time"):
        times([unknown], format="csv")
