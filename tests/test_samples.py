"""The sample runs against their truth, against the identities, and against golden reports.

After an intended change of the report: ``pytest tests/test_samples.py --update-golden``, then look
at the difference before it is committed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from truth import expected_setup

import tracelens

REPO = Path(__file__).parent.parent
SAMPLES = REPO / "sample_traces"
GOLDEN = Path(__file__).parent / "golden"
RUNS = sorted(p.name for p in SAMPLES.iterdir() if p.is_dir())
MAX_BYTES = 15_000_000

#: Asked of every sample; the reports may know more keys.
KEYS = (
    "framework",
    "mode",
    "zero_stage",
    "overlap_comm",
    "reduce_bucket_size",
    "gradient_accumulation_steps",
    "precision",
    "offload_optimizer",
    "offload_param",
    "activation_checkpointing",
    "data_parallel_size",
    "tensor_parallel_size",
    "pipeline_parallel_size",
)

#: What these recordings decide, and so must be answered: run -> keys. Kernels-only runs and the
#: stage of ZeRO with overlap and one micro-step are the cases that a trace cannot tell.
DECIDED = {
    "ddp": ("framework", "gradient_accumulation_steps", "precision"),
    "zero1": ("framework", "zero_stage", "overlap_comm", "reduce_bucket_size", "precision"),
    "zero1_overlap": ("framework", "overlap_comm", "reduce_bucket_size", "precision"),
    "zero2_accumulation": (
        "framework",
        "zero_stage",
        "overlap_comm",
        "reduce_bucket_size",
        "gradient_accumulation_steps",
        "precision",
    ),
    "zero2_kernels_only": (),
    "zero2_slow_fabric": ("framework", "overlap_comm", "reduce_bucket_size", "precision"),
    "zero3": ("framework", "zero_stage", "gradient_accumulation_steps", "precision"),
}

Report = dict[str, Any]


def truth_of(run: str) -> dict[str, Any]:
    return json.loads((SAMPLES / run / "truth.json").read_text(encoding="utf-8"))


@cache
def analysis_of(run: str) -> tracelens.Analysis:
    return tracelens.analyze(SAMPLES / run)


@cache
def report_of(run: str) -> Report:
    """The JSON report, as a script reads it, with paths relative to the checkout."""
    report = json.loads(json.dumps(analysis_of(run).to_json()))
    text = json.dumps(report).replace(json.dumps(str(REPO))[1:-1] + "/", "")
    return json.loads(text)


@pytest.mark.parametrize("run", RUNS)
def test_truth_lies_beside_every_run(run: str) -> None:
    truth = truth_of(run)
    ranks = {p.name.split(".")[0] for p in (SAMPLES / run).glob("rank*")}
    assert ranks == {f"rank{r}" for r in truth["ranks_here"]}


def test_samples_are_small() -> None:
    assert sum(p.stat().st_size for p in SAMPLES.rglob("*") if p.is_file()) <= MAX_BYTES


def test_readme_has_every_sample_and_no_other() -> None:
    text = (SAMPLES / "README.md").read_text(encoding="utf-8")
    table = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert table == set(RUNS) == set(DECIDED)


@pytest.mark.parametrize("run", RUNS)
def test_setup_is_never_wrong(run: str) -> None:
    """None, cannot tell, is allowed; but then the truth must be among the candidates."""
    setup, truth = analysis_of(run).setup, expected_setup(truth_of(run))
    wrong = {}
    for key in KEYS:
        found = setup.get(key)
        if found is None or truth.get(key) is None:
            continue
        value = truth[key]
        excluded = found.value is None and found.candidates and value not in found.candidates
        if excluded or found.value not in (None, value):
            wrong[key] = (found.value, found.candidates, value)
    assert not wrong, "key: (said, candidates, truth)"


@pytest.mark.parametrize("run", RUNS)
def test_setup_is_told_where_the_trace_decides_it(run: str) -> None:
    setup, truth = analysis_of(run).setup, expected_setup(truth_of(run))
    assert {k: setup.value(k) for k in DECIDED[run]} == {k: truth[k] for k in DECIDED[run]}


@pytest.mark.parametrize("run", RUNS)
def test_every_answer_has_evidence_or_no_value(run: str) -> None:
    for key, found in analysis_of(run).setup.items():
        assert 0 <= found.confidence <= 1, key
        assert found.value is None or found.evidence, key


@pytest.mark.parametrize("run", RUNS)
def test_all_ranks_and_steps_are_read(run: str) -> None:
    truth, analysis = truth_of(run), analysis_of(run)
    assert list(analysis.run.ranks) == truth["ranks_here"]
    assert analysis.run.world_size == truth["world_size"]
    for rank in analysis.ranks:
        assert rank.stats.events_dropped == 0
        if rank.step_source == "ProfilerStep":
            assert rank.steps.complete.sum() == truth["spec"]["active"]


@pytest.mark.parametrize("run", RUNS)
def test_identities_hold_to_the_nanosecond(run: str) -> None:
    for rank in analysis_of(run).ranks:
        b = rank.breakdown
        assert len(b)
        assert (b.wall > 0).all()
        assert (b.compute + b.exposed_comm + b.exposed_copy + b.idle == b.wall).all()
        assert (b.exposed_comm + b.overlapped_comm == b.comm).all()


@pytest.mark.parametrize("run", RUNS)
def test_report_equals_golden(run: str, update_golden: bool) -> None:
    path = GOLDEN / f"{run}.json"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(report_of(run), indent=1) + "\n", encoding="utf-8")
    assert path.exists(), "make it with: pytest tests/test_samples.py --update-golden"
    assert report_of(run) == json.loads(path.read_text(encoding="utf-8"))
