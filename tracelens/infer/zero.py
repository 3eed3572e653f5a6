"""DeepSpeed's ZeRO stage and the knobs of its reduction.

Sources: DeepSpeed 0.19.8 runtime/zero/stage_1_and_2.py and stage3.py. Facts used: stages 1 and 2
all-reduce buckets and never reduce-scatter; stage 2 reduces in every micro-step, stage 1 in the
last one; without overlap stage 1 touches no gradient before the backward pass has ended, while
stage 2 copies each into the bucket in its hook; stage 3 reduce-scatters and gathers parameters in
the forward pass; stage 0 all-reduces after the backward pass and gathers nothing.
"""

from __future__ import annotations

import numpy as np

from tracelens.classify import Op
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import CERTAIN, STRUCTURAL, WEAK, Inference
from tracelens.infer.roles import Roles, nelems_per_step, per_step, sizes_text
from tracelens.ranges import EPILOGUE, STAGE3_RANGES
from tracelens.thresholds import HOOK_COPY_SHARE
from tracelens.trace import Bools

_MODULE_HOOKS = ("PreBackwardFunctionForModule", "PreBackwardFunction")


def infer_stage(
    facts: RankFacts, roles: Roles, framework: Inference, accumulation: int | None
) -> Inference:
    """Tell the ZeRO stage; None with candidates [1, 2] where both leave the same trace."""
    if framework.value != "deepspeed":
        return _not_deepspeed(facts, framework)
    c = facts.comm
    hooks = [n for n in _MODULE_HOOKS if facts.has(n)]
    scattered = roles.reduction & (c.kind == Op.REDUCE_SCATTER)
    # a loss that gathers with gradients scatters inside a node of its own
    scattered &= c.in_accumulate | ~c.in_node
    if hooks:
        text = f"{hooks[0]} ran {facts.names[hooks[0]]} times: the module hooks of ZeRO-3"
        return Inference("zero_stage", 3, (3,), CERTAIN, (text,))
    ranges = [n for n in facts.names if n.startswith(STAGE3_RANGES)]
    if ranges:
        text = f"ranges that only ZeRO-3 runs: {', '.join(sorted(ranges, key=len)[:3])}"
        return Inference("zero_stage", 3, (3,), CERTAIN, (text,))
    if scattered.any():
        text = f"{per_step(facts, scattered):g} reduce_scatter per step; ZeRO-1 and 2 use none"
        return Inference("zero_stage", 3, (3,), STRUCTURAL, (text,))
    if _stack(facts, "stage3.py"):
        text = "Python frames of deepspeed/runtime/zero/stage3.py"
        return Inference("zero_stage", 3, (3,), CERTAIN, (text,))
    if facts.allocations or roles.gather.any() or _stack(facts, "stage_1_and_2.py"):
        return _one_or_two(facts, roles, accumulation)
    if roles.reduction.any() and len(facts.updates):
        text = (
            f"{per_step(facts, roles.reduction):g} all_reduce of gradients per step "
            f"({sizes_text(c.nelems[roles.reduction])} elements) and no parameters gathered after "
            "the optimizer: nothing is partitioned"
        )
        return Inference("zero_stage", 0, (0,), STRUCTURAL, (text,))
    return _no_reduction(facts)


def _not_deepspeed(facts: RankFacts, framework: Inference) -> Inference:
    if framework.value is not None:
        text = f"ZeRO stages are DeepSpeed's; the framework is {framework.value}"
        return Inference("zero_stage", None, (), CERTAIN, (text,))
    stages: tuple[int, ...] = (0, 1, 2, 3) if "deepspeed" in framework.candidates else ()
    return Inference("zero_stage", None, stages, WEAK, ("the framework could not be told",))


def _no_reduction(facts: RankFacts) -> Inference:
    if not len(facts.passes) and facts.has_host_ops:
        text = "no backward pass was recorded: ZeRO partitions training state only"
        return Inference("zero_stage", None, (), STRUCTURAL, (text,))
    texts = (
        "no gradient reduction between data-parallel ranks was recorded (one replica, or a window "
        "without an optimizer step), so stages 0 to 2 cannot be told apart",
        "would decide: a run with at least two data-parallel ranks and one whole step",
    )
    return Inference("zero_stage", None, (0, 1, 2), WEAK, texts)


