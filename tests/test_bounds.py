"""Bounds of waiting and transfer where ranks are missing: by hand, and where none is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builder import TraceBuilder

import tracelens
from tracelens.bounds import exposed_wait_bounds, nvlink_gbps, transfer_bounds
from tracelens.thresholds import TRANSFER_SCATTER

REPO = Path(__file__).parent.parent
TRACES = REPO.parent / "shared" / "traces"
#: Recorded runs of all ranks: NVLink and shared memory, each stage, many and few sizes.
RUNS = [
    "p_tiny_buckets", "s_nv_z2_on_rb5e06", "s_nv_z3_on_rb5e07_pf0e00", "s_shm_z1_on_rb5e07_ag5e6",
    "s_shm_z2_on_rb5e08", "s_shm_z3_on_rb5e07_pf0e00", "w4_fsdp2_reshard", "w4_moe_ep2_z2",
]  # fmt: skip


def one_of_two(
    folder: Path, calls: list[tuple[str, float, int]], device: str = "NVIDIA H200"
) -> Path:
    """Rank 0 of two: collectives (kind, length in us, elements of bf16), 1 ms apart."""
    trace = TraceBuilder(rank=0, world_size=2).step(1, 0, 1000 * len(calls) + 1000)
    for i, (kind, dur, nelems) in enumerate(calls, start=1):
        trace.launch(i, ts=1000 * i - 5, tid=100)
        trace.nccl(kind, ts=1000 * i, dur=dur, nelems=nelems, corr=i)
    trace.meta(deviceProperties=[{"id": 0, "name": device}])
    trace.write(folder / "rank0.json")
    return folder


def test_the_shortest_of_a_size_bounds_the_others(tmp_path: Path) -> None:
    """Three of 9 MB: 500, 100 and 110 us. Over 450 GB/s half of them takes 10 us.

    So of 500 us at least 500 - 120 are waiting, and at most 490; of 100 and 110 none has to be.
    """
    calls = [("all_reduce", us, 4_500_000) for us in (500.0, 100.0, 110.0)]
    a = tracelens.analyze(one_of_two(tmp_path, calls))
    table = a.ranks[0].comm
    least, most = transfer_bounds(table, np.full(3, -1), a.run.device)
    assert least.tolist() == [10_000] * 3
    assert most.tolist() == [round(100_000 * (1 + TRANSFER_SCATTER)), 100_000, 110_000]
    assert a.wait_bounds == (380_000, 490_000 + 90_000 + 100_000)
    document = a.to_json()
    assert document["bounds"] == {
        "exposed_wait_ms": [0.38, 0.68],
        "exposed_transfer_ms": [0.03, 0.33],
    }


def test_other_sizes_tell_nothing(tmp_path: Path) -> None:
    calls = [("all_reduce", 500.0, 4_500_000), ("all_reduce", 100.0, 1_000)]
    a = tracelens.analyze(one_of_two(tmp_path, calls))
    assert a.wait_bounds is not None
    assert a.wait_bounds[0] == 0


def test_without_a_known_link_transfer_may_be_nothing(tmp_path: Path) -> None:
    a = tracelens.analyze(one_of_two(tmp_path, [("all_reduce", 500.0, 4_500_000)], "Some GPU"))
    assert a.wait_bounds == (0, 500_000)


def test_what_is_known_needs_no_bounds() -> None:
    a = tracelens.analyze(REPO / "sample_traces" / "ddp")
    assert a.wait_bounds is None
    assert a.to_json()["bounds"] is None
    r = a.ranks[0]
    wait = a.matches.wait_ns[0]
    least, most = transfer_bounds(r.comm, wait, a.run.device)
    known = wait >= 0
    assert (least[known] == (r.comm.dur_ns - wait)[known]).all()
    assert (least == most)[known].all()


def test_the_least_is_charged(tmp_path: Path) -> None:
    """A gather after the optimizer on one rank of four: what its bytes take over NVLink is sure."""
    sample = REPO / "sample_traces" / "zero1"
    whole = tracelens.analyze(sample)
    alone = tracelens.analyze(sample, ranks=[whole.run.ranks[0]])
    name = "post_step_allgather_exposed"
    (all_of_it,) = [f for f in whole.finding_rows if f.id == name]
    (sure,) = [f for f in alone.finding_rows if f.id == name]
    assert 0.5 * all_of_it.cost_ms_per_step < sure.cost_ms_per_step < all_of_it.cost_ms_per_step
    assert "bounds" in sure.evidence[0]


@pytest.mark.parametrize(
    ("device", "gbps"),
    [
        ("NVIDIA A100-SXM4-80GB", 300.0),
        ("NVIDIA H100 80GB HBM3", 450.0),
        ("NVIDIA GB200", 900.0),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H800 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        (None, None),
    ],
)
def test_only_what_is_surely_linked_has_a_speed(device: str | None, gbps: float | None) -> None:
    assert nvlink_gbps(device) == gbps


SAMPLES = ["zero1", "zero2_accumulation", "zero2_slow_fabric", "zero3", "ddp"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_bounds_hold_the_truth_on_samples(sample: str) -> None:
    check(REPO / "sample_traces" / sample)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the recorded runs are not beside this checkout")
@pytest.mark.parametrize("run", RUNS)
def test_bounds_hold_the_truth(run: str) -> None:
    check(TRACES / run)


def check(path: Path) -> None:
    """Each rank alone, against what all ranks together tell: half a percent of the step at most."""
    a = tracelens.analyze(path)
    for r, wait in zip(a.ranks, a.matches.wait_ns, strict=True):
        unknown = np.full(len(r.comm), -1)
        bounds = transfer_bounds(r.comm, unknown, a.run.device)
        low, high = exposed_wait_bounds(r.comm, bounds, r.compute, r.steps)
        truth = np.where(r.exposed_wait_ns >= 0, r.exposed_wait_ns, low)
        margin = 0.005 * r.breakdown.wall
        assert (low <= truth + margin).all()
        assert (truth <= high + margin).all()
        known = wait >= 0
        assert (bounds[0][known] <= (r.comm.dur_ns - wait)[known]).all()
