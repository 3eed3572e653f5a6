"""Detectors of what DeepSpeed and Python do in a step, on recordings drawn for them.

Drawn with the tools of `test_detectors`; times in ms from the start of each step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builder import BACKWARD_TID, TraceBuilder
from test_detectors import (
    LOADER,
    NODE,
    Adds,
    Rank,
    Run,
    comm,
    context_of,
    cost_of,
    found_in,
    how,
    loads,
    op,
    us,
)  # fmt: skip

import tracelens
from tracelens.thresholds import CONTENTION

REPO = Path(__file__).parent.parent


def kernel(trace: TraceBuilder, launch: float, start: float, dur: float) -> None:
    """A product of the backward pass."""
    corr = 5000 + len(trace)
    trace.launch(corr, ts=us(launch), dur=5, tid=BACKWARD_TID)
    trace.kernel("gemm", us(start), us(dur), corr=corr)


# ------------------------------------------------------------------------ garbage and Python
def frames(name: str, start: float, end: float) -> Adds:
    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        trace.python(name, ts=us(zero + start), dur=us(end - start))

    return add


@pytest.mark.parametrize("name", ["Python GC", "<built-in function collect>"])
def test_gc_pause(name: str, tmp_path: Path) -> None:
    """31.89 ms of silence, of which 20 are a collection: the rest stays a pause."""
    silent = Rank(host=32, silent=True, add=frames(name, 5, 25))
    context = context_of(Run((silent, silent)), tmp_path)
    assert cost_of(context, "gc_pause") == pytest.approx(20)
    assert cost_of(context, "host_pause") == pytest.approx(11.89)
    found = found_in(context)["gc_pause"]
    assert (found.ranks, found.steps) == ((0, 1), (1, 2, 3))


def test_a_pause_in_a_known_frame_says_so(tmp_path: Path) -> None:
    """Of the frames that are open all the time, the innermost."""

    def sleeps(trace: TraceBuilder, step: int, zero: float) -> None:
        frames("train.py(7): step", 0, 33)(trace, step, zero)
        frames("<built-in function sleep>", 0.11, 31.9)(trace, step, zero)
        frames("train.py(9): later", 20, 22)(trace, step, zero)

    silent = Rank(host=32, silent=True, add=sleeps)
    context = context_of(Run((silent, silent)), tmp_path)
    assert how(context, "gc_pause") == ("clean", None)
    evidence = found_in(context)["host_pause"].evidence
    assert "<built-in function sleep>" in evidence[1]


def test_without_stacks_it_cannot_be_told(tmp_path: Path) -> None:
    silent = Rank(host=32, silent=True)
    context = context_of(Run((silent, silent)), tmp_path)
    status, reason = how(context, "gc_pause")
    assert (status, reason) == (
        "not_applicable",
        "neither Python stacks nor garbage collections were recorded",
    )
    assert "look alike" in found_in(context)["host_pause"].evidence[1]


# ---------------------------------------------------------------------------------- waiting
def events(n: int) -> Adds:
    """`n` kernels of 3 ms, each waited for by an event; the next is launched 2 ms after its end."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        for i in range(n):
            at, corr = zero + 2 + 5 * i, 7000 + len(trace)
            trace.launch(corr, ts=us(at - 0.01), dur=5, tid=100)
            trace.kernel("small", us(at), 3000, corr=corr)
            trace.launch(0, ts=us(at + 0.1), dur=us(2.91), name="cudaEventSynchronize", tid=100)

    return add


def test_zero3_host_backpressure(tmp_path: Path) -> None:
    """Five gaps of 1.99 ms, as of `host_sync`, which waits for events are none of."""
    held = Rank(compute=120, lead=30, add=events(6))
    run = Run((held, held))
    context = context_of(run, tmp_path, zero_stage=3)
    assert cost_of(context, "zero3_host_backpressure") == pytest.approx(9.95)
    assert how(context, "host_sync") == ("clean", None)
    assert how(context_of(run, tmp_path, zero_stage=2), "zero3_host_backpressure")[0] == "clean"


def synchronises(start: float, end: float) -> Adds:
    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        dur = us(end - start)
        trace.launch(0, ts=us(zero + start), dur=dur, name="cudaDeviceSynchronize", tid=100)

    return add


def test_step_end_sync(tmp_path: Path) -> None:
    """The host waits until the reduction is done at 100, and launches the next step 6.99 later.

    Two of three steps have a next one: 14 ms of silence in all, 4.67 a step.
    """
    waits = Rank(add=synchronises(30, 100.1))
    context = context_of(Run((waits, waits), after=5), tmp_path, framework="deepspeed")
    assert cost_of(context, "step_end_sync") == pytest.approx(2 * 7 / 3, abs=0.01)
    assert found_in(context)["step_end_sync"].config == {"timers.throughput.synchronized": False}