def _stack(facts: RankFacts, text: str) -> bool:
    return any(text in n for n in facts.names if "deepspeed/runtime/" in n)


def _one_or_two(facts: RankFacts, roles: Roles, accumulation: int | None) -> Inference:
    """ZeRO-1 or ZeRO-2, by whichever difference this trace shows."""
    if roles.p2p.any() and not _has_bucket_or_flag(facts, roles):
        why = (
            "parameters are gathered after the optimizer, and neither a bucket nor an overflow "
            "flag was recorded: BF16_Optimizer, which partitions the optimizer's state as ZeRO-1 "
            "does and which DeepSpeed's pipelines use at stage 0 too",
            "would decide: the ds_config",
        )
        return Inference("zero_stage", None, (0, 1), STRUCTURAL, why)
    for test in (_by_frames, _by_accumulation, _by_hooks, _by_epilogue):
        found = test(facts, roles, accumulation)
        if found:
            stage, confidence, text = found
            return Inference("zero_stage", stage, (stage,), confidence, (text,))
    texts = (
        "gradients are all-reduced and parameters gathered after the optimizer: ZeRO-1 or ZeRO-2"
        if roles.reduction.any()
        else "a gradient bucket is filled in the backward pass: ZeRO-1 or ZeRO-2",
        "with overlap_comm and one micro-step a step both do the same work in the same order"
        if facts.hook_copies
        else "it does not show whether gradients enter a bucket during the backward pass or after",
        "would decide: a step with gradient accumulation, or one step recorded with "
        "with_stack=True",
    )
    return Inference("zero_stage", None, (1, 2), CERTAIN, texts)


def _has_bucket_or_flag(facts: RankFacts, roles: Roles) -> bool:
    """Whether ZeRO's own optimizer shows: its bucket, or its overflow flag (one byte, MAX).

    With a pipeline and bf16, stage 0 gets BF16_Optimizer (0.19.8 runtime/engine.py,
    _do_optimizer_sanity_check), which has neither.
    """
    c = facts.comm
    flags = roles.scalar & (c.kind == Op.ALL_REDUCE) & (c.dtype >= 0)
    dtypes = {c.dtypes[i] for i in np.unique(c.dtype[flags])}
    return bool(facts.allocations or facts.hook_copies or "u8" in dtypes)


_Verdict = tuple[int, float, str] | None


def _by_frames(facts: RankFacts, roles: Roles, accumulation: int | None) -> _Verdict:
    if _stack(facts, "stage_1_and_2.py"):
        if any(n.endswith(": reduce_gradients") for n in facts.names if "stage_1_and_2" in n):
            return 1, CERTAIN, "Python frame stage_1_and_2.py: reduce_gradients, which stage 1 runs"
        if any(n.endswith(": clear_grad_attribute") for n in facts.names):
            return 2, CERTAIN, "Python frame clear_grad_attribute, which stage 2 runs"
    return None


def by_micro_step(facts: RankFacts, roles: Roles) -> tuple[Bools, Bools] | None:
    """Reductions of gradients in steps that were recorded to their update, and the early ones.

    Returns
    -------
    (known, early) : arrays of shape (n,), or None
        Rows of the communication table; early is not in the last backward pass before an update.
        None without an update after several passes.
    """
    c = facts.comm
    on = roles.reduction & (c.kind != Op.REDUCE_SCATTER)
    cycle = facts.cycle
    closed = cycle < len(facts.updates)
    last = np.append(cycle[1:] != cycle[:-1], True) if len(cycle) else closed
    if not (closed & ~last).any():
        return None
    row_pass = np.searchsorted(facts.passes.start_ns, c.host_ns, "right") - 1
    known = on & (row_pass >= 0) & (c.host_ns >= 0)
    known[known] = closed[row_pass[known]]
    early = known.copy()
    early[known] = ~last[row_pass[known]]
    return known, early


