"""Sketches against exact counts: no item is underestimated, and no error is larger than N/k."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from limiter.server.sketch import Sketch, Summary

STREAMS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=60), min_size=1, max_size=4)


def summarised(stream: list[str], size: int) -> Summary:
    sketch = Sketch(size)
    for item in stream:
        sketch.add(item)
    return sketch.summary()


def check(summary: Summary, stream: list[str], size: int) -> None:
    """The promises of a summary, of one sketch or of several."""
    exact = Counter(stream)
    largest_error = len(stream) / size
    assert summary.total == len(stream)
    assert summary.others <= largest_error
    for item, count in exact.items():
        least, most = summary.bounds.get(item, (0, summary.others))
        assert least <= count <= most
        assert most - least <= largest_error
    # Every item that is more frequent than N/k has bounds.
    frequent = {item for item, count in exact.items() if count > largest_error}
    assert frequent <= summary.bounds.keys()


@given(STREAMS, st.integers(1, 9))
def test_counts_have_true_bounds_also_after_a_merge(streams: list[list[str]], size: int) -> None:
    summaries = [summarised(stream, size) for stream in streams]
    for stream, summary in zip(streams, summaries, strict=True):
        check(summary, stream, size)
        assert len(summary.bounds) <= size
    check(Summary.merge(summaries), [item for stream in streams for item in stream], size)


@given(STREAMS)
def test_with_enough_counters_every_number_is_exact(streams: list[list[str]]) -> None:
    summary = Summary.merge([summarised(stream, 9) for stream in streams])
    exact = Counter(item for stream in streams for item in stream)
    assert summary.bounds == {item: (count, count) for item, count in exact.items()}
    assert summary.others == 0


def test_a_long_stream_with_few_frequent_items_keeps_them() -> None:
    """20,000 items, of which half are different ones: the memory stays that of 100 counters."""
    draw = random.Random(19)
    stream = [
        f"user-{draw.randrange(1, 6)}" if draw.random() < 0.5 else f"other-{number}"
        for number in range(20_000)
    ]
    sketch = Sketch(100)
    for item in stream:
        sketch.add(item)
    assert len(sketch._counts) == len(sketch._heap) == 100
    summary = sketch.summary()
    check(summary, stream, 100)
    assert {f"user-{number}" for number in range(1, 6)} <= summary.bounds.keys()


def test_no_streams_have_no_items() -> None:
    assert Summary.merge([]) == (0, 0, {})
