"""A ds_config against the trace: its own agrees, another one's is contradicted, by name."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import tracelens
from tracelens.detectors import Context
from tracelens.detectors.declared import against_config
from tracelens.findings import Finding
from tracelens.infer.result import Inference
from tracelens.ingest.ds_config import DsConfig
from tracelens.pipeline import _context

SAMPLES = Path(__file__).parent.parent / "sample_traces"
DEEPSPEED = ("zero1", "zero1_overlap", "zero2_accumulation", "zero2_slow_fabric", "zero3")


@cache
def sample(name: str) -> tuple[Context, dict[str, Any]]:
    """The context of a sample run, and the configuration that it ran with."""
    a = tracelens.analyze(SAMPLES / name)
    truth = json.loads((SAMPLES / name / "truth.json").read_text())
    return _context(a.ranks, a.matches, a.setup, a.run, a.summary), truth.get("ds_config") or {}


def findings(context: Context, values: dict[str, Any]) -> list[Finding]:
    config = DsConfig(values, "ds.json")
    return [c.finding for c in against_config(replace(context, ds_config=config))]


def changed(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The configuration with one dotted key set."""
    values = copy.deepcopy(values)
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return values


@pytest.mark.parametrize("name", DEEPSPEED)
def test_its_own_configuration_is_not_contradicted(name: str) -> None:
    context, own = sample(name)
    assert [f.title for f in findings(context, own) if f.id == "config_contradiction"] == []


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("zero1", "zero_optimization.stage", 3, "stage is 3, the trace shows 1"),
        ("zero3", "zero_optimization.stage", 2, "stage is 2, the trace shows 3"),
        ("zero1_overlap", "zero_optimization.stage", 3, "stage is 3, the trace shows 1 or 2"),
        ("zero1", "zero_optimization.overlap_comm", True, "true, the trace shows false"),
        ("zero2_accumulation", "gradient_accumulation_steps", 2, "2, the trace shows 4"),
        (
            "zero2_slow_fabric",
            "zero_optimization.reduce_bucket_size",
            5_000_000,
            "reduce_bucket_size is 5,000,000, the trace shows 500,000,000",
        ),
        (
            "zero3",
            "zero_optimization.offload_optimizer",
            {"device": "cpu"},
            "cpu, the trace shows none",
        ),
        ("zero3", "bf16.enabled", False, "precision is fp32, the trace shows bf16"),
    ],
)
def test_another_is_contradicted(name: str, key: str, value: Any, says: str) -> None:
    context, own = sample(name)
    found = findings(context, changed(own, key, value))
    told = [f for f in found if f.id == "config_contradiction"]
    assert [says in f.title for f in told] == [True], [f.title for f in told]
    assert told[0].evidence[0] == "ds_config: ds.json"
    assert len(told[0].evidence) > 1
    assert (told[0].cost_ms_per_step, told[0].severity) == (0.0, "info")


def test_what_is_left_to_the_framework_is_not_compared() -> None:
    context, own = sample("zero3")
    values = changed(own, "gradient_accumulation_steps", "auto")
    values = changed(values, "bf16.enabled", "auto")
    del values["zero_optimization"]["overlap_comm"]
    assert [f for f in findings(context, values) if f.id == "config_contradiction"] == []


def test_ranks_that_the_batch_size_implies() -> None:
    context, own = sample("zero3")
    micro = own["train_micro_batch_size_per_gpu"]
    values = changed(own, "train_batch_size", 8 * micro)
    values["gradient_accumulation_steps"] = 1
    assert any("8, the trace shows 4" in f.title for f in findings(context, values))


def test_a_ds_config_of_a_job_without_deepspeed() -> None:
    context, _ = sample("ddp")
    (found,) = findings(context, {"zero_optimization": {"stage": 2}})
    assert found.id == "config_contradiction"
    assert "ddp without DeepSpeed" in found.title


def test_overlap_that_a_bucket_prevents() -> None:
    context, own = sample("zero2_accumulation")
    (found,) = [f for f in findings(context, own) if f.id == "config_without_effect"]
    assert "overlap_comm is true and 0 % of the reduction is overlapped, because" in found.title
    assert any("reductions in a backward pass" in e for e in found.evidence)
    context, own = sample("zero1_overlap")  # smaller buckets: some is hidden
    assert not [f for f in findings(context, own) if f.id == "config_without_effect"]


def test_the_gather_that_ignores_its_bucket() -> None:
    context, own = sample("zero1")
    values = changed(own, "zero_optimization.allgather_bucket_size", 1_000)
    (found,) = [f for f in findings(context, values) if f.id == "allgather_bucket_no_effect"]
    assert "allgather_bucket_size is 1,000 and has no effect" in found.title
    values = changed(own, "zero_optimization.allgather_bucket_size", 10**12)
    assert not [f for f in findings(context, values) if f.id == "allgather_bucket_no_effect"]


def test_bounds_contradict_too() -> None:
    context, own = sample("zero3")
    bounds = Inference("reduce_bucket_size", None, (), 0.5, ("seen",), low=10**6, high=10**7)
    setup = type(context.setup)(
        tuple(bounds if k == bounds.key else i for k, i in context.setup.items())
    )
    context = replace(context, setup=setup)
    key = "zero_optimization.reduce_bucket_size"
    titles = {
        size: [f.title for f in findings(context, changed(own, key, size)) if "bucket" in f.title]
        for size in (10**5, 10**6, 10**7)
    }
    assert "at least 1,000,000" in titles[10**5][0]
    assert not titles[10**6]
    assert "less than 10,000,000" in titles[10**7][0]


def test_through_the_command(tmp_path: Path) -> None:
    _, own = sample("zero1")
    given = tmp_path / "ds.json"
    given.write_text(json.dumps(changed(own, "zero_optimization.stage", 3)))
    analysis = tracelens.analyze(SAMPLES / "zero1", ds_config=given)
    assert [f.id for f in analysis.finding_rows].count("config_contradiction") == 1
    without = tracelens.analyze(SAMPLES / "zero1")
    (verdict,) = [v for v in without.verdicts if v.id == "config_contradiction"]
    assert verdict.status == "not_applicable"
    assert "--ds-config" in str(verdict.reason)
