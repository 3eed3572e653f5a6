"""Which framework trained: names first, then the structure of its communication."""

from __future__ import annotations

import re

import numpy as np

from tracelens.classify import Op
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import CERTAIN, LIKELY, STATISTICAL, STRUCTURAL, WEAK, Inference
from tracelens.infer.roles import Roles, per_step, sizes_text
from tracelens.phases import Phase
from tracelens.trace import Bools

#: Ops and ranges that only one framework makes, with where they come from.
_NAMES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("fsdp2", re.compile(r"^FSDP::|^fsdp::"), "ranges of torch's fully_shard (FSDP2)"),
    ("fsdp1", re.compile(r"^FullyShardedDataParallel\."), "ranges of FullyShardedDataParallel"),
    (
        "deepspeed",
        # runtime/zero/parameter_offload.py (0.13.2 on; before: PreBackwardFunction)
        re.compile(r"^PreBackwardFunction(ForModule)?$"),
        "DeepSpeed ZeRO-3's module hooks",
    ),
    (
        "deepspeed",
        re.compile(
            r"deepspeed/(runtime|comm|ops|module_inject|pipe|utils|moe|sequence|inference)/"
            r"|nn\.Module: DeepSpeed|^DeepSpeed(Engine|ZeroOptimizer)"
        ),
        "Python frames or ranges of DeepSpeed",
    ),
    ("deepspeed", re.compile(r"^Optimizer\.step#DeepSpeedCPUAdam"), "DeepSpeed's CPU optimizer"),
    ("deepspeed", re.compile(r"^dc::"), "DeepCompile operators"),
    (
        "zero_redundancy_optimizer",
        re.compile(r"^Optimizer\.(step|zero_grad)#ZeroRedundancyOptimizer"),
        "torch's ZeroRedundancyOptimizer",
    ),
    (
        "ddp",
        re.compile(
            r"^DistributedDataParallel\.forward|^torch(\.|::)distributed(\.|::)(ddp\.)?reducer"
        ),
        "DistributedDataParallel and its reducer",
    ),
    (
        "megatron",
        # megatron/core/tensor_parallel/{layers,mappings,cross_entropy}.py
        re.compile(
            r"^(LinearWithGradAccumulationAndAsyncCommunication|_VocabParallelCrossEntropy"
            r"|_(CopyTo|ReduceFrom|GatherFrom|ScatterTo|ReduceScatterTo)\w*(Model|Tensor|Sequence)"
            r"ParallelRegion)$|megatron/"
        ),
        "autograd functions or frames of Megatron-LM",
    ),
    (
        "deepspeed",
        # module_inject/layers.py: autograd functions of AutoTP
        re.compile(r"^(RowParallel|ColumnParallel|AsyncColumnParallel)$"),
        "autograd functions of DeepSpeed's AutoTP",
    ),
)


def infer_framework(facts: RankFacts, roles: Roles) -> Inference:
    """Tell the framework of one rank's trace."""
    named = _by_name(facts)
    if named and named.value != "megatron":
        return named
    # Megatron-DeepSpeed has the layers of one and the engine of the other
    for rule in (_buckets, _zero_step, _stage0, _pipeline):
        found = rule(facts, roles)
        if found:
            return Inference("framework", "deepspeed", ("deepspeed",), found[0], tuple(found[1]))
    if named:
        return named
    return _plain(facts, roles) if facts.has_host_ops else _kernels_only(facts, roles)


def _by_name(facts: RankFacts) -> Inference | None:
    for value, pattern, meaning in _NAMES:
        hits = [n for n in facts.names if pattern.search(n)]
        if hits:
            shown = ", ".join(sorted(hits, key=len)[:3])
            evidence = (f"{meaning}: {shown}",)
            return Inference("framework", value, (value,), CERTAIN, evidence)
    return None


def _own_group(facts: RankFacts, mask: Bools) -> bool:
    """Whether some rows run on a group of all ranks that is not the default one.

    DeepSpeed clones the world group for data parallelism (deepspeed/utils/groups.py); a script that
    reduces by hand uses the default group.
    """
    used = {facts.comm.groups[g] for g in np.unique(facts.comm.group[mask]).tolist() if g >= 0}
    return bool(used) and all(
        g.description != "default_pg" and g.size == facts.world_size for g in used
    )


def _buckets(facts: RankFacts, roles: Roles) -> tuple[float, list[str]] | None:
    """ZeRO-1 and 2 allocate their bucket inside the first gradient hook of a backward."""
    if not facts.allocations:
        return None
    size = facts.allocations[0].nelems
    heads = {a.backward: a.nelems for a in reversed(facts.allocations)}
    if set(heads.values()) != {size}:
        return None
    text = (
        f"a flat buffer of {size:,} elements is allocated inside the first gradient hook of "
        f"{len(heads)} of {len(facts.passes)} backward passes, as DeepSpeed's setup_buckets does"
    )
    return CERTAIN, [text]