def _by_accumulation(facts: RankFacts, roles: Roles, accumulation: int | None) -> _Verdict:
    if accumulation is None or accumulation < 2:
        return None
    told = by_micro_step(facts, roles)
    if told is None:
        return None
    c = facts.comm
    known, early = told
    sizes = nelems_per_step(facts, roles.reduction, c.in_nelems)
    gathered = nelems_per_step(facts, roles.gather, c.out_nelems)
    ratio = (
        f", {sizes / gathered:.2f} times the {gathered:,.0f} elements gathered"
        if sizes and gathered
        else ""
    )
    if early.any():
        closed = int((facts.cycle < len(facts.updates)).sum())
        text = (
            f"gradients are reduced in {_passes(facts, known)} of {closed} backward passes, "
            f"{accumulation} of which make a step{ratio}: ZeRO-2 reduces every micro-step, ZeRO-1 "
            "only the last"
        )
        return 2, CERTAIN, text
    if known.any():
        text = (
            f"gradients are reduced in the last of {accumulation} micro-steps only"
            f"{ratio}: ZeRO-1 does, ZeRO-2 reduces in every one"
        )
        return 1, CERTAIN, text
    passes = len({a.backward for a in facts.allocations})
    if facts.allocations and len(facts.passes):
        every = passes == len(facts.passes)
        text = f"the bucket is allocated in {passes} of {len(facts.passes)} backward passes"
        return (2 if every else 1), STRUCTURAL, text
    return None


def _passes(facts: RankFacts, rows: Bools) -> int:
    """How many backward passes some rows belong to."""
    return len(np.unique(np.searchsorted(facts.passes.start_ns, facts.comm.host_ns[rows], "right")))


def _by_hooks(facts: RankFacts, roles: Roles, accumulation: int | None) -> _Verdict:
    """Without overlap: does anything happen to gradients inside their hooks?"""
    if not facts.has_host_ops:
        return None
    c, on = facts.comm, roles.reduction
    gradients = int(facts.passes.accumulate.sum())
    filled = facts.hook_copies > HOOK_COPY_SHARE * gradients
    if not filled and not (on & c.in_accumulate).any():
        # with contiguous_gradients off ZeRO-2 copies nothing either, but it still reduces every
        # full bucket inside a hook: only its last one comes after the backward pass
        several = on.any() and int(np.bincount(c.step[on]).max()) > len(facts.groups_of(on))
        if not facts.allocations and not several and not _is_bf16_optimizer(facts, roles):
            return None
        text = (
            "no gradient is copied or reduced inside its hook, everything is reduced after the "
            "backward pass: ZeRO-1 without overlap (ZeRO-2 fills its bucket inside the hooks)"
        )
        return 1, CERTAIN if facts.allocations else STRUCTURAL, text
    overlap, _, _ = read_overlap(facts, roles)
    if overlap is False:
        text = (
            f"gradients enter the bucket inside their hooks ({facts.hook_copies:,} copies) "
            "although nothing overlaps: ZeRO-2 (ZeRO-1 without overlap waits for the end of the "
            "backward pass)"
        )
        return 2, CERTAIN, text
    return None


def _by_epilogue(facts: RankFacts, roles: Roles, accumulation: int | None) -> _Verdict:
    """By the engine's own range: is it there that everything is reduced, or only the rest?

    Hooks reduce a bucket whenever it is full: at stage 2, and at stage 1 with overlap_comm.
    """
    c, on = facts.comm, roles.reduction
    if not facts.in_epilogue.any() or not on.any():
        return None
    early = on & ~facts.in_epilogue
    overlap, _, _ = read_overlap(facts, roles)
    if early.any() and overlap is False:
        text = (
            f"{int(early.sum())} of {int(on.sum())} reductions are launched before {EPILOGUE}, "
            "although nothing overlaps: ZeRO-2 (ZeRO-1 without overlap reduces all of them there)"
        )
        return 2, STRUCTURAL, text
    several = int(np.bincount(c.step[on]).max()) > len(facts.groups_of(on))
    if not early.any() and several and overlap is False:
        text = (
            f"all {int(on.sum())} reductions are launched inside {EPILOGUE}, after the backward "
            "pass: ZeRO-1 without overlap (ZeRO-2 reduces full buckets before)"
        )
        return 1, STRUCTURAL, text
    return None


