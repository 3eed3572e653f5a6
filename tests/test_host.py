"""What the host did while the GPU was idle: by hand, and as a sum that is exact."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from builder import BACKWARD_TID, TraceBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from tracelens.analysis import RankAnalysis
from tracelens.host import Cause, Host
from tracelens.ingest import open_trace
from tracelens.links import link
from tracelens.peculiar import find_peculiar
from tracelens.pipeline import analyze_rank
from tracelens.steps import find_steps
from tracelens.thresholds import PAUSE_NS, STALL_NS

LOADER = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
NODE = "autograd::engine::evaluate_function: "
CPU_ADAM = "Optimizer.step#DeepSpeedCPUAdam.step"


def rank_of(trace: TraceBuilder, folder: Path) -> RankAnalysis:
    return analyze_rank(open_trace(trace.write(folder / "rank0.json")), 0)


def idle_of(rank: RankAnalysis, step: int = 0) -> dict[str, float]:
    """Idle us by the causes that have any; they add up to the breakdown's idle."""
    assert rank.host.idle_ns.sum(axis=1).tolist() == rank.breakdown.idle.tolist()
    return {
        c.name: int(rank.host.idle_ns[step, c]) / 1000 for c in Cause if rank.host.idle_ns[step, c]
    }


def two_kernels(step: float = 1000, second: float = 300, delay: float = 20) -> TraceBuilder:
    """Work at 100-200, launched at 50; then 80 us of work launched at `second`, `delay` later.

    The window runs from 100 to the step's end + 100: as late as the GPU began after the host.
    """
    return (
        TraceBuilder()
        .step(1, 0, step)
        .launch(1, ts=50, dur=5, tid=100)
        .kernel("gemm", 100, 100, corr=1)
        .launch(2, ts=second, dur=5, tid=100)
        .kernel("gemm", second + delay, 80, corr=2)
    )


def test_until_the_launch_it_is_the_host_then_the_device(tmp_path: Path) -> None:
    """Idle 200-300 before the launch, 300-320 after it, 400-1100 with nothing launched."""
    assert idle_of(rank_of(two_kernels(), tmp_path)) == {"LAUNCH": 100 + 700, "DEVICE": 20}


def test_work_launched_ahead_is_the_devices(tmp_path: Path) -> None:
    """Launched at 60, so the gap 200-230 is no fault of the host's."""
    trace = two_kernels(second=60, delay=170)
    assert idle_of(rank_of(trace, tmp_path)) == {"DEVICE": 30, "LAUNCH": 1100 - 310}


def test_the_loader(tmp_path: Path) -> None:
    """Of the host's 200-300, the range covers 210-290; what it does beside the GPU is free."""
    trace = two_kernels().annotation(LOADER, ts=210, dur=80).annotation(LOADER, ts=110, dur=50)
    assert idle_of(rank_of(trace, tmp_path)) == {"LOADER": 80, "LAUNCH": 20 + 700, "DEVICE": 20}


def test_the_allocator(tmp_path: Path) -> None:
    """Of cudaMalloc at 150-230 the GPU idles from 200 on; cudaFree at 330 lies beside work."""
    trace = two_kernels()
    trace.launch(8, ts=150, dur=80, name="cudaMalloc", tid=100)
    trace.launch(9, ts=330, dur=10, name="cudaFree", tid=100)
    rank = rank_of(trace, tmp_path)
    assert idle_of(rank) == {"ALLOCATOR": 30, "LAUNCH": 70 + 700, "DEVICE": 20}
    assert rank.host.allocator_calls.tolist() == [2]


def test_each_instant_has_one_cause(tmp_path: Path) -> None:
    """An allocation inside the loader is the loader's: it is named first."""
    trace = two_kernels().annotation(LOADER, ts=210, dur=40)
    trace.launch(8, ts=220, dur=60, name="cudaMalloc", tid=100)
    got = idle_of(rank_of(trace, tmp_path))
    assert got == {"LOADER": 40, "ALLOCATOR": 30, "LAUNCH": 30 + 700, "DEVICE": 20}


# ------------------------------------------------------------------------------------- pauses
def pause(*, other: int | None = None, thread: int = 7, length: float = 4945) -> TraceBuilder:
    """No event between the end of one launch, 55, and the next; one on `other`'s thread."""
    trace = two_kernels(10_000, 55 + length, 10)
    if other is not None:
        trace.launch(99, ts=other, dur=1, name="cudaEventQuery", tid=thread)
    return trace


