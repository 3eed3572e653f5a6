"""Answers that a recording's blind spots take back: what was not recorded is no evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tracelens.infer.facts import RankFacts
from tracelens.infer.result import CERTAIN, WEAK, Inference

#: Answers that rest on which kernels and collectives ran, or on their absence.
_BY_KERNELS = (
    "zero_stage", "overlap_comm", "reduce_bucket_size", "gradient_accumulation_steps",
    "activation_checkpointing", "contiguous_gradients", "reduce_scatter", "hpz_partition_size",
    "tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size",
    "sequence_parallel_size",
)  # fmt: skip

_BY_STEP = (
    "gradient_accumulation_steps", "offload_optimizer", "offload_param", "activation_checkpointing",
)  # fmt: skip
_SIZES = (
    "tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size",
    "sequence_parallel_size",
)  # fmt: skip


def temper(ranks: Sequence[RankFacts], answers: Mapping[str, Inference]) -> dict[str, Inference]:
    """The same answers without those that the recording cannot carry.

    Work hidden in CUDA graphs could be any kernel and any collective. A short window of a whole
    process (Nsight Systems records any time range) may lie in a training job's forward pass.
    """
    told = dict(answers)
    hidden = sum(f.hidden for f in ranks)
    if hidden:
        text = f"{hidden} CUDA graphs hide the kernels and the communication inside them"
        decide = "would decide: recording with --cuda-graph-trace=node"
        for key in _BY_KERNELS:
            if told[key].confidence < CERTAIN or told[key].value in (1, False):
                told[key] = _unknown(told[key], text, decide)
    if all(f.source == "nsys" for f in ranks):
        _short_window(told)
    return told


def _short_window(told: dict[str, Inference]) -> None:
    """Take back what only a whole training step can show."""
    mode = told["mode"]
    if mode.value == "training":
        return
    if mode.value == "inference":
        text = "a forward pass alone was recorded, which may be a part of a training step"
        told["mode"] = Inference("mode", None, ("inference", "training"), WEAK, (text,))
    for key in _BY_STEP:
        told[key] = _unknown(told[key], "no training step was recorded")
    for key in _SIZES:
        if told[key].value == 1:
            told[key] = _unknown(told[key], "no whole step was recorded, nor communication for it")
    if told["precision"].value == "fp32":
        text = "only a part of a step was recorded, in which nothing has half precision"
        told["precision"] = replace(
            _unknown(told["precision"], text), candidates=("fp32", "bf16", "fp16")
        )


def _unknown(answer: Inference, *texts: str) -> Inference:
    candidates = tuple(c for c in answer.candidates if c is not None)
    if answer.value is not None and len(candidates) < 2:
        candidates = ()
    return Inference(answer.key, None, candidates, WEAK, texts)
