"""What must hold for every input (hypothesis)."""

from __future__ import annotations

import gzip
import json
import zlib
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tracelens.errors import InputError
from tracelens.ingest import open_trace
from tracelens.ingest.values import times_ns

#: Microseconds as writers print them: three decimals, none, or any; up to the year 2100.
THREE = st.integers(0, 4_102_444_800_000_000_000).map(lambda n: f"{n // 1000}.{n % 1000:03d}")
WHOLE = st.integers(-(10**12), 4_102_444_800_000_000).map(str)
SHORT = st.integers(0, 2**43 * 100).map(lambda n: repr(n / 100))
ODD = st.decimals(0, 10**15, places=4).map(lambda d: f"{d:E}")


def exact_ns(text: str) -> int:
    return int((Decimal(text) * 1000).quantize(Decimal(1), ROUND_HALF_EVEN))


@given(st.one_of(*(st.lists(kind, min_size=1, max_size=20) for kind in (THREE, WHOLE, ODD))))
def test_times_are_exact_to_the_nanosecond(texts: list[str]) -> None:
    ns, usable = times_ns([Raw(t.encode()) for t in texts])
    assert usable.all()
    assert ns.tolist() == [exact_ns(t) for t in texts]


@given(st.lists(st.one_of(THREE, WHOLE, ODD, SHORT), min_size=1, max_size=20))
def test_mixed_ways_of_writing_are_exact(texts: list[str]) -> None:
    ns, usable = times_ns([Raw(t.encode()) for t in texts])
    assert usable.all()
    expected = [exact_ns(t) for t in texts]
    # Four decimals through float64: a half nanosecond may round either way.
    assert np.abs(ns - np.array(expected)).max() <= 1
    plain = [i for i, t in enumerate(texts) if len(t.partition(".")[2]) <= 3 and "E" not in t]
    assert [int(ns[i]) for i in plain] == [expected[i] for i in plain]


@given(st.lists(st.text(max_size=8), max_size=5))
def test_any_text_as_a_time_is_no_crash(texts: list[str]) -> None:
    raws = [Raw(json.dumps(t).encode()) for t in texts]
    ns, usable = times_ns([*raws, Raw(b"1.500")])
    assert (int(ns[-1]), bool(usable[-1])) == (1500, True)


def sample() -> TraceBuilder:
    built = TraceBuilder(rank=0, world_size=2).step(1, 0, 100)
    for i in range(6):
        built.cpu_op("aten::mm", ts=10 * i, dur=5, dims=[[i, 2]], args={"x": '}, {"ph": "X"'})
        built.launch(i).nccl(ts=10 * i + 3, dur=4, nelems=i).event("s", "flow", i, pid=1, tid=1)
    return built.thread_name(100, "caf\u00e9").kernel("last", 99, 1)


TEXT = sample().text()
PACKED = gzip.compress(TEXT, mtime=0)
FIRST = TEXT.index(b'"traceEvents"')


def whole_events(text: bytes) -> tuple[int, int]:
    """(events, slices) that end within `text`, by the standard library's parser."""
    found, slices = 0, 0
    decoder = json.JSONDecoder()
    written = text.decode("utf-8", "ignore")
    before, found_array, _ = written.partition('"traceEvents": [')
    if not found_array:
        return 0, 0
    at = len(before) + len(found_array)
    while True:
        while written[at : at + 1] in (",", "\n", " "):
            at += 1
        try:
            event, at = decoder.raw_decode(written, at)
        except ValueError:
            return found, slices
        found += 1
        slices += event["ph"] == "X"


def check_whole_events(path: Path, text: bytes) -> None:
    """A cut file gives exactly the events that its text holds whole; none is an error."""
    events, slices = whole_events(text)
    if not events:
        with pytest.raises(InputError):
            open_trace(path)
        return
    trace = open_trace(path)
    assert (trace.stats.events_read, len(trace.slices)) == (events, slices)
    assert trace.stats.events_dropped == 0
    assert trace.info.truncated


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(FIRST + 20, len(TEXT) - 3))
def test_a_cut_file_gives_exactly_the_whole_events(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = TEXT[:cut]
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_bytes(text)
    check_whole_events(path, text)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(20, len(PACKED) - 1))
def test_a_cut_gz_gives_exactly_the_whole_events(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.json.gz"
    path.write_bytes(PACKED[:cut])
    check_whole_events(path, zlib.decompressobj(31).decompress(PACKED[:cut]))


@settings(max_examples=200, deadline=None)
@given(
    at=st.integers(FIRST, len(TEXT) - 1),
    junk=st.binary(min_size=1, max_size=12),
)
def test_flipped_bytes_are_no_crash(
    at: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.json"
    path.write_bytes(TEXT[:at] + junk + TEXT[at + len(junk) :])
    try:
        trace = open_trace(path)
    except InputError:
        return
    assert trace.stats.events_read >= len(trace.slices) >= 0
    assert np.all(trace.slices.dur_ns >= 0)


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(len(sample()))))
def test_the_order_of_events_does_not_matter(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.getbasetemp()
    built = sample()
    expected = open_trace(built.write(base / "a.json")).to_frame()
    built.events = [built.events[i] for i in order]
    got = open_trace(built.write(base / "b.json")).to_frame()
    keys = ["ts_ns", "dur_ns", "name", "correlation"]  # ties stay as read
    expected, got = (f.sort_values(keys, ignore_index=True) for f in (expected, got))
    assert expected.equals(got)
