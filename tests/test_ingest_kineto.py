"""The Kineto reader on five-event traces: the expected table stands beside each."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from builder import BASE_NS, HOST_PID, MAIN_TID, TraceBuilder

from tracelens.ingest import open_trace
from tracelens.trace import Kind, Trace


def read_text(tmp_path: Path, text: bytes | str, name: str = "t.json") -> Trace:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_trace(path)


def notes(trace: Trace) -> dict[str, int]:
    return {n.code: n.count for n in trace.stats.notes}


def names(trace: Trace) -> list[str]:
    return [trace.strings[i] for i in trace.slices.name]


def column(trace: Trace, name: str) -> list[Any]:
    values: list[Any] = getattr(trace.slices, name).tolist()
    return values


def five() -> TraceBuilder:
    return (
        TraceBuilder(rank=1, world_size=2)
        .step(1, 0, 100)
        .cpu_op("aten::mm", ts=10.5, dur=8, ext=5, seq=3, dims=[[2, 3], [3, 4]])
        .launch(77, ext=5)
        .kernel("gemm", ts=20.001, dur=30.25, corr=77, ext=5)
        .memcpy("HtoD", ts=60, dur=5, nbytes=4096, stream=8, corr=78)
    )


# ---------------------------------------------------------------------- the table
def test_slices(tmp_path: Path) -> None:
    trace = open_trace(five().write(tmp_path / "t.json"))
    frame = trace.to_frame()
    expected = """
     ts_ns  dur_ns             name        kind  stream device correlation external_id bytes
         0  100000   ProfilerStep#1  annotation      -1     -1          -1          -1    -1
     10500    8000         aten::mm      cpu_op      -1     -1          -1           5    -1
     10500    1000 cudaLaunchKernel     runtime      -1     -1          77           5    -1
     20001   30250             gemm      kernel       7      1          77           5    -1
     60000    5000           Memcpy      memcpy       8      1          78          -1  4096
    """
    header, *rows = [line.split() for line in expected.strip().splitlines()]
    got = frame[header].astype(str).replace("Memcpy HtoD (Pinned -> Device)", "Memcpy")
    assert got.to_numpy().tolist() == rows
    assert column(trace, "sequence") == [-1, 3, -1, -1, -1]
    assert trace.tracks.pid == (HOST_PID, 1, 1)
    assert trace.tracks.tid == (MAIN_TID, 7, 8)
    assert trace.stats.events_read == 5
    assert trace.stats.notes == ()


def test_info(tmp_path: Path) -> None:
    built = five().meta(record_shapes=1, cuda_runtime_version=12040)
    info = open_trace(built.write(tmp_path / "t.json")).info
    assert (info.rank, info.world_size, info.backend, info.nccl) == (1, 2, "nccl", "2.21.5")
    assert info.clock_zero_ns == BASE_NS
    assert info.devices == ("Test GPU", "Test GPU")
    assert info.cuda_runtime == 12040
    assert (info.record_shapes, info.with_stack, info.profile_memory) == (True, False, False)
    (group,) = info.groups
    assert (group.name, group.description, group.size, group.ranks) == (
        "0",
        "default_pg",
        2,
        (0, 1),
    )
    assert info.torch is None
    assert not info.truncated


def test_a_header_that_says_nothing_gives_none(tmp_path: Path) -> None:
    info = read_text(tmp_path, five().text(style="list")).info
    assert (info.rank, info.world_size, info.backend, info.groups) == (None, None, None, ())
    assert (info.record_shapes, info.with_stack, info.profile_memory) == (None, None, None)
    assert info.clock_zero_ns == 0


def test_python_frames_mean_with_stack(tmp_path: Path) -> None:
    trace = open_trace(five().python("train.py(3): f", ts=1, dur=2).write(tmp_path / "t.json"))
    assert trace.info.with_stack is True


def test_keys_before_and_after_the_events(tmp_path: Path) -> None:
    text = """{"traceEvents": [{"ph": "X", "ts": 1, "dur": 1, "name": "a", "cat": "cpu_op"}],
      "deviceProperties": [{"id": 0, "name": "A"}, {"id": 1, "name": "B"}], "schemaVersion": 1,
      "baseTimeNanoseconds": 7, "distributedInfo": {"rank": "3", "world_size": 4}}"""
    info = read_text(tmp_path, text).info
    assert (info.clock_zero_ns, info.devices, info.rank) == (7, ("A", "B"), 3)


def test_collectives(tmp_path: Path) -> None:
    split = {"In split size": [1, 2], "Src Rank": 1, "Seq": 9}
    built = (
        TraceBuilder(rank=0, world_size=2)
        .nccl("all_to_all", ts=50, dur=5, nelems=10, out_nelems=20, host_ts=1, **split)
        .kernel("gemm", ts=2, dur=1)
    )
    trace = open_trace(built.write(tmp_path / "t.json"))
    c, strings = trace.collectives, trace.strings
    assert names(trace)[0] == "record_param_comms"
    assert c.row.tolist() == [0, 2]  # host record and kernel, both
    assert [strings[i] for i in c.call] == ["all_to_allv"] * 2
    assert c.in_nelems.tolist() == [10, 10]
    assert c.out_nelems.tolist() == [20, 20]
    assert c.group_size.tolist() == [2, 2]
    assert [strings[i] for i in c.dtype] == ["BFloat16"] * 2
    assert [strings[i] for i in c.group] == ["0"] * 2
    assert [strings[i] for i in c.group_desc] == ["default_pg"] * 2
    assert [strings[i] for i in c.ranks] == ["[0, 1]"] * 2
    assert [strings[i] for i in c.in_split] == ["[1, 2]"] * 2  # a list: kept as its JSON text
    assert [strings[i] for i in c.out_split] == ["[]"] * 2
    assert (c.src_rank.tolist(), c.dst_rank.tolist()) == ([1, 1], [-1, -1])
    assert c.seq.tolist() == [9, 9]


def test_a_collective_without_most_arguments(tmp_path: Path) -> None:
    kernel = '{"ph":"X","cat":"kernel","name":"ncclKernel_AllReduce","ts":1,"dur":1,"args":%s}'
    trace = read_text(tmp_path, f'[{kernel % """{"stream": 1, "In msg nelems": 8}"""}]')
    c = trace.collectives
    assert (c.in_nelems.tolist(), c.call.tolist(), c.dtype.tolist()) == ([8], [-1], [-1])


def test_shapes_are_kept_for_the_chosen_ops_only(tmp_path: Path) -> None:
    built = (
        TraceBuilder()
        .cpu_op("aten::add", ts=1, dur=1, dims=[[9]])
        .cpu_op("aten::mm", ts=2, dur=1, dims=[[2, 3], [3, 4]], types=["float", "float"])
        .cpu_op("aten::mm", ts=4, dur=1)
    )
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert trace.shapes.row.tolist() == [1]
    assert trace.strings[trace.shapes.dims[0]] == "[[2, 3], [3, 4]]"
    assert trace.strings[trace.shapes.types[0]] == '["float", "float"]'
    assert trace.shapes.concrete.tolist() == [-1]


def test_memory(tmp_path: Path) -> None:
    built = (
        TraceBuilder()
        .memory(5, -512, allocated=0, reserved=2048)
        .memory(2, 512, allocated=512, reserved=2048)
        .memory(3, 64, device=-1)
        .event("i", "Record Window End", 9, s="g", pid="", tid="")
    )
    m = open_trace(built.write(tmp_path / "t.json")).memory
    assert m.ts_ns.tolist() == [2000, 3000, 5000]
    assert m.bytes.tolist() == [512, 64, -512]
    assert m.allocated.tolist() == [512, -1, 0]
    assert m.device.tolist() == [0, -1, 0]


def test_names_of_tracks(tmp_path: Path) -> None:
    built = (
        five()
        .thread_name(MAIN_TID, "pt_main_thread")
        .process_name("python3")
        .event("M", "process_labels", 0, pid=1, tid=0, args={"labels": "GPU 1"})
    )
    tracks = open_trace(built.write(tmp_path / "t.json")).tracks
    assert tracks.name == ("pt_main_thread", "", "")
    assert tracks.process == ("python3", "GPU 1", "GPU 1")


def test_parents_precede_children_and_side_tables_follow_the_sort(tmp_path: Path) -> None:
    built = (
        TraceBuilder()
        .nccl(ts=50, dur=1, nelems=5)
        .cpu_op("child", ts=10, dur=5)
        .cpu_op("aten::mm", ts=10, dur=50, dims=[[1]])
        .nccl(ts=20, dur=1, nelems=2)
    )
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert names(trace)[:2] == ["aten::mm", "child"]
    assert trace.shapes.row.tolist() == [0]
    assert trace.collectives.row.tolist() == [2, 3]
    assert trace.collectives.in_nelems.tolist() == [2, 5]


def test_order_of_events_in_the_file_does_not_matter(tmp_path: Path) -> None:
    built = five()
    one = open_trace(built.write(tmp_path / "a.json")).to_frame()
    built.events.reverse()
    two = open_trace(built.write(tmp_path / "b.json")).to_frame()
    assert one.equals(two)


def test_columns_are_read_only(tmp_path: Path) -> None:
    trace = open_trace(five().write(tmp_path / "t.json"))
    with pytest.raises(ValueError, match="read-only"):
        trace.slices.ts_ns[0] = 1


def test_progress_ends_at_the_file_size(tmp_path: Path) -> None:
    path = five().write(tmp_path / "t.json")
    seen: list[tuple[int, int]] = []
    open_trace(path, progress=lambda done, size: seen.append((done, size)))
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)


# ---------------------------------------------------------------------- dialects
@pytest.mark.parametrize("pack", ["plain", "gz", "xz", "zst", "gz twice", "BOM"])
def test_packing_is_told_by_content(tmp_path: Path, pack: str) -> None:
    plain = open_trace(five().write(tmp_path / "t.json")).to_frame()
    text = five().text()
    path = five().write(tmp_path / "packed.json", gz=pack.startswith("gz"))
    half = len(text) // 2
    if pack == "xz":
        path.write_bytes(lzma.compress(text))
    elif pack == "zst":
        path.write_bytes(zstandard.compress(text[:half]) + zstandard.compress(text[half:]))
    elif pack == "gz twice":  # two members and padding, as `cat a.gz b.gz` gives
        path.write_bytes(gzip.compress(text[:half]) + gzip.compress(text[half:]) + b"\0" * 512)
    elif pack == "BOM":
        path.write_bytes(b"\xef\xbb\xbf" + text)
    trace = open_trace(path)
    assert trace.to_frame().equals(plain)
    assert trace.stats.notes == ()


@pytest.mark.parametrize("layout", ["list", "compact", "indented", "crlf"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    text = five().text(style="list" if layout == "list" else "object").decode()
    if layout == "compact":
        text = json.dumps(json.loads(text), separators=(",", ":"))
    elif layout == "indented":
        text = json.dumps(json.loads(text), indent=4)
    elif layout == "crlf":
        text = text.replace("\n", "\r\n")
    trace = read_text(tmp_path, text)
    assert trace.to_frame().equals(open_trace(five().write(tmp_path / "p.json")).to_frame())
    assert trace.stats.notes == ()


def test_absolute_times_are_exact(tmp_path: Path) -> None:
    relative = open_trace(five().write(tmp_path / "r.json"))
    absolute = open_trace(five().write(tmp_path / "a.json", absolute=True))
    assert np.array_equal(absolute.slices.ts_ns, relative.slices.ts_ns + BASE_NS)
    assert absolute.info.clock_zero_ns == 0


def test_times_and_arguments_as_strings_and_floats(tmp_path: Path) -> None:
    event = (
        '{"ph":"X","cat":"kernel","name":"k","ts":"1712195495505582.988","dur":"1.5","pid":"0",'
        '"tid":"7","args":{"stream":"0x7","device":0.0,"correlation":"12","External id":null,'
        '"bytes":"many"}}'
    )
    trace = read_text(tmp_path, f"[{event}]")
    assert column(trace, "ts_ns") == [1712195495505582988]
    assert column(trace, "dur_ns") == [1500]
    assert (column(trace, "stream"), column(trace, "device")) == ([7], [0])
    assert (column(trace, "correlation"), column(trace, "external_id")) == ([12], [-1])
    assert column(trace, "bytes") == [-1]
    assert notes(trace) == {"odd_values": 1}
    assert trace.tracks.pid == ("0",)


def test_unsigned_minus_one_and_numbers_too_large(tmp_path: Path) -> None:
    built = TraceBuilder().gpu("cuda_sync", "Event Sync", 1, 1, stream=4294967295)
    built.kernel("k", 2, 1, corr=2**64 - 1, ext=2**70)
    built.event("X", "op", 3, dur=1, cat="cpu_op", pid=-5, tid=-549452224)
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert column(trace, "kind")[0] == Kind.SYNC
    assert column(trace, "correlation")[1] == -1
    assert trace.tracks.tid[2] == -549452224
    assert trace.stats.events_dropped == 0


@pytest.mark.parametrize(
    ("cat", "kind"),
    [
        ("Operator", Kind.CPU_OP),
        ("Runtime", Kind.RUNTIME),
        ("Kernel", Kind.KERNEL),
        ("Memcpy", Kind.MEMCPY),
        ("Memset", Kind.MEMSET),
        ("Trace", Kind.OTHER),
        ("concurrent_kernel", Kind.KERNEL),
        ("gpu_user_annotation", Kind.GPU_ANNOTATION),
        ("overhead", Kind.OVERHEAD),
        ("a category of tomorrow", Kind.OTHER),
    ],
)
def test_categories(tmp_path: Path, cat: str, kind: Kind) -> None:
    trace = open_trace(TraceBuilder().host(cat, "x", 1, 1).write(tmp_path / "t.json"))
    assert column(trace, "kind") == [kind]


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("gemm", {"stream": 7, "correlation": 1}, Kind.KERNEL),
        ("Memcpy HtoD", {"stream": 7}, Kind.MEMCPY),
        ("Memset (Device)", {"stream": 7}, Kind.MEMSET),
        ("ncclKernel_AllReduce_RING_LL_Sum_float", {}, Kind.KERNEL),
        ("cudaLaunchKernel", {"correlation": 1}, Kind.RUNTIME),
        ("hipLaunchKernel", {"correlation": 1, "stream": "0x0"}, Kind.RUNTIME),
        ("aten::mm", {}, Kind.CPU_OP),
        ("MmBackward0", {"Sequence number": 3}, Kind.CPU_OP),
        ("ProfilerStep#3", {}, Kind.ANNOTATION),
        ("train.py(10): main", {}, Kind.PYTHON),
        ("something", {}, Kind.OTHER),
    ],
)
def test_a_missing_category_is_inferred(
    tmp_path: Path, name: str, args: dict[str, Any], kind: Kind
) -> None:
    built = TraceBuilder().event("X", name, 1, dur=1, pid=0, tid=0, args=args)
    assert column(open_trace(built.write(tmp_path / "t.json")), "kind") == [kind]


def test_old_external_ids_and_stream_names(tmp_path: Path) -> None:
    args = {"external id": 9, "correlation": 3}
    built = TraceBuilder().event("X", "k", 1, dur=1, cat="Kernel", pid=0, tid="stream 7", args=args)
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert column(trace, "external_id") == [9]
    assert (column(trace, "device"), column(trace, "stream")) == ([0], [7])


def test_rocm_runtime_calls_are_host_rows(tmp_path: Path) -> None:
    built = TraceBuilder().host("cuda_runtime", "hipMemcpy", 1, 1, stream="0x55aa", device=1)
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert (column(trace, "stream"), column(trace, "device")) == ([-1], [-1])


def test_projected_ranges_are_on_their_tracks_stream(tmp_path: Path) -> None:
    where = {"cat": "gpu_user_annotation", "pid": 1, "tid": 20, "args": {"External id": 4}}
    trace = open_trace(TraceBuilder().event("X", "r", 1, dur=1, **where).write(tmp_path / "t.json"))
    assert (column(trace, "device"), column(trace, "stream")) == ([1], [20])


def test_begin_and_end_events_are_joined_per_thread(tmp_path: Path) -> None:
    host = {"pid": 1, "tid": 1}
    built = (
        TraceBuilder()
        .event("B", "outer", 1, cat="cpu_op", **host, args={"External id": 5})
        .event("B", "other thread", 2, cat="cpu_op", pid=1, tid=2)
        .event("B", "inner", 3, cat="cpu_op", **host)
        .event("E", "", 4, **host)
        .event("E", "", 9.5, **host)
        .event("E", "", 10, **host)
    )
    trace = open_trace(built.write(tmp_path / "t.json", absolute=True))
    assert names(trace) == ["outer", "inner"]
    assert column(trace, "dur_ns") == [8500, 1000]
    assert column(trace, "external_id") == [5, -1]
    assert notes(trace) == {"unmatched_begin_end": 2}
    assert (trace.stats.events_read, trace.stats.events_dropped) == (6, 2)


def test_a_small_process_number_is_no_device(tmp_path: Path) -> None:
    built = TraceBuilder().event("X", "x", 1, dur=1, cat="of tomorrow", pid=97, tid=97)
    trace = open_trace(built.write(tmp_path / "t.json"))
    assert (column(trace, "device"), column(trace, "stream")) == ([-1], [-1])
