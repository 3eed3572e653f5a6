"""Who caused what: small traces and the links that must, or must not, be found in them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from builder import TraceBuilder

from tracelens.classify import Op
from tracelens.ingest import open_trace
from tracelens.links import GpuWork, link, lookup
from tracelens.trace import Trace

GROUP = {"Collective name": "allreduce", "In msg nelems": 64, "Out msg nelems": 64, "dtype": "Half"}
SEND_RECV = "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)"


class Linked(NamedTuple):
    """A trace and its GPU work."""

    trace: Trace
    work: GpuWork

    def parents(self) -> list[str | None]:
        """Names of the causing host ops."""
        s, t = self.trace.slices, self.trace
        return [t.strings[s.name[p]] if p >= 0 else None for p in self.work.parent]

    def ops(self) -> list[Op]:
        """Meanings."""
        return [Op(o) for o in self.work.op]

    def calls(self) -> list[str | None]:
        """Recorded names of the collectives."""
        c, t = self.trace.collectives, self.trace
        return [t.strings[c.call[i]] if i >= 0 else None for i in self.work.call]


def linked(built: TraceBuilder, folder: Path) -> Linked:
    trace = open_trace(built.write(folder / "trace.json"))
    return Linked(trace, link(trace))


def test_work_knows_the_call_that_launched_it(tmp_path: Path) -> None:
    found = linked(
        TraceBuilder()
        .cpu_op("aten::mm", ts=10, dur=5, ext=3)
        .launch(71, ts=11)
        .launch(72, ts=13)
        .kernel("gemm", 40, 5, corr=72)  # the later launch ran first
        .kernel("copy_kernel", 50, 5, corr=71),
        tmp_path,
    )
    assert found.work.start_ns.tolist() == [40_000, 50_000]
    assert found.work.launch_ns.tolist() == [13_000, 11_000]


def test_work_without_a_launch_stays(tmp_path: Path) -> None:
    built = TraceBuilder().kernel("gemm", 5, 10).kernel("gemm", 20, 10, corr=9)
    found = linked(built.memset(40, 1).memcpy("DtoH", 50, 1), tmp_path)
    assert found.ops() == [Op.GEMM, Op.GEMM, Op.MEMSET, Op.COPY_D2H]
    assert found.work.launch.tolist() == found.work.launch_ns.tolist() == [-1] * 4


def test_the_parent_is_the_op_of_the_same_external_id(tmp_path: Path) -> None:
    found = linked(
        TraceBuilder()
        .cpu_op("aten::mm", ts=10, dur=5, ext=3)
        .launch(71)
        .cpu_op("aten::add", ts=20, dur=5, ext=4)
        .launch(72, ext=4)
        .cpu_op("aten::mul", ts=30, dur=5, ext=5)
        .launch(73)
        .kernel("gemm", 40, 5, corr=71, ext=3)  # its own id
        .kernel("add_kernel", 50, 5, corr=72)  # its launch's id
        .kernel("mul_kernel", 60, 5, corr=73),  # none
        tmp_path,
    )
    assert found.parents() == ["aten::mm", "aten::add", None]


def test_an_external_id_that_is_the_correlation_matches_nothing(tmp_path: Path) -> None:
    """Kineto before 2023: the ids of unrelated ops are in the same range."""
    built = TraceBuilder()
    for i in (1, 2, 3):
        built.cpu_op(f"unrelated{i}", ts=10 * i, dur=5, ext=i).launch(i, ts=10 * i + 1)
        built.kernel("gemm", 100 + 10 * i, 5, corr=i, ext=i)
    found = linked(built, tmp_path)
    assert found.parents() == [None] * 3
    assert (found.work.launch >= 0).all(), "correlations still join"


def test_the_arguments_of_a_collective_are_its_own_or_its_record_s(tmp_path: Path) -> None:
    found = linked(
        TraceBuilder(world_size=2)
        .nccl("all_reduce", ts=50, dur=5, nelems=8, host_ts=10, corr=1, ext=11)
        .cpu_op("record_param_comms", ts=20, dur=5, ext=12, args=GROUP | {"In msg nelems": 16})
        .launch(2, ext=12)
        .kernel("ncclDevKernel_AllReduce_Sum_f16_RING_LL(x)", 60, 5, corr=2, ext=12)
        .kernel("ncclDevKernel_AllReduce_Sum_f16_RING_LL(x)", 70, 5, corr=3),
        tmp_path,
    )
    c = found.trace.collectives
    sizes = [int(c.in_nelems[i]) if i >= 0 else None for i in found.work.call]
    assert sizes == [8, 16, None]
    assert found.ops() == [Op.ALL_REDUCE] * 3


@pytest.mark.parametrize(
    ("call", "op"),
    [("all_to_allv", Op.ALL_TO_ALL), ("send", Op.P2P), ("recv", Op.P2P), ("gather", Op.COMM_OTHER)],
)
def test_the_recorded_call_tells_what_a_send_recv_kernel_is(
    call: str, op: Op, tmp_path: Path
) -> None:
    args = GROUP | {"Collective name": call}
    assert linked(TraceBuilder().kernel(SEND_RECV, 10, 5, args=args), tmp_path).ops() == [op]


def test_a_reduce_scatter_of_uneven_parts_is_what_was_called(tmp_path: Path) -> None:
    name = "ncclDevKernel_Reduce_Sum_bf16_RING_LL(x)"
    args = GROUP | {"Collective name": "reduce_scatter"}
    found = linked(TraceBuilder().kernel(name, 10, 5, args=args), tmp_path)
    assert found.ops() == [Op.REDUCE_SCATTER]


def test_before_torch_2_3_the_range_around_the_launch_tells(tmp_path: Path) -> None:
    built = TraceBuilder()
    for i, name in enumerate(("nccl:all_to_all", "nccl:send 0->1", "nccl:recv 0<-1", "my range")):
        built.annotation(name, ts=10 * i, dur=8).launch(i + 1, ts=10 * i + 2)
        built.kernel("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(x)", 100 + 10 * i, 5, corr=i + 1)
    built.launch(9, ts=9).kernel(SEND_RECV, 200, 5, corr=9)  # between two ranges
    found = linked(built, tmp_path)
    assert found.ops() == [
        Op.ALL_TO_ALL, Op.P2P, Op.P2P, Op.P2P_OR_ALL_TO_ALL, Op.P2P_OR_ALL_TO_ALL,
    ]  # fmt: skip
    assert (found.work.span >= 0).tolist() == [True, True, True, False, False]


def test_a_range_on_another_thread_tells_nothing(tmp_path: Path) -> None:
    built = TraceBuilder().annotation("nccl:all_to_all", ts=0, dur=50, tid=5)
    built.launch(1, ts=10, tid=6).kernel(SEND_RECV, 100, 5, corr=1)
    assert linked(built, tmp_path).ops() == [Op.P2P_OR_ALL_TO_ALL]


@pytest.mark.parametrize(
    ("recorded", "op"),
    [
        (["send", "recv"], Op.P2P),
        (["all_to_allv"], Op.ALL_TO_ALL),
        (["send", "all_to_allv"], Op.P2P_OR_ALL_TO_ALL),
        (["allreduce"], Op.P2P_OR_ALL_TO_ALL),
    ],
)
def test_a_batch_without_arguments_is_what_alone_was_recorded(
    recorded: list[str], op: Op, tmp_path: Path
) -> None:
    built = TraceBuilder()
    for i, call in enumerate(recorded):
        args = GROUP | {"Collective name": call}
        built.cpu_op("record_param_comms", ts=10 * i, dur=5, ext=20 + i, args=args)
    assert linked(built.kernel(SEND_RECV, 100, 5), tmp_path).ops() == [op]


def test_a_coalesced_all_gather_is_no_send(tmp_path: Path) -> None:
    args = GROUP | {"Collective name": "coalesced"}
    built = TraceBuilder().kernel("ncclDevKernel_AllGather_RING_LL(x)", 10, 5, args=args)
    assert linked(built, tmp_path).ops() == [Op.ALL_GATHER]


def test_copies_around_a_collective_stay_copies(tmp_path: Path) -> None:
    found = linked(
        TraceBuilder()
        .cpu_op("record_param_comms", ts=10, dur=20, ext=7, args=GROUP)
        .launch(1, ts=11, ext=7)
        .launch(2, ts=14, ext=7)
        .memcpy("DtoD", 40, 5, corr=1)
        .kernel("void at::native::copy_kernel()", 50, 5, corr=2, ext=7),
        tmp_path,
    )
    assert found.ops() == [Op.COPY_D2D, Op.ELEMENTWISE]
    assert not found.work.comm.any()


def test_what_an_optimizer_launches_is_optimizer_work_unless_it_communicates(
    tmp_path: Path,
) -> None:
    found = linked(
        TraceBuilder()
        .annotation("Optimizer.step#AdamW.step", ts=10, dur=20)
        .launch(1, ts=11)
        .launch(2, ts=15)
        .launch(3, ts=30)  # the range has just ended
        .kernel("void at::native::vectorized_elementwise_kernel<4>()", 40, 5, corr=1)
        .kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(x)", 50, 5, corr=2)
        .kernel("void at::native::vectorized_elementwise_kernel<4>()", 60, 5, corr=3),
        tmp_path,
    )
    assert found.ops() == [Op.OPTIMIZER, Op.ALL_REDUCE, Op.ELEMENTWISE]


def test_ids_that_are_not_there_join_nothing() -> None:
    none = np.array([0, -1, 0])
    assert lookup(none, np.array([4, 5, 6]), np.array([0, -1])).tolist() == [-1, -1]
    assert lookup(np.array([7, 7]), np.array([1, 2]), np.array([7, 8])).tolist() == [1, -1]


def test_a_trace_without_gpu_work_links_to_nothing(tmp_path: Path) -> None:
    found = linked(TraceBuilder().cpu_op("aten::mm", ts=0, dur=1), tmp_path)
    assert len(found.work) == 0
