"""Each detector on a recording that was made for it, and on its clean twin.

Every run is drawn like this, in ms from the start of each step, which all ranks begin together:

    host      the GPU idles while the host prepares: `host` ms, launched 0.01 ms before it ends
    compute   a product, `compute` ms (after `lead` ms that a test may fill with other work)
    reduce    an all_reduce that ends on all ranks `reduce` ms after the last has come

so a step takes max(host + compute) + reduce, and a rank that is ready earlier waits.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from builder import BACKWARD_TID, TraceBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

import tracelens
from tracelens import thresholds
from tracelens.detectors import DETECTORS, Context, Detector, run_all
from tracelens.findings import Finding
from tracelens.infer.result import Inference, Setup
from tracelens.pipeline import _context
from tracelens.thresholds import CONTENTION

NODE = "autograd::engine::evaluate_function: "
HOOK = f"{NODE}torch::autograd::AccumulateGrad"
LOADER = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
Adds = Callable[[TraceBuilder, int, float], None]


def nothing(trace: TraceBuilder, step: int, zero: float) -> None:
    """Add no events."""


@dataclass(frozen=True)
class Rank:
    """One rank's step, ms. `add` draws into it: (trace, number of the step, its start)."""

    host: float = 2.0
    compute: float = 90.0
    lead: float = 0.0
    silent: bool = False  # the host shows no event while it prepares
    late: float = 0.01  # from the launch of the first work to its start
    add: Adds = nothing
    only: int | None = None  # `host` and `compute` are the usual 2 and 90 in other steps

    def at(self, step: int) -> Rank:
        usual = self.only is not None and step != self.only
        return replace(self, host=2.0, compute=90.0, lead=0.0) if usual else self


@dataclass(frozen=True)
class Run:
    """A run of ranks. `after` ms of GPU silence follow the reduction."""

    ranks: Sequence[Rank] = (Rank(), Rank())
    steps: int = 3
    reduce: float = 8.0
    nelems: int = 1_000_000
    device: str = "Test GPU"
    after: float = 0.0
    hides: bool = False  # the reduction runs beside the product

    def write(self, folder: Path) -> Path:
        world = len(self.ranks)
        traces = [TraceBuilder(rank=r, world_size=world) for r in range(world)]
        zero = 1.0
        for k in range(1, self.steps + 1):
            now = [r.at(k) for r in self.ranks]
            last = max(r.host + r.compute for r in now) + (0 if self.hides else self.reduce)
            for trace, rank in zip(traces, now, strict=True):
                self._step(trace, rank, (k, zero, last))
                rank.add(trace, k, zero)
            zero += last + self.after
        for r, trace in enumerate(traces):
            names = [{"id": i, "name": self.device} for i in range(world)]
            trace.meta(deviceProperties=names).write(folder / f"rank{r}.json")
        return folder

    def _step(self, trace: TraceBuilder, rank: Rank, when: tuple[int, float, float]) -> None:
        k, zero, last = when
        launch, ready = zero + rank.host - rank.late, zero + rank.host + rank.compute
        trace.step(k, us(zero), us(last + self.after))
        op(trace, "aten::mm", zero, 0.1, seq=k, dims=[[64, 64], [64, 64]], types=["float"] * 2)
        if not rank.silent:
            op(trace, "aten::prepare", zero + 0.1, rank.host - rank.late - 0.1)
        # the host is never silent while the GPU works
        op(trace, "aten::wait", launch + 0.01, last + self.after - rank.host + rank.late - 0.1)
        work(trace, "gemm", (launch, zero + rank.host + rank.lead, rank.compute - rank.lead))
        back = zero + rank.host + rank.lead + 0.3
        op(trace, f"{NODE}MmBackward0", back, 0.2, seq=k, tid=BACKWARD_TID)
        start, end = (ready - self.reduce, ready) if self.hides else (ready, zero + last)
        comm(trace, (back + 0.1, start, end - start), self.nelems)


def us(ms: float) -> float:
    return round(1000 * ms, 3)


def op(trace: TraceBuilder, name: str, ts: float, dur: float, **more: object) -> None:
    trace.cpu_op(name, ts=us(ts), dur=us(dur), **more)  # type: ignore[arg-type]


def work(trace: TraceBuilder, name: str, when: tuple[float, float, float], stream: int = 7) -> None:
    """A kernel: launched, started, length."""
    launch, start, dur = (us(t) for t in when)
    corr = 1000 + len(trace)
    trace.launch(corr, ts=launch, dur=5, tid=100)
    trace.kernel(name, start, dur, corr=corr, stream=stream)


def comm(
    trace: TraceBuilder, when: tuple[float, float, float], nelems: int, kind: str = "all_reduce"
) -> None:
    """A collective: launched on the backward thread, started, length."""
    launch, start, dur = (us(t) for t in when)
    corr = 1000 + len(trace)
    trace.launch(corr, ts=launch, dur=5, tid=BACKWARD_TID)
    trace.nccl(kind, ts=start, dur=dur, nelems=nelems, corr=corr)


def context_of(run: Run, folder: Path, **setup: object) -> Context:
    """What detectors see of a run, with other answers of the setup."""
    a = tracelens.analyze(run.write(folder))
    context = _context(a.ranks, a.matches, a.setup, a.run, a.summary)
    told = {k: Inference(k, v, (v,), 1.0, ("told",)) for k, v in setup.items()}  # type: ignore[arg-type]
    rows = [i for i in context.setup.values() if i.key not in told]
    return replace(context, setup=Setup((*rows, *told.values())))


def found_in(context: Context) -> dict[str, Finding]:
    findings, _ = run_all(context)
    assert sum(f.cost_ms_per_step for f in findings) <= context.step_ns / 1e6
    assert len({f.id for f in findings}) == len(findings)
    return {f.id: f for f in findings}


def how(context: Context, id: str) -> tuple[str, str | None]:
    _, verdicts = run_all(context)
    (verdict,) = [v for v in verdicts if v.id == id]
    return verdict.status, verdict.reason


def cost_of(context: Context, id: str) -> float:
    assert how(context, id)[0] == "fired"
    return found_in(context)[id].cost_ms_per_step


ms = pytest.approx  # of a cost, worked out in the comment above it


def close(value: float) -> object:
    """Costs by hand leave out the 0.01 ms from launch to start."""
    return pytest.approx(value, abs=0.03)