def test_a_pause(tmp_path: Path) -> None:
    """Nothing happens 55-5000; the GPU is idle from 200 on. After 5090 the host is just late."""
    rank = rank_of(pause(), tmp_path)
    assert idle_of(rank) == {"PAUSE": 4800, "DEVICE": 10, "LAUNCH": 10_100 - 5090}
    (found,) = rank.host.pauses
    assert (found.step, found.start_ns, found.dur_ns) == (0, 55_000, 4_945_000)
    assert (found.after, found.before) == ("cudaLaunchKernel", "cudaLaunchKernel")


def test_a_watchdog_does_not_hide_a_pause(tmp_path: Path) -> None:
    """A thread that neither runs ops nor launches says nothing about the step."""
    assert idle_of(rank_of(pause(other=2500), tmp_path))["PAUSE"] == 4800


def test_work_on_another_thread_is_no_pause(tmp_path: Path) -> None:
    """Events at 2500 on the main thread halve the gap: both halves are under 3 ms."""
    assert "PAUSE" not in idle_of(rank_of(pause(other=2500, thread=100), tmp_path))
    trace = pause().cpu_op("aten::add", ts=2500, dur=1, tid=BACKWARD_TID)
    assert "PAUSE" not in idle_of(rank_of(trace, tmp_path))


@pytest.mark.parametrize(("length", "n"), [(PAUSE_NS / 1000, 0), (PAUSE_NS / 1000 + 1, 1)])
def test_a_pause_is_longer_than_the_threshold(length: float, n: int, tmp_path: Path) -> None:
    assert len(rank_of(pause(length=length), tmp_path).host.pauses) == n


# ------------------------------------------------------------------- the optimizer on the host
def test_an_optimizer_on_the_cpu(tmp_path: Path) -> None:
    """From the end of the backward pass, 300, to the end of the step it is the optimizer's.

    Work at 100-200 and 860-900: idle 200-300 and, past the step's end, 1000-1100 are the host's;
    300-850 and 900-1000 the optimizer's; 850-860 the device's.
    """
    trace = (
        TraceBuilder()
        .step(1, 0, 1000)
        .cpu_op("aten::mm", ts=50, dur=10, seq=1)
        .launch(1)
        .kernel("gemm", 100, 100, corr=1)
        .cpu_op(f"{NODE}MmBackward0", ts=210, dur=90, seq=1, tid=BACKWARD_TID)
        .annotation(CPU_ADAM, ts=400, dur=300)
        .launch(2, ts=850, dur=5, tid=100)
        .memcpy("HtoD", 860, 40, nbytes=8, corr=2)
    )
    got = idle_of(rank_of(trace, tmp_path))
    assert got == {"CPU_OPTIMIZER": 550 + 100, "LAUNCH": 100 + 100, "DEVICE": 10}


def test_an_optimizer_on_the_gpu_is_not(tmp_path: Path) -> None:
    trace = two_kernels().annotation("Optimizer.step#FusedAdam.step", ts=210, dur=700)
    assert "CPU_OPTIMIZER" not in idle_of(rank_of(trace, tmp_path))


# ------------------------------------------------------------------------------ synchronisation
def synced(ts: float, dur: float, backward_end: float = 390) -> TraceBuilder:
    trace = two_kernels().cpu_op("aten::mm", ts=10, dur=2, seq=1)
    trace.cpu_op(f"{NODE}MmBackward0", ts=380, dur=backward_end - 380, seq=1, tid=BACKWARD_TID)
    return trace.launch(9, ts=ts, dur=dur, name="cudaStreamSynchronize", tid=100)


def test_the_host_waits_until_the_gpu_is_dry(tmp_path: Path) -> None:
    """Blocked 150-205: work ends at 200 in it, and the gap 200-300 follows from it."""
    rank = rank_of(synced(150, 55), tmp_path)
    assert idle_of(rank) == {"SYNC": 100, "DEVICE": 20, "LAUNCH": 700}
    assert rank.host.syncs == {"cudaStreamSynchronize": 1}


def test_a_sync_of_an_empty_queue_is_free(tmp_path: Path) -> None:
    """It begins when the GPU is idle already, and takes its own 5 us only."""
    assert "SYNC" not in idle_of(rank_of(synced(220, 5), tmp_path))


