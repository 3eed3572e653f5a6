"""Recorded Nsight Systems runs: what is claimed is true, and what torch.profiler would say."""

from __future__ import annotations

import json
import lzma
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from truth import expected_setup

import tracelens
from tracelens.infer.roles import find_roles
from tracelens.infer.rules import infer_rank

RECORDED = Path(__file__).parent / "recorded"

#: What each run must say beyond claiming nothing wrong: (ranks, keys that have to be right).
SAYS: dict[str, tuple[int, dict[str, object]]] = {
    "nsys_ddp": (2, {"data_parallel_size": 2, "gradient_accumulation_steps": 1}),
    "nsys_fsdp2": (2, {"data_parallel_size": 2, "gradient_accumulation_steps": 1}),
    "nsys_zero2": (
        4,
        {
            "framework": "deepspeed",
            "zero_stage": None,  # as ZeRO-1 with overlap_comm would look
            "overlap_comm": True,
            "gradient_accumulation_steps": 1,
            "data_parallel_size": 4,
        },
    ),
    "nsys_zero3": (
        4,
        {
            "framework": "deepspeed",
            "zero_stage": 3,
            "overlap_comm": False,
            "gradient_accumulation_steps": 1,
            "data_parallel_size": 4,
        },
    ),
}


@cache
def analysis(name: str) -> tracelens.Analysis:
    return tracelens.analyze(RECORDED / name)


def truth(name: str) -> dict[str, Any]:
    return expected_setup(json.loads((RECORDED / name / "truth.json").read_text("utf-8")))


@pytest.mark.parametrize("name", SAYS)
def test_nothing_is_claimed_that_is_not_true(name: str) -> None:
    setup, expected = analysis(name).setup, truth(name)
    claimed = {k: setup.value(k) for k in expected if k in setup and setup.value(k) is not None}
    assert claimed == {k: expected[k] for k in claimed}
    for key, value in SAYS[name][1].items():
        assert setup.value(key) == value, key
    if expected.get("zero_stage") is not None:
        assert expected["zero_stage"] in setup["zero_stage"].candidates
    assert expected["framework"] in setup["framework"].candidates


@pytest.mark.parametrize("name", SAYS)
def test_each_rank_alone_says_the_same(name: str) -> None:
    a = analysis(name)
    keys = {"zero_stage", "overlap_comm", "gradient_accumulation_steps"} & set(SAYS[name][1])
    assert len(a.ranks) == SAYS[name][0] == a.run.world_size
    for r in a.ranks:
        alone = infer_rank(r.facts, find_roles(r.facts))
        assert {k: alone[k].value for k in keys} == {k: SAYS[name][1][k] for k in keys}


@pytest.mark.parametrize("name", SAYS)
def test_steps_are_the_marked_ones_and_sum_up(name: str) -> None:
    for r in analysis(name).ranks:
        b = r.breakdown
        assert r.step_source == "NVTX ranges"
        assert r.steps.number.tolist() == [0, 1, 2]
        assert r.steps.complete.all()
        total = b.compute + b.exposed_comm + b.exposed_copy + b.idle
        assert total.tolist() == (r.steps.end_ns - r.steps.start_ns).tolist()
        assert len(set(r.kernels.tolist())) == 1


def test_two_profilers_of_one_job_agree() -> None:
    """The same job by both: equal work and equal transfer; nsys leaves the host less slow."""
    torch, nsys = analysis("torch_ddp"), analysis("nsys_ddp")
    assert nsys.run.rank_source == "NCCL payload"
    for key in torch.setup:
        ours, theirs = nsys.setup.value(key), torch.setup.value(key)
        assert ours is None or ours == theirs, key
    assert {r.kernels[0] for r in torch.ranks} == {r.kernels[0] for r in nsys.ranks}
    assert nsys.summary.compute == pytest.approx(torch.summary.compute, rel=0.01)
    a, b = (next(c for c in x.collective_rows if c.kind == "all_reduce") for x in (torch, nsys))
    assert (a.count_per_step, a.bytes_per_step) == (b.count_per_step, b.bytes_per_step)
    assert (a.phase, a.group_size, a.dtype) == (b.phase, b.group_size, b.dtype)
    assert b.transfer_ns == pytest.approx(a.transfer_ns, rel=0.1)
    unprofiled = json.loads((RECORDED / "nsys_ddp" / "truth.json").read_text("utf-8"))["step_ms"]
    assert nsys.summary.wall / 1e6 == pytest.approx(sum(unprofiled) / 2, rel=0.05)
    assert torch.summary.wall > nsys.summary.wall


def test_ranks_of_several_reports_share_a_clock() -> None:
    """Two processes recorded on their own: their collectives end together within 50 us."""
    m = analysis("nsys_fsdp2").matches
    assert m.n_matched > 0
    assert m.n_unmatched == 0
    assert m.residual_ns is not None
    assert m.residual_ns < 50_000


#: What is left to say when the ranges, and with them DeepSpeed's names, are gone.
BARE: dict[str, dict[str, object]] = {
    "nsys_zero2": {"overlap_comm": True, "gradient_accumulation_steps": 1, "zero_stage": None},
    "nsys_zero3": {"overlap_comm": False, "gradient_accumulation_steps": 1, "zero_stage": 3},
}


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("without", ["NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_RUNTIME"])
def test_kernels_alone_say_what_they_can(tmp_path: Path, name: str, without: str) -> None:
    path = tmp_path / "node0.sqlite"
    path.write_bytes(lzma.decompress((RECORDED / name / "node0.sqlite.xz").read_bytes()))
    con = sqlite3.connect(path)
    con.execute("DROP TABLE NVTX_EVENTS")
    if without != "NVTX_EVENTS":
        con.execute(f"DROP TABLE {without}")
    con.commit()
    con.close()
    a, expected = tracelens.analyze(path), truth(name)
    claimed = {k: a.setup.value(k) for k in expected if a.setup.value(k) is not None}
    assert claimed == {k: expected[k] for k in claimed}
    assert {k: a.setup.value(k) for k in BARE[name]} == BARE[name]
    assert a.ranks[0].step_source == "optimizer kernels"
    assert "missing_table" in {n.code for n in a.notes}
