"""Every kind of malformed file that people have, with the whole events or the message expected.

A row of `READ` is a file of which events come out; a row of `REFUSED` one that is none, and what is
said. Damage at every byte is in test_ingest_properties.py, runs of several ranks in
test_hard_runs.py, databases of nsys in test_nsys.py.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard

import tracelens
from tracelens.errors import InputError, TraceLensError
from tracelens.ingest import open_trace
from tracelens.trace import Kind, Trace


def event(name: str, ts: object, dur: object = 2, **fields: object) -> str:
    """One slice; a field that is None is left out."""
    known = {"cat": "cpu_op", "name": name, "ph": "X", "ts": ts, "dur": dur, "pid": 1, "tid": 1}
    return json.dumps({k: v for k, v in (known | fields).items() if v is not None})


def gpu(name: str, ts: object, dur: object = 2, **fields: object) -> str:
    args = {"device": 0, "stream": 7, "correlation": 5}
    return event(name, ts, dur, **({"cat": "kernel", "pid": 0, "tid": 7, "args": args} | fields))


A, B, C = event("a", 1), event("b", 4), event("c", 7)
HEAD = '{"schemaVersion": 1, "distributedInfo": {"rank": 0, "world_size": 1}, "traceEvents": ['
TAIL = '], "traceName": "t.json"}'
WHOLE = f"{HEAD}{A},\n{B},\n{C}{TAIL}"
LIST = f"[{A},\n{B},\n{C}]"
ABC = ["a", "b", "c"]


def cut(text: str, before: str) -> str:
    return text[: text.index(before)]


def long() -> bytes:
    noise = ",\n".join(event(f"n{i * 7919 % 997}", 100 + i, i * 31 % 17) for i in range(3000))
    return WHOLE.replace(TAIL, f",\n{noise}{TAIL}").encode()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


class Read(NamedTuple):
    """A file and what comes out: names in time's order, counts by code of note, cut or not."""

    text: str | bytes
    names: list[str] | None
    notes: dict[str, int] = {}  # noqa: RUF012 - never changed
    truncated: bool = False
    file: str = "rank0.pt.trace.json"


