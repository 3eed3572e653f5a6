"""Two pipeline stages, drawn by hand: the bubble, what travels, uneven stages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builder import BACKWARD_TID, TraceBuilder

import tracelens
from tracelens.detectors import Context, run_all
from tracelens.findings import Finding
from tracelens.infer.result import Inference, Setup
from tracelens.pipeline import _context

TRAVEL = 1  # ms that a message takes


class Stage:
    """One rank: `at` is the time in ms, and each call takes the time up to what it is given."""

    def __init__(self, rank: int) -> None:
        self.rank, self.corr = rank, 0
        self.trace = TraceBuilder(rank=rank, world_size=2)

    def _launch(self, start: float, tid: int = 100) -> int:
        self.corr += 1
        self.trace.launch(self.corr, ts=1000 * start - 5, dur=2, tid=tid)
        return self.corr

    def forward(self, start: float, end: float, seq: int) -> None:
        self.trace.cpu_op("aten::mm", ts=1000 * start - 10, dur=8, seq=seq)
        corr = self._launch(start)
        self.trace.kernel("gemm", 1000 * start, 1000 * (end - start), corr=corr)

    def backward(self, start: float, end: float, seq: int) -> None:
        node = "autograd::engine::evaluate_function: MmBackward0"
        self.trace.cpu_op(node, ts=1000 * start - 10, dur=8, seq=seq, tid=BACKWARD_TID)
        corr = self._launch(start, BACKWARD_TID)
        self.trace.kernel("gemm", 1000 * start, 1000 * (end - start), corr=corr)

    def move(self, kind: str, start: float, end: float) -> None:
        peer = {"Dst Rank" if kind == "send" else "Src Rank": 1 - self.rank}
        corr = self._launch(start)
        self.trace.nccl(
            kind, ts=1000 * start, dur=1000 * (end - start), nelems=1000, corr=corr, **peer
        )

    def norm(self, start: float, end: float) -> None:
        self.trace.annotation("Optimizer.step#Adam.step", ts=1000 * start - 8, dur=1)
        corr = self._launch(start)
        self.trace.nccl(ts=1000 * start, dur=1000 * (end - start), nelems=1, corr=corr)


def two_stages(folder: Path, extra: float = 0.0) -> Path:
    """Two micro-batches, forward 10 ms and backward 20 on each stage, a message 1 ms.

        stage 0  F0 F1 s s |  wait  r B0 |  r B1  | norm
        stage 1  wait r F0 B0 s r F1 B1 s | wait norm

    `extra` ms more in each backward pass of stage 1.
    """
    first, second = Stage(0), Stage(1)
    zero, step = 0.0, 97 + 2 * extra
    for k in (1, 2, 3):
        for stage in (first, second):
            stage.trace.step(k, 1000 * zero, 1000 * step)
        z, e = zero, extra
        first.forward(z + 1, z + 11, 10 * k)
        first.move("send", z + 11, z + 12)
        first.forward(z + 12, z + 22, 10 * k + 1)
        first.move("send", z + 22, z + 44 + e)  # until stage 1 comes to take it
        first.move("recv", z + 44 + e, z + 45 + e)
        first.backward(z + 45 + e, z + 65 + e, 10 * k)
        first.move("recv", z + 65 + e, z + 75 + 2 * e)
        first.backward(z + 75 + 2 * e, z + 95 + 2 * e, 10 * k + 1)
        first.norm(z + 95 + 2 * e, z + 96 + 2 * e)
        second.move("recv", z + 1, z + 12)
        second.forward(z + 12, z + 22, 10 * k)
        second.backward(z + 22, z + 43 + e, 10 * k)
        second.move("recv", z + 43 + e, z + 44 + e)
        second.move("send", z + 44 + e, z + 45 + e)
        second.forward(z + 45 + e, z + 55 + e, 10 * k + 1)
        second.backward(z + 55 + e, z + 74 + 2 * e, 10 * k + 1)
        second.move("send", z + 74 + 2 * e, z + 75 + 2 * e)
        second.norm(z + 75 + 2 * e, z + 96 + 2 * e)
        zero += step
    for stage in (first, second):
        stage.trace.write(folder / f"rank{stage.rank}.json")
    return folder


def context_of(path: Path) -> Context:
    a = tracelens.analyze(path)
    context = _context(a.ranks, a.matches, a.setup, a.run, a.summary)
    told = [
        Inference(key, 2, (2,), 1.0, ("told",))
        for key in ("pipeline_parallel_size", "gradient_accumulation_steps")
    ]
    rest = [i for i in a.setup.values() if i.key not in {t.key for t in told}]
    return replace(context, setup=Setup((*rest, *told)))


def found_in(context: Context) -> dict[str, Finding]:
    findings, _ = run_all(context)
    assert sum(f.cost_ms_per_step for f in findings) <= context.step_ns / 1e6
    return {f.id: f for f in findings}


def test_the_bubble(tmp_path: Path) -> None:
    """Stage 0 waits 21 for stage 1 to take its message and 9 for a gradient, stage 1 10 + 20.

    30 of 97 ms, of which a third is what two stages and two micro-batches leave empty.
    """
    context = context_of(two_stages(tmp_path))
    assert context.waits is not None
    assert (context.waits / 1e6).tolist() == pytest.approx([30, 30])
    bubble = found_in(context)["pipeline_bubble"]
    assert bubble.cost_ms_per_step == pytest.approx(30)
    assert bubble.severity == "critical"
    assert "33% of the step" in bubble.evidence[1]
    assert bubble.config == {"gradient_accumulation_steps": 8}


def test_what_travels_is_charged_apart(tmp_path: Path) -> None:
    """Four messages of 1 ms a step on each rank, nothing beside them."""
    found = found_in(context_of(two_stages(tmp_path)))
    assert found["exposed_p2p"].cost_ms_per_step == pytest.approx(4 * TRAVEL)
    assert "straggler_host" not in found


def test_uneven_stages(tmp_path: Path) -> None:
    """Stage 1 computes 16 ms longer, 8 above the mean, less 0.3 that it idles for its host."""
    context = context_of(two_stages(tmp_path, extra=8))
    found = found_in(context)["uneven_work"]
    assert found.ranks == (1,)
    assert found.cost_ms_per_step == pytest.approx(7.7, abs=0.05)
    _, verdicts = run_all(context)
    (told,) = [v for v in verdicts if v.id == "straggler_compute"]
    assert (told.status, told.reason) == (
        "not_applicable",
        "the stages of a pipeline run different kernels",
    )
