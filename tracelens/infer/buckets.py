"""reduce_bucket_size and the other knobs of ZeRO that a trace can show."""

from __future__ import annotations

import numpy as np

from tracelens.classify import Op
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import CERTAIN, STRUCTURAL, WEAK, Inference
from tracelens.infer.roles import Roles
from tracelens.infer.zero import bucket_heads
from tracelens.phases import Phase
from tracelens.trace import Int32s, Int64s


def infer_bucket_size(facts: RankFacts, roles: Roles, stage: Inference) -> Inference:
    """reduce_bucket_size, elements: exact where its allocation was recorded, else bounds.

    The flush rule bounds it: a bucket is reduced when the next parameter would not fit
    (DeepSpeed 0.19.8 stage_1_and_2.py, reduce_independent_p_g_buckets_and_remove_grads).
    """
    key = "reduce_bucket_size"
    if stage.value is None and not set(stage.candidates) & {1, 2, 3}:
        return Inference(key, None, (), CERTAIN, ("a DeepSpeed ZeRO setting",))
    if stage.value == 0:
        text = "stage 0 ignores it (the engine's own bucket is fixed at 500,000,000 elements)"
        return Inference(key, None, (), CERTAIN, (text,))
    sizes = {n for n, _ in bucket_heads(facts).values()}
    if stage.value != 3 and len(sizes) == 1:
        size = sizes.pop()
        text = f"aten::empty([{size}]) inside the first gradient hook of the backward pass"
        return Inference(key, size, (size,), CERTAIN, (text,))
    low, high = _bounds(facts, roles)
    texts = ["the bucket's own allocation was not recorded"]
    if stage.value == 3:
        texts = ["ZeRO-3 allocates its bucket once, before the window"]
    if low is not None:
        texts.append(f"a bucket of several parameters holds {low:,} elements: it is at least that")
    if high is not None:
        texts.append(f"two neighbouring buckets did not fit together: it is below {high:,}")
    if stage.value != 3:
        texts.append("would decide: record_shapes=True")
    return Inference(key, None, (), WEAK, tuple(texts), low=low, high=high)


def _bounds(facts: RankFacts, roles: Roles) -> tuple[int | None, int | None]:
    """Bounds from neighbouring buckets of one backward pass, group and type."""
    c = facts.comm
    on = np.flatnonzero(roles.reduction & (c.in_nelems > 0))
    if not len(on):
        return None, None
    on = on[np.argsort(c.host_ns[on], kind="stable")]
    low: int | None = None
    high: int | None = None
    keys = np.stack([c.step[on], c.micro[on], c.group[on], c.dtype[on].astype(np.int32)], axis=1)
    weights = np.array(sorted(facts.weights) or [-1], np.int64)
    for part in _alike(keys):
        mine: Int64s = c.in_nelems[on[part]]
        # a parameter larger than the bucket is reduced alone and says nothing about it
        # (in two pieces where it straddles two ranks' partitions)
        several = ~np.isin(mine, weights)
        pieces = np.isin(mine[:-1] + mine[1:], weights)
        several[:-1] &= ~pieces
        several[1:] &= ~pieces
        if several.any():
            low = max(low or 0, int(mine[several].max()))
        pairs = (mine[:-1] + mine[1:])[several[:-1]]
        if len(pairs):
            high = min(high or int(pairs.min()), int(pairs.min()))
    if low is not None and high is not None and high <= low:
        return None, None  # padding or mixed buckets: no honest bound
    return low, high


def _alike(keys: Int32s) -> list[Int64s]:
    """Rows of equal keys, ascending, for each key."""
    _, which = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which.reshape(-1)[order])) + 1)


def infer_contiguous(facts: RankFacts, roles: Roles, stage: Inference) -> Inference:
    """contiguous_gradients: whether gradients are copied into a flat bucket."""
    key = "contiguous_gradients"
    if stage.value == 3 or not set(stage.candidates) & {1, 2}:
        return Inference(key, None, (), CERTAIN, ("readable for ZeRO-1 and ZeRO-2 only",))
    if facts.allocations:
        text = "the flat gradient bucket is allocated in the backward pass"
        return Inference(key, True, (True,), CERTAIN, (text,))
    in_hooks = bool((roles.reduction & facts.comm.in_accumulate).any())
    # (before 0.18.3 the bucket is allocated outside hooks; a filled one shows by its copies)
    if facts.shapes_recorded and in_hooks and not facts.hook_copies:
        text = "gradients are reduced inside their hooks and no flat bucket is allocated there"
        return Inference(key, False, (False,), STRUCTURAL, (text,))
    return Inference(key, None, (True, False), WEAK, ("would decide: record_shapes=True",))


def infer_reduce_scatter(facts: RankFacts, roles: Roles, stage: Inference) -> Inference:
    """reduce_scatter: visible at stage 3 only; stages 1 and 2 all-reduce either way."""
    key = "reduce_scatter"
    c = facts.comm
    if stage.value == 3 and roles.reduction.any():
        scattered = bool((roles.reduction & (c.kind == Op.REDUCE_SCATTER)).any())
        text = f"gradients are reduced by {'reduce_scatter' if scattered else 'all_reduce'}"
        return Inference(key, scattered, (scattered,), STRUCTURAL, (text,))
    if set(stage.candidates) & {1, 2}:
        text = "ZeRO-1 and ZeRO-2 all-reduce the same buckets with either setting"
        return Inference(key, None, (True, False), CERTAIN, (text,))
    return Inference(key, None, (), CERTAIN, ("a setting of ZeRO-1 to 3",))


def infer_hpz(facts: RankFacts, roles: Roles, stage: Inference) -> Inference:
    """zero_hpz_partition_size: parameters fetched from a smaller group in the backward pass."""
    key = "hpz_partition_size"
    c = facts.comm
    if stage.value != 3:
        return Inference(key, None, (), CERTAIN, ("a ZeRO-3 setting",))
    sizes = np.array([g.size for g in c.groups] + [-1], np.int64)[c.group]
    forward = np.unique(sizes[roles.fetch & (c.phase == Phase.FORWARD)])
    backward = np.unique(sizes[roles.fetch & (c.phase == Phase.BACKWARD)])
    if not len(backward) or not len(forward):
        text = "no parameters are fetched in the backward pass, where the secondary shards are read"
        return Inference(key, None, (), WEAK, (text,))
    if min(forward.min(), backward.min()) < 0:
        return Inference(key, None, (), WEAK, ("the groups were not recorded",))
    # (experts sharded over fewer ranks are so in both passes)
    smaller = backward[(backward < forward.max()) & ~np.isin(backward, forward)]
    value = int(smaller.min()) if len(smaller) else 1
    text = f"parameters are fetched from {forward.max()} ranks forward, {backward.min()} backward"
    return Inference(key, value, (value,), STRUCTURAL, (text,))
