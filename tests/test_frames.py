"""The DataFrames' types and single events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builder import TraceBuilder
from test_report_case import GROUP, run_at

import tracelens
from tracelens.findings import Finding


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> tracelens.Analysis:
    return tracelens.analyze(run_at(tmp_path_factory.mktemp("case") / "run"))


def test_events_know_their_step_and_meaning(analysis: tracelens.Analysis) -> None:
    frame = analysis.events(rank=0)
    kernels = frame[frame["kind"] == "kernel"]
    assert kernels["op"].tolist() == ["gemm", "all_reduce", "gemm", "all_reduce"]
    assert kernels["step"].tolist() == [1, 1, 2, 2]
    assert kernels["launch_ns"].tolist() == [50_000, 60_000, 1_010_000, 1_020_000]
    assert frame.loc[frame["kind"] == "runtime", "step"].tolist() == [1, 1, 1, 2, 2]
    host = frame[frame["kind"] == "annotation"]
    assert host["op"].isna().all()
    assert host["launch_ns"].isna().all()


def test_the_first_rank_is_the_default(analysis: tracelens.Analysis) -> None:
    assert analysis.events().equals(analysis.events(rank=0))
    assert len(analysis.events(rank=1)) < len(analysis.events(rank=0))


def test_communication_row_by_row(analysis: tracelens.Analysis) -> None:
    """The two all-reduces of the run by hand; rank 2 is missing, so nothing is known of waiting."""
    frame = analysis.comm
    assert frame[["rank", "step", "start_ns", "dur_ns", "exposed_ns"]].to_numpy().tolist() == [
        [0, 1, 300_000, 300_000, 200_000],
        [0, 2, 1_300_000, 100_000, 0],
    ]
    assert frame["kind"].tolist() == ["all_reduce"] * 2
    assert frame["group"].tolist() == [GROUP] * 2
    assert frame["bytes"].tolist() == [2_000_000] * 2
    assert frame["wait_ns"].isna().all()
    assert frame["number"].isna().all()


def test_the_same_collective_has_the_same_number(tmp_path: Path) -> None:
    for rank, start in ((0, 100), (1, 140)):  # rank 1 is 40 us late, both end together
        trace = TraceBuilder(rank=rank, world_size=2).step(1, 50, 1000).launch(1, ts=60, dur=5)
        trace.nccl(ts=start, dur=400 - start, nelems=1000, corr=1)
        trace.write(tmp_path / f"rank{rank}.json")
    frame = tracelens.analyze(tmp_path).comm
    assert frame["start_ns"].tolist() == [50_000, 90_000]  # since the marker, the first event
    assert frame["number"].tolist() == [0, 0]
    assert frame["wait_ns"].tolist() == [40_000, 0]


def test_units_are_in_the_names(analysis: tracelens.Analysis) -> None:
    for frame in (analysis.steps, analysis.collectives, analysis.findings):
        for name, column in frame.items():
            if column.dtype == np.float64:
                assert str(name).endswith(("_ms", "_pct", "_gbps", "_per_step")), name


def test_findings_are_typed_when_there_are_none(analysis: tracelens.Analysis) -> None:
    frame = analysis.findings
    assert len(frame) == 0
    assert frame["cost_ms_per_step"].dtype == np.float64
    assert isinstance(frame["id"].dtype, pd.StringDtype)


def test_findings_are_sorted_by_cost(analysis: tracelens.Analysis) -> None:
    rows = (
        Finding("small", "Small", 1.0, "low", (0,), (1,), ("seen",), "do", {"k": 1}),
        Finding("large", "Large", 9.0, "high"),
    )
    found = replace(analysis, finding_rows=rows)
    assert found.findings["id"].tolist() == ["large", "small"]
    assert found.findings["config"].tolist() == [None, {"k": 1}]
    listed = found.to_json()["findings"]
    assert isinstance(listed, list)
    assert listed[0]["evidence"] == ["seen"]


def test_a_missing_group_is_missing(analysis: tracelens.Analysis) -> None:
    (row,) = analysis.collective_rows
    assert row.group == GROUP
    frame = replace(
        analysis, collective_rows=(replace(row, group=None, group_size=None, phase=None),)
    ).collectives
    assert frame[["group", "group_size", "phase"]].isna().all(axis=None)
