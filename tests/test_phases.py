"""Forward, backward and step: which part of a training step each piece of GPU work serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from builder import BACKWARD_TID, MAIN_TID, TraceBuilder

from tracelens.ingest import open_trace
from tracelens.links import link
from tracelens.phases import Phase, Phases, find_phases
from tracelens.steps import find_steps

NODE = "autograd::engine::evaluate_function: MmBackward0"
GRADIENT = "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad"


class Timeline(TraceBuilder):
    """A host timeline in units of 10 us; every entry launches one kernel, in order."""

    at = 0.0
    seq = 0
    launched = 0

    def work(self, tid: int = MAIN_TID) -> Timeline:
        self.launched += 1
        self.launch(self.launched, ts=self.at + 1, dur=1, tid=tid)
        return self.kernel("gemm", 10_000 + 10 * self.launched, 5, corr=self.launched)

    def then(self) -> Timeline:
        self.at += 10
        return self

    def forward(self, n: int = 1) -> Timeline:
        """`n` forward ops with gradients."""
        for _ in range(n):
            self.seq += 1
            self.cpu_op("aten::linear", ts=self.at, dur=8, seq=self.seq).work().then()
        return self

    def plain(self) -> Timeline:
        """An op without gradients: evaluation, clipping, copying."""
        return self.cpu_op("aten::mul", ts=self.at, dur=8).work().then()

    def backward(self, n: int = 1, *, recompute: bool = False) -> Timeline:
        """The nodes of the last `n` forward ops, each with one gradient."""
        for k in range(n):
            seq = self.seq - k
            if recompute:  # the node of a checkpoint runs the forward again, then its backward
                self.cpu_op(NODE, ts=self.at, dur=28, seq=seq, tid=BACKWARD_TID)
                self.cpu_op("aten::linear", ts=self.at + 1, dur=5, seq=500 + k, tid=BACKWARD_TID)
                self.work(BACKWARD_TID)
                self.cpu_op(NODE, ts=self.at + 12, dur=5, seq=500 + k, tid=BACKWARD_TID)
                self.then().then()
            else:
                self.cpu_op(NODE, ts=self.at, dur=4, seq=seq, tid=BACKWARD_TID).work(BACKWARD_TID)
                self.cpu_op(GRADIENT, ts=self.at + 5, dur=3, tid=BACKWARD_TID)
            self.then()
        return self

    def reduce(self, nelems: int, call: str = "allreduce") -> Timeline:
        """A collective from the main thread."""
        args = {"Collective name": call, "In msg nelems": nelems, "Out msg nelems": nelems}
        self.cpu_op("record_param_comms", ts=self.at, dur=8, args=args)
        return self.work().then()

    def optimizer(self) -> Timeline:
        return self.annotation("Optimizer.step#AdamW.step", ts=self.at, dur=8).work().then()


def phases_of(built: Timeline, folder: Path, *, marked: bool = True) -> Phases:
    if marked:
        built.step(1, 0, built.at + 10)
    trace = open_trace(built.write(folder / "trace.json"))
    work = link(trace)
    return find_phases(trace, work, find_steps(trace, work))


def written(found: Phases) -> str:
    """Phase of each kernel in launch order, one letter, micro-step behind it where it changes."""
    letters, before = "", 0
    for phase, micro in zip(found.phase.tolist(), found.micro.tolist(), strict=True):
        letters += (str(micro) if micro != before else "") + ("?" if phase < 0 else "FBS"[phase])
        before = micro
    return letters


CASES = {
    "a training step": (Timeline().forward(2).backward(2).optimizer(), "FFBBS"),
    "the rest of the gradients after the pass is backward": (
        Timeline().forward().backward().reduce(1000).reduce(1).optimizer(),
        "FBBSS",
    ),
    "up to 64 elements are norms and flags, not gradients": (
        Timeline().forward().backward().reduce(64).reduce(65).reduce(64).optimizer(),
        "FBBBSS",
    ),
    "a gather after the optimizer is step": (
        Timeline().forward().backward().optimizer().reduce(1000, "_allgather_base"),
        "FBSS",
    ),
    "clipping before the optimizer is step": (
        Timeline().forward().backward().plain().optimizer(),
        "FBSS",
    ),
    "micro-steps": (
        Timeline().forward().backward().forward().backward().forward().backward().optimizer(),
        "FB1FB2FBS",
    ),
    "a micro-step's late gradients are still its own": (
        Timeline().forward().backward().reduce(1000).forward().backward().reduce(1000).optimizer(),
        "FBB1FBBS",
    ),
    "two losses in a row are one pass": (
        Timeline().forward(2).backward().backward().optimizer(),
        "FFBBS",
    ),
    "cool-down of a pipeline: only a receive between two backward passes": (
        Timeline().forward(2).backward().reduce(500, "recv").backward().optimizer(),
        "FFB1FBS",
    ),
    "recomputed activations start no pass": (
        Timeline().forward(2).backward(2, recompute=True).optimizer(),
        "FFBBS",
    ),
    "no autograd: all is forward": (Timeline().plain().plain(), "FF"),
    "evaluation inside the step is forward": (
        Timeline().plain().forward().backward().optimizer(),
        "FFBS",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_phases(case: tuple[Timeline, str], tmp_path: Path) -> None:
    built, expected = case
    assert written(phases_of(built, tmp_path)) == expected


def test_kernels_alone_have_no_phase(tmp_path: Path) -> None:
    built = Timeline().work().then().work().then()
    assert written(phases_of(built, tmp_path, marked=False)) == "-1??"


def test_work_outside_of_every_step_has_no_phase(tmp_path: Path) -> None:
    built = Timeline().forward().backward()
    built.step(1, 0, built.at).plain()
    assert written(phases_of(built, tmp_path, marked=False)) == "FB-1?"


def test_passes_count_their_nodes_and_gradients(tmp_path: Path) -> None:
    built = Timeline().forward(3).backward(3).forward(2).backward(2).optimizer()
    passes = phases_of(built, tmp_path).passes
    assert passes.nodes.tolist() == [6, 4]
    assert passes.accumulate.tolist() == [3, 2]
    assert passes.step.tolist() == [0, 0]
    assert passes.start_ns.tolist() == [30_000, 80_000]


def test_a_send_inside_a_backward_node_divides_no_pass(tmp_path: Path) -> None:
    """Ring attention sends its keys on from inside the nodes."""
    built = Timeline().forward(2)
    for seq in (2, 1):
        built.cpu_op(NODE, ts=built.at, dur=9, seq=seq, tid=BACKWARD_TID).work(BACKWARD_TID)
        args = {"Collective name": "send", "In msg nelems": 500}
        built.cpu_op("record_param_comms", ts=built.at + 3, dur=2, tid=BACKWARD_TID, args=args)
        built.then()
    assert len(phases_of(built.optimizer(), tmp_path).passes) == 1


def test_training_whose_backward_was_not_recorded_has_no_phases(tmp_path: Path) -> None:
    """Compiled autograd, CUDA graphs, a profiler that did not see autograd's thread."""
    found = phases_of(Timeline().plain().reduce(1000).optimizer(), tmp_path)
    assert Phase.FORWARD not in found.phase[1:].tolist()
