"""One small run with numbers worked out by hand, and the tables that follow from it.

Times in us. Two steps on rank 0, one on rank 1 of three:

    rank 0        0    100  300  400  600  700  750  1050 1100  1400 1500 2000
    step 1 host   [------------------------------------|
      gemm              [--------]
      all_reduce             [---------]
      copy H2D                              [---]
    step 2 host                                        |---------------------]
      gemm                                                 [----------]
      all_reduce                                                 [x]       (beside the gemm)

The GPU begins step 2 100 us after the host; its window ends 100 us after the host's, at 2100.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builder import TraceBuilder

import tracelens

EVIL = "<script>alert(1)</script>[bold]\x1b[31m\u202egemm"
GROUP = "<b>evil & co</b>"


def rank0(name: str = "sm90_gemm") -> TraceBuilder:
    """Rank 0 of the run above."""
    group = {"Process Group Description": GROUP}
    return (
        TraceBuilder(rank=0, world_size=3)
        .step(1, 0, 1000)
        .launch(1, ts=50, dur=5, tid=100)
        .launch(2, ts=60, dur=5, tid=100)
        .launch(3, ts=70, dur=5, tid=100)
        .kernel(name, 100, 300, corr=1)
        .nccl(ts=300, dur=300, nelems=1_000_000, corr=2, **group)
        .memcpy("HtoD", 700, 50, nbytes=4096, corr=3)
        .step(2, 1000, 1000)
        .launch(4, ts=1010, dur=5, tid=100)
        .launch(5, ts=1020, dur=5, tid=100)
        .kernel(name, 1100, 400, corr=4)
        .nccl(ts=1300, dur=100, nelems=1_000_000, corr=5, **group)
    )


def rank1() -> TraceBuilder:
    """Rank 1: one step, half compute, half idle."""
    return (
        TraceBuilder(rank=1, world_size=3)
        .step(1, 0, 1000)
        .launch(1, ts=0, dur=5, tid=100)
        .kernel("sm90_gemm", 0, 500, corr=1)
    )


def run_at(folder: Path, name: str = "sm90_gemm") -> Path:
    """The run on disk."""
    folder.mkdir(exist_ok=True)
    rank0(name).write(folder / "rank0.json")
    rank1().write(folder / "rank1.json")
    return folder


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> tracelens.Analysis:
    return tracelens.analyze(run_at(tmp_path_factory.mktemp("case") / "run"))


#: rank, step -> wall, compute, overlapped comm, exposed comm, exposed copy, idle, us
STEPS = {
    (0, 1): (1000, 300, 100, 200, 50, 450),
    (0, 2): (1000, 400, 100, 0, 0, 600),
    (1, 1): (1000, 500, 0, 0, 0, 500),
}


def test_steps_frame_is_the_table_by_hand(analysis: tracelens.Analysis) -> None:
    frame = analysis.steps
    names = ("wall", "compute", "overlapped_comm", "exposed_comm", "exposed_copy", "idle")
    rows = frame[["rank", "step", *(f"{n}_ms" for n in names)]].itertuples(index=False)
    got = {(r[0], r[1]): tuple(round(1000 * v) for v in r[2:]) for r in rows}
    assert got == STEPS
    assert frame["complete"].all()
    assert frame["kernels"].tolist() == [3, 2, 1]
    # rank 2 is missing, so what rank 0 waited is not known; rank 1 had nothing to wait for
    assert frame["exposed_wait_ms"].isna().tolist() == [True, True, False]


def test_collectives_frame(analysis: tracelens.Analysis) -> None:
    (row,) = analysis.collectives.to_dict("records")
    assert (row["kind"], row["group"], row["group_size"]) == ("all_reduce", GROUP, 3)
    # two collectives in three steps: means per step and rank
    assert row["count_per_step"] == pytest.approx(2 / 3)
    assert row["bytes_per_step"] == pytest.approx(2 * 2_000_000 / 3)
    assert row["total_ms"] == pytest.approx(0.4 / 3)
    assert row["exposed_ms"] == pytest.approx(0.2 / 3)
    assert row["overlapped_pct"] == pytest.approx(50)
    assert row["wait_ms"] != row["wait_ms"]  # NaN: not known


def test_json_summary_is_the_mean_of_the_steps(analysis: tracelens.Analysis) -> None:
    summary = analysis.to_json()["summary"]
    assert isinstance(summary, dict)
    want = [round(sum(column) / 3 / 1000, 6) for column in zip(*STEPS.values(), strict=True)]
    names = ("wall", "compute", "overlapped_comm", "exposed_comm", "exposed_copy", "idle")
    assert [summary[f"{n}_ms"] for n in names] == want
    assert summary["overlap_ratio"] == 0.5
    assert summary["exposed_comm_pct"] == pytest.approx(100 * 200 / 3000, abs=1e-6)
    assert summary["n_steps"] == 3


def test_waiting_by_hand(tmp_path: Path) -> None:
    """Two ranks, one all_reduce: the rank that comes 200 us early waits 200 us of its 500."""
    for rank, (start, length) in enumerate(((100, 500), (300, 300))):
        trace = TraceBuilder(rank=rank, world_size=2).step(1, 0, 1000)
        trace.launch(1, ts=10, dur=5, tid=100).launch(2, ts=20, dur=5, tid=100)
        trace.kernel("sm90_gemm", 50, 50, corr=1)
        trace.nccl(ts=start, dur=length, nelems=500_000, corr=2)
        trace.write(tmp_path / f"rank{rank}.json")
    both = tracelens.analyze(tmp_path)
    frame = both.steps
    assert frame["exposed_wait_ms"].tolist() == pytest.approx([0.2, 0.0])
    assert frame["exposed_transfer_ms"].tolist() == pytest.approx([0.3, 0.3])
    report = json.loads(json.dumps(both.to_json()))
    assert report["summary"]["exposed_wait_ms"] == pytest.approx(0.1)
    assert report["summary"]["exposed_transfer_ms"] == pytest.approx(0.3)
    (row,) = report["collectives"]
    assert (row["wait_ms"], row["transfer_ms"]) == (0.1, 0.3)
    assert row["algbw_gbps"] == pytest.approx(1e6 / 300_000)  # 1 MB in 300 us; B/ns is GB/s
    text = both.report(width=120)
    assert "0.100 ms of it is waiting for the last rank to arrive, 0.300 ms is transfer" in text
    assert "waiting" in both._repr_html_()