def test_a_short_wait_at_the_step_s_end_costs_no_more_than_it_blocks(tmp_path: Path) -> None:
    waits = Rank(add=synchronises(98, 100.1))
    context = context_of(Run((waits, waits), after=5), tmp_path)
    assert cost_of(context, "step_end_sync") == pytest.approx(2 * 2.1 / 3, abs=0.01)
    assert how(context_of(Run(after=5), tmp_path), "step_end_sync") == ("clean", None)


# -------------------------------------------------------------------------------- reductions
def alternates(trace: TraceBuilder, step: int, zero: float) -> None:
    """Four reductions and four products of 3 ms take turns, all launched ahead."""
    op(trace, f"{NODE}AddBackward0", zero + 0.2, 1.5, seq=step, tid=BACKWARD_TID)
    for i in range(4):
        comm(trace, (zero + 0.3 + 0.1 * i, zero + 2 + 6 * i, 3), 1_000_000)
        kernel(trace, zero + 0.35 + 0.1 * i, zero + 5 + 6 * i, 3)


ZERO2 = {"zero_stage": 2, "overlap_comm": True}


def test_overlap_broken(tmp_path: Path) -> None:
    """20 ms in five reductions: four fifths would run beside compute, for a fifth of that."""
    takes_turns = Rank(compute=114, lead=24, add=alternates)
    context = context_of(Run((takes_turns, takes_turns)), tmp_path, **ZERO2)
    cost = 20 * 4 / 5 * (1 - CONTENTION)
    assert cost_of(context, "overlap_broken") == pytest.approx(cost, abs=0.6)
    remedy = found_in(context)["overlap_broken"].remedy
    assert "if you run DeepSpeed 0.17.5 to 0.18.4" in remedy


def test_overlap_of_a_slow_host_is_not_called_broken(tmp_path: Path) -> None:
    slow = Rank(host=40, compute=114, lead=24, add=lambda t, k, z: alternates(t, k, z + 38))
    context = context_of(Run((slow, slow)), tmp_path, **ZERO2)
    assert how(context, "overlap_broken")[0] == "clean"
    assert how(context, "exposed_gradient_reduction")[0] == "fired"


def one_deep(trace: TraceBuilder, step: int, zero: float) -> None:
    """Long and short reductions in turn; compute stands still for 8 ms until a long one ends.

    reduce   2 ---------- 12 - 14          30 ---------- 40 - 42
    compute  2 - 4        12 ------------- 30 - 32       40 ------------- 58
    """
    op(trace, f"{NODE}AddBackward0", zero + 0.2, 1.5, seq=step, tid=BACKWARD_TID)
    for i, (start, dur) in enumerate(((2, 10), (12, 2), (30, 10), (40, 2))):
        comm(trace, (zero + 0.3 + 0.1 * i, zero + start, dur), 1_000_000)
    for i, (start, dur) in enumerate(((2, 2), (12, 20), (40, 18))):
        kernel(trace, zero + 0.75 + 0.1 * i, zero + start, dur)


def test_depth1_reduce_stall(tmp_path: Path) -> None:
    """Queued up, compute would save both 8 ms, less a fifth that reductions beside it cost."""
    deep = Rank(compute=146, lead=56, add=one_deep)
    context = context_of(Run((deep, deep)), tmp_path, **ZERO2)
    assert cost_of(context, "depth1_reduce_stall") == pytest.approx(16 * (1 - CONTENTION), abs=0.05)
    # the last reduction stays exposed
    rest = 8 + 16 * CONTENTION
    assert cost_of(context, "exposed_gradient_reduction") == pytest.approx(rest, abs=0.05)
    other = context_of(Run((deep, deep)), tmp_path, zero_stage=3, overlap_comm=True)
    assert how(other, "depth1_reduce_stall") == ("clean", None)


def back_to_back(trace: TraceBuilder, step: int, zero: float) -> None:
    """The link never rests: four reductions of 10 ms, 2 ms of compute beside the start of each."""
    op(trace, f"{NODE}AddBackward0", zero + 0.2, 1.5, seq=step, tid=BACKWARD_TID)
    for i in range(4):
        comm(trace, (zero + 0.3 + 0.1 * i, zero + 2 + 10 * i, 10), 1_000_000)
        kernel(trace, zero + 0.75 + 0.1 * i, zero + 2 + 10 * i, 2)


def test_where_the_link_is_the_limit_depth_costs_nothing(tmp_path: Path) -> None:
    """Compute stands still for 32 ms; queued up, the link is done 0.1 ms earlier."""
    busy = Rank(compute=40.1, lead=40, add=back_to_back)
    context = context_of(Run((busy, busy)), tmp_path, **ZERO2)
    assert how(context, "depth1_reduce_stall")[0] == "clean"


