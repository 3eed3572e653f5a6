"""Nsight Systems exports: what their rows say is what the trace says, whatever the version."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder
from nsys_builder import NsysBuilder, engine_ranges, training_step

import tracelens
from tracelens import classify, errors, pipeline
from tracelens.errors import CorruptTrace, UnsupportedFormat, UsageError
from tracelens.ingest import nsys, open_trace
from tracelens.ingest.nsys import export
from tracelens.ingest.run import discover
from tracelens.trace import Kind, Trace

SCHEMAS = ((2, 9, 1), (3, 1, 2), (3, 16, 1), (3, 20, 2), (3, 27, 0))


def rows(trace: Trace, kind: Kind) -> list[tuple[str, int, int]]:
    """(name, start, end) of the slices of a kind."""
    s = trace.slices
    on = np.flatnonzero(s.kind == kind)
    return [(trace.strings[s.name[i]], int(s.ts_ns[i]), int(s.end_ns[i])) for i in on]


def notes(trace: Trace) -> dict[str, str]:
    return {n.code: n.text for n in trace.stats.notes}


def steps_of(path: Path, n: int = 5, **kw: object) -> NsysBuilder:
    b = NsysBuilder(**kw)  # type: ignore[arg-type]
    b.domain(1, "NCCL")
    for i in range(n):
        training_step(b, 1000 * i, marked=f"step {i + 3}")
    b.write(path)
    return b


# ------------------------------------------------------------------------------------- the tables
@pytest.mark.parametrize("schema", SCHEMAS)
def test_rows_come_out_as_they_went_in(tmp_path: Path, schema: tuple[int, int, int]) -> None:
    b = NsysBuilder(schema)
    b.range("outer", 90, 400)
    b.range("inner", 95, 110)
    b.kernel("void gemm<float>(int)", 120, 220, launched=100)
    b.copy(230, 240, kind=1, nbytes=4096, ends=(0, 2))
    b.add("CUPTI_ACTIVITY_KIND_MEMSET", start=250, end=255, deviceId=0, streamId=7,
          correlationId=9, globalPid=b.pid(10), bytes=64, memKind=2)  # fmt: skip
    b.add("CUPTI_ACTIVITY_KIND_SYNCHRONIZATION", start=260, end=270, deviceId=0,
          streamId=4294967295, correlationId=10, globalPid=b.pid(10), syncType=4)  # fmt: skip
    b.add("TARGET_INFO_GPU", id=0, name="NVIDIA Z9", cuDevice=0)
    trace = open_trace(b.write(tmp_path / "r.sqlite"))
    assert rows(trace, Kind.KERNEL) == [("void gemm<float>(int)", 120, 220)]
    assert rows(trace, Kind.MEMCPY) == [("Memcpy HtoD (Pageable -> Device)", 230, 240)]
    assert rows(trace, Kind.MEMSET) == [("Memset (Device)", 250, 255)]
    assert rows(trace, Kind.SYNC) == [("Context Sync", 260, 270)]
    assert rows(trace, Kind.ANNOTATION) == [("outer", 90, 400), ("inner", 95, 110)]
    assert rows(trace, Kind.RUNTIME)[0] == ("cudaLaunchKernel", 100, 102)
    assert trace.info.devices == ("NVIDIA Z9",)
    assert trace.info.clock_zero_ns == 10**18
    assert trace.info.source == "nsys"
    assert trace.stats.events_dropped == 0
    s = trace.slices
    assert s.bytes[s.kind == Kind.MEMCPY].tolist() == [4096]
    assert s.stream[s.kind == Kind.SYNC].tolist() == [-1]
    work = pipeline.look(trace).work
    parents = [trace.strings[s.name[i]] if i >= 0 else None for i in work.parent]
    assert parents == ["inner", "outer", None]


def test_equal_correlation_ids_of_two_processes_are_not_mixed(tmp_path: Path) -> None:
    b = NsysBuilder()
    for pid, at in ((10, 100), (11, 500)):
        b._correlation = 0
        b.kernel("k(int)", at + 50, at + 60, pid=pid, device=pid - 10, launched=at)
    plan = discover([b.write(tmp_path / "node.sqlite")])
    assert [f.rank for f in plan.files] == [0, 1]
    for f, launched in zip(plan.files, (100, 500), strict=True):
        trace = open_trace(f.path, part=f.part)
        assert pipeline.look(trace).work.launch_ns.tolist() == [launched]


def test_a_short_name_stands_in_for_a_missing_full_one(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.kernel("ncclDevKernel_AllGather_RING_LL(args)", 1, 5)
    for row in b.rows["CUPTI_ACTIVITY_KIND_KERNEL"]:
        row["demangledName"] = 999_999  # not in the string table
    trace = open_trace(b.write(tmp_path / "r.sqlite"))
    assert rows(trace, Kind.KERNEL) == [("ncclDevKernel_AllGather_RING_LL", 1, 5)]
    assert pipeline.look(trace).work.comm.tolist() == [True]


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.kernel("k(int)", 1, 5)
    b.range("x", 0, 9)
    b.rows["NVTX_EVENTS"][0]["textId"] = b.string(b"caf\xe9 step 3")
    trace = open_trace(b.write(tmp_path / "r.sqlite"))
    assert rows(trace, Kind.ANNOTATION) == [("caf\N{REPLACEMENT CHARACTER} step 3", 0, 9)]


def test_odd_rows_are_counted(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.kernel("k(int)", 10, 20)
    b.kernel("k(int)", 30, 25)
    b.range("never closed", 12, None)
    trace = open_trace(b.write(tmp_path / "r.sqlite"))
    assert len(rows(trace, Kind.KERNEL)) == 1
    assert trace.stats.events_dropped == 2
    assert {"odd_times", "open_range"} <= set(notes(trace))


def test_device_names_follow_cuda_s_order_not_the_driver_s(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.kernel("k(int)", 1, 5, device=0)
    for gpu, name, cuda in ((0, "small", 1), (1, "middle", 2), (2, "big", 0)):
        b.add("TARGET_INFO_GPU", id=gpu, name=name, cuDevice=gpu)
        b.add("TARGET_INFO_CUDA_DEVICE", gpuId=gpu, cudaId=cuda, pid=10)
    assert open_trace(b.write(tmp_path / "r.sqlite")).info.devices == (
        "big",
        "small",
        "middle",
    )


# ------------------------------------------------------------------------------------------- NVTX
def test_domains_are_a_process_s_own(tmp_path: Path) -> None:
    b = NsysBuilder()
    for pid, name in ((10, "CCCL"), (11, "DeepSpeed")):
        b.kernel("k(int)", 1, 5, pid=pid, device=pid - 10)
        b.domain(4, name, pid=pid)
        b.range("DeepSpeedEngine.forward", 0, 9, pid=pid, domain=4, inline=pid == 11)
    plan = discover([b.write(tmp_path / "r.sqlite")])
    found = [rows(open_trace(f.path, part=f.part), Kind.ANNOTATION)[0][0] for f in plan.files]
    assert found == ["CCCL:DeepSpeedEngine.forward", "DeepSpeedEngine.forward"]


def test_emitted_operators_are_operators(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.kernel("k(int)", 1, 5)
    b.range("aten::mm, seq = 12, op_id = 33, sizes = [[2, 3], [3, 4]]", 0, 9)
    b.range("Optimizer.step#AdamW.step, op_id = 34", 10, 12)
    trace = open_trace(b.write(tmp_path / "r.sqlite"))
    assert rows(trace, Kind.CPU_OP) == [("aten::mm", 0, 9)]
    assert rows(trace, Kind.ANNOTATION) == [("Optimizer.step#AdamW.step", 10, 12)]
    assert trace.slices.sequence[trace.slices.kind == Kind.CPU_OP].tolist() == [12]


def test_no_secret_is_ever_read(tmp_path: Path) -> None:
    """Environments lie in three tables and among the strings; the report knows of none."""
    path = tmp_path / "r.sqlite"
    b = NsysBuilder()
    b.domain(1, "NCCL")
    secret = "TOKEN=tl-secret-4711"
    b.string(f"PATH=/bin\0{secret}\0")
    b.add("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=secret)
    b.add("TARGET_INFO_SYSTEM_ENV", name="DeviceEnvironment", value=secret)
    b.add("DIAGNOSTIC_EVENT", severity=3, text=f"cannot open /x ({secret})", globalPid=b.pid(10))
    for i in range(3):
        training_step(b, 1000 * i, marked=f"step {i}")
    b.write(path)
    assert b"tl-secret-4711" in path.read_bytes()
    a = tracelens.analyze(path)
    a.write_html(tmp_path / "r.html")
    shown = str(a.to_json()) + a.report() + repr(a.open_rank(0).trace)
    assert "tl-secret" not in shown + (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not any("tl-secret" in s for s in a.open_rank(0).trace.strings)


# ----------------------------------------------------------------------------------- NCCL payloads
COMM = 13429301450432826988  # beyond 2**63, as NCCL's hashes are


@pytest.mark.parametrize("form", ["json", "bytes"])
def test_sizes_and_groups_come_from_nccl(tmp_path: Path, form: str) -> None:
    b = NsysBuilder()
    init = {"NCCL communicator ID": COMM, "No. of ranks": 2, "Rank": 1, "CUDA device": 0}
    sized = {"NCCL communicator ID": COMM, "Message size [bytes]": 1000}
    b.domain(1, "NCCL")
    layout = (("NCCL communicator ID", 18, None), ("Message size [bytes]", 22, 8))
    for i, (name, kind, offset) in enumerate(layout):
        for _ in range(2):  # once a process
            b.add("NVTX_PAYLOAD_SCHEMA_ENTRIES", domainId=1, schemaId=5, idx=i, type=kind,
                  name=name, offset=offset)  # fmt: skip
    blob = struct.pack("<QQQQ", 1, 5, 16, 48) + struct.pack("<QQ", COMM, 1000)
    b.range("ncclCommInitRankConfig", 0, 9, domain=1, payload=init)
    payload = sized if form == "json" else blob
    b.nccl("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", 20, 30, payload=payload)
    b.nccl("ncclAllGather", "ncclDevKernel_AllGather_RING_LL(x)", 40, 50, payload=payload)
    seen = pipeline.analyze_rank(open_trace(b.write(tmp_path / "r.sqlite")), 1)
    comm = seen.comm
    assert seen.info.rank == 1
    assert seen.info.world_size == 2
    assert comm.bytes.tolist() == [1000, 2000]  # a gathered shard, times two ranks
    assert comm.in_nelems.tolist() == [500, -1]  # bf16; an all-gather's name tells no type
    assert [(g.name, g.size) for g in comm.groups] == [(f"{COMM:016x}", 2)]


def grouped(b: NsysBuilder, peers: list[int], at: int) -> None:
    """Sends to and receives from some peers in one group, launched at its end."""
    b.range("ncclGroupStart", at, at + 1, domain=1)
    for i, peer in enumerate(peers):
        for j, call in enumerate(("ncclSend", "ncclRecv")):
            t = at + 2 + 4 * i + 2 * j
            size = {"NCCL communicator ID": COMM, "Message size [bytes]": 100, "Peer": peer}
            b.range(call, t, t + 1, domain=1, payload=size)
    b.range("ncclGroupEnd", at + 50, at + 60, domain=1)
    b.kernel("ncclDevKernel_SendRecv(x)", at + 70, at + 80, stream=9, launched=at + 55)


def test_a_group_of_sends_to_all_is_an_all_to_all(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.domain(1, "NCCL")
    grouped(b, [0, 1, 2, 3], 100)
    grouped(b, [1], 300)
    comm = pipeline.analyze_rank(open_trace(b.write(tmp_path / "r.sqlite")), 0).comm
    assert [classify.Op(k).label for k in comm.kind] == ["all_to_all", "p2p"]
    assert comm.bytes.tolist() == [400, 100]


# ---------------------------------------------------------------------------------- ranks and runs
def test_one_report_is_several_ranks_of_one_run(tmp_path: Path) -> None:
    b = NsysBuilder()
    for pid in (30, 20):  # devices tell before processes do
        b.domain(1, "NCCL", pid=pid)
        for i in range(3):
            training_step(b, 1000 * i, pid=pid, device=0 if pid == 30 else 1, marked=f"step {i}")
    a = tracelens.analyze(b.write(tmp_path / "node.sqlite"))
    assert a.run.ranks == (0, 1)
    assert a.run.rank_source == "process order"
    assert a.run.world_size == 2
    assert "counted_world" in {n.code for n in a.notes}
    assert a.run.paths == (str(tmp_path / "node.sqlite"),)
    assert [r.steps.number.tolist() for r in a.ranks] == [[0, 1, 2]] * 2
    pids = {a.open_rank(r).trace.tracks.pid[0] for r in (0, 1)}
    assert len(a.events(rank=1)) == a.ranks[1].stats.events_read
    assert pids


def test_two_processes_that_see_one_device_each(tmp_path: Path) -> None:
    """CUDA_VISIBLE_DEVICES makes every device number 0: processes tell the ranks apart."""
    b = NsysBuilder()
    for pid in (20, 21):
        b.kernel(f"of_{pid}(int)", 10, 20, pid=pid, device=0)
    plan = discover([b.write(tmp_path / "node.sqlite")])
    names = [rows(open_trace(f.path, part=f.part), Kind.KERNEL)[0][0] for f in plan.files]
    assert names == ["of_20(int)", "of_21(int)"]


def test_a_stray_context_is_no_rank(tmp_path: Path) -> None:
    b = NsysBuilder()
    for i in range(300):
        b.kernel("k(int)", 10 * i, 10 * i + 5, device=1)
    b.kernel("k(int)", 4000, 4005, device=0)
    plan = discover([b.write(tmp_path / "node.sqlite")])
    assert len(plan.files) == 1
    assert "stray_device" in notes(open_trace(plan.files[0].path, part=plan.files[0].part))


def test_reports_of_several_nodes_are_one_run(tmp_path: Path) -> None:
    """NCCL's numbers that repeat from node to node are no ranks; the order of nodes is."""
    for node in range(2):
        b = NsysBuilder(utc_ns=10**18 + 500 * node)
        for pid in (20, 21):
            b.domain(1, "NCCL", pid=pid)
            init = {"NCCL communicator ID": 7 + node, "No. of ranks": 2, "Rank": pid - 20}
            b.range("ncclCommInitRank", 0, 5, pid=pid, domain=1, payload=init)
            b.kernel("k(int)", 10, 20, pid=pid, device=pid - 20)
        b.write(tmp_path / f"node{node}.sqlite")
    plan = discover([tmp_path])
    assert [(f.path.name, f.rank) for f in plan.files] == [
        ("node0.sqlite", 0), ("node0.sqlite", 1), ("node1.sqlite", 2), ("node1.sqlite", 3),
    ]  # fmt: skip
    assert {f.rank_source for f in plan.files} == {"process order"}
    clocks = [open_trace(f.path, part=f.part).info.clock_zero_ns - 10**18 for f in plan.files]
    assert clocks == [0, 0, 500, 500]


