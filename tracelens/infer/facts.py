"""The facts of one rank that the inference rules read: counted once, small, no events kept."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tracelens.classify import Op, is_compute
from tracelens.collectives import CommTable
from tracelens.infer import kernels
from tracelens.infer.hooks import Allocation, hook_work
from tracelens.launches import unrun_launches
from tracelens.links import OPTIMIZER_STEP, GpuWork, TrackSpans
from tracelens.operands import PRODUCTS, nelems_of
from tracelens.phases import Passes, Phase, Phases
from tracelens.ranges import EPILOGUE, updates
from tracelens.steps import EVALUATE, MARKED, WHOLE, StepMap
from tracelens.thresholds import UNRUN_SHARE
from tracelens.trace import HIDDEN_GRAPH, Bools, Int64s, Kind, ProcessGroup, Trace

#: Python frames (with_stack) that name a framework; all others are forgotten.
_TELLING_FRAME = re.compile(r"deepspeed/|nn\.Module: DeepSpeed|megatron/|nn\.Module: FullySharded")

#: Composite ops that only a forward pass runs: a backward node never calls them.
FORWARD_ONLY = frozenset(
    {
        "aten::linear",
        "aten::scaled_dot_product_attention",
        "aten::layer_norm",
        "aten::rms_norm",
        "aten::embedding",
        "aten::conv2d",
        "aten::dropout",
        "aten::silu",
        "aten::gelu",
        "LinearFunctionForZeroStage3",
    }
)


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What the rules need to know of one rank.

    Attributes
    ----------
    rank, world_size, groups, shapes_recorded : from the file's own description
    has_host_ops : bool
        Whether torch operators were recorded (not only GPU work and runtime calls).
    source, hidden
        What recorded it, and how many CUDA graphs stand for the kernels inside them.
    has_phases : bool
        Whether forward and backward passes could be told, by operators or by named ranges.
    in_epilogue : bool (m,)
        Rows of `comm` launched while DeepSpeed's engine reduced what its hooks had left.
    names : mapping of host op, annotation and telling frame name to count
    comm : CommTable
    whole : bool (k,)
        Whole steps; all steps where none is whole.
    passes : Passes
    updates : int64 (u,)
        Start of each optimizer step on the host (ranges of several parameter groups are one).
    compute_stream : int
        Stream with most GEMM and attention time, else most compute; -1 without compute.
    allocations : flat buffers that gradient hooks allocate before they copy, ascending in time
    hook_copies : int
        ``aten::copy_`` calls inside gradient hooks: gradients put into a bucket.
    marked, stepped : bool
        Whether the recording marks where its steps begin; whether any steps were found in it.
    gemm_types : mapping of operand type to number of matrix products (record_shapes)
    products : operand sizes of matrix products as recorded (record_shapes)
    weights : sizes of two-dimensional operands of matrix products, elements
    copy_bytes : mapping of (phase, direction) to bytes per whole step; directions h2d and d2h
    optimizer_kernels : compute kernels launched inside optimizer ranges, per whole step
    optimizer_ns : int64 (k, 2)
        First and last optimizer kernel (GPU start time) of each step; -1 without.
    model_ns : int64 (k,)
        Start of the last GEMM or attention kernel before the first optimizer kernel; -1 without.
    recomputed, forwarded : forward-only ops inside backward nodes, and outside
    attention : attention kernels (forward, backward) by name
    kernel_repeats : greatest common divisor of the model kernels' per-step counts; 0 unknown
    kernel_types : mapping of type to ns of compute kernels whose names tell it
    gemm_names : mapping of type to ns of matrix kernels whose names tell it
    loss_kernels : launches of a loss's forward kernel, per whole step; 0 unknown
    launches : whether runtime calls that launch work were recorded
    kernel_launches : kernel launches without work on the GPU, and all of them
    forward_copies : copies from the host in the forward pass, per whole step
    updated_steps : step rows in which an optimizer step begins
    syncs : mapping of synchronising runtime call to count in whole steps
    peers : ranks that this one sends to or receives from
    """

    rank: int
    world_size: int | None
    groups: tuple[ProcessGroup, ...]
    shapes_recorded: bool
    source: str
    hidden: int
    has_host_ops: bool
    has_phases: bool
    in_epilogue: Bools
    names: dict[str, int]
    comm: CommTable
    whole: Bools
    passes: Passes
    updates: Int64s
    compute_stream: int
    allocations: tuple[Allocation, ...]
    hook_copies: int
    marked: bool
    stepped: bool
    gemm_types: dict[str, int]
    products: frozenset[str]
    weights: frozenset[int]
    copy_bytes: dict[tuple[str, str], float]
    optimizer_kernels: float
    optimizer_ns: Int64s
    model_ns: Int64s
    recomputed: int
    forwarded: int
    attention: tuple[int, int]
    kernel_repeats: int
    kernel_types: dict[str, int]
    gemm_names: dict[str, int]
    loss_kernels: float
    launches: bool
    kernel_launches: tuple[int, int]
    forward_copies: float
    updated_steps: tuple[int, ...]
    syncs: dict[str, int]
    peers: tuple[int, ...]

    @property
    def n_steps(self) -> int:
        """Number of steps that count."""
        return int(self.whole.sum())

    @property
    def cycle(self) -> Int64s:
        """Which optimizer step each backward pass works towards; the last may be open."""
        return np.searchsorted(self.updates, self.passes.start_ns)

    @property
    def n_passes(self) -> float:
        """Backward passes per step."""
        inside = int((self.passes.step >= 0).sum())
        return inside / max(len(self.whole), 1)

    def groups_of(self, mask: Bools) -> set[tuple[int, int]]:
        """Distinct (group, element type) of some rows of `comm`."""
        pairs = zip(self.comm.group[mask].tolist(), self.comm.dtype[mask].tolist(), strict=True)
        return set(pairs)

    def has(self, *names: str) -> bool:
        """Whether any of these host names occurs."""
        return any(n in self.names for n in names)

    def starting(self, *prefixes: str) -> dict[str, int]:
        """Host names with one of the prefixes, and their counts."""
        return {n: c for n, c in self.names.items() if n.startswith(prefixes)}