# ------------------------------------------------------------------------------ ZeRO-3's link
@pytest.mark.parametrize(("dur", "id"), [(80, "zero3_bandwidth_bound"), (40, None)])
def test_zero3_bandwidth_bound(dur: float, id: str | None, tmp_path: Path) -> None:
    """5 ms of a fetch are exposed. With 80 ms of it the link works for 88 of 95 ms, else for 48."""

    def fetches(trace: TraceBuilder, step: int, zero: float) -> None:
        comm(trace, (zero + 1.99, zero + 2, dur), 1_000_000, "all_gather")

    waits = Rank(compute=95, lead=5, add=fetches)
    context = context_of(Run((waits, waits), hides=True), tmp_path, zero_stage=3)
    found = found_in(context)
    if id:
        assert found[id].cost_ms_per_step == pytest.approx(5)
        assert "93% of the passes" in found[id].evidence[0]
    else:
        assert "zero3_bandwidth_bound" not in found
        assert "exposed_parameter_fetch" in found


# ---------------------------------------------------------------------------- work of the setup
def recomputes(dur: float) -> Adds:
    """A forward operator with a graph of its own inside a backward node, and its kernel."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        op(trace, f"{NODE}CheckpointFunctionBackward", zero + 0.2, 1.5, seq=9, tid=BACKWARD_TID)
        op(trace, "aten::linear", zero + 0.3, 0.5, seq=10, tid=BACKWARD_TID)
        kernel(trace, zero + 0.4, zero + 2, dur)

    return add


def test_activation_recompute(tmp_path: Path) -> None:
    """20 ms of a forward operator in the backward pass, of 110; its GPU idles 0.9 for its host."""
    again = Rank(compute=110, lead=20, add=recomputes(20))
    context = context_of(Run((again, again)), tmp_path)
    assert cost_of(context, "activation_recompute") == pytest.approx(19.07, abs=0.01)
    assert "18% of the compute" in found_in(context)["activation_recompute"].evidence[1]


def test_a_little_recomputation_is_clean(tmp_path: Path) -> None:
    little = Rank(compute=95, lead=5, add=recomputes(5))
    context = context_of(Run((little, little)), tmp_path)
    assert how(context, "activation_recompute") == ("clean", None)


def experts(mine: int, theirs: int, busy: float) -> Adds:
    """Tokens are exchanged, the experts work for `busy` ms, and the exchange back ends at 34."""

    def exchange(
        trace: TraceBuilder, launch: float, span: tuple[float, float], sizes: tuple[int, int]
    ) -> None:
        corr = 8000 + len(trace)
        trace.launch(corr, ts=us(launch), dur=5, tid=100)
        trace.nccl(
            "all_to_all", ts=us(span[0]), dur=us(span[1] - span[0]), corr=corr, nelems=sizes[0],
            out_nelems=sizes[1],
        )  # fmt: skip

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        own = (mine + theirs) // 2
        exchange(trace, zero + 1.99, (zero + 2, zero + 3), (own, mine))
        corr = 9000 + len(trace)
        trace.launch(corr, ts=us(zero + 2.0), dur=5, tid=100)
        trace.kernel("expert", us(zero + 3), us(busy), corr=corr)
        exchange(trace, zero + 2.01, (zero + 3 + busy, zero + 34), (mine, own))

    return add


def test_moe_imbalance(tmp_path: Path) -> None:
    """300 of 400 tokens are rank 1's, 30 ms of experts' work of 40: with 20 each, 10 less."""
    light = Rank(compute=122, lead=32, add=experts(100, 300, 10))
    heavy = Rank(compute=122, lead=32, add=experts(300, 100, 30))
    context = context_of(Run((light, heavy)), tmp_path, expert_parallel_size=2)
    assert cost_of(context, "moe_imbalance") == pytest.approx(10, abs=0.01)
    found = found_in(context)
    assert found["moe_imbalance"].ranks == (1,)
    assert "1.50" in found["moe_imbalance"].evidence[0]
    # and not once more as work that one rank has (no sizes of the experts' products here)
    assert found["straggler_compute"].cost_ms_per_step == 0


def test_late_ranks_with_equal_tokens_are_no_imbalance(tmp_path: Path) -> None:
    early = Rank(compute=122, lead=32, add=experts(200, 200, 10))
    late = Rank(compute=122, lead=32, add=experts(200, 200, 30))
    context = context_of(Run((early, late)), tmp_path, expert_parallel_size=2)
    assert how(context, "moe_imbalance") == ("clean", None)


# --------------------------------------------------------------------------------- the profiler
def test_profiler_overhead(tmp_path: Path) -> None:
    """138 ms a recorded step and 120 without: 18 of the 100 that the host leaves its GPU idle."""
    slow = Rank(host=100, compute=30)
    context = context_of(Run((slow, slow)), tmp_path)
    before = cost_of(context, "launch_bound")
    context = replace(context, unprofiled_ns=120e6)
    found = found_in(context)
    assert found["profiler_overhead"].cost_ms_per_step == 0
    assert "1.15 times" in found["profiler_overhead"].title
    assert before - found["launch_bound"].cost_ms_per_step == pytest.approx(18)
    assert how(replace(context, unprofiled_ns=137e6), "profiler_overhead") == ("clean", None)
    status, reason = how(replace(context, unprofiled_ns=None), "profiler_overhead")
    assert (status, reason) == (
        "not_applicable",
        "no manifest tells how long steps are without a profiler",
    )


# -------------------------------------------------------------------------------- slow steps
def test_a_long_step_of_one_rank_is_its_own(tmp_path: Path) -> None:
    """Rank 1 needs 60 ms more before step 3 of 4; the others wait. 15 a step, all its own.

    Its window of step 2 ends with the first work of step 3, in which the others wait for it.
    """
    late = Rank(host=62, only=3)
    context = context_of(Run((Rank(), late, Rank()), steps=4), tmp_path)
    assert cost_of(context, "slow_step_outlier") == pytest.approx(15)
    found = found_in(context)["slow_step_outlier"]
    assert (found.ranks, found.steps) == ((1,), (2, 3))
    assert found.title.endswith("rank 1 is late")
    assert "idle for launching" in found.evidence[0]
    assert "60.0 ms longer" in found.evidence[1]
    assert "straggler_host" not in found_in(context)
    assert {p.name for p in found.proof} == {"step 3"}


def also(name: str, at: int, dur: float) -> Adds:
    """In step `at` the host runs something else before it goes on."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        op(trace, "aten::item", zero + 1, 0.2)
        if step == at:
            op(trace, name, zero + 2, dur)
            op(trace, "aten::item", zero + 2, dur / 2)

    return add


