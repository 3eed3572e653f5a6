"""What each piece of communication is for: reducing gradients, fetching parameters ...

The phase and the place of the launch tell on traces with host ops. On GPU work alone the order
relative to the optimizer's kernels and the element type in the kernel's name have to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op
from tracelens.collectives import CommTable
from tracelens.infer.facts import RankFacts
from tracelens.phases import Phase
from tracelens.thresholds import GATHER_SHARE, SCALAR_BYTES, SCALAR_NELEMS
from tracelens.trace import Bools, Int64s, _freeze

_REDUCTIONS = (Op.ALL_REDUCE, Op.REDUCE, Op.REDUCE_SCATTER)


@dataclass(frozen=True, slots=True)
class Roles:
    """Masks over the rows of a rank's `CommTable`; rows outside whole steps are in none.

    `scalar`: flags, norms, counts. `reduction`: gradients. `fetch`: parameters gathered for the
    forward or backward pass. `gather`: parameters gathered after the optimizer. `activation`:
    activations reduced or scattered in the forward pass. `exchange`: all-to-all. `p2p`: sends and
    receives.
    `unresolved`: kernels that are either of the last two.
    `by_order` tells that only the order on the GPU was available.
    """

    scalar: Bools
    reduction: Bools
    fetch: Bools
    gather: Bools
    activation: Bools
    exchange: Bools
    p2p: Bools
    unresolved: Bools
    by_order: bool

    def __post_init__(self) -> None:
        _freeze(self)


def find_roles(facts: RankFacts) -> Roles:
    """Tell the communication of one rank by its purpose."""
    c = facts.comm
    counted = np.asarray((c.step >= 0) & facts.whole[np.maximum(c.step, 0)])
    reduces = counted & np.isin(c.kind, _REDUCTIONS)
    gathers = counted & (c.kind == Op.ALL_GATHER)
    exchange = counted & (c.kind == Op.ALL_TO_ALL)
    p2p = counted & (c.kind == Op.P2P)
    if not facts.has_phases:
        return _by_order(facts, counted, reduces, gathers)
    scalar = counted & _is_small(c)
    if not facts.has_host_ops:
        scalar |= _small_by_type(c, reduces & (c.phase == Phase.STEP), reduces)
    reduces, gathers = reduces & ~scalar, gathers & ~scalar
    floating = _is_floating(c)
    activation = reduces & (c.phase == Phase.FORWARD) & floating
    backward = reduces & (c.phase == Phase.BACKWARD) & floating
    # tensor parallelism reduces input gradients inside the nodes that made them; gradients of
    # parameters are reduced where they are accumulated, or after the pass. HSDP's replicas are
    # reduced inside FSDP's own node, but then nothing is reduced in the forward pass.
    inner = backward & c.in_node & ~c.in_accumulate & (c.kind != Op.REDUCE_SCATTER)
    reduction = backward & ~inner if activation.any() else backward
    gathers = gathers & floating
    gather = gathers & (c.phase == Phase.STEP)
    passed = float(c.in_nelems[reduction].sum()) / max(facts.n_passes, 1.0)
    sized = (c.in_nelems[reduction] >= 0).all() and (c.out_nelems[gather] >= 0).all()
    if reduction.any() and sized and c.out_nelems[gather].sum() < GATHER_SHARE * passed:
        gather = gather & False
    ring = bool((p2p & c.in_node).any())  # context parallelism sends inside its nodes
    return Roles(
        scalar=scalar,
        reduction=reduction,
        fetch=gathers & np.isin(c.phase, (Phase.FORWARD, Phase.BACKWARD)),
        gather=gather,
        activation=activation,
        exchange=exchange,
        p2p=p2p & (not ring),
        unresolved=(counted & (c.kind == Op.P2P_OR_ALL_TO_ALL)) | (p2p & ring),
        by_order=False,
    )


def _by_order(facts: RankFacts, counted: Bools, reduces: Bools, gathers: Bools) -> Roles:
    c = facts.comm
    step = np.maximum(c.step, 0)
    update, last = facts.optimizer_ns[step, 0], facts.optimizer_ns[step, 1]
    dtype = np.array([*c.dtypes, ""], object)[c.dtype]
    is_all_reduce = reduces & (c.kind == Op.ALL_REDUCE)
    # an overflow flag is a byte and a ZeRO-3 norm a double: no gradient ever is; a float is a norm
    # where half-precision gradients are reduced, or where gradients are reduce-scattered
    unsized = is_all_reduce & (c.nelems < 0)
    half = bool(np.isin(dtype[is_all_reduce], ("bf16", "fp16")).any())
    scattered = bool((reduces & (c.kind == Op.REDUCE_SCATTER)).any())
    scalar = unsized & np.isin(dtype, ("u8", "fp64"))
    scalar |= unsized & (dtype == "fp32") & (half or (scattered and bool(scalar.any())))
    scalar |= counted & _is_small(c)
    gathers = gathers & ~scalar
    none = np.zeros(len(c), bool)
    return Roles(
        scalar=scalar,
        reduction=reduces & ~scalar & (update >= 0) & (c.start_ns < update),
        fetch=gathers & (update >= 0) & (c.start_ns < update),
        gather=gathers & (last >= 0) & (c.start_ns > last),
        activation=none,
        exchange=counted & (c.kind == Op.ALL_TO_ALL),
        p2p=counted & (c.kind == Op.P2P),
        unresolved=counted & (c.kind == Op.P2P_OR_ALL_TO_ALL),
        by_order=True,
    )


def _is_floating(c: CommTable) -> Bools:
    """Messages of a floating type, or of one that was not recorded."""
    dtype = np.array([*c.dtypes, ""], object)[c.dtype]
    return np.asarray(np.isin(dtype, ("", "bf16", "fp16", "fp32", "fp64", "f8")))


def _is_small(c: CommTable) -> Bools:
    """Messages of a few elements; where their type is unknown, of the bytes that few may have."""
    # (a gather of one element from each rank of a large job is still small)
    few = (c.in_nelems >= 0) & (c.in_nelems <= SCALAR_NELEMS)
    return np.asarray(few | ((c.nelems < 0) & (c.bytes >= 0) & (c.bytes <= SCALAR_BYTES)))


def _small_by_type(c: CommTable, in_step: Bools, reduces: Bools) -> Bools:
    """All-reduces of unknown size after the backward pass that carry no gradients by their type."""
    dtype = np.array([*c.dtypes, ""], object)[c.dtype]
    earlier = reduces & ~in_step
    flags = np.isin(dtype, ("u8", "fp64")) | ((dtype == "fp32") & bool(earlier.any()))
    return np.asarray(in_step & (c.kind == Op.ALL_REDUCE) & (c.nelems < 0) & flags)


def nelems_per_step(facts: RankFacts, mask: Bools, column: Int64s) -> float | None:
    """Sum of a size column over some rows per whole step; None if a size is unknown."""
    if (column[mask] < 0).any():
        return None
    return float(column[mask].sum()) / facts.n_steps


def per_step(facts: RankFacts, mask: Bools) -> float:
    """How many of the rows there are per whole step."""
    return float(mask.sum()) / facts.n_steps


def sizes_text(values: Int64s) -> str:
    """Distinct sizes, largest first, at most four, for evidence.

    Examples
    --------
    >>> sizes_text(np.array([2048, 65536000, 2048]))
    '65,536,000 and 2,048'
    """
    distinct = [f"{v:,}" for v in np.unique(values)[::-1].tolist()]
    if len(distinct) > 4:
        return f"{', '.join(distinct[:3])} ... {distinct[-1]} ({len(distinct)} sizes)"
    return " and ".join([", ".join(distinct[:-1]), distinct[-1]]) if distinct[1:] else distinct[0]
