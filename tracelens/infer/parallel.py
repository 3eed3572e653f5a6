"""Sizes of the parallel groups, from who talks to whom and when."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tracelens.classify import Op
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import CERTAIN, STATISTICAL, STRUCTURAL, WEAK, Inference, Value
from tracelens.infer.roles import Roles, sizes_text
from tracelens.phases import Phase
from tracelens.thresholds import ACTIVATION_REPEATS
from tracelens.trace import Bools, Int64s

_EXPERT = re.compile(r"(^|: )_?AllToAll(Backward)?$|MoE|moe::|deep_?ep|fused_dispatch")
_SEQUENCE = re.compile(r"_SeqAllToAll|SeqAllToAll|Ulysses", re.IGNORECASE)


def _group_sizes(facts: RankFacts, mask: Bools) -> Int64s:
    sizes = np.array([g.size for g in facts.comm.groups] + [-1], np.int64)[facts.comm.group[mask]]
    return np.unique(sizes[sizes > 0])


def infer_tensor(facts: RankFacts, roles: Roles, stage: Inference) -> Inference:
    """Tensor parallelism: one activation size reduced again and again in the forward pass."""
    key = "tensor_parallel_size"
    if not facts.has_phases:
        text = "GPU work alone does not show which phase a collective serves"
        return Inference(key, None, (), WEAK, (text,))
    c, on = facts.comm, roles.activation
    if not on.any():
        text = "no activations are reduced in the forward pass"
        return Inference(key, 1, (1,), STRUCTURAL, (text,))
    if stage.value == 3 and not roles.fetch.any():
        text = "ZeRO-3 can fetch parameters by all_reduce (stage3_use_all_reduce_for_fetch_params)"
        return Inference(key, None, (), WEAK, (text,))
    sizes, counts = np.unique(c.nelems[on], return_counts=True)
    repeated = counts >= ACTIVATION_REPEATS * facts.n_steps
    groups = _group_sizes(facts, on & np.isin(c.nelems, sizes[repeated]))
    if not repeated.any() or len(groups) != 1:
        text = f"collectives of {sizes_text(sizes)} elements in the forward pass have no clear use"
        return Inference(key, None, (), WEAK, (text,))
    n = int(groups[0])
    text = (
        f"{int(counts.max()) // facts.n_steps} reductions of {int(sizes[counts.argmax()]):,} "
        f"elements over {n} ranks in each forward pass: row-parallel layers"
    )
    return Inference(key, n, (n,), STRUCTURAL, (text,))


def infer_pipeline(ranks: Sequence[tuple[RankFacts, Roles]]) -> Inference:
    """Pipeline parallelism: sends and receives; the stages are the ranks they connect."""
    key = "pipeline_parallel_size"
    talking = [(f, r) for f, r in ranks if r.p2p.any()]
    if not talking:
        if any(r.unresolved.any() for _, r in ranks):
            text = "SendRecv kernels without their calls may be sends between pipeline stages"
            return Inference(key, None, (), WEAK, (text,))
        if not any(f.has_host_ops or len(f.comm) for f, _ in ranks):
            return Inference(key, 1, (1,), STRUCTURAL, ("no communication was recorded",))
        return Inference(key, 1, (1,), CERTAIN, ("nothing is sent from one rank to another",))
    sizes = {n for f, _ in talking if (n := _smallest_group(f)) is not None}
    reduced, world = _reducing(ranks) or 1, max((f.world_size or 0 for f, _ in ranks), default=0)
    if len(sizes) == 1 and world and max(sizes) * reduced > world:
        text = f"stages over a group of {max(sizes)}, gradients over {reduced} of {world} ranks"
        return Inference(key, None, (), WEAK, (text,))
    if len(sizes) == 1:
        n = sizes.pop()
        total = sum(int(r.p2p.sum()) for _, r in talking)
        text = f"{total} sends and receives between ranks that share a group of {n}"
        return Inference(key, n, (n,), STRUCTURAL, (text,))
    text = "ranks send to each other, and their pipeline group was not recorded"
    return Inference(key, None, (), WEAK, (text,))


def _smallest_group(facts: RankFacts) -> int | None:
    """Size of the smallest communicator that holds this rank and all ranks it sends to."""
    peers = set(facts.peers) | {facts.rank}
    holds = [len(g.ranks) for g in facts.groups if peers <= set(g.ranks)]
    return min(holds) if facts.peers and holds else None


def infer_expert_and_sequence(facts: RankFacts, roles: Roles) -> tuple[Inference, Inference]:
    """Expert and sequence parallelism: both are all-to-alls; the op around them tells which."""
    expert, sequence = "expert_parallel_size", "sequence_parallel_size"
    if not roles.exchange.any():
        if roles.unresolved.any():
            text = "SendRecv kernels without their calls may be all-to-all"
            unknown = (None, (), WEAK, (text,))
            return Inference(expert, *unknown), Inference(sequence, *unknown)
        one = (1, (1,), STRUCTURAL, ("no all_to_all was recorded",))
        return Inference(expert, *one), Inference(sequence, *one)
    sizes = _group_sizes(facts, roles.exchange)
    n = int(sizes[0]) if len(sizes) == 1 else None
    is_sequence = [x for x in facts.names if _SEQUENCE.search(x)]
    is_expert = [x for x in facts.names if _EXPERT.search(x) and not _SEQUENCE.search(x)]
    per_step = int(roles.exchange.sum()) // facts.n_steps
    text = f"{per_step} all_to_all per step over {n if n else sizes.tolist()} ranks"
    if n and bool(is_sequence) != bool(is_expert):
        name = (is_sequence or is_expert)[0]
        found = (n, (n,), CERTAIN, (f"{text}, inside {name}",))
        other = (1, (1,), STRUCTURAL, (f"every all_to_all belongs to {name}",))
        if is_sequence:
            return Inference(expert, *other), Inference(sequence, *found)
        return Inference(expert, *found), Inference(sequence, *other)
    candidates = (1, n) if n else ()
    texts = (
        text,
        "the ops around them do not show whether experts or sequence parts are exchanged",
    )
    both = (None, candidates, WEAK, texts)
    return Inference(expert, *both), Inference(sequence, *both)


def infer_data(
    ranks: Sequence[tuple[RankFacts, Roles]],
    world_size: int | None,
    others: Sequence[Inference],
) -> Inference:
    """Data parallelism: what is left of the job, checked against who reduces gradients.

    Parameters
    ----------
    ranks : sequence of (RankFacts, Roles)
    world_size : int or None
    others : sequence of Inference
        Tensor, pipeline and sequence parallel sizes, in this order.
    """
    key = "data_parallel_size"
    sizes = [i.value for i in others]
    share = int(np.prod([int(v) for v in sizes if v is not None]))
    world = world_size or _alone(ranks)
    reduced = _reducing(ranks)
    if world is None or any(v is None for v in sizes):
        return _data_unsplit(ranks, world, reduced, sizes[2])
    rest, extra = divmod(world, share)
    by_group = reduced // int(sizes[2] or 1) if reduced else None
    if extra == 0 and rest == by_group:
        text = f"{world} ranks, gradients reduced over {reduced}"
        return Inference(key, rest, (rest,), STRUCTURAL, (text,))
    if extra == 0 and rest == 1 and by_group is None:
        text = f"all {world} ranks share one replica" if world > 1 else "a job of one rank"
        return Inference(key, 1, (1,), STRUCTURAL, (text,))
    reducing = any(r.reduction.any() for _, r in ranks)
    if extra == 0 and reducing and by_group is None:
        text = f"{world} ranks, and gradients are reduced over a group whose size was not recorded"
        return Inference(key, rest, (rest,), STATISTICAL, (text,))
    if by_group is None:
        text = f"{world} ranks, and no gradient reduction between them was recorded"
        return Inference(key, None, (rest, 1) if extra == 0 else (), WEAK, (text,))
    text = f"{world} ranks split {share}-way otherwise, but gradients are reduced over {reduced}"
    return Inference(key, None, tuple(sorted({by_group, rest})), WEAK, (text,))


def _data_unsplit(
    ranks: Sequence[tuple[RankFacts, Roles]],
    world: int | None,
    reduced: int | None,
    sequence: Value,
) -> Inference:
    """When the size of the job or of another dimension is unknown."""
    key = "data_parallel_size"
    if world is None and reduced and sequence is not None:
        n = reduced // int(sequence)
        return Inference(
            key, n, (n,), STATISTICAL, (f"gradients are reduced over {reduced} ranks",)
        )
    if world is None:
        return Inference(key, None, (), WEAK, ("the size of the job was not recorded",))
    reducing = any(r.reduction.any() for _, r in ranks)
    text = f"{world} ranks, and how they are split could not be told"
    return Inference(key, None, (world,) if reducing else (), WEAK, (text,))


def _alone(ranks: Sequence[tuple[RankFacts, Roles]]) -> int | None:
    """A trace without rank, groups or communication is a job of one."""
    quiet = all(not len(f.comm) and not f.groups for f, _ in ranks)
    return 1 if quiet and len(ranks) == 1 and ranks[0][0].has_host_ops else None


def _reducing(ranks: Sequence[tuple[RankFacts, Roles]]) -> int | None:
    """Ranks over which gradients are combined: shards times replicas where both are reduced.

    None where nothing is reduced, or over a group of unknown size.
    """
    sizes = []
    for facts, roles in ranks:
        c = facts.comm
        backward = roles.reduction & (c.phase == Phase.BACKWARD)
        scattered = _group_sizes(facts, backward & (c.kind == Op.REDUCE_SCATTER))
        reduced = _group_sizes(facts, backward & (c.kind != Op.REDUCE_SCATTER))
        if len(scattered) and len(reduced):
            sizes.append(int(scattered.max() * reduced.max()))
        else:
            sizes += [int(n) for n in (*scattered, *reduced)]
    return max(sizes, default=None)