def gather(
    trace: Trace, work: GpuWork, found: StepMap, phases: Phases, comm: CommTable
) -> RankFacts:
    """Count the facts of one rank."""
    whole, n = found.steps.counted, int(found.steps.counted.sum())
    counted = (found.of_work >= 0) & whole[np.maximum(found.of_work, 0)]
    optimizer_ns, model_ns = _order(work, found)
    recomputed, forwarded = _recomputation(trace)
    types, weights, products = _operands(trace)
    updated = _updates(trace, work, phases.passes)
    allocations, copies = hook_work(trace, phases.passes)
    return RankFacts(
        rank=trace.info.rank if trace.info.rank is not None else -1,
        world_size=trace.info.world_size,
        groups=trace.info.groups,
        shapes_recorded=len(trace.shapes) > 0,
        has_host_ops=bool((trace.slices.kind == Kind.CPU_OP).any()),
        has_phases=bool((phases.phase >= 0).any()),
        source=trace.info.source,
        hidden=len(trace.rows(Kind.KERNEL, trace.names_where([HIDDEN_GRAPH]))),
        in_epilogue=_in_epilogue(trace, work, comm),
        names=_names(trace),
        comm=comm,
        whole=whole,
        passes=phases.passes,
        updates=updated,
        compute_stream=_compute_stream(work),
        allocations=allocations,
        hook_copies=copies,
        marked=found.source in MARKED,
        stepped=found.source != WHOLE,
        gemm_types=types,
        products=products,
        weights=weights,
        copy_bytes=_copies(trace, work, phases, counted, n),
        optimizer_kernels=_optimizer_kernels(trace, work, counted) / n,
        optimizer_ns=optimizer_ns,
        model_ns=model_ns,
        recomputed=recomputed,
        forwarded=forwarded,
        attention=kernels.attention(trace, work, counted),
        kernel_repeats=kernels.repeats(trace, work, found, whole),
        kernel_types=kernels.kernel_types(trace, work, counted),
        gemm_names=kernels.gemm_names(trace, work, counted),
        loss_kernels=kernels.loss_kernels(trace, work, counted) / n,
        launches=bool((work.launch >= 0).any()),
        kernel_launches=unrun_launches(trace, work),
        forward_copies=_forward_copies(work, phases, counted) / n,
        updated_steps=_updated_steps(found, updated),
        syncs=_syncs(trace, found, whole),
        peers=_peers(trace),
    )


