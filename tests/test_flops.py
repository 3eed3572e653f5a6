"""FLOPs of known models against the closed form, and what is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_manifest import run, write

import tracelens
from collectors import FlopsCollector
from tracelens.efficiency import measure_efficiency
from tracelens.infer.result import Inference, Setup
from tracelens.ingest.manifest import Flops, Manifest, RankManifest
from tracelens.peaks import PEAKS, find_peak

BATCH, SEQ, HIDDEN, HEADS, LAYERS, VOCAB = 2, 16, 32, 4, 3, 50


def gpt(recompute: bool) -> Any:
    """A small transformer on the CPU."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
            self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)

        def forward(self, x: Any) -> Any:
            q, k, v = (
                t.view(BATCH, SEQ, HEADS, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
            )
            a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(a.transpose(1, 2).reshape(BATCH, SEQ, HIDDEN))
            return x + self.down(nn.functional.gelu(self.up(x)))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(VOCAB, HIDDEN), nn.Linear(HIDDEN, VOCAB)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

        def forward(self, tokens: Any) -> Any:
            x = self.embed(tokens)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=True) if recompute else block(x)
            return self.head(x).sum()

    torch.manual_seed(0)
    return Gpt()


def layer_flops() -> tuple[int, int]:
    """Linear layers and attention of one block and forward pass: 2 FLOPs a multiply-add."""
    tokens = BATCH * SEQ
    linear = 2 * tokens * HIDDEN * HIDDEN * (3 + 1 + 4 + 4)
    attention = 2 * (2 * BATCH * SEQ * SEQ * HIDDEN)
    return linear, attention


def count(folder: Path, recompute: bool, micro_steps: int = 1) -> dict[str, Any]:
    import torch

    model = gpt(recompute)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(0, VOCAB, (BATCH, SEQ))
    with FlopsCollector(folder, model) as flops:
        for _ in range(5):
            for _ in range(micro_steps):
                model(tokens).backward()
            optimizer.step()
            flops.step()
    assert not flops.on
    assert not flops.broken
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    told: dict[str, Any] = json.loads((folder / "rank0.run.json").read_text())["flops"]
    return told


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("micro_steps", [1, 3])
def test_a_transformer_has_the_flops_of_its_closed_form(
    tmp_path: Path, recompute: bool, micro_steps: int
) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    told = count(tmp_path, recompute, micro_steps)
    linear, attention = layer_flops()
    head = 2 * BATCH * SEQ * HIDDEN * VOCAB
    forward = LAYERS * (linear + attention) + head
    scores = LAYERS * attention // 2  # the backward kernel computes them again
    assert told["forward"] == micro_steps * forward
    assert told["backward"] == micro_steps * 2 * forward
    again = LAYERS * (linear + attention) if recompute else 0
    assert told["recompute"] == micro_steps * (scores + again)
    assert told["micro_steps"] == micro_steps
    assert told["not_counted"] == []