def test_a_sync_after_the_backward_pass_is_the_optimizers(tmp_path: Path) -> None:
    rank = rank_of(synced(395, 10), tmp_path)
    assert "SYNC" not in idle_of(rank)
    assert rank.host.syncs == {}


# ------------------------------------------------------------------------------------- stalls
@pytest.mark.parametrize(
    ("delay", "stalls"), [(STALL_NS / 1000, 0), (STALL_NS / 1000 + 0.001, 1), (500, 1)]
)
def test_a_stall_is_launched_work_that_an_idle_device_starts_late(
    delay: float, stalls: int, tmp_path: Path
) -> None:
    host = rank_of(two_kernels(second=300, delay=delay), tmp_path).host
    assert host.stalls.tolist() == [stalls]
    assert host.stall_ns.tolist() == [round(delay * 1000) if stalls else 0]
    assert host.idle_ns[0, Cause.DEVICE] == round(delay * 1000)


def test_waiting_behind_other_work_is_no_stall(tmp_path: Path) -> None:
    """Launched at 100 and started at 900, but the device was busy until 890."""
    trace = TraceBuilder().step(1, 0, 1000).launch(1, ts=50, dur=5, tid=100)
    trace.kernel("gemm", 100, 790, corr=1).launch(2, ts=100, dur=5, tid=100)
    trace.kernel("gemm", 900, 10, corr=2)
    assert rank_of(trace, tmp_path).host.stalls.tolist() == [0]


@pytest.mark.parametrize(("call", "stalls"), [(2400, 0), (2400 - STALL_NS / 1000, 0), (5, 1)])
def test_a_launch_that_is_held_up_is_the_hosts(call: float, stalls: int, tmp_path: Path) -> None:
    """Work starts 2.4 ms after its launch began, but the call itself took that long.

    A thread that loses its core in the middle of a launch looks so, and no other process has the
    GPU.
    """
    trace = TraceBuilder().step(1, 0, 5000).launch(1, ts=50, dur=5, tid=100)
    trace.kernel("gemm", 100, 100, corr=1).launch(2, ts=300, dur=call, tid=100)
    trace.kernel("gemm", 2700, 10, corr=2)
    host = rank_of(trace, tmp_path).host
    assert host.stalls.tolist() == [stalls]
    held = call * (not stalls)
    assert host.idle_ns[0, Cause.DEVICE] == round((2400 - held) * 1000)


# ------------------------------------------------------------------------- the last window's end
def test_the_end_of_the_last_window_is_like_the_way_into_it(tmp_path: Path) -> None:
    """Each step begins with 60 us of loading before its first work, 100 us after its start.

    The first window holds the second step's loading; the last one the one that was not recorded.
    """
    trace = TraceBuilder()
    for k, zero in enumerate((0, 1000), start=1):
        trace.step(k, zero, 1000).annotation(LOADER, ts=zero + 5, dur=60)
        trace.launch(k, ts=zero + 95, dur=2, tid=100).kernel("gemm", zero + 100, 200, corr=k)
    rank = rank_of(trace, tmp_path)
    # idle 300-1100 but for the loader and the 5 us from launch to start
    assert idle_of(rank, 0) == {"LOADER": 60, "LAUNCH": 800 - 60 - 5, "DEVICE": 5}
    assert idle_of(rank, 1) == {"LOADER": 60, "LAUNCH": 800 - 60}