def did_not_run(facts: RankFacts) -> bool:
    """Whether kernels were launched that did not run, more than a window's end cuts off."""
    unrun, launched = facts.kernel_launches
    return unrun > UNRUN_SHARE * launched


def _peers(trace: Trace) -> tuple[int, ...]:
    c = trace.collectives
    peers = np.unique(np.concatenate((c.src_rank, c.dst_rank)))
    own = trace.info.rank if trace.info.rank is not None else -1
    return tuple(int(p) for p in peers.tolist() if p >= 0 and p != own)


def _names(trace: Trace) -> dict[str, int]:
    s = trace.slices
    host = (s.kind == Kind.CPU_OP) | (s.kind == Kind.ANNOTATION)
    count = np.bincount(s.name[host], minlength=len(trace.strings))
    names = {trace.strings[i]: int(count[i]) for i in np.flatnonzero(count)}
    frames = np.bincount(s.name[s.kind == Kind.PYTHON], minlength=len(trace.strings))
    for i in np.flatnonzero(frames).tolist():
        if _TELLING_FRAME.search(trace.strings[i]):
            names[trace.strings[i]] = names.get(trace.strings[i], 0) + int(frames[i])
    return names


def _updates(trace: Trace, work: GpuWork, passes: Passes) -> Int64s:
    ranges = trace.ranges(trace.names_starting(OPTIMIZER_STEP))
    at = trace.slices.ts_ns[ranges] if len(ranges) else updates(trace, work)
    behind = np.searchsorted(passes.start_ns, at)
    return at[np.flatnonzero(np.diff(behind, prepend=-1))]


def _in_epilogue(trace: Trace, work: GpuWork, comm: CommTable) -> Bools:
    s, launch = trace.slices, work.launch[comm.work]
    ranges = trace.rows(Kind.ANNOTATION, trace.names_where([EPILOGUE]))
    track = np.where(launch >= 0, s.track[launch], -1).astype(np.int32)
    return np.asarray((launch >= 0) & TrackSpans(s, ranges).contain(track, comm.host_ns))


def _compute_stream(work: GpuWork) -> int:
    for on in (np.isin(work.op, (Op.GEMM, Op.ATTENTION)), is_compute(work.op)):
        if on.any():
            streams, inverse = np.unique(work.stream[on], return_inverse=True)
            busy = np.bincount(inverse, weights=(work.end_ns - work.start_ns)[on])
            return int(streams[busy.argmax()])
    return -1


def _operands(trace: Trace) -> tuple[dict[str, int], frozenset[int], frozenset[str]]:
    """Types of matrix products, sizes of their two-dimensional operands, and all their sizes."""
    s, shapes = trace.slices, trace.shapes
    products = trace.names_where(PRODUCTS)
    types: Counter[str] = Counter()
    weights: set[int] = set()
    on = np.isin(s.name[shapes.row], products)
    for code, count in zip(*np.unique(shapes.types[on], return_counts=True), strict=True):
        names = trace.listed(code)
        tensor = [str(n) for n in names if "::" in str(n) or n in ("float", "double")]
        if tensor:
            types[tensor[-1]] += int(count)
    sized = on | np.isin(s.name[shapes.row], trace.names_where(["aten::linear", "aten::embedding"]))
    for code in np.unique(shapes.dims[sized]).tolist():
        for dims in trace.listed(code):
            if isinstance(dims, list) and len(dims) == 2 and nelems_of(dims) >= 0:
                weights.add(nelems_of(dims))
    sizes = {trace.strings[i] for i in np.unique(shapes.dims[on]).tolist() if i >= 0}
    return dict(types), frozenset(weights), frozenset(sizes)