def test_one_report_a_rank_by_file_name(tmp_path: Path) -> None:
    for rank in (1, 0):
        b = NsysBuilder()
        b.kernel(f"of_{rank}(int)", 10, 20)
        b.write(tmp_path / f"ds_rank{rank}.sqlite")
    plan = discover([tmp_path])
    assert [(f.path.name, f.rank, f.rank_source) for f in plan.files] == [
        ("ds_rank0.sqlite", 0, "file name"), ("ds_rank1.sqlite", 1, "file name"),
    ]  # fmt: skip


def test_waits_are_measured_where_nccl_names_the_communicator(tmp_path: Path) -> None:
    """Rank 1 is 30 ns late at the reduction: rank 0 waits that long."""
    b = NsysBuilder()
    for pid in (20, 21):
        b.domain(1, "NCCL", pid=pid)
        for i in range(3):
            at = 1000 * i
            late = 30 if pid == 21 else 0
            b.range(f"step {i}", at, at + 900, pid=pid)
            b.kernel("nvjet_gemm", at + 10, at + 100, pid=pid, device=pid - 20)
            b.nccl("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", at + 200 + late,
                   at + 300, pid=pid, device=pid - 20, launched=at + 200,
                   payload={"NCCL communicator ID": COMM, "Message size [bytes]": 1 << 20},
                   )  # fmt: skip
    a = tracelens.analyze(b.write(tmp_path / "node.sqlite"))
    assert [w.tolist() for w in a.matches.wait_ns] == [[30, 30, 30], [0, 0, 0]]
    assert a.matches.offset_ns == (0, 0)