def test_the_drawing_is_as_described(tmp_path: Path) -> None:
    """Two ranks, one 20 ms late: 2 + 90 + 8 with it being 22 + 90 + 8 = 120."""
    a = tracelens.analyze(Run((Rank(), Rank(host=22))).write(tmp_path))
    assert a.steps["wall_ms"].tolist() == [120] * 6
    assert a.steps["idle_ms"].tolist() == [2] * 3 + [22] * 3
    assert a.steps["exposed_wait_ms"].tolist() == [20] * 3 + [0] * 3
    assert a.steps["exposed_transfer_ms"].tolist() == [8] * 6


def test_the_plain_run_has_its_reduction_only(tmp_path: Path) -> None:
    """8 ms of 100 with nothing beside them; no other claim is made."""
    found = found_in(context_of(Run(), tmp_path))
    assert {k: f.cost_ms_per_step for k, f in found.items()} == {"exposed_gradient_reduction": 8.0}
    assert found["exposed_gradient_reduction"].severity == "high"
    assert found["exposed_gradient_reduction"].remedy.startswith("overlap it")


def test_what_is_overlapped_is_not_told_to_be() -> None:
    """DDP's buckets run beside its backward pass; what the last one shows is still exposed."""
    a = tracelens.analyze(Path(__file__).parent.parent / "sample_traces" / "ddp")
    (found,) = [f for f in a.finding_rows if f.id == "exposed_gradient_reduction"]
    assert found.remedy.startswith("it is overlapped already")


# --------------------------------------------------------------------------------- host: loader
def loads(start: float, dur: float) -> Adds:
    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        trace.annotation(LOADER, ts=us(zero + start), dur=us(dur))

    return add


def test_dataloader_stall(tmp_path: Path) -> None:
    """Both ranks idle 32 ms a step, the loader's range covers 30 of them: 30 of 130 saved."""
    slow = Rank(host=32, add=loads(1, 30))
    context = context_of(Run((slow, slow)), tmp_path)
    assert cost_of(context, "dataloader_stall") == ms(30)
    assert found_in(context)["dataloader_stall"].severity == "critical"
    assert found_in(context)["dataloader_stall"].ranks == (0, 1)


def test_loading_beside_work_is_clean(tmp_path: Path) -> None:
    busy = Rank(add=loads(40, 30))
    assert how(context_of(Run((busy, busy)), tmp_path), "dataloader_stall") == ("clean", None)


def test_no_loader_range_no_answer(tmp_path: Path) -> None:
    status, reason = how(context_of(Run(), tmp_path), "dataloader_stall")
    assert status == "not_applicable"
    assert "enumerate(DataLoader)" in str(reason)


def test_a_rank_that_is_not_last_costs_nothing(tmp_path: Path) -> None:
    """Rank 0 loads for 30 ms and still waits 10 ms for rank 1: without, it would wait 40."""
    run = Run((Rank(host=32, add=loads(1, 30)), Rank(host=42)))
    found = found_in(context_of(run, tmp_path))["dataloader_stall"]
    assert (found.cost_ms_per_step, found.severity, found.ranks) == (0, "info", (0,))


def test_only_what_makes_the_rank_last_is_saved(tmp_path: Path) -> None:
    """Rank 0 loads for 30 ms, rank 1 waits 20 for it: with 30 gone rank 1 is last, 20 saved."""
    run = Run((Rank(host=32, add=loads(1, 30)), Rank(host=12)))
    assert cost_of(context_of(run, tmp_path), "dataloader_stall") == ms(20)


def test_with_one_rank_of_two_only_what_is_sure_is_charged(tmp_path: Path) -> None:
    """How long rank 0 waits is not known: the loader's 30 ms are its own in any case."""
    Run((Rank(host=32, add=loads(1, 30)), Rank(host=32))).write(tmp_path)
    a = tracelens.analyze(tmp_path, ranks=[0])
    costs = {f.id: f.cost_ms_per_step for f in a.finding_rows}
    assert costs["dataloader_stall"] == ms(30)
    assert costs["exposed_gradient_reduction"] == 0
    (verdict,) = [v for v in a.verdicts if v.id == "straggler_host"]
    assert verdict.status == "not_applicable"
    assert "every rank" in str(verdict.reason)