def test_what_only_the_long_step_does_is_told(tmp_path: Path) -> None:
    evaluates = Rank(host=62, only=3, add=also("evaluate", 3, 50))
    context = context_of(Run((evaluates, evaluates), steps=4), tmp_path)
    found = found_in(context)["slow_step_outlier"]
    assert "only in this step: evaluate (1)" in found.evidence
    assert "more often in this step: aten::item (2, else 1)" in found.evidence
    assert found.ranks == (0, 1)


def test_a_compiler_in_the_long_step_is_recompilation(tmp_path: Path) -> None:
    compiles = Rank(host=62, only=3, add=also("TorchDynamo Cache Lookup", 3, 50))
    context = context_of(Run((compiles, compiles), steps=4), tmp_path)
    assert found_in(context)["slow_step_outlier"].remedy.startswith("recompilation")


def test_a_longer_batch_is_named_and_costs_nothing(tmp_path: Path) -> None:
    """Step 3 of 4 computes 100 ms longer, with products of twice the size."""

    def larger(trace: TraceBuilder, step: int, zero: float) -> None:
        shape = [[1280 if step == 3 else 640, 64], [64, 64]]
        op(trace, "aten::mm", zero + 0.2, 0.1, dims=shape, types=["float"] * 2)

    long = Rank(compute=190, only=3, add=larger)
    found = found_in(context_of(Run((long, long), steps=4), tmp_path))["slow_step_outlier"]
    assert (found.cost_ms_per_step, found.severity) == (0, "info")
    assert found.title.endswith("a longer batch")


# ------------------------------------------------------------------------------------- proof
@pytest.mark.parametrize("sample", ["zero2_accumulation", "zero2_slow_fabric", "zero3", "ddp"])
def test_proof_is_in_the_trace(sample: str) -> None:
    """The named row of the rank's events has that name, inside the recording."""
    a = tracelens.analyze(REPO / "sample_traces" / sample)
    frames_of = {r.rank: a.events(r.rank) for r in a.ranks}
    proven = [f for f in a.finding_rows if f.proof]
    assert len(proven) >= len(a.finding_rows) / 2
    for finding in proven:
        assert len(finding.proof) <= 8
        assert {p.rank for p in finding.proof} <= set(frames_of)
        for p in finding.proof:
            events = frames_of[p.rank]
            assert 0 <= p.start_ns < p.end_ns
            assert p.row == -1 or events["name"][p.row] == p.name
            numbers = next(r.steps.number.tolist() for r in a.ranks if r.rank == p.rank)
            assert p.step in numbers


def test_proof_of_a_loader(tmp_path: Path) -> None:
    """Idle inside the second step's range, which the window of the first one ends with."""
    slow = Rank(host=32, add=loads(1, 30))
    (first, *_) = found_in(context_of(Run((slow, slow)), tmp_path))["dataloader_stall"].proof
    assert (first.rank, first.step, first.name) == (0, 1, LOADER)
    assert (first.start_ns, first.end_ns) == (131_000_000, 161_000_000)