def _copies(
    trace: Trace, work: GpuWork, phases: Phases, counted: Bools, n_steps: int
) -> dict[tuple[str, str], float]:
    size = trace.slices.bytes[work.row]
    result = {}
    for direction, op in (("h2d", Op.COPY_H2D), ("d2h", Op.COPY_D2H)):
        for label, code in ((p.label, int(p)) for p in Phase):
            on = counted & (work.op == op) & (phases.phase == code) & (size > 0)
            result[label, direction] = float(size[on].sum()) / n_steps
        on = counted & (work.op == op) & (size > 0)
        result["all", direction] = float(size[on].sum()) / n_steps
    return result


def _forward_copies(work: GpuWork, phases: Phases, counted: Bools) -> int:
    """Copies from the host that a forward pass launched."""
    on = (work.op == Op.COPY_H2D) & (phases.phase == Phase.FORWARD)
    return int((counted & on).sum())


def _optimizer_kernels(trace: Trace, work: GpuWork, counted: Bools) -> int:
    """Compute kernels launched inside an optimizer range."""
    s = trace.slices
    ranges = trace.ranges(trace.names_starting(OPTIMIZER_STEP))
    on = np.flatnonzero(counted & is_compute(work.op) & (work.launch >= 0))
    track = s.track[work.launch[on]]
    return int(TrackSpans(s, ranges).contain(track, work.launch_ns[on]).sum())


def _order(work: GpuWork, found: StepMap) -> tuple[Int64s, Int64s]:
    """First and last optimizer kernel, and last model kernel before it, of each step."""
    k = len(found.steps)
    optimizer_ns, model_ns = np.full((k, 2), -1, np.int64), np.full(k, -1, np.int64)
    updates = _by_step(found, work.op == Op.OPTIMIZER)
    models = _by_step(found, np.isin(work.op, (Op.GEMM, Op.ATTENTION)))
    for i in range(k):
        update, model = work.start_ns[updates[i]], work.start_ns[models[i]]
        if len(update):
            # a foreach kernel may run before the model (zeroing gradients): the optimizer is
            # what runs after the last matrix product
            late = update[update > (model[-1] if len(model) else -1)]
            update = late if len(late) else update
            optimizer_ns[i] = update[0], update[-1]
            model = model[model < update[0]]
        if len(model):
            model_ns[i] = model[-1]
    return optimizer_ns, model_ns


def _by_step(found: StepMap, on: Bools) -> list[Int64s]:
    """Some rows of the GPU work of each step, ascending."""
    rows = np.flatnonzero(on & (found.of_work >= 0))
    step = found.of_work[rows]
    order = np.argsort(step, kind="stable")
    return np.split(rows[order], np.searchsorted(step[order], np.arange(1, len(found.steps))))


def _recomputation(trace: Trace) -> tuple[int, int]:
    """Forward-only ops with gradients enabled: inside backward nodes, and outside them."""
    s = trace.slices
    rows = trace.rows(Kind.CPU_OP, trace.names_where(FORWARD_ONLY))
    rows = rows[s.sequence[rows] >= 0]
    evaluate = trace.rows(Kind.CPU_OP, trace.names_starting(EVALUATE))
    inside = int(TrackSpans(s, evaluate).contain(s.track[rows], s.ts_ns[rows]).sum())
    return inside, len(rows) - inside


def _updated_steps(found: StepMap, at: Int64s) -> tuple[int, ...]:
    step = found.steps.at_host(at)
    return tuple(np.unique(step[step >= 0]).tolist())


def _syncs(trace: Trace, found: StepMap, whole: Bools) -> dict[str, int]:
    s = trace.slices
    names = np.array([i for i, t in enumerate(trace.strings) if "Synchronize" in t], np.int32)
    rows = trace.rows(Kind.RUNTIME, names)
    step = found.steps.at_host(s.ts_ns[rows])
    on = (step >= 0) & whole[np.maximum(step, 0)]
    codes, counts = np.unique(s.name[rows[on]], return_counts=True)
    return {trace.strings[c]: int(n) for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