SPLIT = {"truncated": 1, "tolerant_slices": 1}
CUT_STREAM = {"truncated": 1, "damaged_stream": 1, "tolerant_slices": 1}
READ = {
    # ------------------------------------------------------------------ ended early
    "cut within an event's name": Read(cut(WHOLE, 'c", "ph"'), ["a", "b"], SPLIT, True),
    "cut within a key": Read(cut(WHOLE, 'cat": "cpu_op", "name": "b'), ["a"], SPLIT, True),
    "cut within a number": Read(cut(WHOLE, "7, "), ["a", "b"], SPLIT, True),
    "cut after a colon": Read(cut(WHOLE, ' "c", "ph"'), ["a", "b"], SPLIT, True),
    "cut between two events": Read(cut(WHOLE, "\n" + C), ["a", "b"], SPLIT, True),
    "cut after an event": Read(cut(WHOLE, ",\n" + C), ["a", "b"], {"truncated": 1}, True),
    "cut before the array's end": Read(cut(WHOLE, "], "), ABC, {"truncated": 1}, True),
    "cut after the array's end": Read(cut(WHOLE, ', "traceName'), ABC, {"truncated": 1}, True),
    "cut within the tail": Read(cut(WHOLE, 't.json"}'), ABC, {"truncated": 1}, True),
    "cut before the last brace": Read(WHOLE[:-1], ABC, {"truncated": 1}, True),
    "cut in a character": Read(
        f"{HEAD}{A},".encode() + '{"ph": "X", "name": "caf\u00e9'.encode()[:-1],
        ["a"],
        SPLIT,
        True,
    ),
    "cut in an escape": Read(f'{HEAD}{A}, {{"ph": "X", "name": "\\u00', ["a"], SPLIT, True),
    "a .json.tmp of a killed job": Read(
        cut(WHOLE, 'c", "ph"'), ["a", "b"], SPLIT, True, "rank0.pt.trace.json.tmp"
    ),
    "gz cut in the middle": Read(half(gzip.compress(long(), mtime=0)), None, CUT_STREAM, True),
    "xz cut in the middle": Read(half(lzma.compress(long())), None, CUT_STREAM, True),
    "zst cut in the middle": Read(half(zstandard.compress(long())), None, CUT_STREAM, True),
    "gz cut in its checksum": Read(
        gzip.compress(WHOLE.encode())[:-5], ABC, {"damaged_stream": 1, "truncated": 1}, True
    ),
    # ------------------------------------------------------------------ not quite JSON
    "two documents in one file": Read(WHOLE + "\n" + WHOLE, ABC, {"trailing_data": 1}),
    "two members of gz": Read(
        gzip.compress(WHOLE.encode()) + gzip.compress(b"more"), ABC, {"trailing_data": 1}
    ),
    "zeros behind the end": Read(WHOLE + "\0" * 100, ABC, {"trailing_data": 1}),
    "a list without its bracket": Read(LIST[:-1], ABC),
    "a list cut after a comma": Read(LIST[:-1] + ",\n", ABC, {"tolerant_slices": 1}),
    "a trailing comma": Read(f"{HEAD}{A},{TAIL}", ["a"], {"tolerant_slices": 1}),
    "NaN": Read(
        f'{HEAD}{A}, {B[:-1]}, "args": {{"x": NaN}}}}{TAIL}', ["a", "b"], {"not_finite": 1}
    ),
    "Infinity": Read(
        f'{HEAD}{A}, {B[:-1]}, "args": {{"x": -Infinity}}}}{TAIL}', ["a", "b"], {"not_finite": 1}
    ),
    "a byte order mark": Read(b"\xef\xbb\xbf" + WHOLE.encode(), ABC),
    "a mark in a gz": Read(gzip.compress(b"\xef\xbb\xbf" + WHOLE.encode()), ABC),
    "names that are not UTF-8": Read(
        WHOLE.replace('"b"', '"b\u00e4"').encode("latin-1"),
        ["a", "b\ufffd", "c"],
        {"not_utf8": 1, "tolerant_slices": 1},
    ),
    "control characters in a name": Read(
        WHOLE.replace('"b"', '"b\x1b[31m\x07"'), ["a", "b\x1b[31m\x07", "c"], {"tolerant_slices": 1}
    ),
    "a key twice": Read(WHOLE.replace('"name": "b"', '"name": "x", "name": "b"'), ABC),
    "an event of 5 MB": Read(
        f'{HEAD}{A}, {B[:-1]}, "args": {{"stack": "{"x" * 5_000_000}"}}}}, {C}{TAIL}', ABC
    ),
    "lists nested without end": Read(
        f'{HEAD}{A}, {B[:-1]}, "args": {{"x": {"[" * 9**5}{"]" * 9**5}}}}}, {C}{TAIL}',
        ["a", "c"],
        {"damaged_events": 1, "tolerant_slices": 1},
    ),
    "a header nested without end": Read(
        f'{{"x": {"[" * 9**5}{"]" * 9**5}, {HEAD[1:]}{A}{TAIL}', ["a"], {"bad_header": 1}
    ),
    # ------------------------------------------------------------------ wrong names of files
    "plain text called .gz": Read(WHOLE, ABC, file="rank0.pt.trace.json.gz"),
    "gz called .json": Read(gzip.compress(WHOLE.encode()), ABC),
    "xz called .gz": Read(lzma.compress(WHOLE.encode()), ABC, file="rank0.json.gz"),
    "no ending": Read(WHOLE, ABC, file="trace"),
    # ------------------------------------------------------------------ odd events
    "times as text": Read(f'[{event("a", "1.5", "2")}, {event("b", " 3 ", "0.25")}]', ["a", "b"]),
    "begin and end": Read(
        '[{"ph": "B", "name": "a", "cat": "cpu_op", "ts": 1, "pid": 1, "tid": 1},'
        '{"ph": "B", "name": "b", "cat": "cpu_op", "ts": 2, "pid": 1, "tid": 1},'
        '{"ph": "E", "ts": 3, "pid": 1, "tid": 1}, {"ph": "E", "ts": 4, "pid": 1, "tid": 1}]',
        ["a", "b"],
    ),
    "a begin without its end": Read(
        f'[{A}, {{"ph": "B", "name": "x", "ts": 2, "pid": 1, "tid": 1}}]',
        ["a"],
        {"unmatched_begin_end": 1},
    ),
    "no category": Read(f'[{event("aten::mm", 1, cat=None)}]', ["aten::mm"]),
    "unix microseconds": Read(
        f'[{event("a", "@1")}, {event("b", "@2")}]'.replace('"@1"', "1712195495505582.988").replace(
            '"@2"', "1712195495505583.001"
        ),
        ["a", "b"],
    ),
    "negative and zero durations": Read(
        f'[{event("a", 1, -3)}, {event("b", 4, 0)}]', ["a", "b"], {"negative_dur": 1}
    ),
    "times before zero": Read(f'[{event("a", -5.5)}, {event("b", 0)}]', ["a", "b"]),
    "out of order": Read(f"[{C}, {A}, {B}]", ABC),
    "a launch written twice": Read(
        f'[{A}, {gpu("k", 2)}, {gpu("k", 2)}, {B}]', ["a", "k", "b"], {"repeated_events": 1}
    ),
    "all written twice": Read(
        "[{0}, {0}]".format(
            ", ".join([gpu("k", 2), event("op", 2, args={"External id": 3}), gpu("l", 9)])
        ),
        ["k", "op", "l"],
        {"repeated_events": 3},
    ),
    "a time of another year": Read(
        f'[{A}, {event("x", 10**15)}, {event("y", 2, 10**14)}, {gpu("k", 5)}, {gpu("k", 5)}, {C}]',
        ["a", "k", "c"],
        {"bad_time": 2, "repeated_events": 1},
    ),
    "equal, but not the same": Read(f"[{A}, {A}]", ["a", "a"]),
    "an unknown schema version": Read(
        WHOLE.replace('ersion": 1', 'ersion": 99'), ABC, {"unknown_schema": 1}
    ),
    "names of types that are no names": Read(
        f'[{A.replace(chr(34) + "a" + chr(34), "true")}]', ["True"], {"tolerant_slices": 1}
    ),
    # ------------------------------------------------------------------ dialects
    "ROCm": Read(
        f'[{gpu("Cijk_Alik_Bljk", 4, cat="concurrent_kernel")}, '
        f'{event("hipLaunchKernel", 1, cat="hip_runtime", args={"stream": "0x0"})}]',
        ["hipLaunchKernel", "Cijk_Alik_Bljk"],
        {},
    ),
    "XPU": Read(
        f'[{gpu("gemm_kernel", 4)}, {event("urEnqueueKernelLaunch", 1, cat="xpu_runtime")}]',
        ["urEnqueueKernelLaunch", "gemm_kernel"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_can_be_read_is_read(case: str, tmp_path: Path) -> None:
    row = READ[case]
    path = tmp_path / row.file
    path.write_bytes(row.text if isinstance(row.text, bytes) else row.text.encode())
    trace = open_trace(path)
    assert {n.code: n.count for n in trace.stats.notes} == row.notes
    assert trace.info.truncated == row.truncated
    if row.names is None:
        assert names(trace)[:3] == ABC
        assert 3 <= len(trace.slices) < 3003
    else:
        assert names(trace) == row.names
    assert (trace.slices.dur_ns >= 0).all()


def names(trace: Trace) -> list[str]:
    return [trace.strings[i] for i in trace.slices.name]


def test_dialects_are_kernels_and_calls(tmp_path: Path) -> None:
    for case in ("ROCm", "XPU"):
        path = tmp_path / "t.json"
        path.write_text(str(READ[case].text))
        assert open_trace(path).slices.kind.tolist() == [Kind.RUNTIME, Kind.KERNEL]


@pytest.mark.parametrize("odd", ["5", '"x"', "[5]", "[[null]]", "{}", "[[1, 2.5]]", "[1e999]"])
def test_shapes_that_are_no_shapes(odd: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    args = f'{{"Input Dims": {odd}, "Input type": {odd}, "Concrete Inputs": {odd}}}'
    ops = [
        event(name, 10 * i, args="@").replace('"@"', args)
        for i, name in enumerate(("aten::mm", "aten::empty", "nccl:all_reduce", "aten::linear"))
    ]
    path.write_text(f"[{', '.join([*ops, gpu('k', 5)])}]")
    assert len(open_trace(path).shapes) == 4
    assert tracelens.analyze(path).setup["precision"].value is None


def test_unix_microseconds_keep_their_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(str(READ["unix microseconds"].text))
    assert open_trace(path).slices.ts_ns.tolist() == [1712195495505582988, 1712195495505583001]


XLA = (
    '{"displayTimeUnit": "ns", "metadata": {"highres-ticks": true}, "traceEvents": ['
    '{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}}, '
    '{"ph": "X", "pid": 1, "tid": 1, "ts": 1, "dur": 2, "name": "fusion.1", '
    '"args": {"hlo_op": "fusion.1"}}]}'
)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n", "not a format"),
    "one byte of a gz": (b"\x1f\x8b", "cut off"),
    "nothing left of a gz": (gzip.compress(long())[:12], "cut off"),
    "cut within the header": (cut(WHOLE, "1, "), 'no "?traceEvents'),
    "cut within the first event": (cut(WHOLE, 'a", "ph"'), "no whole event could be read"),
    "UTF-16 with a mark": (WHOLE.encode("utf-16"), "UTF-16 text"),
    "UTF-16 big endian": (("\ufeff" + WHOLE).encode("utf-16-be"), "UTF-16 text"),
    "UTF-16 without a mark": (WHOLE.encode("utf-16-le"), "UTF-16 text"),
    "a Git LFS pointer": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "Git LFS pointer",
    ),
    "an HTML error page": ("\n<!DOCTYPE html><html><body>404</body></html>", "HTML or XML page"),
    "an XML error of an object store": ('<?xml version="1.0"?><Error/>', "HTML or XML page"),
    "a zip": (b"PK\x03\x04" + bytes(30), "zip archive"),
    "a tar in a gz": (
        gzip.compress(b"t.json".ljust(257, b"\0") + b"ustar\x0000" + bytes(248)),
        "tar archive",
    ),
    "bzip2": (bz2.compress(WHOLE.encode()), "bzip2"),
    "gz in gz": (gzip.compress(gzip.compress(WHOLE.encode())), "gzip within"),
    "a pickle": (b"\x80\x04\x95" + bytes(30), "Python pickle"),
    "another SQLite file": (b"SQLite format 3\0" + bytes(84), "no Nsight Systems export"),
    "single quotes": (WHOLE.replace('"', "'"), "(no|without) traceEvents"),
    "a list of lists": (f"[[{A}]]", "none of the 1 entries"),
    "brackets without end": ('{"traceEvents": ' + "[" * 9**6, "no whole event could be read"),
    "an object for an array": (f'{{"traceEvents": {{"a": {A}}}}}', "no .traceEvents. array"),
    "JAX or TensorFlow": (XLA, "XLA's profiler"),
    "TensorFlow 1": (XLA.replace("/device:GPU:0", "/job:localhost/replica:0"), "TensorFlow's"),
    "a browser": (
        f'{{"traceEvents": [{event("RunTask", 1, cat="toplevel")}], '
        '"metadata": {"product-version": "Chrome/120"}}',
        "a browser",
    ),
    "VizTracer": (f'{{"traceEvents": [{A}], "viztracer_metadata": {{}}}}', "VizTracer"),
    "nothing of a training job": (
        f"[{event('model_loading', 1, cat='Session')}, {event('conv', 2, cat='Node')}]",
        "nothing in it is an operator.*'model_loading', 'conv'",
    ),
    "no events at all": ('{"schemaVersion": 1, "traceEvents": []}', "no events"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("way", [tracelens.analyze, lambda p: tracelens.analyze(p.parent)],
                         ids=["file", "folder"])  # fmt: skip
def test_what_is_no_trace_is_named(
    case: str, way: Callable[[Path], object], tmp_path: Path
) -> None:
    text, says = REFUSED[case]
    path = tmp_path / "rank0.pt.trace.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        way(path)
    said: TraceLensError = caught.value
    assert "rank0.pt.trace.json" in str(said)
    assert said.hint
    assert re.search(says, str(said), re.DOTALL)