def test_modules_add_up(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    told = count(tmp_path, recompute=False)
    rows = {m["name"]: m for m in told["modules"]}
    linear, attention = layer_flops()
    assert rows["blocks.1"]["forward"] == linear + attention
    assert rows["blocks.1"]["type"] == "Block"
    assert rows["blocks.1.up"]["forward"] == 2 * BATCH * SEQ * HIDDEN * 4 * HIDDEN
    assert rows[""]["forward"] == told["forward"]
    model = gpt(False)
    assert rows[""]["parameters"] == told["parameters"]
    assert told["parameters"] == sum(p.numel() for p in model.parameters())


def test_frozen_weights_have_no_gradient_products(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    frozen, head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)
    frozen.requires_grad_(False)
    model = torch.nn.Sequential(frozen, head)
    with FlopsCollector(tmp_path, model, skip=0) as flops:
        model(torch.randn(5, 8)).sum().backward()
        flops.step()
    told = json.loads((tmp_path / "rank0.run.json").read_text())["flops"]
    assert told["forward"] == 2 * 5 * 8 * (8 + 4)
    assert told["backward"] == 2 * 5 * 8 * 4  # the head's weight alone


def test_an_operator_without_a_formula_is_named(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    schema = "(Tensor x) -> Tensor"

    @torch.library.custom_op("tracelens_test::attend", mutates_args=(), schema=schema)
    def attend(x: Any) -> Any:
        return x * 2

    model = torch.nn.Linear(4, 4)
    with FlopsCollector(tmp_path, model, skip=0) as flops:
        attend(model(torch.randn(2, 4)).detach())
        flops.step()
    told = json.loads((tmp_path / "rank0.run.json").read_text())["flops"]
    assert told["not_counted"] == ["tracelens_test.attend"]


def test_counting_goes_beside_the_trace_that_lies_there(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    write(tmp_path, 0)
    count(tmp_path, recompute=False)
    manifest = json.loads((tmp_path / "rank0.run.json").read_text())
    assert manifest["steps"]["unprofiled"]["mean_ms"] == 40.0
    assert manifest["flops"]["forward"]


# ------------------------------------------------------------------------------- what is made of it
def manifest(*flops: Flops, plain_ms: float | None = 100.0, tf32: bool | None = False) -> Manifest:
    ranks = [
        RankManifest(Path(f"rank{i}"), i, None, (), plain_ms, None, tf32, f)
        for i, f in enumerate(flops)
    ]
    return Manifest(tuple(ranks), len(ranks), None, None, {}, None)


def setup(precision: str | None, confidence: float = 0.98) -> Setup:
    return Setup((Inference("precision", precision, (precision,), confidence),))


FLOPS = Flops(10 * 10**12, 20 * 10**12, 6 * 10**12, 1, 10**9, (), ())


def test_mfu_by_hand() -> None:
    """30 TFLOP in 100 ms are 300 TFLOP/s of 989.5; with 6 more computed again, 360."""
    found = measure_efficiency(manifest(FLOPS), setup("bf16"), "NVIDIA H200", 120.0)
    assert found is not None
    assert (found.tflops, found.peak_tflops, found.step_source) == (300.0, 989.5, "unprofiled")
    assert found.mfu == pytest.approx(300 / 989.5)
    assert found.hfu == pytest.approx(360 / 989.5)
    assert "H200" in str(found.source)


def test_the_recorded_step_where_none_was_timed() -> None:
    found = measure_efficiency(manifest(FLOPS, plain_ms=None), setup("bf16"), "NVIDIA H200", 150.0)
    assert found is not None
    assert (found.tflops, found.step_source) == (200.0, "trace")


def test_ranks_that_counted_are_averaged() -> None:
    half = replace(FLOPS, forward=5 * 10**12, backward=10 * 10**12)
    found = measure_efficiency(manifest(FLOPS, half), setup("bf16"), "NVIDIA H200", 1.0)
    assert found is not None
    assert found.model_flops == 22.5e12
    assert found.ranks == (0, 1)


@pytest.mark.parametrize(
    ("precision", "tf32", "device", "peak", "why"),
    [
        ("fp32", False, "NVIDIA H200", 67, ""),
        ("fp32", True, "NVIDIA H200", 494.5, ""),
        ("fp32", None, "NVIDIA H200", None, "may run on TF32"),
        (None, False, "NVIDIA H200", None, "precision of the matrix products is not known"),
        ("bf16", False, "Test GPU", None, "peak of Test GPU is not in the table"),
        ("bf16", False, "Tesla V100-SXM2-32GB", None, "no unit for bf16"),
    ],
)
def test_a_peak_that_is_not_known_is_not_guessed(
    precision: str | None, tf32: bool | None, device: str, peak: float | None, why: str
) -> None:
    found = measure_efficiency(manifest(FLOPS, tf32=tf32), setup(precision), device, 1.0)
    assert found is not None
    assert found.peak_tflops == peak
    assert (found.mfu is None) == (peak is None)
    assert found.tflops == 300.0
    assert why in " ".join(found.notes)


def test_without_flops_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert measure_efficiency(None, setup("bf16"), "NVIDIA H200", 1.0) is None
    assert tracelens.analyze(run(tmp_path)).to_json()["efficiency"] is None


def test_the_report_has_them(tmp_path: Path) -> None:
    folder = run(tmp_path)
    module = {"name": "m", "type": "Linear", "calls": 1, "forward": 4, "parameters": 2}
    for rank in (0, 1):
        flops = {"forward": 10**12, "backward": 2 * 10**12, "modules": [module]}
        write(folder, rank, flops=flops)
    analysis = tracelens.analyze(folder)
    report: Any = analysis.to_json()
    assert report["efficiency"]["model_flops"] == 3 * 10**12
    assert report["efficiency"]["modules"] == [{**module, "latency_ms": None}]
    assert any("TFLOP/s of the model's work" in s for s in report["verdict"])


def test_every_peak_is_dense_and_sourced() -> None:
    """Halving the element halves the time: bf16 is twice tf32, within rounding."""
    for peak in PEAKS:
        assert peak.source
        assert peak.url.startswith("https://")
        if peak.tf32 and peak.bf16:
            assert peak.bf16 / peak.tf32 == pytest.approx(2, rel=0.02), peak.names
        found = [find_peak(f"NVIDIA {name}") for name in peak.names]
        assert found == [peak] * len(found), "an earlier row takes it"


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A10G",
        "NVIDIA H20",
    ],
)
def test_another_gpu_of_a_similar_name_has_no_peak(name: str) -> None:
    assert find_peak(name) is None
