"""Examples recorded by the collectors on GPUs: trace, manifest and FLOPs as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from truth import expected_setup

import tracelens
from tracelens.efficiency import measure_efficiency
from tracelens.infer.result import Inference, Setup
from tracelens.ingest.manifest import read_manifests

RECORDED = Path(__file__).parent / "recorded"


@pytest.mark.parametrize(("name", "world"), [("example_inference", 4), ("example_fsdp1", 2)])
def test_trace_and_manifest_of_an_example(name: str, world: int) -> None:
    analysis = tracelens.analyze(RECORDED / name)
    truth = json.loads((RECORDED / name / "truth.json").read_text(encoding="utf-8"))
    wrong = {
        key: (expected, analysis.setup.value(key))
        for key, expected in expected_setup(truth).items()
        if key in analysis.setup and analysis.setup.value(key) not in (None, expected)
    }
    assert wrong == {}
    manifest = analysis.manifest
    assert manifest is not None
    assert manifest.world_size == analysis.run.world_size == world
    assert manifest.unprofiled_step_ms == pytest.approx(truth["step_ms"][0])
    # the collector's events and the trace's windows time the same steps
    (rank,) = analysis.ranks
    each = json.loads((RECORDED / name / "rank0.run.json").read_text())["steps"]["profiled"]
    assert rank.steps.number.tolist()[0] == each["first_step"]
    assert analysis.summary.wall / 1e6 == pytest.approx(each["mean_ms"], rel=0.05)
    assert manifest.versions["torch"].startswith("2.11")


def test_flops_of_a_billion_parameters_are_those_of_the_closed_form() -> None:
    """As docs/collectors.md works out by hand: a GPT of h 4096 and 4 layers, 4 x 2048 tokens."""
    path = RECORDED / "example_mfu" / "rank0.run.json"
    manifest, notes = read_manifests([path], [path.with_name("rank0.pt.trace.json.xz")])
    assert manifest is not None
    assert not notes
    flops = manifest.ranks[0].flops
    assert flops is not None
    h, layers, s, b, vocabulary = 4096, 4, 2048, 4, 32_000
    linear = 2 * b * s * (12 * layers * h * h + h * vocabulary)
    attention = 4 * layers * b * s * s * h
    assert flops.forward == linear + attention
    assert flops.backward == 2 * flops.forward
    assert flops.recompute == attention // 2
    precision = Inference("precision", "bf16", ("bf16",), 0.98)
    found = measure_efficiency(manifest, Setup((precision,)), "NVIDIA H200", 1.0)
    assert found is not None
    assert found.mfu == pytest.approx(3 * (linear + attention) / (found.step_ms * 1e9) / 989.5)
    assert found.mfu == pytest.approx(0.4785, abs=5e-4)


def test_modules_of_it_were_timed() -> None:
    told: Any = json.loads((RECORDED / "example_mfu" / "rank0.run.json").read_text())
    rows = {m["name"]: m for m in told["flops"]["modules"]}
    assert rows["blocks.0"]["latency_ms"] == pytest.approx(5.15, abs=0.01)
    inside = sum(rows[f"blocks.{i}"]["latency_ms"] for i in range(4)) + rows["head"]["latency_ms"]
    assert inside <= rows[""]["latency_ms"]