# -------------------------------------------------------------------------------- steps, inference
def test_user_ranges_are_the_steps(tmp_path: Path) -> None:
    steps_of(tmp_path / "r.sqlite", 3)
    a = tracelens.analyze(tmp_path / "r.sqlite")
    r = a.ranks[0]
    assert r.step_source == "NVTX ranges"
    assert r.steps.number.tolist() == [3, 4, 5]
    wall = r.steps.end_ns - r.steps.start_ns
    assert wall[:2].tolist() == [1000, 1000]
    # 90 + 200 + 100 compute; 300-350 of the reduction is hidden; the rest is 50+10+10+100
    b = r.breakdown
    assert b.compute[0] == 390
    assert b.overlapped_comm[0] == 50
    assert b.exposed_comm[0] == 170
    assert b.compute[0] + b.exposed_comm[0] + b.exposed_copy[0] + b.idle[0] == 1000


def test_a_range_around_the_optimizer_alone_is_no_step(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.domain(1, "NCCL")
    for i in range(4):
        training_step(b, 1000 * i)
        b.range(f"optimizer step {i}", 1000 * i + 490, 1000 * i + 650)
    r = tracelens.analyze(b.write(tmp_path / "r.sqlite")).ranks[0]
    assert r.step_source == "optimizer kernels"


def whole_process(b: NsysBuilder) -> int:
    """Initialisation, then six steps of which the first takes ten times as long; returns when."""
    b.domain(1, "NCCL")
    for i in range(40):
        b.nccl("ncclBroadcast", "ncclDevKernel_Broadcast_RING_LL(x)", 100 * i, 100 * i + 50)
    begin = 10_000
    training_step(b, begin)
    for i in range(5):
        training_step(b, begin + 10_000 + 1000 * i)
    return begin


def test_a_whole_process_is_cut_down_to_steady_steps(tmp_path: Path) -> None:
    b = NsysBuilder()
    whole_process(b)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    r = a.ranks[0]
    assert r.step_source == "optimizer kernels"
    assert r.steps.complete.tolist()[0] is False
    assert a.summary.wall == pytest.approx(1000, rel=0.05)
    assert "warm_up" in {n.code for n in a.notes}


@pytest.mark.parametrize("domain", [0, 5])
def test_engine_ranges_tell_steps_passes_and_framework(tmp_path: Path, domain: int) -> None:
    b = NsysBuilder()
    begin = whole_process(b)
    b.domain(5, "DeepSpeed")
    for at in (begin, *(begin + 10_000 + 1000 * i for i in range(5))):
        engine_ranges(b, at, domain=domain)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    r, setup = a.ranks[0], a.setup
    assert r.step_source == "forward ranges"
    assert len(r.passes) == 6
    assert setup.value("framework") == "deepspeed"
    assert setup["zero_stage"].candidates == (1, 2)
    assert setup.value("zero_stage") is None
    assert setup.value("overlap_comm") is True
    assert setup.value("gradient_accumulation_steps") == 1
    phases = {(c.kind, c.phase, c.dtype) for c in a.collective_rows}
    assert ("all_reduce", "backward", "bf16") in phases
    assert ("all_gather", "step", None) in phases


def accumulated(b: NsysBuilder, at: int, *, every: bool) -> None:
    """Two micro-steps; gradients reduced in both (ZeRO-2) or in the last one (ZeRO-1)."""
    for micro in range(2):
        t = at + 400 * micro
        b.range("DeepSpeedEngine.forward", t + 5, t + 100)
        b.kernel("nvjet_fwd", t + 10, t + 90)
        b.range("DeepSpeedEngine.backward", t + 110, t + 300)
        b.kernel("nvjet_bwd", t + 120, t + 250)
        if every or micro:
            b.range("DeepSpeedEngine.allreduce_gradients", t + 200, t + 290)
            b.nccl("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", t + 210, t + 260)
    b.nccl("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_u8_RING_LL(x)", at + 810, at + 820,
           stream=7)  # fmt: skip
    b.kernel("multi_tensor_adam", at + 830, at + 850)
    b.nccl("ncclAllGather", "ncclDevKernel_AllGather_RING_LL(x)", at + 860, at + 890, stream=7)


@pytest.mark.parametrize(("every", "stage"), [(True, 2), (False, 1)])
def test_accumulation_tells_stage_one_from_two(tmp_path: Path, every: bool, stage: int) -> None:
    b = NsysBuilder()
    b.domain(1, "NCCL")
    for i in range(4):
        accumulated(b, 1000 * i, every=every)
        b.range(f"iteration {i}", 1000 * i, 1000 * i + 900)
    setup = tracelens.analyze(b.write(tmp_path / "r.sqlite")).setup
    assert setup.value("gradient_accumulation_steps") == 2
    assert setup.value("zero_stage") == stage


def test_micro_steps_of_the_engine_are_no_steps(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.domain(1, "NCCL")
    for i in range(6):
        accumulated(b, 1000 * i, every=True)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    assert a.ranks[0].step_source == "forward ranges"
    assert len(a.ranks[0].steps) == 6
    assert a.setup.value("gradient_accumulation_steps") == 2


def test_a_range_that_outlives_its_parent_confuses_nothing(tmp_path: Path) -> None:
    """Clocks of pops may be odd: what follows belongs to nobody."""
    b = NsysBuilder()
    b.range("parent", 10, 50)
    b.range("child", 20, 60)
    for at in (30, 70, 90):
        b.kernel("k(int)", at, at + 1)
    b.range("later", 80, 100)
    seen = pipeline.look(open_trace(b.write(tmp_path / "r.sqlite")))
    s = seen.trace.slices
    parents = [seen.trace.strings[s.name[i]] if i >= 0 else None for i in seen.work.parent]
    assert parents == ["child", None, "later"]


def test_stage_three_by_its_own_ranges(tmp_path: Path) -> None:
    b = steps_of(tmp_path / "r.sqlite")
    for i in range(5):
        engine_ranges(b, 1000 * i)
        b.range("DeepSpeedZeroOptimizer_Stage3.step", 1000 * i + 450, 1000 * i + 820)
    (tmp_path / "r.sqlite").unlink()
    setup = tracelens.analyze(b.write(tmp_path / "r.sqlite")).setup
    assert setup.value("zero_stage") == 3


# --------------------------------------------------------------------------------------- what lacks
def test_graphs_hide_and_are_said_to(tmp_path: Path) -> None:
    b = steps_of(tmp_path / "x.sqlite")
    for i in range(5):
        b.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=1000 * i + 820, end=1000 * i + 950,
              deviceId=0, streamId=7, correlationId=5000 + i, globalPid=b.pid(10))  # fmt: skip
        b._correlation = 5000 + i
        b.call("cudaGraphLaunch_v10000", 1000 * i + 815, 1000 * i + 818)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    assert "hidden_in_graph" in {n.code for n in a.notes}
    assert a.ranks[0].breakdown.compute[0] == 390 + 130  # busy, with what nobody knows
    for key in ("pipeline_parallel_size", "expert_parallel_size", "tensor_parallel_size"):
        assert a.setup.value(key) is None, key
        assert a.setup["pipeline_parallel_size"].evidence


def test_steps_that_are_all_graphs(tmp_path: Path) -> None:
    """Nothing but graphs: steps by the user's ranges, and no word that ranks do not communicate."""
    b = NsysBuilder()
    for i in range(5):
        at = 1000 * i
        b.range(f"step {i}", at, at + 900)
        b._correlation += 1
        b.add("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", start=at + 100, end=at + 800, deviceId=0,
              streamId=7, correlationId=b._correlation, globalPid=b.pid(10))  # fmt: skip
        b.call("cudaGraphLaunch_v10000", at + 50, at + 60)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    assert a.ranks[0].step_source == "NVTX ranges"
    assert len(a.ranks[0].steps) == 5
    report = a.report()
    assert "hidden in 5 CUDA graphs" in " ".join(report.replace("│", " ").split())
    assert "No communication" not in report


def test_a_window_without_a_step_proves_no_absence(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.range("aten::mm, seq = 3, op_id = 1", 0, 9)
    b.kernel("sm80_gemm_f32(x)", 10, 90, launched=2)
    setup = tracelens.analyze(b.write(tmp_path / "r.sqlite")).setup
    for key in ("mode", "precision", "expert_parallel_size", "gradient_accumulation_steps"):
        assert setup.value(key) is None, key


def test_no_gpu_work_is_said(tmp_path: Path) -> None:
    b = NsysBuilder()
    b.range("load data", 10, 500)
    trace = open_trace(b.write(tmp_path / "r.sqlite"))
    assert rows(trace, Kind.ANNOTATION) == [("load data", 10, 500)]
    assert "No GPU work" in notes(trace)["no_gpu_work"]
    assert tracelens.analyze(tmp_path / "r.sqlite").summary.compute == 0


@pytest.mark.parametrize("table", ["CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"])
def test_a_missing_table_is_said(tmp_path: Path, table: str) -> None:
    b = steps_of(tmp_path / "x.sqlite")
    path = b.write(tmp_path / "r.sqlite", without=[table])
    assert "missing_table" in notes(open_trace(path))
    a = tracelens.analyze(path)
    assert sum(r.comm.kind.size for r in a.ranks) == 5 * 4  # no GPU event is lost


def test_kernels_of_no_known_process_are_not_lost(tmp_path: Path) -> None:
    """Exports that other tools have thinned out may lack the process's column."""
    path = tmp_path / "r.sqlite"
    b = steps_of(tmp_path / "x.sqlite", 3)
    b.columns["CUPTI_ACTIVITY_KIND_KERNEL"].remove("globalPid")
    a = tracelens.analyze(b.write(path))
    assert len(a.ranks) == 1
    assert a.ranks[0].comm.kind.size == 3 * 4
    assert a.ranks[0].step_source == "NVTX ranges"


def test_a_newer_schema_is_read_and_said(tmp_path: Path) -> None:
    b = steps_of(tmp_path / "r.sqlite", 3, schema=(4, 2, 0))
    assert b.schema == (4, 2, 0)
    a = tracelens.analyze(tmp_path / "r.sqlite")
    assert "newer_schema" in {n.code for n in a.notes}
    assert len(a.ranks[0].steps) == 3


def test_a_table_of_a_later_format_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    steps_of(path, 3)
    con = sqlite3.connect(path)
    con.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL RENAME TO CUPTI_ACTIVITY_KIND_KERNEL_V2")
    con.commit()
    con.close()
    assert len(rows(open_trace(path), Kind.KERNEL)) == 3 * 7


def test_columns_that_users_add_do_not_matter(tmp_path: Path) -> None:
    """NVIDIA documents ALTER TABLE recipes: rows are then shorter than the table is wide."""
    path = tmp_path / "r.sqlite"
    steps_of(path, 3)
    before = open_trace(path)
    con = sqlite3.connect(path)
    con.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL ADD COLUMN kernel_name TEXT")
    con.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET kernel_name = 'long' || hex(zeroblob(99)) "
                "WHERE rowid % 2")  # fmt: skip
    con.commit()
    con.close()
    assert rows(open_trace(path), Kind.KERNEL) == rows(before, Kind.KERNEL)


def test_a_cut_database_gives_what_is_left_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    steps_of(path, 400)
    whole = len(rows(open_trace(path), Kind.KERNEL))
    data = path.read_bytes()
    ends = set()
    for share in (0.05, 0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            trace = open_trace(path)
        except CorruptTrace as e:
            assert e.hint  # noqa: PT017
            ends.add("error")
            continue
        assert len(rows(trace, Kind.KERNEL)) <= whole
        assert trace.info.truncated
        assert "damaged_table" in notes(trace)
        ends.add("note")
    assert "note" in ends


@pytest.mark.parametrize("column", ["name", "rootpage"])
def test_a_table_of_contents_with_bytes_in_it(tmp_path: Path, column: str) -> None:
    path = tmp_path / "r.sqlite"
    steps_of(path, 3)
    con = sqlite3.connect(path)
    con.execute("PRAGMA writable_schema = ON")
    con.execute(
        f"UPDATE sqlite_master SET {column} = CAST({column} AS BLOB) WHERE name = 'NVTX_EVENTS'"
    )
    con.commit()
    con.close()
    trace = open_trace(path)
    assert len(rows(trace, Kind.KERNEL)) == 3 * 7
    assert "damaged_table" in notes(trace)


def test_tables_whose_pages_have_many_parents_stay_small(tmp_path: Path) -> None:
    """Three levels that each name one page a hundred times are a million times its rows."""
    path = tmp_path / "r.sqlite"
    b = NsysBuilder()
    for i in range(4000):
        b.kernel("k", 10 * i, 10 * i + 5)
    b.write(path)
    con = sqlite3.connect(path)
    sql = "SELECT rootpage FROM sqlite_master WHERE name = 'CUPTI_ACTIVITY_KIND_KERNEL'"
    root, size = con.execute(sql).fetchone()[0], con.execute("PRAGMA page_size").fetchone()[0]
    con.close()
    raw = bytearray(path.read_bytes())
    page = memoryview(raw)[size * (root - 1) : size * root]
    count = int.from_bytes(page[3:5], "big")
    assert (page[0], count > 50) == (5, True)
    for i in range(count):
        at = int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big")
        page[at : at + 4] = page[8:12]
    path.write_bytes(raw)
    trace = open_trace(path)
    assert len(trace.slices) < path.stat().st_size // 4
    assert "damaged_table" in notes(trace) or len(rows(trace, Kind.KERNEL)) <= 4000


def test_other_databases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    con = sqlite3.connect(path)
    con.execute("CREATE TABLE runs (id INTEGER)")
    con.commit()
    con.close()
    with pytest.raises(UnsupportedFormat, match="no Nsight Systems export") as caught:
        open_trace(path)
    assert "nsys export" in str(caught.value.hint)


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    steps_of(tmp_path / "r.sqlite", 3)
    with pytest.raises(UsageError):
        open_trace(tmp_path / "r.sqlite", part="1/1")


# ------------------------------------------------------------------------------------------ reports
def report(path: Path) -> Path:
    path.write_bytes(b"NVIDIA Tegra Profiler Report 2025@3@1@90-1\n\x00" + bytes(500) + b"[END]")
    return path


def test_a_report_without_nsys_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = report(tmp_path / "ds.nsys-rep")
    with pytest.raises(UnsupportedFormat, match="not on PATH") as caught:
        open_trace(path)
    line = f"nsys export --type sqlite --include-json=true -o {tmp_path / 'ds.sqlite'} {path}"
    assert line in str(caught.value)
    with pytest.raises(errors.InputError) as caught_all:
        tracelens.analyze(path)
    assert line in str(caught_all.value)


def test_a_report_is_exported_by_nsys_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nsys copies a prepared export to where it is told to."""
    steps_of(tmp_path / "made.sqlite", 3)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "nsys").write_text(
        f'#!/bin/sh\necho x >> "{tmp_path}/calls"\n'
        f'[ "$1 $2 $3" = "export --type sqlite" ] && cp "{tmp_path}/made.sqlite" "$6"\n'
    )
    (programs / "nsys").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    folder = tmp_path / "run"
    folder.mkdir()
    path = report(folder / "ds.nsys-rep")
    a = tracelens.analyze(folder)
    assert len(a.ranks[0].steps) == 3
    assert a.run.paths == (str(path),)
    assert (tmp_path / "calls").read_text() == "x\n"
    assert [p.name for p in folder.iterdir()] == ["ds.nsys-rep"]


def test_a_report_beside_its_export_is_not_exported(tmp_path: Path) -> None:
    report(tmp_path / "ds.nsys-rep")
    steps_of(tmp_path / "ds.sqlite", 3)
    assert [f.path.name for f in discover([tmp_path]).files] == ["ds.sqlite"]


def test_a_failing_export_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nsys").write_text("#!/bin/sh\necho 'wrong version' >&2\nexit 3\n")
    (tmp_path / "nsys").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(errors.InputError, match="code 3: wrong version"):
        export.plain(report(tmp_path / "x.nsys-rep"))


def test_sniffing_is_by_content(tmp_path: Path) -> None:
    steps_of(tmp_path / "r.trace", 3)
    assert nsys.sniff((tmp_path / "r.trace").read_bytes()[:64])
    assert len(open_trace(tmp_path / "r.trace").slices)


def test_two_recordings_of_a_job_are_not_one_run(tmp_path: Path) -> None:
    """A torch.profiler trace beside an export: the export is left out, and that is said."""
    trace = TraceBuilder()
    trace.cpu_op("aten::mm", ts=1, dur=2)
    trace.write(tmp_path / "rank0.json")
    steps_of(tmp_path / "node.sqlite", 3)
    plan = discover([tmp_path])
    assert [f.path.name for f in plan.files] == ["rank0.json"]
    assert "mixed_formats" in {n.code for n in plan.notes}


def test_a_communicator_with_unread_ranks_tells_no_waits(tmp_path: Path) -> None:
    """Four ranks share it and two are read: a later third would not be seen."""
    b = NsysBuilder()
    for pid in (20, 21):
        b.domain(1, "NCCL", pid=pid)
        init = {"NCCL communicator ID": COMM, "No. of ranks": 4, "Rank": pid - 20}
        b.range("ncclCommInitRank", 0, 5, pid=pid, domain=1, payload=init)
        for i in range(3):
            at = 1000 * (i + 1)
            b.range(f"step {i}", at, at + 900, pid=pid)
            b.kernel("nvjet_gemm", at + 10, at + 100, pid=pid, device=pid - 20)
            b.nccl("ncclAllReduce", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", at + 200,
                   at + 300, pid=pid, device=pid - 20,
                   payload={"NCCL communicator ID": COMM, "Message size [bytes]": 1 << 20},
                   )  # fmt: skip
    a = tracelens.analyze(b.write(tmp_path / "node.sqlite"))
    assert a.run.world_size == 4
    assert "missing_ranks" in {n.code for n in a.notes}
    assert [w.tolist() for w in a.matches.wait_ns] == [[-1, -1, -1]] * 2
    assert a.setup.value("data_parallel_size") in (4, None)


def test_backward_passes_by_torch_s_own_threads(tmp_path: Path) -> None:
    """Without any named pass: what pt_autograd_0 launches is the backward pass."""
    b = NsysBuilder()
    b.domain(1, "NCCL")
    b.add("ThreadNames", nameId=b.string("pt_autograd_0"), globalTid=b.tid(10, 2))
    for i in range(4):
        at = 1000 * i
        for micro in (0, 300):
            b.kernel("nvjet_fwd", at + micro + 10, at + micro + 90)
            b.kernel("nvjet_bwd", at + micro + 120, at + micro + 200, thread=2)
        b.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", at + 510, at + 600, stream=9,
                 thread=2)  # fmt: skip
        b.kernel("multi_tensor_adam", at + 650, at + 700)
        b.range(f"step {i}", at, at + 900)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    assert a.setup.value("gradient_accumulation_steps") == 2
    assert [(c.kind, c.phase) for c in a.collective_rows] == [("all_reduce", "backward")]


def test_what_the_main_thread_reduces_after_a_pass_is_no_activation(tmp_path: Path) -> None:
    """ZeRO-2's last bucket: launched when the engine's thread is done, before the next forward."""
    b = NsysBuilder()
    b.add("ThreadNames", nameId=b.string("pt_autograd_0"), globalTid=b.tid(10, 2))
    for i in range(4):
        at = 1000 * i
        for micro in (0, 300):
            b.kernel("nvjet_fwd", at + micro + 10, at + micro + 90)
            b.kernel("nvjet_bwd", at + micro + 120, at + micro + 200, thread=2)
            b.kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", at + micro + 210,
                     at + micro + 280, stream=9)  # fmt: skip
        b.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(x)", at + 600, at + 610)
        b.kernel("multi_tensor_adam", at + 650, at + 700)
        b.kernel("ncclDevKernel_AllGather_RING_LL(x)", at + 750, at + 800)
        b.range(f"step {i}", at, at + 900)
    a = tracelens.analyze(b.write(tmp_path / "r.sqlite"))
    found = {(c.kind, c.phase, c.dtype): c.count_per_step for c in a.collective_rows}
    assert found == {
        ("all_reduce", "backward", "bf16"): 2,
        ("all_reduce", "step", "fp32"): 1,
        ("all_gather", "step", None): 1,
    }
    assert a.setup.value("tensor_parallel_size") == 1
    assert a.setup.value("gradient_accumulation_steps") == 2