# ----------------------------------------------------------------------- host: the other causes
def calls(name: str, start: float, dur: float, n: int = 1) -> Adds:
    """`n` runtime calls one after the other."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(n):
            at = zero + start + i * dur
            trace.launch(0, ts=us(at), dur=us(dur), name=name, tid=100)

    return add


def test_allocator_churn(tmp_path: Path) -> None:
    """Four calls of 5 ms in the 22 ms that the GPU is idle: 20."""
    churns = Rank(host=22, add=calls("cudaFree", 1, 5, 4))
    context = context_of(Run((churns, churns)), tmp_path)
    assert cost_of(context, "allocator_churn") == ms(20)
    assert "4 cudaMalloc and cudaFree calls" in found_in(context)["allocator_churn"].evidence[0]


def test_a_start_allocates(tmp_path: Path) -> None:
    """Without steps the recording may hold the start of the job."""
    churns = Rank(host=22, add=calls("cudaFree", 1, 5, 4))
    Run((churns,), steps=1).write(tmp_path)
    text = (tmp_path / "rank0.json").read_text().replace("ProfilerStep#", "Something ")
    (tmp_path / "rank0.json").write_text(text)
    a = tracelens.analyze(tmp_path)
    assert a.ranks[0].step_source == "whole trace"
    (verdict,) = [v for v in a.verdicts if v.id == "allocator_churn"]
    assert (verdict.status, "no steps were found" in str(verdict.reason)) == (
        "not_applicable",
        True,
    )


def test_allocating_beside_work_is_clean(tmp_path: Path) -> None:
    busy = Rank(add=calls("cudaMalloc", 40, 5, 4))
    assert how(context_of(Run((busy, busy)), tmp_path), "allocator_churn") == ("clean", None)


def test_host_pause(tmp_path: Path) -> None:
    """The host is silent for 31.89 of 32 ms: from 0.1, where its op ends, to the launch."""
    silent = Rank(host=32, silent=True)
    context = context_of(Run((silent, silent)), tmp_path)
    assert cost_of(context, "host_pause") == ms(31.89)
    found = found_in(context)["host_pause"]
    assert "after aten::mm and before cudaLaunchKernel" in found.evidence[0]


def test_a_busy_host_is_no_pause(tmp_path: Path) -> None:
    assert how(context_of(Run((Rank(host=32),) * 2), tmp_path), "host_pause") == ("clean", None)


def saves(trace: TraceBuilder, step: int, zero: float) -> None:
    """5 MB to pageable memory in 20 ms, in step 2 only."""
    if step == 2:
        corr = 1000 + len(trace)
        trace.launch(corr, ts=us(zero + 1.99), dur=5, tid=100, name="cudaMemcpyAsync")
        trace.gpu(
            "gpu_memcpy",
            "Memcpy DtoH (Device -> Pageable)",
            us(zero + 2),
            us(20),
            bytes=5_000_000,
            correlation=corr,
        )


def test_checkpoint_save(tmp_path: Path) -> None:
    """In step 2 of 3 rank 0 copies for 20 ms, then writes for 40; rank 1 waits 60.

    Steps of 100, 160 and 100 ms: without the save 60 / 3 = 20 ms a step less.
    """

    def writes(trace: TraceBuilder, step: int, zero: float) -> None:
        saves(trace, step, zero)
        if step == 2:
            op(trace, "aten::to", zero + 0.1, 21.9)

    keeper = Rank(host=62, silent=True, add=writes, only=2)
    context = context_of(Run((keeper, Rank())), tmp_path)
    assert context.step_ns / 1e6 == ms(120)
    assert cost_of(context, "checkpoint_save") == close(20)
    found = found_in(context)
    assert (found["checkpoint_save"].ranks, found["checkpoint_save"].steps) == ((0,), (2,))
    # what the save explains is nobody else's
    assert not found.keys() & {"host_pause", "slow_step_outlier", "straggler_host"}


def test_copies_in_every_step_are_no_checkpoint(tmp_path: Path) -> None:
    def logs(trace: TraceBuilder, step: int, zero: float) -> None:
        saves(trace, 2, zero)

    talks = Rank(compute=110, lead=20, add=logs)
    assert how(context_of(Run((talks, talks)), tmp_path), "checkpoint_save") == ("clean", None)


def test_optimizer_offload_stall(tmp_path: Path) -> None:
    """After the reduction the GPU waits 40 ms for the CPU's optimizer, then 2 for the host."""

    def updates(trace: TraceBuilder, step: int, zero: float) -> None:
        trace.annotation("Optimizer.step#DeepSpeedCPUAdam.step", ts=us(zero + 101), dur=us(38))

    offloads = Rank(add=updates)
    context = context_of(Run((offloads, offloads), after=40), tmp_path)
    assert context.step_ns / 1e6 == ms(140)
    assert cost_of(context, "optimizer_offload_stall") == ms(40)
    config = found_in(context)["optimizer_offload_stall"].config
    assert config == {"zero_optimization.offload_optimizer": None}
    assert how(context_of(Run(after=40), tmp_path), "optimizer_offload_stall") == ("clean", None)


def copies(
    trace: TraceBuilder,
    step: int,
    zero: float,
    nbytes: int = 50_000_000,
    name: str = "Memcpy HtoD (Pageable -> Device)",
) -> None:
    corr = 1000 + len(trace)
    trace.launch(corr, ts=us(zero + 1.99), dur=5, tid=100, name="cudaMemcpyAsync")
    trace.gpu("gpu_memcpy", name, us(zero + 2), us(5), bytes=nbytes, correlation=corr)


def test_pageable_copy(tmp_path: Path) -> None:
    """5 ms of copying before the product, with nothing beside it."""
    feeds = Rank(compute=95, lead=5, add=copies)
    assert cost_of(context_of(Run((feeds, feeds)), tmp_path), "pageable_copy") == ms(5)
    beside = Rank(add=copies)
    assert how(context_of(Run((beside, beside)), tmp_path), "pageable_copy") == ("clean", None)
    scalars = Rank(compute=95, lead=5, add=lambda t, k, z: copies(t, k, z, 512))
    assert how(context_of(Run((scalars,) * 2), tmp_path), "pageable_copy") == ("clean", None)


def test_copies_to_pageable_memory_in_every_step(tmp_path: Path) -> None:
    def writes(trace: TraceBuilder, step: int, zero: float) -> None:
        copies(trace, step, zero, name="Memcpy DtoH (Device -> Pageable)")

    talks = Rank(compute=95, lead=5, add=writes)
    assert cost_of(context_of(Run((talks, talks)), tmp_path), "pageable_copy") == ms(5)


def pinned(trace: TraceBuilder, step: int, zero: float) -> None:
    copies(trace, step, zero, name="Memcpy HtoD (Pinned -> Device)")


def test_param_offload_stall(tmp_path: Path) -> None:
    """5 ms of copies from pinned memory, nothing beside them, where parameters are offloaded."""
    feeds = Rank(compute=95, lead=5, add=pinned)
    context = context_of(Run((feeds, feeds)), tmp_path, offload_param="cpu")
    assert cost_of(context, "param_offload_stall") == ms(5)
    assert how(context, "pageable_copy") == ("clean", None)
    context = context_of(Run((feeds, feeds)), tmp_path, offload_param="none")
    assert how(context, "param_offload_stall") == ("clean", None)


@pytest.mark.parametrize(("offload_param", "cost"), [("none", 45), ("cpu", 40)])
def test_copies_of_an_offloaded_optimizer(offload_param: str, cost: float, tmp_path: Path) -> None:
    """40 ms for the CPU's optimizer and 5 of copies, which are the parameters' if those are too."""

    def updates(trace: TraceBuilder, step: int, zero: float) -> None:
        pinned(trace, step, zero)
        trace.annotation("Optimizer.step#DeepSpeedCPUAdam.step", ts=us(zero + 106), dur=us(38))

    both = Rank(compute=95, lead=5, add=updates)
    run = Run((both, both), after=40)
    context = context_of(run, tmp_path, offload_param=offload_param)
    assert cost_of(context, "optimizer_offload_stall") == ms(cost)


def syncs(n: int) -> Adds:
    """`n` kernels of 3 ms; the host waits for each, and launches the next 2 ms after its end."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(n):
            at = zero + 2 + 5 * i
            work(trace, "small", (at - 0.01, at, 3))
            trace.launch(0, ts=us(at + 0.1), dur=us(2.91), name="cudaStreamSynchronize", tid=100)

    return add


def drained(n: int) -> Rank:
    """The product's node comes after the small kernels, which so belong to the forward pass."""
    return Rank(compute=90 + 5 * n, lead=5 * n, add=syncs(n))


