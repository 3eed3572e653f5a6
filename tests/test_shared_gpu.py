"""A GPU that another process uses as well: late starts, and kernels that its time slices stretch.

Drawn like this, in ms: each step runs six products, then, after the host has paused for 0.02, four
sums that are launched then; then an all_reduce that ends on all ranks 2 after the last has come.
What a rank's kernels last is given by step and place; on a rank that shares its GPU the first sum
starts `late` after its launch, on an idle device.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from builder import BACKWARD_TID, TraceBuilder
from test_detectors import NODE, close, comm, op, us, work

import tracelens
from tracelens.detectors import Context, run_all
from tracelens.findings import Finding
from tracelens.ingest import open_trace
from tracelens.lengths import kernel_lengths
from tracelens.pipeline import _context, look

STEPS, PRODUCTS, SUMS = 6, 6, 4
#: How long the kernel at a place of a step (from 1) lasts.
Lengths = Callable[[int, int], float]


def usual(step: int, place: int) -> float:
    """One product is long, sums are short."""
    return 4.0 if place == 2 else 1.0 if place < PRODUCTS else 0.25


def now_and_then(step: int, place: int) -> float:
    """In each step another product and another sum are interrupted, for 2.5 ms each."""
    return usual(step, place) + 2.5 * (place in (step - 1, PRODUCTS + step % SUMS))


def always(step: int, place: int) -> float:
    """Only the longest kernel is interrupted, in each step."""
    return usual(step, place) + 2.5 * (place == 2)


@dataclass(frozen=True)
class Rank:
    lengths: Lengths = usual
    late: float = 0.0
    host: float = 0.0  # the host is this late with the step's first launch
    rows: Callable[[int], int] = lambda step: 64  # of the products' operand


SHARED = Rank(now_and_then, late=2.0)


def draw(ranks: Sequence[Rank], folder: Path) -> tracelens.Analysis:
    traces = [TraceBuilder(rank=r, world_size=len(ranks)) for r in range(len(ranks))]
    zero = 1.0
    for step in range(1, STEPS + 1):
        ready = [_compute(t, r, step, zero) for t, r in zip(traces, ranks, strict=True)]
        end = max(ready) + 2
        for trace, at in zip(traces, ready, strict=True):
            comm(trace, (at - 0.1, at, end - at), 1_000_000)
            trace.step(step, us(zero), us(end - zero))
        zero = end
    for r, trace in enumerate(traces):
        trace.write(folder / f"rank{r}.json")
    return tracelens.analyze(folder)


def _compute(trace: TraceBuilder, rank: Rank, step: int, zero: float) -> float:
    """Draw one step up to its reduction: when the rank is ready for that."""
    launch, at = zero + rank.host, zero + rank.host + 0.01
    op(
        trace,
        "aten::mm",
        zero,
        0.001,
        seq=step,
        dims=[[rank.rows(step), 64], [64, 64]],
        types=["float"] * 2,
    )
    op(trace, f"{NODE}MmBackward0", launch, 0.2, seq=step, tid=BACKWARD_TID)
    for place in range(PRODUCTS):
        work(trace, "gemm", (launch, at, rank.lengths(step, place)))
        at += rank.lengths(step, place)
    launch, at = at + 0.02, at + 0.02 + max(rank.late, 0.01)
    for place in range(PRODUCTS, PRODUCTS + SUMS):
        work(trace, "sum", (launch, at, rank.lengths(step, place)))
        at += rank.lengths(step, place)
    return at


def context_of(a: tracelens.Analysis) -> Context:
    return _context(a.ranks, a.matches, a.setup, a.run, a.summary)


def found_in(a: tracelens.Analysis) -> Finding:
    (found,) = [f for f in a.finding_rows if f.id == "gpu_shared"]
    return found


def test_the_drawing_is_as_described(tmp_path: Path) -> None:
    """Rank 1 is later by 2 and by two slices of 2.5, and nobody waits for the others."""
    a = draw((Rank(), SHARED, Rank()), tmp_path)
    waits = a.steps.groupby("rank")["exposed_wait_ms"].mean()
    assert waits.to_dict() == {0: close(7), 1: 0, 2: close(7)}


def test_interrupted_kernels_are_charged(tmp_path: Path) -> None:
    """2 ms late and 5 ms of slices: the step follows rank 1, and all 7 would be saved."""
    found = found_in(draw((Rank(), SHARED, Rank()), tmp_path))
    assert found.cost_ms_per_step == close(7)
    assert (found.ranks, found.severity) == ((1,), "critical")
    assert found.title.startswith("Another process uses rank 1's GPU: work starts late and kernels")
    late, kernels, _ = found.evidence
    assert late.startswith("6 times")
    assert "2.00 ms a step" in late
    assert kernels.startswith("2 kernels a step on rank 1")
    assert "on ranks where nothing starts late, the median one by 2.50 ms: 5.00 ms" in kernels
    assert {"gemm", "sum"} <= {p.name for p in found.proof}


def test_with_other_ranks_what_every_step_interrupts_is_seen(tmp_path: Path) -> None:
    found = found_in(draw((Rank(), Rank(always, late=2.0)), tmp_path))
    assert found.cost_ms_per_step == close(4.5)


def test_without_them_it_is_not_and_that_is_said(tmp_path: Path) -> None:
    """All ranks share: only the late starts are sure, no kernel differs between steps."""
    shared = Rank(always, late=2.0)
    found = found_in(draw((shared, shared), tmp_path))
    assert found.cost_ms_per_step == close(2)
    assert "no kernel lasts a time slice longer" in found.evidence[1]
    assert "interrupted in most steps is not seen" in found.evidence[1]


def test_a_rank_alone_is_compared_with_its_own_steps(tmp_path: Path) -> None:
    draw((Rank(), SHARED, Rank()), tmp_path)
    found = found_in(tracelens.analyze(tmp_path, ranks=[1]))
    assert found.cost_ms_per_step == close(7)
    assert "than the same kernels in other steps" in found.evidence[1]
    assert found.title.startswith("Another process uses the GPU: work")


def test_all_ranks_share_and_are_compared_with_their_own_steps(tmp_path: Path) -> None:
    found = found_in(draw((SHARED, SHARED), tmp_path))
    assert found.cost_ms_per_step == close(7)
    assert found.ranks == (0, 1)
    assert found.title.startswith("Another process uses the GPUs of 2 ranks:")


def test_steps_that_differ_are_not_compared(tmp_path: Path) -> None:
    """Every other step is twice as long in each kernel: those are no time slices."""

    def lengths(step: int, place: int) -> float:
        return usual(step, place) * (1 + step % 2)

    shared = Rank(lengths, late=2.0)
    found = found_in(draw((shared, shared), tmp_path))
    assert found.cost_ms_per_step == close(2)
    assert found.evidence[1].startswith("whether kernels were interrupted cannot be told")


def test_a_slow_gpu_is_not_taken_for_an_interrupted_one(tmp_path: Path) -> None:
    """Each kernel of rank 1 takes 1.5 times as long; slices would leave the short ones alone."""
    slow = Rank(lambda step, place: 1.5 * usual(step, place), late=2.0)
    found = found_in(draw((Rank(), slow, Rank()), tmp_path))
    assert found.cost_ms_per_step == close(2)
    assert "no kernel lasts a time slice longer" in found.evidence[1]


def test_kernels_beside_communication_are_not_interrupted(tmp_path: Path) -> None:
    """In one step the long product takes 1.4 ms more, 1.35 times as long: that is contention."""
    beside = Rank(lambda step, place: usual(step, place) + 1.4 * ((step, place) == (2, 2)), late=2)
    found = found_in(draw((Rank(), beside), tmp_path))
    assert found.cost_ms_per_step == close(2)
    assert "no kernel lasts a time slice longer" in found.evidence[1]


def test_behind_a_later_rank_it_costs_nothing(tmp_path: Path) -> None:
    found = found_in(draw((Rank(host=9), SHARED), tmp_path))
    assert (found.cost_ms_per_step, found.severity, found.ranks) == (0, "info", (1,))
    assert "5.00 ms a step" in found.evidence[1]


def test_behind_a_host_that_is_the_limit_it_costs_less(tmp_path: Path) -> None:
    """The GPU of rank 1 idles 3 ms a step for its host: as much of the 5 would be idle as well."""
    found = found_in(draw((Rank(), replace(SHARED, host=3)), tmp_path))
    assert found.cost_ms_per_step == close(2 + 5 - 3)


def test_ranks_with_other_work_are_not_compared(tmp_path: Path) -> None:
    """Rank 0 multiplies smaller matrices: it does not tell how long rank 1 would need."""
    found = found_in(draw((Rank(), Rank(always, late=2.0, rows=lambda step: 128)), tmp_path))
    assert found.cost_ms_per_step == close(2)
    assert "interrupted in most steps is not seen" in found.evidence[1]


def test_steps_with_other_work_are_not_compared(tmp_path: Path) -> None:
    """In the last step matrices are larger: a kernel that is longer there may have to be."""
    shared = replace(SHARED, rows=lambda step: 64 + step // STEPS)
    found = found_in(draw((shared, shared), tmp_path))
    assert found.cost_ms_per_step == close(2)
    assert found.evidence[1].startswith("whether kernels were interrupted cannot be told")


@pytest.mark.parametrize(
    ("role", "told"),
    [("exchange", "cannot be told"), ("p2p", "no kernel lasts a time slice longer")],
)
def test_kernels_of_experts_and_of_stages_are_not_compared(
    role: str, told: str, tmp_path: Path
) -> None:
    """What experts get differs by rank and step, what stages run by rank."""
    context = context_of(draw((Rank(), Rank(always, late=2.0)), tmp_path))
    views = []
    for v in context.views:
        roles = replace(v.roles, **{role: np.ones(len(v.comm), bool)})
        views.append(replace(v, roles=roles))
    findings, _ = run_all(replace(context, views=tuple(views)))
    (found,) = [f for f in findings if f.id == "gpu_shared"]
    assert found.cost_ms_per_step == close(2)
    assert told in found.evidence[1]


def test_without_late_starts_slow_kernels_are_the_straggler(tmp_path: Path) -> None:
    """The same lengths on a GPU where nothing starts late: it is said what they look like."""
    a = draw((Rank(), Rank(always), Rank()), tmp_path)
    (found,) = [f for f in a.finding_rows if f.id == "straggler_compute"]
    assert found.cost_ms_per_step == close(2.5)
    assert found.evidence[1].startswith("1 kernels a step last a time slice or more longer")
    assert "another process" in found.remedy
    assert "gpu_shared" not in {f.id for f in a.finding_rows}


def test_a_straggler_that_is_slow_throughout_looks_otherwise(tmp_path: Path) -> None:
    slow = Rank(lambda step, place: 1.5 * usual(step, place))
    a = draw((Rank(), slow, Rank()), tmp_path)
    (found,) = [f for f in a.finding_rows if f.id == "straggler_compute"]
    assert len(found.evidence) == 1
    assert found.remedy.startswith("check that GPU's clocks")


@pytest.mark.parametrize("each", [True, False])
def test_kernel_lengths(each: bool, tmp_path: Path) -> None:
    """The busiest stream's kernels by name and place; not those that some steps have more of."""
    trace = TraceBuilder()
    for step in range(3):
        zero = 100.0 * step
        trace.step(step, us(zero), us(99))
        for i, ms in enumerate((7, 3 + step)):
            work(trace, "gemm", (zero + 1, zero + 2 + 10 * i, ms))
        for i in range(1 + step % 2):
            work(trace, "odd", (zero + 1, zero + 40 + 10 * i, 1))
        work(trace, "aside", (zero + 1, zero + 2, 5), stream=9)
    seen = look(open_trace(trace.write(tmp_path / "rank0.json")))
    whole = seen.found.steps.counted
    got = kernel_lengths(seen.trace, seen.work, seen.found, whole, each=each)
    assert got.names == ("gemm",)
    assert (got.length_ns / 1e6).tolist() == ([[7, 3], [7, 4], [7, 5]] if each else [[7, 4]])


def test_kernels_of_its_own_in_each_step_make_no_large_table(tmp_path: Path) -> None:
    """2,000 names in 2,000 steps: as many pairs as kernels, and not four million."""
    trace = TraceBuilder()
    for k in range(2000):
        zero = 0.1 * k
        trace.step(k, us(zero), 99)
        work(trace, f"kernel_{k}", (zero + 0.001, zero + 0.002, 0.05))
    seen = look(open_trace(trace.write(tmp_path / "rank0.json")))
    whole = seen.found.steps.counted
    tracemalloc.start()
    got = kernel_lengths(seen.trace, seen.work, seen.found, whole, each=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (got.names, got.length_ns.shape) == ((), (2000, 0))
    assert peak < 8_000_000
