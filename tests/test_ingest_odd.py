"""Files as they should not be: what can be read is read, what is lost is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from builder import TraceBuilder
from test_ingest_kineto import names, notes, read_text

from tracelens.errors import CorruptTrace, InputError, UnsupportedFormat
from tracelens.ingest import open_trace
from tracelens.ingest.bounds import Bounds
from tracelens.ingest.chunks import EventStream
from tracelens.ingest.columns import TableBuilder
from tracelens.ingest.decode import PieceDecoder
from tracelens.ingest.source import Source
from tracelens.ingest.tally import Tally

GOOD = '{"ph": "X", "cat": "cpu_op", "name": "good", "ts": 1.000, "dur": 2.000, "pid": 1, "tid": 1}'


def event(name: str, ts: float = 1, **fields: object) -> str:
    return json.dumps({"ph": "X", "cat": "cpu_op", "name": name, "ts": ts, "dur": 1} | fields)


# ---------------------------------------------------------------------- odd, but all is read
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "[{}]", '"}]"', "{}"])
def test_any_value_in_unread_arguments(tmp_path: Path, value: str) -> None:
    odd = GOOD[:-1].replace("good", "odd") + f', "args": {{"what": {value}, "correlation": 3}}}}'
    trace = read_text(tmp_path, f'{{"traceEvents": [{GOOD}, {odd}]}}')
    assert names(trace) == ["good", "odd"]
    assert trace.slices.correlation.tolist() == [-1, 3]
    assert trace.stats.events_dropped == 0


def test_nan_in_a_number_that_we_read(tmp_path: Path) -> None:
    odd = GOOD[:-1] + ', "args": {"correlation": NaN, "stream": true, "bytes": [1]}}'
    trace = read_text(tmp_path, f"[{odd}]")
    assert trace.slices.correlation.tolist() == [-1]
    assert len(trace.slices) == 1


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-Infinity", "NaN", "nan(ind)"])
def test_numbers_that_are_not_finite_do_not_slow_the_reader(tmp_path: Path, value: str) -> None:
    odd = GOOD[:-1] + f', "args": {{"memory bandwidth (GB/s)": {value}, "bytes": {value}}}}}'
    trace = read_text(tmp_path, f"[{GOOD}, {odd}]")
    assert len(trace.slices) == 2
    assert notes(trace) == {"not_finite": 2}


def test_names_that_look_like_numbers_stay(tmp_path: Path) -> None:
    odd = GOOD.replace("good", 'f(\\": nan, x)')
    trace = read_text(tmp_path, f'[{odd}, {GOOD[:-1]}, "args": {{"x": nan}}}}]')
    assert 'f(": nan, x)' in names(trace)


def test_trailing_comma(tmp_path: Path) -> None:
    trace = read_text(tmp_path, f'{{"traceEvents": [{GOOD}, {GOOD},\n]}}')
    assert len(trace.slices) == 2
    assert not trace.info.truncated
    assert notes(trace) == {"tolerant_slices": 1}


@pytest.mark.parametrize("end", ["", ",", "\n]", "]", ",\n"])
def test_a_bare_array_may_lack_its_bracket(tmp_path: Path, end: str) -> None:
    trace = read_text(tmp_path, f"[{GOOD},\n{GOOD}{end}")
    assert len(trace.slices) == 2
    assert not trace.info.truncated


@pytest.mark.parametrize("style", ["object", "list"])
def test_garbage_after_the_end(tmp_path: Path, style: str) -> None:
    text = TraceBuilder().kernel("k", 1, 2).text(style=style) + b"\0\0garbage {"
    trace = read_text(tmp_path, text)
    assert names(trace) == ["k"]
    assert notes(trace) == {"trailing_data": 1}
    assert not trace.info.truncated


def test_negative_and_missing_durations(tmp_path: Path) -> None:
    missing = '{"ph": "X", "name": "missing", "ts": 5}'
    null = '{"ph": "X", "name": "null", "ts": 6, "dur": null}'
    trace = read_text(tmp_path, f"[{event('negative', dur=-3)}, {missing}, {null}]")
    assert trace.slices.dur_ns.tolist() == [0, 0, 0]
    assert notes(trace) == {"negative_dur": 1, "missing_dur": 2}


@pytest.mark.parametrize("ts", ['"soon"', "null", "1e300", "[1]", '"nan"'])
def test_an_event_without_a_usable_start_is_dropped(tmp_path: Path, ts: str) -> None:
    odd = GOOD.replace("1.000", ts)
    trace = read_text(tmp_path, f"[{GOOD}, {odd}]")
    assert len(trace.slices) == 1
    assert notes(trace) == {"bad_time": 1}
    assert (trace.stats.events_read, trace.stats.events_dropped) == (2, 1)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    odd = GOOD.replace("good", "b\xe4d").encode("latin-1")
    trace = read_text(tmp_path, b"[" + odd + b"," + GOOD.encode() + b"]")
    assert sorted(names(trace)) == ["b\ufffdd", "good"]
    assert notes(trace)["not_utf8"] == 1
    assert trace.stats.events_dropped == 0


def test_control_characters_and_half_surrogates(tmp_path: Path) -> None:
    odd = GOOD.replace("good", "a\nb"), GOOD.replace("good", "c\\ud800d")
    trace = read_text(tmp_path, f"[{odd[0]}, {odd[1]}]")
    assert names(trace) == ["a\nb", "c?d"]
    json.dumps(trace.strings).encode()
    "".join(trace.strings).encode()


def test_unusual_field_types(tmp_path: Path) -> None:
    odd = '{"ph": "X", "cat": 7, "name": 12, "ts": 3, "dur": "4.5", "pid": 1.0, "tid": null}'
    trace = read_text(tmp_path, f"[{odd}]")
    assert names(trace) == ["12"]
    assert trace.tracks.pid == (1,)
    assert trace.slices.dur_ns.tolist() == [4500]


def test_skipped_phases_are_counted(tmp_path: Path) -> None:
    built = TraceBuilder().kernel("k", 1, 1)
    for phase in "sftCbneNODPIRcv":
        built.event(phase, "other", 1, pid=1, tid=1, id=1)
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert trace.stats.events_read == 16
    assert len(trace.slices) == 1
    assert trace.stats.notes == ()


# ---------------------------------------------------------------------- damage
def test_an_unescaped_quote_loses_one_event(tmp_path: Path) -> None:
    bad = GOOD.replace("good", 'say "hi" now')
    text = ",\n".join([GOOD, bad, GOOD.replace("good", "after")])
    trace = read_text(tmp_path, f'{{"traceEvents": [{text}]}}')
    assert names(trace) == ["good", "after"]
    assert notes(trace) == {"damaged_events": 1, "tolerant_slices": 1}
    assert (trace.stats.events_read, trace.stats.events_dropped) == (3, 1)
    assert not trace.info.truncated


def test_a_hole_of_zeros_loses_what_it_covers(tmp_path: Path) -> None:
    text = "[" + ",\n".join(event(f"e{i}", i) for i in range(100)) + "]"
    at = text.index('"e40"')
    trace = read_text(tmp_path, text[:at] + "\0" * 200 + text[at + 200 :])
    lost = {f"e{i}" for i in range(100)} - set(names(trace))
    assert lost
    assert all(40 <= int(name[1:]) <= 43 for name in lost)
    assert trace.stats.events_dropped >= 1
    assert trace.stats.events_read == len(trace.slices) + trace.stats.events_dropped


def test_entries_that_are_no_events(tmp_path: Path) -> None:
    trace = read_text(tmp_path, f'{{"traceEvents": [{GOOD}, 3, "x", {{"a": 1}}, null]}}')
    assert len(trace.slices) == 1
    assert notes(trace)["not_an_event"] == 4
    assert trace.stats.events_read == 5


def test_a_broken_header_gives_what_it_can(tmp_path: Path) -> None:
    text = (
        '{"user": "a"b", "distributedInfo": {"rank": 2, "world_size": 4}, '
        f'"baseTimeNanoseconds": 5, "traceEvents": [{GOOD}]}}'
    )
    trace = read_text(tmp_path, text)
    assert (trace.info.rank, trace.info.world_size, trace.info.clock_zero_ns) == (2, 4, 5)
    assert notes(trace) == {"bad_header": 1}


def test_a_file_cut_after_its_events(tmp_path: Path) -> None:
    text = f'{{"traceEvents": [{GOOD}], "traceName": "a/b'
    trace = read_text(tmp_path, text)
    assert len(trace.slices) == 1
    assert trace.info.truncated
    assert notes(trace) == {"truncated": 1}


# ---------------------------------------------------------------------- small slices
def read_in_slices(path: Path, slice_bytes: int) -> tuple[list[str], int, int]:
    """(names, events read, events dropped), with slices of the given size."""
    tally = Tally()
    builder = TableBuilder(tally)
    decoder = PieceDecoder(tally)
    read = 0
    with Source(path) as source:
        stream = EventStream(source, slice_bytes)
        for piece in stream:
            decoded = decoder(piece)
            builder.add(decoded.events)
            read += decoded.read
            if decoded.tail is not None:
                stream.rest(decoded.tail, piece.separator)
                break
    slices = builder.finish()[1]
    strings = tuple(builder.strings)
    return [strings[i] for i in slices.name], read, tally.dropped


ODD_EVENTS = [
    event("plain", 1),
    event("boundary in a string", 2, args={"x": 'a}, {"ph": "X"}]'}),
    event("events in args", 3, args={"x": [{"ph": 1}, {"ph": 2}, {"ts": [{"name": 3}]}]}),
    event("large", 4, args={"x": "y" * 3000}),
    event("unicode \u00e9\u4e2d", 5),
    event("backslash \\", 6),
    event("shapes", 7, args={"Input Dims": [[[1]], []]}),
    event("last", 8),
]


@pytest.mark.parametrize("slice_bytes", [150, 200, 333, 500, 1000, 10_000])
@pytest.mark.parametrize("separator", [",", ",\n  ", " , "])
def test_events_survive_any_slicing(tmp_path: Path, slice_bytes: int, separator: str) -> None:
    path = tmp_path / "t.json"
    tail = '], "deviceProperties": [{"id": 0, "name": "x"}, {"id": 1, "name": "y"}], "a": 1}'
    path.write_text('{"traceEvents": [' + separator.join(ODD_EVENTS) + tail)
    got, read, dropped = read_in_slices(path, slice_bytes)
    assert got == [json.loads(e)["name"] for e in ODD_EVENTS]
    assert (read, dropped) == (len(ODD_EVENTS), 0)


@pytest.mark.parametrize("slice_bytes", [200, 500, 10_000])
def test_begin_waits_for_its_end_across_slices(tmp_path: Path, slice_bytes: int) -> None:
    built = TraceBuilder().event("B", "long", 1, cat="cpu_op", pid=1, tid=1, args={"stream": 1})
    for i in range(20):
        built.cpu_op(f"op{i}", ts=i + 2, dur=1)
    built.event("E", "", 50, pid=1, tid=1)
    got, _, dropped = read_in_slices(built.write(tmp_path / "t.json"), slice_bytes)
    assert got[0] == "long"
    assert (len(got), dropped) == (21, 0)


def test_an_endless_event_stops_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('[{"ph": "X", "name": "' + "x" * 100_000)
    small = Bounds(event=10_000)
    with Source(path, small) as source, pytest.raises(CorruptTrace, match="no event boundary"):
        list(EventStream(source, 1000))


# ---------------------------------------------------------------------- cut anywhere
def test_a_cut_gz_gives_what_is_there(tmp_path: Path) -> None:
    built = TraceBuilder()
    for i in range(3000):
        built.cpu_op(f"op{i * 7919 % 1000}", ts=i, dur=1, ext=i)
    path = built.write(tmp_path / "t.json.gz", gz=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    trace = open_trace(path)
    assert 500 < len(trace.slices) < 2500
    assert trace.slices.external_id.tolist() == list(range(len(trace.slices)))
    assert trace.info.truncated
    assert set(notes(trace)) >= {"truncated", "damaged_stream"}
    assert trace.stats.events_dropped == 0


def test_a_gz_with_flipped_bytes_gives_what_comes_before(tmp_path: Path) -> None:
    built = TraceBuilder()
    for i in range(8000):
        built.cpu_op(f"op{i * 7919 % 1000}", ts=i, dur=i * 31 % 17, ext=i * i)
    path = built.write(tmp_path / "t.json.gz", gz=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    trace = open_trace(path)
    assert len(trace.slices) > 500
    assert "damaged_stream" in notes(trace)


# ---------------------------------------------------------------------- no trace
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"   \n", "not a format"),
        (b"hello", "not a format"),
        (b"{}", "no traceEvents"),
        (b'{"schemaVersion": 1}', "traceEvents"),
        (b'{"traceEvents": null}', "traceEvents"),
        (b"[1, 2, 3]", "no traceEvents"),
        (b'[{"a": 1}]', "no traceEvents"),
        (b'{"traceEvents": [1, 2]}', "none of the 2 entries"),
        (b"SQLite format 3\0rest", "no Nsight Systems export can be read from it"),
        (b"PK\x03\x04rest", "zip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\x80\x04\x95rest", "pickle"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (gzip.compress(b"hello"), "not a format"),
    ],
)
def test_other_files_say_what_they_are(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(data)
    with pytest.raises(UnsupportedFormat, match=says) as caught:
        open_trace(path)
    assert caught.value.hint
    assert str(path) in str(caught.value)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json: No such file"):
        open_trace(tmp_path / "gone.json")


def test_a_gz_of_which_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "t.json.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(CorruptTrace, match="cut off"):
        open_trace(path)


def test_an_nsys_report_says_how_to_export(tmp_path: Path) -> None:
    path = tmp_path / "run.nsys-rep"
    path.write_bytes(b"\x01\x02\x03")
    with pytest.raises(UnsupportedFormat) as caught:
        open_trace(path)
    assert "nsys export --type sqlite" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ['{"traceEvents": []}', '{"traceEvents": [ ], "schemaVersion": 1}']
)
def test_no_events_is_an_answer(tmp_path: Path, text: str) -> None:
    trace = read_text(tmp_path, text)
    assert (len(trace.slices), trace.stats.events_read) == (0, 0)
    assert notes(trace) == {"no_events": 1}


def test_a_file_cut_before_its_first_event_ends(tmp_path: Path) -> None:
    with pytest.raises(CorruptTrace, match="no whole event"):
        read_text(tmp_path, '{"schemaVersion": 1, "traceEvents": [{"ph": "X", "na')