def _zero_step(facts: RankFacts, roles: Roles) -> tuple[float, list[str]] | None:
    """The scalars of DeepSpeed's step, next to the collectives of a ZeRO stage."""
    c = facts.comm
    dtype = np.array([*c.dtypes, ""], object)[c.dtype]
    flags = roles.scalar & (dtype == "u8") & (c.kind == Op.ALL_REDUCE)
    norms = roles.scalar & np.isin(dtype, ("fp32", "fp64")) & (c.kind == Op.ALL_REDUCE)
    doubles = norms & (dtype == "fp64")
    scattered = roles.reduction & (c.kind == Op.REDUCE_SCATTER)
    scattered &= c.in_accumulate | ~c.in_node
    if scattered.any() and doubles.any():
        text = (
            f"{per_step(facts, doubles):g} one-element float64 all_reduce per step beside "
            "reduce_scatter: DeepSpeed ZeRO-3 sums the gradient norm of each sub-group so"
        )
        return STRUCTURAL, [text]
    reduced = roles.reduction & ~scattered
    # both scalars belong to the step: after the reduction, before the optimizer
    if facts.has_phases:
        flags, norms = flags & (c.phase == Phase.STEP), norms & (c.phase == Phase.STEP)
    if flags.any() and norms.any() and reduced.any() and roles.gather.any():
        text = (
            f"{per_step(facts, flags):g} one-byte all_reduce (overflow flag) and "
            f"{per_step(facts, norms):g} one-element float32 all_reduce (gradient norm) per step, "
            "with gradients all-reduced before and parameters gathered after the optimizer: the "
            "step of DeepSpeed ZeRO-1 and ZeRO-2"
        )
        return STRUCTURAL, [text]
    unzeroed = facts.has_host_ops and not facts.starting("Optimizer.zero_grad#")
    if unzeroed and reduced.any() and roles.gather.any() and _own_group(facts, reduced):
        text = (
            "gradients are all-reduced before, parameters gathered after the optimizer on a group "
            "of all ranks that is not the default one, and the optimizer's zero_grad is never "
            "called: DeepSpeed's engine clones the world group and clears gradients itself"
        )
        return STATISTICAL, [text]
    return None


def _stage0(facts: RankFacts, roles: Roles) -> tuple[float, list[str]] | None:
    """DeepSpeed's engine flattens all gradients after the backward pass and reduces them."""
    c = facts.comm
    on = roles.reduction
    if not on.any() or (c.in_node & on).any() or roles.gather.any() or roles.fetch.any():
        return None
    if not facts.has("aten::flatten_dense_tensors") or facts.starting("Optimizer.zero_grad#"):
        return None
    if not _own_group(facts, on):
        return None
    text = (
        f"{per_step(facts, on):g} all_reduce of {sizes_text(c.nelems[on])} elements per step after "
        "the last autograd node, of flattened gradients, and the optimizer's zero_grad is never "
        "called: the engine's own reduction in DeepSpeed stage 0"
    )
    return LIKELY, [text]


def _pipeline(facts: RankFacts, roles: Roles) -> tuple[float, list[str]] | None:
    """DeepSpeed's pipeline engine broadcasts two floats (the losses) after each batch."""
    c = facts.comm
    step = (c.kind == Op.BROADCAST) & (c.phase == Phase.STEP) & (c.nelems == 2)
    if not roles.p2p.any() or not (step & roles.scalar).any():
        return None
    if facts.starting("Optimizer.zero_grad#"):
        return None
    text = (
        "sends and receives between the passes and a broadcast of two floats after each batch: "
        "DeepSpeed's pipeline engine shares its losses so (runtime/pipe/engine.py)"
    )
    return LIKELY, [text]


def _plain(facts: RankFacts, roles: Roles) -> Inference:
    """No framework left a mark on a trace that would show it."""
    if facts.starting("_c10d_functional::") and facts.has("Redistribute", "_FromTorchTensor"):
        evidence = ("DTensor redistributions (Redistribute, _c10d_functional::all_reduce)",)
        return Inference("framework", "pytorch", ("pytorch",), STRUCTURAL, evidence)
    busy = roles.reduction.any() or roles.fetch.any() or roles.gather.any()
    zeroed = bool(facts.starting("Optimizer.zero_grad#"))
    training = len(facts.passes) > 0
    if training and not zeroed and not busy:
        return Inference(
            "framework",
            None,
            ("pytorch", "deepspeed"),
            WEAK,
            (
                "no framework left a mark; the optimizer's zero_grad is never called, which fits "
                "DeepSpeed stage 0 on one GPU as well as a loop that sets gradients to None",
                "would decide: one step recorded with with_stack=True",
            ),
        )
    unknown = busy and bool((facts.comm.nelems < 0).all())
    if training and busy and (unknown or not zeroed):
        return Inference(
            "framework",
            None,
            ("pytorch", "deepspeed", "megatron"),
            WEAK,
            (
                "gradients are reduced by no framework that left its name; a script by hand, "
                "DeepSpeed and others fit",
                "would decide: one step recorded with with_stack=True, or record_shapes=True",
            ),
        )
    texts = ["torch operators were recorded and none belongs to a known training framework"]
    if busy:
        texts.append("its collectives are the training script's own or an unknown library's")
    confidence = WEAK if busy else STRUCTURAL
    return Inference("framework", "pytorch", ("pytorch",), confidence, tuple(texts))


def _kernels_only(facts: RankFacts, roles: Roles) -> Inference:
    c = facts.comm
    candidates: tuple[str, ...] = ("pytorch", "deepspeed")
    seen = "no communication kernels"
    if (roles.reduction & (c.kind == Op.REDUCE_SCATTER)).any():
        candidates = ("fsdp2", "fsdp1", "deepspeed", "megatron", "pytorch")
        seen = "all_gather and reduce_scatter kernels"
    elif roles.reduction.any() and per_step(facts, roles.gather) >= 0.5:
        candidates = ("deepspeed", "megatron", "pytorch")
        seen = "all_reduce kernels before and all_gather kernels after the optimizer"
    elif roles.reduction.any() or (c.kind == Op.ALL_REDUCE).any():
        candidates = ("ddp", "deepspeed", "megatron", "pytorch")
        seen = "all_reduce kernels"
    return Inference(
        "framework",
        None,
        candidates,
        WEAK,
        (
            f"only GPU work was recorded; {seen} fit several frameworks",
            "would decide: host ops (ProfilerActivity.CPU)",
        ),
    )