# ------------------------------------------------------------------------------- small measures
def test_pageable_copies(tmp_path: Path) -> None:
    """Only what no kernel covers counts: 20 of the 100 us of a copy lie beside the gemm."""
    trace = two_kernels()
    trace.gpu("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 180, 100, bytes=5000, stream=9)
    trace.gpu("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 500, 30, bytes=70, stream=9)
    trace.gpu("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 600, 30, bytes=900, stream=9)
    for e, corr in zip(trace.events[-3:], (11, 12, 13), strict=True):
        e["args"]["correlation"] = corr
        trace.launch(corr, ts=100 + corr, dur=1, name="cudaMemcpyAsync", tid=100)
    host = rank_of(trace, tmp_path).host
    assert (host.save_ns.tolist(), host.save_bytes.tolist()) == ([80_000], [5000])
    assert (host.input_ns.tolist(), host.input_bytes.tolist()) == ([30_000], [70])


def hooks(n_plain: int, n_reducing: int) -> TraceBuilder:
    """Gradient hooks of 10 us, and of 50 us with a reduction inside."""
    trace = two_kernels(10_000).cpu_op(f"{NODE}MmBackward0", ts=400, dur=12, tid=BACKWARD_TID)
    for i in range(n_plain + n_reducing):
        reduces, ts = i >= n_plain, 500 + 100 * i
        name = f"{NODE}torch::autograd::AccumulateGrad"
        trace.cpu_op(name, ts=ts, dur=50 if reduces else 10, tid=BACKWARD_TID)
        if reduces:
            trace.cpu_op("record_param_comms", ts=ts + 10, dur=5, tid=BACKWARD_TID)
    return trace


@pytest.mark.parametrize(
    ("plain", "reducing", "extra"),
    [
        (10, 2, 40_000),
        (0, 12, 38_000),  # no hook without a reduction: other nodes, 12 us, are the baseline
        (12, 0, 0),
    ],
)
def test_what_a_reduction_adds_to_its_hook(
    plain: int, reducing: int, extra: int, tmp_path: Path
) -> None:
    host = rank_of(hooks(plain, reducing), tmp_path).host
    assert (host.hook_ns, host.hook_extra_ns) == (50_000 if reducing else 0, extra)


def test_medians_of_launching(tmp_path: Path) -> None:
    """Calls of 5 us; starts 45 and 15 us after them; kernels of 100 and 80 us."""
    host: Host = rank_of(two_kernels(), tmp_path).host
    assert (host.call_ns, host.launch_delay_ns, host.kernel_ns) == (5_000, 30_000, 90_000)
    assert host.n_kernels == 2
    assert host.kernel_sums == {"gemm": (2, 180_000)}


# ------------------------------------------------------------------------------- the sum is exact
SPAN = st.tuples(st.integers(0, 12_000), st.integers(1, 4_000))
LAUNCHED = st.tuples(SPAN, st.integers(0, 3_000))


@settings(max_examples=60)
@given(
    st.lists(LAUNCHED, min_size=1, max_size=8),
    st.lists(st.tuples(SPAN, st.sampled_from(["loader", "cudaMalloc", "cudaStreamSynchronize"]))),
    st.integers(1, 3),
)
def test_causes_add_up_to_idle_and_none_is_negative(
    work: list[tuple[tuple[int, int], int]],
    reasons: list[tuple[tuple[int, int], str]],
    n_steps: int,
) -> None:
    trace = TraceBuilder().cpu_op(f"{NODE}MmBackward0", ts=9_000, dur=5, tid=BACKWARD_TID)
    for k in range(n_steps):
        trace.step(k, 10_000 * k // n_steps, 10_000 // n_steps)
    for i, ((start, dur), ahead) in enumerate(work, start=1):
        trace.launch(i, ts=max(start - ahead, 0), dur=1, tid=100)
        trace.kernel("gemm", start, dur, corr=i, stream=i)
    for (start, dur), what in reasons:
        if what == "loader":
            trace.annotation(LOADER, ts=start, dur=dur)
        else:
            trace.launch(0, ts=start, dur=dur, name=what, tid=100)
    with tempfile.TemporaryDirectory() as folder:
        rank = rank_of(trace, Path(folder))
    assert rank.host.idle_ns.sum(axis=1).tolist() == rank.breakdown.idle.tolist()
    assert (rank.host.idle_ns >= 0).all()
    assert np.array_equal(rank.host.stalls > 0, rank.host.stall_ns > 0)


def test_a_range_of_its_own_in_each_step_makes_no_large_table(tmp_path: Path) -> None:
    """2,000 names in 2,000 steps: as many pairs as events, and not four million."""
    b = TraceBuilder()
    for k in range(2000):
        b.step(k, 100 * k, 99).annotation(f"batch {k}", ts=100 * k + 1, dur=90)
        b.launch(k + 1, ts=100 * k + 2).kernel("gemm", 100 * k + 5, 50, corr=k + 1)
    b.annotation("evaluation", ts=100_020, dur=5000)
    trace = open_trace(b.write(tmp_path / "rank0.json"))
    steps = find_steps(trace, link(trace)).steps
    tracemalloc.start()
    found = find_peculiar(trace, steps, steps.complete)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [p.name for p in found] == ["evaluation"]
    assert peak < 8_000_000
