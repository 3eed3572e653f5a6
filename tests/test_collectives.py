"""The table of communication and its summary, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder import BACKWARD_TID, TraceBuilder

from tracelens.classify import Op
from tracelens.collectives import CollectiveSummary, CommTable, collect, summarize
from tracelens.ingest import open_trace
from tracelens.links import link
from tracelens.phases import find_phases
from tracelens.sizes import normal_dtype
from tracelens.steps import find_steps


def table_of(built: TraceBuilder, folder: Path) -> CommTable:
    trace = open_trace(built.write(folder / "trace.json"))
    work = link(trace)
    found = find_steps(trace, work)
    return collect(trace, work, found, find_phases(trace, work, found))


def kernel_table(name: str, folder: Path, **args: Any) -> tuple[str | None, int]:
    """Type and bytes of one kernel's communication."""
    table = table_of(TraceBuilder().kernel(name, 0, 10, args=args or None), folder)
    known = table.dtypes[table.dtype[0]] if table.dtype[0] >= 0 else None
    return known, int(table.bytes[0])


def test_exposed_time_is_what_no_compute_kernel_covers(tmp_path: Path) -> None:
    built = TraceBuilder().kernel("gemm", 100, 100).kernel("add_kernel", 180, 40, stream=8)
    built.nccl("all_reduce", ts=50, dur=100, nelems=8)  # 50 before the gemm
    built.nccl("all_gather", ts=150, dur=100, nelems=8, stream=21)  # 30 after both
    built.nccl("all_reduce", ts=240, dur=40, nelems=8)  # other communication covers nothing
    built.nccl("all_reduce", ts=300, dur=10, nelems=8).memcpy("DtoH", 300, 10, stream=9)
    built.nccl("all_reduce", ts=120, dur=30, nelems=8, stream=22)
    table = table_of(built, tmp_path)
    assert (table.start_ns // 1000).tolist() == [50, 120, 150, 240, 300]
    assert (table.exposed_ns // 1000).tolist() == [50, 0, 30, 40, 10]
    assert (table.dur_ns // 1000).tolist() == [100, 30, 100, 40, 10]


@pytest.mark.parametrize(
    ("op", "nelems", "out", "dtype", "nbytes"),
    [
        ("all_reduce", 1000, 1000, "BFloat16", 2000),
        ("all_gather", 250, 1000, "Float", 4000),  # the larger side, as nccl-tests counts
        ("reduce_scatter", 1000, 250, "Half", 2000),
        ("all_to_all", 300, 300, "Byte", 300),
        ("all_reduce", 10, 10, "Long", 80),
        ("send", 10, 0, "Double", 80),
    ],
)
def test_bytes_are_those_of_the_larger_side(
    op: str, nelems: int, out: int, dtype: str, nbytes: int, tmp_path: Path
) -> None:
    built = TraceBuilder(world_size=4).nccl(
        op, ts=0, dur=1, nelems=nelems, out_nelems=out, dtype=dtype
    )
    table = table_of(built, tmp_path)
    assert (table.in_nelems[0], table.out_nelems[0], table.bytes[0]) == (nelems, out, nbytes)
    assert table.groups[table.group[0]].size == 4


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", "bf16"),
        ("ncclDevKernel_AllReduce_Sum_u8_RING_LL(x)", "u8"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL(x)", "fp32"),
        ("ncclDevKernel_AllReduce_Sum_f64_TREE_LL(x)", "fp64"),
        ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*)", "fp32"),
        ("ncclKernel_AllReduce_RING_LL_Sum___nv_bfloat16(ncclDevComm*)", "bf16"),
        ("ncclKernel_ReduceScatter_RING_LL_Sum_half(ncclDevComm*)", "fp16"),
        # these only move bytes and say int8 whatever they carry, or nothing
        ("ncclDevKernel_AllGather_RING_LL(x)", None),
        ("ncclKernel_AllGather_RING_LL128_Sum_int8_t(x)", None),
        ("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(x)", None),
        ("ncclKernel_Broadcast_RING_LL_Sum_int8_t(x)", None),
        ("rccl_main_kernel(x)", None),
    ],
)
def test_the_type_in_a_kernel_s_name(name: str, dtype: str | None, tmp_path: Path) -> None:
    assert kernel_table(name, tmp_path) == (dtype, -1)


def test_the_recorded_type_beats_the_kernel_s(tmp_path: Path) -> None:
    args = {"Collective name": "_allgather_base", "In msg nelems": 5, "Out msg nelems": 10}
    name = "ncclKernel_AllGather_RING_LL128_Sum_int8_t(x)"
    assert kernel_table(name, tmp_path, **args, dtype="Float") == ("fp32", 40)
    assert kernel_table(name, tmp_path, **args, dtype="Mystery") == (None, -1)


def test_types_that_nobody_knows_have_no_size() -> None:
    assert normal_dtype("Float8_e4m3fn") == ("f8", 1)
    assert normal_dtype("ComplexFloat") == ("", 0)


def test_a_copy_between_two_gpus_has_its_bytes(tmp_path: Path) -> None:
    built = TraceBuilder().memcpy("PtoP", 0, 10, nbytes=4096).memcpy("DtoD", 20, 10, nbytes=7)
    table = table_of(built, tmp_path)
    assert table.kind.tolist() == [Op.P2P]
    assert table.bytes.tolist() == [4096]


@pytest.mark.parametrize(
    ("call", "kernel", "sizes"),
    [
        ("nccl:all_reduce", "AllReduce_RING_LL_Sum_float", (600, 600, 2400)),
        ("nccl:_reduce_scatter_base", "ReduceScatter_RING_LL_Sum_float", (600, -1, 2400)),
        # the output is larger than what the range shows, by a group size that nothing tells
        ("nccl:_all_gather_base", "AllGather_RING_LL_Sum_int8_t", (-1, -1, -1)),
    ],
)
def test_sizes_before_torch_2_3_are_those_of_the_range(
    call: str, kernel: str, sizes: tuple[int, int, int], tmp_path: Path
) -> None:
    built = TraceBuilder().cpu_op(call, ts=0, dur=10, dims=[[20, 30]], types=["float"])
    built.launch(1, ts=5).kernel(f"ncclKernel_{kernel}(x)", 20, 5, corr=1)
    table = table_of(built, tmp_path)
    assert (table.in_nelems[0], table.out_nelems[0], table.bytes[0]) == sizes


def test_where_a_collective_was_launched(tmp_path: Path) -> None:
    node = "autograd::engine::evaluate_function: "
    accumulate = "torch::autograd::AccumulateGrad"
    built = TraceBuilder()
    built.cpu_op(node + "MmBackward0", ts=0, dur=10, tid=BACKWARD_TID).launch(1, ts=5)
    built.cpu_op(node + accumulate, ts=20, dur=20, tid=BACKWARD_TID)
    built.cpu_op(accumulate, ts=22, dur=8, tid=BACKWARD_TID).launch(2, ts=25).launch(3, ts=35)
    built.cpu_op("c10d::allreduce_", ts=24, dur=3).launch(4, ts=26)  # another thread, meanwhile
    for corr in (1, 2, 3, 4):
        built.kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(x)", 100 + corr, 1, corr=corr)
    table = table_of(built, tmp_path)
    places = zip(table.in_node, table.in_accumulate, strict=True)
    assert [tuple(map(int, p)) for p in places] == [(1, 0), (1, 1), (1, 1), (0, 0)]


def two_steps(rank: int, us: float) -> TraceBuilder:
    """Per step a gradient reduction of `us`, half of it under a gemm, and one gather of 4 us."""
    built = TraceBuilder(rank, 2)
    for k in range(3):
        at = 1000 * k
        built.step(k, at, 1000).launch(10 * k + 1, ts=at + 1).launch(10 * k + 2, ts=at + 2)
        built.launch(10 * k + 3, ts=at + 3)
        built.kernel("gemm", at + 100, us / 2, corr=10 * k + 1)
        built.nccl("all_reduce", ts=at + 100, dur=us, nelems=1000, corr=10 * k + 2)
        built.nccl("all_gather", ts=at + 500, dur=4, nelems=10, out_nelems=20, corr=10 * k + 3)
    return built


def test_summary_is_the_mean_over_whole_steps_and_ranks(tmp_path: Path) -> None:
    tables = [table_of(two_steps(rank, us), tmp_path) for rank, us in ((0, 100.0), (1, 60.0))]
    whole = [np.array([False, True, True]), np.array([True, False, False])]
    reduce, gather = summarize(tables, whole)
    common = {"phase": None, "group": "default_pg", "group_size": 2, "dtype": "bf16"}
    # three steps count: two of 100 us on rank 0, one of 60 us on rank 1
    total = (100 + 100 + 60) * 1000 / 3
    assert reduce == CollectiveSummary(
        kind="all_reduce", **common, count_per_step=1.0, bytes_per_step=2000.0,
        total_ns=total, exposed_ns=total / 2,
    )  # fmt: skip
    assert gather == CollectiveSummary(
        kind="all_gather", **common, count_per_step=1.0, bytes_per_step=40.0,
        total_ns=4000.0, exposed_ns=4000.0,
    )  # fmt: skip


def test_summary_does_not_mix_groups_or_types(tmp_path: Path) -> None:
    built = TraceBuilder(world_size=4).step(1, 0, 1000)
    for i, (dtype, ranks) in enumerate(
        [("BFloat16", "[0, 1]"), ("BFloat16", "[0, 1]"), ("Float", "[0, 1]"), ("Float", "[0, 2]")]
    ):
        args = {"Process Group Ranks": ranks, "Process Group Name": ranks, "Group size": 2}
        built.launch(i + 1, ts=10 + i).nccl(
            "all_reduce", ts=100 + 10 * i, dur=5, nelems=8, dtype=dtype, corr=i + 1,
            **args | {"Process Group Description": ranks},
        )  # fmt: skip
    rows = summarize([table_of(built, tmp_path)], [np.array([True])])
    assert sorted((r.group, r.dtype, r.count_per_step) for r in rows) == [
        ("[0, 1]", "bf16", 2.0), ("[0, 1]", "fp32", 1.0), ("[0, 2]", "fp32", 1.0),
    ]  # fmt: skip


def test_a_sum_of_bytes_with_an_unknown_part_is_unknown(tmp_path: Path) -> None:
    built = TraceBuilder().step(1, 0, 1000)
    for i in (1, 2):
        built.launch(i, ts=10 * i).kernel("ncclDevKernel_AllGather_RING_LL(x)", 90 + i, 1, corr=i)
    (row,) = summarize([table_of(built, tmp_path)], [np.array([True])])
    assert (row.count_per_step, row.bytes_per_step, row.dtype) == (2.0, None, None)


def test_without_whole_steps_there_is_nothing_to_sum(tmp_path: Path) -> None:
    assert summarize([table_of(two_steps(0, 10), tmp_path)], [np.zeros(3, bool)]) == ()
