"""All inference rules, in the order of the report, and how ranks are reconciled."""

from __future__ import annotations

from collections.abc import Sequence

from tracelens.infer.blind import temper
from tracelens.infer.buckets import (
    infer_bucket_size,
    infer_contiguous,
    infer_hpz,
    infer_reduce_scatter,
)
from tracelens.infer.facts import RankFacts
from tracelens.infer.framework import infer_framework
from tracelens.infer.parallel import (
    infer_data,
    infer_expert_and_sequence,
    infer_pipeline,
    infer_tensor,
)
from tracelens.infer.result import WEAK, Inference, Setup
from tracelens.infer.roles import Roles, find_roles
from tracelens.infer.training import (
    infer_accumulation,
    infer_checkpointing,
    infer_mode,
    infer_offload_optimizer,
    infer_offload_param,
    infer_precision,
)
from tracelens.infer.zero import infer_overlap, infer_stage


def infer_setup(ranks: Sequence[RankFacts], world_size: int | None) -> Setup:
    """Infer what was running from the facts of all ranks.

    Parameters
    ----------
    ranks : sequence of RankFacts
        At least one.
    world_size : int or None
        Ranks of the job, where the traces say so.
    """
    pairs = [(f, find_roles(f)) for f in ranks]
    answers = [infer_rank(f, r) for f, r in pairs]
    merged = {key: reconcile([a[key] for a in answers]) for key in answers[0]}
    merged["pipeline_parallel_size"] = infer_pipeline(pairs)
    merged = temper(ranks, merged)
    shared = ("tensor_parallel_size", "pipeline_parallel_size", "sequence_parallel_size")
    data = infer_data(pairs, world_size, [merged[k] for k in shared])
    order = [
        "framework", "mode", "zero_stage", "overlap_comm", "reduce_bucket_size",
        "gradient_accumulation_steps", "precision", "offload_optimizer", "offload_param",
        "activation_checkpointing", "contiguous_gradients", "reduce_scatter", "hpz_partition_size",
    ]  # fmt: skip
    parallel = [
        data,
        merged["tensor_parallel_size"],
        merged["pipeline_parallel_size"],
        merged["expert_parallel_size"],
        merged["sequence_parallel_size"],
    ]
    return Setup((*(merged[key] for key in order), *parallel))


def infer_rank(facts: RankFacts, roles: Roles) -> dict[str, Inference]:
    """Everything that one rank's trace can tell alone."""
    mode = infer_mode(facts)
    framework = infer_framework(facts, roles)
    accumulation = infer_accumulation(facts, mode)
    steps = accumulation.value if isinstance(accumulation.value, int) else None
    stage = infer_stage(facts, roles, framework, steps)
    expert, sequence = infer_expert_and_sequence(facts, roles)
    answers = (
        framework,
        mode,
        stage,
        infer_overlap(facts, roles, framework, stage),
        infer_bucket_size(facts, roles, stage),
        accumulation,
        infer_precision(facts, roles, framework),
        infer_offload_optimizer(facts, mode),
        infer_offload_param(facts, roles, stage),
        infer_checkpointing(facts, mode),
        infer_contiguous(facts, roles, stage),
        infer_reduce_scatter(facts, roles, stage),
        infer_hpz(facts, roles, stage),
        infer_tensor(facts, roles, stage),
        expert,
        sequence,
    )
    return {a.key: a for a in answers}


def reconcile(answers: Sequence[Inference]) -> Inference:
    """One answer from all ranks': the surest value; none where ranks contradict each other.

    Examples
    --------
    >>> a = Inference("zero_stage", 2, (2,), 0.9, ("seen",))
    >>> reconcile([a, Inference("zero_stage", None, (1, 2), 0.5, ())]).value
    2
    >>> reconcile([a, Inference("zero_stage", 3, (3,), 0.9, ())]).value is None
    True
    """
    known = [a for a in answers if a.value is not None]
    if not known:
        return max(answers, key=lambda a: a.confidence)
    values = {a.value for a in known}
    best = max(known, key=lambda a: a.confidence)
    if len(values) == 1:
        return best
    text = f"ranks disagree: {', '.join(str(v) for v in sorted(values, key=str))}"
    candidates = tuple(sorted(values, key=str))
    return Inference(best.key, None, candidates, WEAK, (text, *best.evidence))
