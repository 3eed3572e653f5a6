"""Mode, gradient accumulation, precision, offload and activation checkpointing."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tracelens.classify import Op
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import CERTAIN, STATISTICAL, STRUCTURAL, WEAK, Inference
from tracelens.infer.roles import Roles
from tracelens.links import OPTIMIZER_STEP
from tracelens.thresholds import (
    ACCUMULATE_TOLERANCE,
    OFFLOAD_SHARE,
    ONE_TYPE_RATIO,
    RECOMPUTE_SHARE,
    SMALL_INPUT_BYTES,
)
from tracelens.trace import Bools

_PRECISION = {
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "float": "fp32",
    "double": "fp64",
}

#: Any of these is there when a model ran forward with host ops recorded.
_MODEL_OPS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::convolution")


def infer_mode(facts: RankFacts) -> Inference:
    """Training or inference."""
    optimizer = sum(facts.starting(OPTIMIZER_STEP).values())
    if len(facts.passes) or optimizer:
        text = f"{len(facts.passes)} backward passes and {optimizer} optimizer ranges"
        return Inference("mode", "training", ("training",), CERTAIN, (text,))
    if (facts.optimizer_ns >= 0).any():
        text = "optimizer kernels run in the recorded window"
        return Inference("mode", "training", ("training",), STRUCTURAL, (text,))
    if facts.has(*_MODEL_OPS):
        text = "a model's forward ops were recorded, and no backward pass and no optimizer"
        return Inference("mode", "inference", ("inference",), STRUCTURAL, (text,))
    text = "neither a model's ops nor a known optimizer kernel was recorded"
    return Inference("mode", None, ("training", "inference"), WEAK, (text,))


def infer_accumulation(facts: RankFacts, mode: Inference) -> Inference:
    """gradient_accumulation_steps: backward passes per optimizer step."""
    key = "gradient_accumulation_steps"
    if mode.value == "inference":
        return Inference(key, None, (), CERTAIN, ("nothing is trained",))
    if len(facts.passes):
        return _by_passes(facts, key)
    once = facts.loss_kernels == 1 and mode.value == "training"
    if once:
        text = "the loss's forward kernel runs once a step, so there is one micro-step"
        return Inference(key, 1, (1,), STRUCTURAL, (text,))
    g = facts.kernel_repeats
    divisors = tuple(d for d in range(1, g + 1) if g % d == 0)
    texts = (
        f"every matrix product and attention kernel runs a multiple of {g} times a step; inputs of "
        "varying lengths would hide more",
        "would decide: host ops (ProfilerActivity.CPU)",
    )
    return Inference(key, None, divisors, WEAK, texts)


def _by_passes(facts: RankFacts, key: str) -> Inference:
    """Count passes between optimizer steps, wherever the profiler put its own step marks."""
    passes = facts.passes
    if not len(facts.updates):
        text = f"{len(passes)} backward passes and no optimizer step: the window is too short"
        return Inference(key, None, (), WEAK, (text,), low=len(passes))
    counts = _passes_per_update(facts)
    if not counts:
        low = int(np.bincount(facts.cycle).max())
        text = f"the window holds no whole accumulation, but {low} backward passes towards one step"
        return Inference(key, None, (), WEAK, (text,), low=low)
    usual, times = Counter(counts).most_common(1)[0]
    inside = passes.accumulate[passes.accumulate > 0]
    if times * 2 <= len(counts):
        text = f"backward passes between optimizer steps vary: {sorted(set(counts))}"
        return Inference(key, None, tuple(sorted(set(counts))), WEAK, (text,))
    spread = inside.max() - inside.min() if len(inside) else 0
    if usual > 1 and len(inside) and spread > ACCUMULATE_TOLERANCE * inside.max():
        text = (
            f"{usual} backward passes per optimizer step, but over different parameters "
            f"({inside.min()} to {inside.max()} gradients): several losses rather than accumulation"
        )
        return Inference(key, None, (1, usual), WEAK, (text,))
    gradients = f", {int(inside[0]):,} gradients accumulated in each" if len(inside) else ""
    text = f"{usual} backward pass{'es' if usual > 1 else ''} per optimizer step{gradients}"
    return Inference(key, usual, (usual,), CERTAIN if times == len(counts) else STRUCTURAL, (text,))


def _passes_per_update(facts: RankFacts) -> list[int]:
    """Backward passes of each optimizer step that the window holds whole.

    The first is whole only if every mark holds an update, so that the window begins with one; a
    loop that marks each micro-step may begin anywhere. Passes that accumulate nothing while others
    do (``autograd.grad`` in a forward pass) are no micro-steps.
    """
    passes, cycle = facts.passes, facts.cycle
    trained = passes.accumulate > 0
    counted = trained if trained.any() else ~trained
    per_cycle = np.bincount(cycle[counted], minlength=len(facts.updates) + 1)
    marks = np.unique(passes.step[counted & (passes.step >= 0)])
    whole = facts.marked and bool(np.isin(marks, facts.updated_steps).all())
    closed = per_cycle[(0 if whole else 1) : len(facts.updates)]
    return [int(n) for n in closed if n > 0]


def infer_precision(facts: RankFacts, roles: Roles, framework: Inference) -> Inference:
    """Type of the matrix products: what the model computes in."""
    key = "precision"
    known = {t: n for t, n in facts.gemm_types.items() if t in _PRECISION}
    if known:
        top = max(known, key=lambda t: known[t])
        share = known[top] / sum(known.values())
        text = f"{known[top]:,} of {sum(known.values()):,} matrix products take {top} operands"
        if share > 0.5:
            value = _PRECISION[top]
            return Inference(key, value, (value,), CERTAIN if share > 0.8 else STATISTICAL, (text,))
    named = {t: ns for t, ns in facts.gemm_names.items() if ns}
    if named:
        value = max(named, key=lambda t: named[t])
        if named[value] > 0.5 * sum(named.values()):
            text = f"names of matrix kernels say {value}"
            return Inference(key, value, (value,), STRUCTURAL, (text,))
    c = facts.comm
    dtype = np.array([*c.dtypes, ""], object)[c.dtype[roles.reduction]]
    reduced = {str(d) for d in dtype} & {"bf16", "fp16"}
    # (a compressing hook changes the type of DDP's messages, not of its model)
    if len(reduced) == 1 and framework.value == "deepspeed":
        value = reduced.pop()
        text = f"gradients are reduced in {value}"
        return Inference(key, value, (value,), STRUCTURAL, (text,))
    by_name = {t: ns for t, ns in facts.kernel_types.items() if t in ("bf16", "fp16")}
    most = max(by_name.values(), default=0)
    if most > ONE_TYPE_RATIO * (sum(by_name.values()) - most):
        value = max(by_name, key=lambda t: by_name[t])
        text = f"kernels for {value} take most of the time of those whose names tell a half type"
        return Inference(key, value, (value,), STATISTICAL, (text,))
    text = "neither operand types nor kernel names tell; would decide: record_shapes=True"
    return Inference(key, None, ("bf16", "fp16", "fp32"), WEAK, (text,))


def infer_offload_optimizer(facts: RankFacts, mode: Inference) -> Inference:
    """Where the optimizer runs and keeps its state."""
    key = "offload_optimizer"
    if mode.value == "inference":
        return Inference(key, None, (), CERTAIN, ("nothing is trained",))
    on_cpu = facts.starting(OPTIMIZER_STEP + "DeepSpeedCPU")
    back = facts.copy_bytes.get(("all", "d2h"), 0.0)
    if on_cpu:
        texts = (
            f"{', '.join(on_cpu)} updates on the host; {back / 1e6:,.0f} MB a step copied to it",
            "state on NVMe would look the same in this trace",
        )
        return Inference(key, "cpu", ("cpu", "nvme"), STRUCTURAL, texts)
    if facts.optimizer_kernels > 0:
        text = f"{facts.optimizer_kernels:g} kernels a step run inside the optimizer's range"
        return Inference(key, "none", ("none",), CERTAIN, (text,))
    moved = OFFLOAD_SHARE * 2.0 * sum(facts.weights) / max(facts.world_size or 1, 1)
    if facts.starting(OPTIMIZER_STEP) and facts.launches and back >= (moved or SMALL_INPUT_BYTES):
        text = (
            "the optimizer's range launches no kernel, and "
            f"{back / 1e6:,.0f} MB a step are copied to the host"
        )
        return Inference(key, "cpu", ("cpu", "nvme"), STATISTICAL, (text,))
    if (facts.optimizer_ns >= 0).any():
        return Inference(key, "none", ("none",), STRUCTURAL, ("optimizer kernels run on the GPU",))
    return Inference(key, None, ("none", "cpu", "nvme"), WEAK, ("no optimizer was recorded",))


def infer_offload_param(facts: RankFacts, roles: Roles, stage: Inference) -> Inference:
    """Whether parameters come from the host while the model runs.

    DeepSpeed offloads parameters at stage 3 only (runtime/zero/config.py, offload_param).
    """
    key = "offload_param"
    if stage.value in (0, 1, 2):
        text = f"only ZeRO-3 can offload parameters, this is stage {stage.value}"
        return Inference(key, "none", ("none",), CERTAIN, (text,))
    if not facts.has_phases:
        text = "GPU work alone does not show what a copy from the host carries"
        return Inference(key, None, ("none", "cpu", "nvme"), WEAK, (text,))
    copied = facts.copy_bytes.get(("forward", "h2d"), 0.0)
    on = roles.fetch & (facts.comm.bytes > 0) & (facts.comm.group >= 0)
    sizes = np.array([g.size for g in facts.comm.groups] + [1], np.int64)[facts.comm.group[on]]
    shard = float((facts.comm.bytes[on] / np.maximum(sizes, 1)).sum()) / facts.n_steps
    sharded = stage.value == 3 or bool((roles.reduction & _scatters(facts)).any())
    if not sharded or shard == 0:
        # nothing gathers parameters here: compare with the weights that the products read
        shard = float(sum(facts.weights)) * 2
    fetches = max(int(on.sum()) // facts.n_steps // 2, 2)
    if shard > 0 and copied >= OFFLOAD_SHARE * shard and facts.forward_copies >= fetches:
        text = f"{copied / 1e6:,.0f} MB a step copied from the host in the forward pass"
        value = "cpu" if sharded else None
        return Inference(key, value, ("cpu", "nvme", "none"), STRUCTURAL, (text,))
    text = f"{copied / 1e6:,.1f} MB a step copied from the host in the forward pass"
    if copied > SMALL_INPUT_BYTES:
        return Inference(key, None, ("none", "cpu", "nvme"), WEAK, (text,))
    return Inference(key, "none", ("none",), STRUCTURAL, (f"{text}: inputs only",))


def _scatters(facts: RankFacts) -> Bools:
    return np.asarray(facts.comm.kind == Op.REDUCE_SCATTER)


def infer_checkpointing(facts: RankFacts, mode: Inference) -> Inference:
    """Whether activations are recomputed in the backward pass."""
    key = "activation_checkpointing"
    if mode.value == "inference":
        return Inference(key, None, (), CERTAIN, ("no backward pass",))
    compiled = any("CompiledFunction" in n or "Torch-Compiled" in n for n in facts.names)
    if facts.forwarded and len(facts.passes) and not compiled:
        share = facts.recomputed / facts.forwarded
        text = (
            f"{facts.recomputed:,} forward-only ops (linear, attention, norms ...) ran inside "
            f"backward nodes, {facts.forwarded:,} outside"
        )
        value = share >= RECOMPUTE_SHARE
        return Inference(key, value, (value,), CERTAIN, (text,))
    forward, backward = facts.attention
    # (GPU work alone may hold a second model's forward pass)
    if (backward and forward == backward) or (forward == 2 * backward > 0 and facts.has_host_ops):
        value = forward == 2 * backward
        text = f"{forward} forward and {backward} backward attention kernels"
        return Inference(key, value, (value,), STRUCTURAL if value else STATISTICAL, (text,))
    text = "neither forward ops nor attention kernels tell"
    return Inference(key, None, (False, True), WEAK, (text,))