def test_host_sync(tmp_path: Path) -> None:
    """Five gaps between six kernels, 1.99 ms up to the launch: 9.95.

    The product is launched ahead, so the gap before it is none of the host's.
    """
    context = context_of(Run((drained(6), drained(6))), tmp_path)
    assert cost_of(context, "host_sync") == ms(9.95)
    assert "6 cudaStreamSynchronize a step" in found_in(context)["host_sync"].evidence[0]


def test_as_many_syncs_as_deepspeeds_own_are_clean(tmp_path: Path) -> None:
    context = context_of(Run((drained(4), drained(4))), tmp_path)
    assert how(context, "host_sync") == ("clean", None)


def logging_ranks() -> tuple[Rank, Rank]:
    """Two ranks that synchronise after each of six collectives a step."""

    def logged(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(5):
            at = zero + 2 + 5 * i
            comm(trace, (at - 0.01, at, 3), 1_000_000, "all_gather")
            trace.launch(0, ts=us(at + 0.1), dur=us(2.91), name="cudaDeviceSynchronize", tid=100)
        for at, dur in ((117, 2), (119.1, 2), (121.2, 2.8)):
            trace.launch(0, ts=us(zero + at), dur=us(dur), name="cudaDeviceSynchronize", tid=100)

    logs = Rank(compute=115, lead=25, add=logged)
    return logs, logs


def test_comms_logger(tmp_path: Path) -> None:
    """A device synchronisation after each of six collectives a step; four gaps of 1.99 ms.

    Two more are the throughput timer's.
    """
    context = context_of(Run(logging_ranks()), tmp_path)
    assert cost_of(context, "comms_logger") == ms(7.96)
    assert how(context, "host_sync") == ("clean", None)


def test_launch_bound(tmp_path: Path) -> None:
    """The host needs 50 ms before it launches 30 ms of work: 50 of 88 ms are its own."""
    slow = Rank(host=50, compute=30)
    context = context_of(Run((slow, slow)), tmp_path)
    assert cost_of(context, "launch_bound") == close(50)
    less = Rank(host=20, compute=90)  # 17 % of the step
    assert how(context_of(Run((less, less)), tmp_path), "launch_bound") == ("clean", None)


def test_launches_that_did_not_run(tmp_path: Path) -> None:
    """A graph's capture: ten launches a step without a kernel, two with one."""

    def captures(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(10):
            trace.launch(100_000 + 100 * step + i, ts=us(zero + 1 + i), dur=5, tid=100)

    slow = Rank(host=50, compute=30, add=captures)
    context = context_of(Run((slow, slow)), tmp_path)
    status, reason = how(context, "launch_bound")
    assert status == "not_applicable"
    assert "a graph was captured" in str(reason)
    notes = {n.code: n.text for n in tracelens.analyze(tmp_path).notes}
    assert "30 of 36 kernel launches" in notes["unrun_launches"]


# ---------------------------------------------------------------------------------- between ranks
def test_straggler_host(tmp_path: Path) -> None:
    """Rank 1's host takes 20 ms longer than the others', who wait for it."""
    context = context_of(Run((Rank(), Rank(host=22), Rank())), tmp_path)
    assert cost_of(context, "straggler_host") == ms(20)
    assert found_in(context)["straggler_host"].ranks == (1,)


def test_the_second_last_bounds_what_a_straggler_costs(tmp_path: Path) -> None:
    """Rank 2 is 15 ms late itself: without rank 1's 20 the step is 5 ms shorter."""
    context = context_of(Run((Rank(), Rank(host=22), Rank(host=17))), tmp_path)
    assert cost_of(context, "straggler_host") == ms(5)


def test_the_second_last_may_change(tmp_path: Path) -> None:
    """Rank 2 is 20 ms late in all three steps, rank 0 15 in the first, rank 1 15 in the second.

    (5 + 5 + 20) / 3 would be saved; in sum the others wait 15 ms or more.
    """
    ranks = (Rank(host=17, only=1), Rank(host=17, only=2), Rank(host=22))
    found = found_in(context_of(Run(ranks), tmp_path))
    assert found["straggler_host"].cost_ms_per_step == ms(10)
    assert "15.0 ms to 15.0 ms a step longer" in found["straggler_host"].evidence[0]


def test_a_little_late_is_clean(tmp_path: Path) -> None:
    """1.5 ms of 101.5 are under 2 %."""
    context = context_of(Run((Rank(), Rank(host=3.5), Rank())), tmp_path)
    assert how(context, "straggler_host") == ("clean", None)


def test_a_late_host_is_not_charged_to_launching_again(tmp_path: Path) -> None:
    """Hosts of 50, 70 and 50 ms before 30 of work: 20 for the late one, 50 that all share."""
    ranks = (Rank(host=50, compute=30), Rank(host=70, compute=30), Rank(host=50, compute=30))
    found = found_in(context_of(Run(ranks), tmp_path))
    assert found["straggler_host"].cost_ms_per_step == ms(20)
    assert found["launch_bound"].cost_ms_per_step == close(50)


def more(trace: TraceBuilder, step: int, zero: float) -> None:
    work(trace, "extra", (zero + 1.99, zero + 2, 20))


def test_uneven_work(tmp_path: Path) -> None:
    """Rank 1 has 20 ms of other kernels, of which its idle 2 ms could take some: 18."""
    context = context_of(Run((Rank(), Rank(compute=110, lead=20, add=more), Rank())), tmp_path)
    assert cost_of(context, "uneven_work") == close(18)
    assert found_in(context)["uneven_work"].ranks == (1,)
    assert how(context, "straggler_compute") == ("clean", None)


def test_more_work_behind_a_later_rank_is_hidden(tmp_path: Path) -> None:
    ranks = (Rank(), Rank(compute=110, lead=20, add=more), Rank(host=42))
    found = found_in(context_of(Run(ranks), tmp_path))["uneven_work"]
    assert (found.cost_ms_per_step, found.severity, found.ranks) == (0, "info", (1,))
    assert "hidden" in found.title


def test_straggler_compute(tmp_path: Path) -> None:
    """The same product takes 110 ms instead of 90 on rank 1."""
    context = context_of(Run((Rank(), Rank(compute=110), Rank())), tmp_path)
    assert cost_of(context, "straggler_compute") == close(18)
    assert how(context, "uneven_work") == ("clean", None)


def test_other_sizes_are_no_slow_gpu(tmp_path: Path) -> None:
    """The same kernel on a larger matrix is more work."""

    def larger(trace: TraceBuilder, step: int, zero: float) -> None:
        shape = [[64, 999], [999, 64]]
        op(trace, "aten::mm", zero + 0.2, 0.1, dims=shape, types=["float"] * 2)

    context = context_of(Run((Rank(), Rank(compute=110, add=larger), Rank())), tmp_path)
    assert how(context, "straggler_compute") == ("clean", None)
    assert cost_of(context, "uneven_work") == close(18)


def test_equal_ranks_are_clean(tmp_path: Path) -> None:
    context = context_of(Run((Rank(),) * 3), tmp_path)
    for id in ("uneven_work", "straggler_compute", "straggler_host", "slow_step_outlier"):
        assert how(context, id) == ("clean", None)


def test_slow_step_outlier(tmp_path: Path) -> None:
    """Step 3 of 4 computes 100 ms longer than the others on all ranks: 25 a step."""
    long = Rank(compute=190, only=3)
    context = context_of(Run((long, long), steps=4), tmp_path)
    assert cost_of(context, "slow_step_outlier") == ms(25)
    found = found_in(context)["slow_step_outlier"]
    assert found.steps == (3,)
    assert "compute" in found.evidence[0]


@pytest.mark.parametrize("loads", [True, False])
def test_what_makes_one_step_long_is_charged_once(loads: bool, tmp_path: Path) -> None:
    """In step 3 of 4 the host needs 200 ms instead of 2: 51.5 ms of idle time a step, in all."""

    def load(trace: TraceBuilder, step: int, zero: float) -> None:
        if loads and step == 3:
            trace.annotation(LOADER, ts=us(zero), dur=us(199.9))

    long = Rank(host=200, add=load, only=3)
    findings, _ = run_all(context_of(Run((long, long), steps=4), tmp_path))
    ids = {f.id for f in findings if f.cost_ms_per_step > 0}
    assert ids >= ({"dataloader_stall"} if loads else {"slow_step_outlier", "launch_bound"})
    idle = [f for f in findings if not f.id.startswith("exposed")]
    assert 49 < sum(f.cost_ms_per_step for f in idle) < 52


def test_ranks_with_other_steps_are_compared_by_number(tmp_path: Path) -> None:
    """Rank 1 lacks the long step 4: over steps 1 to 3 there is no outlier, and no crash."""
    Run((Rank(compute=190, only=4),) * 2, steps=4).write(tmp_path)
    Run(steps=3).write(tmp_path / "..")  # the same names, one folder up
    (tmp_path / ".." / "rank1.json").replace(tmp_path / "rank1.json")
    a = tracelens.analyze(tmp_path)
    assert [len(r.steps) for r in a.ranks] == [4, 3]
    assert "slow_step_outlier" not in {f.id for f in a.finding_rows}


def test_gpu_shared(tmp_path: Path) -> None:
    """Work starts 2.4 ms after its launch on an idle device, in all of 7 steps but the first."""
    late = Rank(host=5, late=2.4)
    context = context_of(Run((late, late), steps=7), tmp_path)
    assert context.shared_gpu
    assert cost_of(context, "gpu_shared") == ms(6 * 2.4 / 7)
    for id in ("exposed_gradient_reduction", "slow_interconnect"):
        status, reason = how(context, id)
        assert status == "not_applicable", id
        assert reason
    one = context_of(Run((Rank(host=5, late=2.4), Rank(host=5)), steps=4), tmp_path)
    assert how(one, "gpu_shared") == ("clean", None)  # three stalls are chance


def test_other_devices_have_no_known_time_slices(tmp_path: Path) -> None:
    """The same late starts where it is not CUDA that launched."""
    late = Rank(host=5, late=2.4)
    Run((late, late), steps=7).write(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace("cudaLaunchKernel", "hipLaunchKernel"))
    a = tracelens.analyze(tmp_path)
    status = {v.id: v.status for v in a.verdicts}
    assert (status["gpu_shared"], status["device_wait"]) == ("clean", "fired")


def test_nothing_is_judged_without_gpu_work(tmp_path: Path) -> None:
    """A recording of the CPU alone: no cause, whatever the host did."""
    trace = TraceBuilder()
    for k in range(3):
        trace.step(k, 1000 * k, 1000)
        trace.cpu_op("aten::mm", ts=1000 * k + 10, dur=300)
    trace.write(tmp_path / "rank0.json")
    a = tracelens.analyze(tmp_path)
    assert not a.finding_rows
    reasons = {(v.status, v.reason) for v in a.verdicts}
    assert reasons == {("not_applicable", "the recording holds no GPU work")}


def queued(late: float, n: int, name: str = "gemm") -> Adds:
    """Before the step's own work n kernels, all launched at its start, `late` ms between them."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(n):
            start = zero + 1 + i * (late + 1)
            work(trace, name, (zero + 0.1, start, 1), stream=9)

    return add


def test_device_wait(tmp_path: Path) -> None:
    """Of three kernels a step two wait 3 ms in the queue; the first waits 0.9 ms on an idle device,
    but in the first step, which begins with it: (3 x 6 + 2 x 0.9) / 3.
    """
    rank = Rank(host=20, add=queued(3, 3))
    context = context_of(Run((rank, rank)), tmp_path)
    assert not context.shared_gpu
    assert how(context, "gpu_shared") == ("clean", None)
    assert cost_of(context, "device_wait") == ms(6.6)
    evidence = found_in(context)["device_wait"].evidence[0]
    assert evidence.startswith("16 times")  # of both ranks
    assert "12 of them were in a queue, 0 " in evidence
    assert how(context_of(Run(), tmp_path), "device_wait") == ("clean", None)


def test_device_wait_at_first_use(tmp_path: Path) -> None:
    """Six kernels, each the first of its name, start 3 ms late on a device that was idle; the first
    step begins with one of them: 5 x 3 / 3.
    """

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(2):
            at = zero + 5 * i
            work(trace, f"kernel_{step}_{i}", (at + 1, at + 4, 1), stream=9)

    rank = Rank(host=20, add=add)
    context = context_of(Run((rank, rank)), tmp_path)
    assert how(context, "gpu_shared") == ("clean", None)
    assert cost_of(context, "device_wait") == ms(5)
    assert "warm up" in found_in(context)["device_wait"].remedy


def test_device_wait_is_what_slices_are_too_short_for(tmp_path: Path) -> None:
    """Slices of 2.4 ms are another process's, 12 ms of late start are not."""
    rank = Rank(host=5, late=2.4)
    slow = Rank(host=40, late=12)
    assert context_of(Run((rank, rank), steps=7), tmp_path).shared_gpu
    context = context_of(Run((slow, slow), steps=7), tmp_path)
    assert not context.shared_gpu
    assert cost_of(context, "device_wait") == ms(6 * 12 / 7)


# --------------------------------------------------------------------------------- communication
def test_slow_interconnect_and_the_rest_is_the_setups(tmp_path: Path) -> None:
    """80 MB in 8 ms over two ranks are 10 GB/s, where NVLink gives 337.5.

    8 x (1 - 10 / 337.5) = 7.763 of the 8 ms are the link's; 0.237 stay for the reduction.
    """
    run = Run(nelems=40_000_000, device="NVIDIA H200")
    found = found_in(context_of(run, tmp_path))
    assert found["slow_interconnect"].cost_ms_per_step == ms(7.763, abs=1e-3)
    assert found["exposed_gradient_reduction"].cost_ms_per_step == ms(0.237, abs=1e-3)


def test_a_link_at_nvlinks_speed_is_clean(tmp_path: Path) -> None:
    """1 GB in 8 ms are 125 GB/s: more than a quarter of 450."""
    context = context_of(Run(nelems=500_000_000, device="NVIDIA H200"), tmp_path)
    assert how(context, "slow_interconnect") == ("clean", None)


def test_an_unknown_gpu_has_no_expected_link(tmp_path: Path) -> None:
    status, reason = how(context_of(Run(nelems=40_000_000), tmp_path), "slow_interconnect")
    assert status == "not_applicable"
    assert "link speed" in str(reason)


def hideable(exposed: float, buckets: int, compute: float = 90) -> float:
    """What so many buckets save of a reduction behind the pass.

    All but the last run beside compute, which takes a fifth of their time longer, and each takes
    0.1 ms besides (`BUCKET_LAG_NS`): so does the recorded one, and no more than was exposed counts.
    """
    each = exposed / buckets + LAG
    hidden = min((buckets - 1) * each, compute * (1 - 1 / buckets))
    left = buckets * each - hidden + hidden * CONTENTION
    return (exposed + LAG - left) * exposed / (exposed + LAG)


LAG = 0.1
#: A twelfth of the gradients at the least, rounded up to 1, 2 or 5 and zeros: a tenth.
HIDEABLE = hideable(20, 10)


@pytest.mark.parametrize(
    ("setup", "id", "cost"),
    [
        ({"zero_stage": 2, "overlap_comm": False}, "overlap_off", HIDEABLE - 6),
        ({"zero_stage": 2, "overlap_comm": True}, "bucket_too_large", HIDEABLE),
        ({"zero_stage": 3, "overlap_comm": True}, "exposed_gradient_reduction", 20),
    ],
)
def test_exposed_reduction_by_setup(
    setup: dict[str, object], id: str, cost: float, tmp_path: Path
) -> None:
    """20 ms of reduction after the backward pass; the setup says what would hide them."""
    context = context_of(Run(reduce=20), tmp_path, reduce_bucket_size=500_000_000, **setup)
    found = found_in(context)
    assert found.keys() == {id}
    assert found[id].cost_ms_per_step == ms(cost)
    if id != "exposed_gradient_reduction":
        assert found[id].config == {
            **({} if setup["overlap_comm"] else {"zero_optimization.overlap_comm": True}),
            "zero_optimization.reduce_bucket_size": 100_000,
        }


def unsized(context: Context) -> Context:
    """The same where elements were not recorded."""
    views = [
        replace(v, comm=replace(v.comm, in_nelems=v.comm.in_nelems * 0 - 1)) for v in context.views
    ]
    return replace(context, views=tuple(views))


def test_no_bucket_is_advised_where_sizes_are_unknown(tmp_path: Path) -> None:
    """But a part of the gradients is: the times of reductions stand for their sizes."""
    setup = {"zero_stage": 2, "overlap_comm": True, "reduce_bucket_size": 500_000_000}
    found = found_in(unsized(context_of(Run(reduce=20), tmp_path, **setup)))["bucket_too_large"]
    assert found.cost_ms_per_step == ms(hideable(20, 12), abs=1)
    assert found.config is None
    assert "reduce_bucket_size one 12th of the gradients" in found.remedy


def test_only_compute_hides_a_reduction(tmp_path: Path) -> None:
    """Of 20 ms of reduction no more than 10 ms of compute can hide, less the first bucket's."""
    short = Rank(compute=10)
    setup = {"zero_stage": 2, "overlap_comm": True, "reduce_bucket_size": 500_000_000}
    context = context_of(Run((short, short), reduce=20), tmp_path, **setup)
    # beside 9 ms of compute, which take 9 / 0.8 = 11.25 then, the link is never idle
    each = 20 / 10 + LAG
    saved = (10 + 20 + LAG) - (1 + 10 * each)
    assert cost_of(context, "bucket_too_large") == ms(saved * 20 / 20.1, abs=0.2)


def test_a_slow_link_has_the_cost_and_the_remedy_is_still_said(tmp_path: Path) -> None:
    """40 MB in 20 ms are 2 GB/s: nothing is left to charge; at 2 GB/s overlap hides 14.15 - 6."""
    setup = {"zero_stage": 2, "overlap_comm": False, "reduce_bucket_size": 500_000_000}
    run = Run(reduce=20, nelems=20_000_000, device="NVIDIA H200")
    off = found_in(context_of(run, tmp_path, **setup))["overlap_off"]
    assert off.cost_ms_per_step == 0
    assert f"saves {HIDEABLE - 6:.3g} ms a step" in off.evidence[0]


def test_zero2_reduces_every_microstep(tmp_path: Path) -> None:
    """Two reductions of 8 ms a step, the first in an early micro-step, both exposed.

    There is no compute to hide the first, and of the second no more than the synchronisation takes:
    overlap_off costs nothing, and half of the 16 ms is the early one's.
    """

    def early(trace: TraceBuilder, step: int, zero: float) -> None:
        op(trace, "aten::mm", zero + 1, 0.1, seq=100 + step)
        op(trace, f"{NODE}MmBackward0", zero + 2, 0.2, seq=100 + step, tid=BACKWARD_TID)
        comm(trace, (zero + 2.1, zero + 3, 8), 1_000_000)
        op(trace, "aten::mm", zero + 20, 0.1, seq=200 + step)
        op(trace, f"{NODE}MmBackward0", zero + 40.2, 0.02, seq=200 + step, tid=BACKWARD_TID)
        trace.annotation("Optimizer.step#FusedAdam.step", ts=us(zero + 76), dur=us(1))

    twice = Rank(host=40, compute=30, add=early)
    setup = {"zero_stage": 2, "overlap_comm": False, "reduce_bucket_size": 500_000_000}
    found = found_in(context_of(Run((twice, twice)), tmp_path, **setup))
    assert hideable(8, 10, 30) < 6
    assert found["overlap_off"].cost_ms_per_step == 0
    early_half = found["zero2_reduces_every_microstep"]
    assert early_half.cost_ms_per_step == close(8)
    assert "in each of 2 micro-steps" in early_half.title
    assert early_half.config == {"zero_optimization.stage": 1}
    context = context_of(Run((twice, twice)), tmp_path, **{**setup, "zero_stage": 1})
    assert how(context, "zero2_reduces_every_microstep") == ("clean", None)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_hidden_reduction_is_clean(overlap: bool, tmp_path: Path) -> None:
    """Whatever the setup: nothing is exposed, so nothing would help."""
    run = Run(hides=True)
    assert found_in(context_of(run, tmp_path)) == {}
    assert found_in(context_of(run, tmp_path, zero_stage=2, overlap_comm=overlap)) == {}


def test_bucket_too_small(tmp_path: Path) -> None:
    """40 hooks a step reduce and take 0.5 ms, 10 do not and take 0.1: 0.4 more each.

    With 10,000,000 elements, a quarter of all, 36 of them would go: 36 x 0.4 = 14.4 of the 30 ms
    for which the GPU has nothing launched in the backward pass.
    """

    def reduces(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(50):
            at = zero + 1 + 0.6 * i
            op(trace, HOOK, at, 0.5 if i < 40 else 0.1, tid=BACKWARD_TID)
            if i < 40:
                op(trace, "record_param_comms", at + 0.01, 0.1, tid=BACKWARD_TID)
                comm(trace, (at + 0.02, at + 0.25, 0.01), 1_000_000)

    many = Rank(host=32, add=reduces)
    setup = {"zero_stage": 2, "overlap_comm": True, "reduce_bucket_size": 1000}
    context = context_of(Run((many, many), hides=True, reduce=0.01), tmp_path, **setup)
    assert cost_of(context, "bucket_too_small") == ms(14.4, rel=0.03)
    # where the GPU is the limit, the same hooks are free
    fast = Rank(host=2, add=reduces)
    context = context_of(Run((fast, fast), hides=True, reduce=0.01), tmp_path, **setup)
    assert cost_of(context, "bucket_too_small") <= 2


def gathers(kind: str, at: float, launch: float) -> Adds:
    """A collective of 5 ms on both ranks at once."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        comm(trace, (zero + launch, zero + at, 5), 1_000_000, kind)

    return add


@pytest.mark.parametrize(
    ("kind", "id"),
    [
        ("all_gather", "exposed_parameter_fetch"),
        ("all_to_all", "exposed_all_to_all"),
        ("all_reduce", "exposed_activation_reduction"),
    ],
)
def test_communication_in_the_forward_pass(kind: str, id: str, tmp_path: Path) -> None:
    """5 ms before the product, launched before any backward node."""
    waits = Rank(compute=95, lead=5, add=gathers(kind, 2, 1.99))
    context = context_of(Run((waits, waits), hides=True), tmp_path)
    assert cost_of(context, id) == ms(5)
    hidden = Rank(add=gathers(kind, 20, 1.99))
    assert how(context_of(Run((hidden, hidden), hides=True), tmp_path), id) == ("clean", None)


@pytest.mark.parametrize(("at", "id"), [(2, "zero3_late_prefetch"), (40, None)])
def test_zero3_late_prefetch(at: float, id: str | None, tmp_path: Path) -> None:
    """Nothing of the fetch runs beside compute; or all of it does."""

    def fetch(trace: TraceBuilder, step: int, zero: float) -> None:
        gathers("all_gather", at, 1.99)(trace, step, zero)
        weight = [[64, 1000], [1000, 1000]]  # as many elements as the message has
        op(trace, "aten::mm", zero + 0.1, 0.1, dims=weight, types=["float"] * 2)

    fetches = Rank(compute=95, lead=5, add=fetch)
    context = context_of(Run((fetches, fetches), hides=True), tmp_path, zero_stage=3)
    found = found_in(context)
    assert set(found) & {"zero3_late_prefetch", "exposed_parameter_fetch"} == (
        {id} if id else set()
    )
    if id:
        assert found[id].cost_ms_per_step == ms(5)


@pytest.mark.parametrize(
    ("framework", "key"),
    [
        ("deepspeed", "stage3_prefetch_bucket_size"),
        ("fsdp1", "forward_prefetch=True"),
        ("fsdp2", "set_modules_to_forward_prefetch"),
    ],
)
def test_what_prefetches_is_of_the_framework(framework: str, key: str, tmp_path: Path) -> None:
    fetches = Rank(compute=95, lead=5, add=gathers("all_gather", 2, 1.99))
    context = context_of(Run((fetches, fetches), hides=True), tmp_path, framework=framework)
    remedy = found_in(context)["exposed_parameter_fetch"].remedy
    assert key in remedy
    assert ("stage3" in remedy) == (framework == "deepspeed")


def test_several_weights_at_once_are_prefetched(tmp_path: Path) -> None:
    """Nothing of it is hidden, but the message is not one weight's: prefetching is on."""
    fetches = Rank(compute=95, lead=5, add=gathers("all_gather", 2, 1.99))
    context = context_of(Run((fetches, fetches), hides=True), tmp_path, zero_stage=3)
    assert how(context, "zero3_late_prefetch")[0] == "clean"
    assert cost_of(context, "exposed_parameter_fetch") == ms(5)


def test_post_step_allgather_exposed(tmp_path: Path) -> None:
    """An all_gather of 5 ms after the optimizer, with nothing beside it."""

    def updates(trace: TraceBuilder, step: int, zero: float) -> None:
        trace.annotation("Optimizer.step#FusedAdam.step", ts=us(zero + 50), dur=us(1))
        comm(trace, (zero + 60, zero + 100, 5), 1_000_000, "all_gather")

    gather = Rank(add=updates)
    context = context_of(Run((gather, gather), after=5), tmp_path)
    assert cost_of(context, "post_step_allgather_exposed") == ms(5)
    assert how(context_of(Run(), tmp_path), "post_step_allgather_exposed") == ("clean", None)


def test_sends_to_ranks_that_nobody_read_are_not_priced(tmp_path: Path) -> None:
    """Whom they go to was not recorded: what they cost is not known, so 0."""
    sends = Rank(compute=95, lead=5, add=gathers("send", 2, 1.99))
    context = context_of(Run((sends, sends), hides=True), tmp_path)
    found = found_in(context)["exposed_p2p"]
    assert (found.cost_ms_per_step, found.severity) == (0, "info")
    assert "0 ns to 5.00 ms" in found.evidence[0]
    assert how(context, "straggler_host")[0] == "not_applicable"
    assert how(context, "pipeline_bubble")[0] == "not_applicable"


# ------------------------------------------------------------------------------------- all of them
def test_several_causes_never_exceed_the_step(tmp_path: Path) -> None:
    """Loading 30, a late host 20, launching, the reduction: each instant is charged once.

    Hosts of 80, 100 and 80 ms, 30 of them loading on all; 30 of work, 8 of reduction: 138 a step.
    Without loading 108, without the late rank 88, without launching 38, without the reduction 30.
    """
    slow = Rank(host=80, compute=30, add=loads(1, 30))
    ranks = (slow, replace(slow, host=100), slow)
    found = found_in(context_of(Run(ranks), tmp_path))
    costs = {k: f.cost_ms_per_step for k, f in found.items()}
    assert costs == {
        "dataloader_stall": ms(30),
        "straggler_host": ms(20),
        "launch_bound": close(50),
        "exposed_gradient_reduction": ms(8),
    }


MS = st.sampled_from([2.0, 5.0, 30.0, 80.0])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(MS, MS, st.floats(0, 1), st.booleans()), min_size=1, max_size=4),
    st.sampled_from([0.5, 8.0, 40.0]),
)
def test_costs_of_any_run_are_a_part_of_its_step(
    ranks: list[tuple[float, float, float, bool]], reduce: float
) -> None:
    """Hosts and products of any length, with a loader in any part of the host's time."""
    plans = [
        Rank(host, compute, silent=silent, add=loads(0, max(share * host, 0.001)))
        for host, compute, share, silent in ranks
    ]
    with tempfile.TemporaryDirectory() as folder:
        context = context_of(Run(plans, reduce=reduce), Path(folder), zero_stage=3)
    findings = found_in(context).values()
    assert all(f.cost_ms_per_step >= 0 for f in findings)
    for f in findings:
        free = f.cost_ms_per_step < 0.005 * context.step_ns / 1e6
        assert (f.severity == "info") == free


def test_findings_come_by_cost_and_each_id_once(tmp_path: Path) -> None:
    slow = Rank(host=60, compute=30, add=loads(1, 30))
    findings, verdicts = run_all(context_of(Run((slow, replace(slow, host=80), slow)), tmp_path))
    costs = [f.cost_ms_per_step for f in findings]
    assert costs == sorted(costs, reverse=True)
    ids = [v.id for v in verdicts]
    assert ids == [i for d in DETECTORS for i in d.ids]
    assert len(set(ids)) == len(ids)


def test_kernels_only_recordings_say_what_they_cannot_tell(tmp_path: Path) -> None:
    Run().write(tmp_path)
    trace = TraceBuilder(rank=0, world_size=1)
    trace.launch(1, ts=1, dur=5, tid=100).kernel("gemm", 10, 100, corr=1)
    a = tracelens.analyze(trace.write(tmp_path / "alone.json"))
    status = {v.id: (v.status, v.reason) for v in a.verdicts}
    assert status["host_pause"] == ("not_applicable", "host ops were not recorded")
    assert status["exposed_gradient_reduction"] == (
        "not_applicable",
        "no communication was recorded",
    )


def sections() -> dict[tuple[str, ...], str]:
    """The documentation of the detectors: ids of a heading, and its text in one line."""
    page = (Path(__file__).parent.parent / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    body = page.split("\n## The detectors\n")[1].split("\n## ")[0]
    parts = [part.split("\n", 1) for part in body.split("\n### ")[1:]]
    return {tuple(re.findall(r"`(\w+)`", head)): " ".join(text.split()) for head, text in parts}


def test_the_docs_have_every_detector_in_its_order() -> None:
    assert list(sections()) == [d.ids for d in DETECTORS]


#: How the documentation writes what a detector needs.
NEEDS = {
    "host": "host ops",
    "ranks": "waiting known",
    "loader": "`enumerate(DataLoader)` ranges",
    "comm": "communication",
    "link": "a GPU whose link is known",
    "exclusive": "not shared",
    "alike": "run the same model",
    "ds_config": "a ds_config",
    "unprofiled": "steps without a profiler",
    "steady": "steady ones",
    "stacks": "recorded Python stacks",
    "steps": "steps",
    "run": "launches that ran",
}


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: d.ids[0])
def test_the_docs_ask_what_the_code_asks(detector: Detector) -> None:
    """Question and needs are the code's; every threshold named is there."""
    text = sections()[detector.ids]
    question = " ".join((detector.run.__doc__ or "").split()).split("?")[0] + "?"
    assert text.startswith(question)
    said = re.search(r"Needs? ([^.]+)\.", text)
    assert bool(said) == bool(detector.needs)
    for need in detector.needs:
        assert said
        assert NEEDS[need] in said.group(1)
    assert not [n for n in re.findall(r"`([A-Z]+_[A-Z_]+)`", text) if not hasattr(thresholds, n)]


def test_every_id_is_tested() -> None:
    here = Path(__file__).parent
    files = (*here.glob("test_detectors*.py"), here / "test_declared.py")
    text = "".join(f.read_text(encoding="utf-8") for f in files)
    assert not [i for d in DETECTORS for i in d.ids if f'"{i}"' not in text]