def bucket_heads(facts: RankFacts) -> dict[int, tuple[int, int]]:
    """First buffer size and how many equal ones of one type follow at once, by backward pass."""
    heads: dict[int, tuple[int, int]] = {}
    for backward in {a.backward for a in facts.allocations}:
        mine = [a for a in facts.allocations if a.backward == backward]
        first = mine[0]
        count = 0
        for a in mine:
            if a.nelems != first.nelems:
                break
            count += a.dtype == first.dtype
        heads[backward] = (first.nelems, count)
    return heads


def read_overlap(facts: RankFacts, roles: Roles) -> tuple[bool | None, float, list[str]]:
    """overlap_comm of a reducing run: (value, confidence, evidence)."""
    counts = {n for _, n in bucket_heads(facts).values()}
    if counts == {1} or counts == {2}:
        two = counts == {2}
        text = (
            f"{'two bucket buffers are' if two else 'one bucket buffer is'} allocated per backward "
            f"pass; overlap_comm needs two, one to fill while the other is reduced"
        )
        return two, CERTAIN, [text]
    c, on = facts.comm, roles.reduction
    if not on.any() or facts.compute_stream < 0:
        return None, WEAK, ["no gradient reduction was recorded"]
    # since torch 2.8 a synchronous collective runs on its caller's stream; the step's own scalars
    # show whether this trace is of that kind
    scalars = roles.scalar & (c.kind == Op.ALL_REDUCE)
    if not scalars.any() or (c.stream[scalars] != facts.compute_stream).any():
        return None, WEAK, ["every collective has a stream of its own here (torch before 2.8)"]
    apart = c.stream[on] != facts.compute_stream
    if apart.all() or not apart.any():
        where = "a stream of their own" if apart.all() else "the compute stream"
        text = f"the gradient reductions run on {where}, the step's scalars on the compute stream"
        return bool(apart.all()), STRUCTURAL, [text]
    return None, WEAK, ["some gradient reductions run on the compute stream, some do not"]


def infer_overlap(
    facts: RankFacts, roles: Roles, framework: Inference, stage: Inference
) -> Inference:
    """overlap_comm, as configured; how much really overlapped is a measurement, not this."""
    if framework.value != "deepspeed" or stage.value == 0 or stage.candidates == ():
        why = "stage 0 ignores it" if stage.value == 0 else "a DeepSpeed ZeRO setting"
        return Inference("overlap_comm", None, (), CERTAIN, (why,))
    if _is_bf16_optimizer(facts, roles):
        text = (
            "gradients are reduced after the backward pass without a bucket (BF16_Optimizer), "
            "which ignores overlap_comm"
        )
        return Inference("overlap_comm", None, (False, True), WEAK, (text,))
    value, confidence, evidence = read_overlap(facts, roles)
    candidates = (value,) if value is not None else (True, False)
    return Inference("overlap_comm", value, candidates, confidence, tuple(evidence))


def _is_bf16_optimizer(facts: RankFacts, roles: Roles) -> bool:
    """ZeRO-1 by BF16_Optimizer: no bucket although shapes were recorded, no scalars."""
    c = facts.comm
    no_bucket = facts.shapes_recorded and not facts.allocations and not facts.hook_copies
    no_bucket = no_bucket and not (roles.scalar & (c.kind == Op.ALL_REDUCE)).any()
    all_reduced = (
        roles.reduction.any() and not (roles.reduction & (c.kind == Op.REDUCE_SCATTER)).any()
    )
    return bool(no_bucket and all_reduced and roles.gather.any() and not c.in_node.any())
