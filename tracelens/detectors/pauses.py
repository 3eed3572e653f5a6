"""Steps in which the host saves, and stretches in which it shows nothing at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tracelens.detectors import proof
from tracelens.detectors.context import Charge, Context, RankView, charge, ranks_of, spread
from tracelens.host import Cause
from tracelens.moments import Moment
from tracelens.pauses import Pause
from tracelens.thresholds import PAUSE_NS, SAVE_BYTES
from tracelens.trace import Int64s
from tracelens.units import format_ns


def checkpoint_save(context: Context) -> Iterator[Charge]:
    """Is something large copied to pageable memory and written, in some steps only?

    Cost: those copies and the pauses of the same steps, where they make the step longer. Without
    copies it is `host_pause`.
    """
    found = [saving_steps(v.host.save_bytes) for v in context.views]
    if not any(len(f) for f in found):
        return
    copied, paused = [], []
    for view, steps in zip(context.views, found, strict=True):
        spent = np.zeros(len(view.steps), np.int64)
        spent[steps] = view.host.save_ns[steps]
        copied.append(spent)
        spent = np.zeros(len(view.steps), np.int64)
        spent[steps] = view.host.idle_ns[steps, Cause.PAUSE]
        paused.append(spent)
    size = max(int(v.host.save_bytes.max()) for v in context.views)
    numbers = {int(v.steps.number[i]) for v, f in zip(context.views, found, strict=True) for i in f}
    most = float(max((c + p).max() for c, p in zip(copied, paused, strict=True)))
    yield charge(
        context,
        "checkpoint_save",
        "Saving to the host holds all ranks up, {cost} a step on average",
        context.per_rank(copied) + context.hosts(paused, Cause.PAUSE),
        ranks=ranks_of(context, [len(f) > 0 for f in found]),
        steps=tuple(sorted(numbers)),
        evidence=(
            f"{size / 1e6:,.0f} MB copied to pageable memory in step {min(numbers)}, not in others",
            f"copies and the pause after them take {format_ns(most)}",
        ),
        remedy="save less often or asynchronously (pinned staging buffers, a background writer; "
        "torch.distributed.checkpoint.async_save)",
        proof=proof.of_moments(
            context, "save", "pause", only=lambda v, m: m.step in saving_steps(v.host.save_bytes)
        ),
    )


def saving_steps(size: Int64s) -> list[int]:
    """Steps that copy much to pageable memory, where others do not."""
    large = np.flatnonzero(size >= SAVE_BYTES)
    return large.tolist() if 0 < len(large) < len(size) else []


def gc_pause(context: Context) -> Iterator[Charge]:
    """Does Python collect garbage while the GPU idles?

    Only where the recording shows collections: stacks with ``gc.collect`` in them, or the
    profiler's own record (torch 2.9, ``record_python_gc_info``). Cost: pauses inside them.
    """
    idle = context.hosts([_not_saving(v, v.host.gc_ns) for v in context.views], Cause.PAUSE)
    if idle.max() <= 0:
        return
    yield charge(
        context,
        "gc_pause",
        "Python collects garbage while the GPU idles, {cost} a step",
        idle,
        ranks=ranks_of(context, idle > 0),
        steps=_steps_of(context, [v.host.gc_ns for v in context.views]),
        evidence=(f"idle inside collections: {spread(idle)} a step",),
        remedy="gc.disable() and gc.collect() every few hundred steps on all ranks together, "
        "gc.freeze() after setting up",
        proof=proof.of_moments(context, "pause", only=in_usual_step),
    )


def host_pause(context: Context) -> Iterator[Charge]:
    """Are there stretches without any event on any thread, while the GPU idles?

    Cost: idle time inside them, where it makes the step longer; pauses in steps that save a
    checkpoint, and in collections that were recorded, are charged there, and those of a rank that
    is stopped whatever it does with its lateness (`stopped`). Garbage collection, sleeping,
    blocking file access and slow Python all look like this without stacks.
    """
    others = stopped(context)
    cause = [
        _not_saving(v, np.maximum(v.host.idle_ns[:, Cause.PAUSE] - v.host.gc_ns - gone, 0))
        for v, gone in zip(context.views, others, strict=True)
    ]
    pauses = [
        (p, v)
        for v in context.views
        for p in v.host.pauses
        if p.step not in saving_steps(v.host.save_bytes)
        and (p.dur_ns > v.host.stops.most_ns or not tells_stops(context))
    ]
    idle = context.hosts(cause, Cause.PAUSE)
    if idle.max() <= 0 or not pauses:
        return
    longest, view = max(pauses, key=lambda p: p[0].dur_ns)
    ranks = ranks_of(context, idle > 0)
    whose = f"Rank {ranks[0]}'s" if len(ranks) == 1 < len(context.views) else "The"
    yield charge(
        context,
        "host_pause",
        f"{whose} host does nothing that the trace shows for {{cost}} a step",
        idle,
        ranks=ranks,
        steps=tuple(sorted({int(v.steps.number[p.step]) for p, v in pauses})),
        evidence=(
            f"{len(pauses)} pauses with no event on any thread; the longest, "
            f"{format_ns(longest.dur_ns)} on rank {view.rank}, after {longest.after} and before "
            f"{longest.before}",
            *stops_text(view),
            _what(longest),
        ),
        remedy="that frame is what to look at: a lock, a file, a sleep, slow Python"
        if longest.frame
        else "record one step with with_stack=True; if it is garbage collection, gc.disable() "
        "and gc.collect() at a fixed interval on all ranks together",
        proof=proof.of_moments(context, "pause", only=in_usual_step),
    )


def tells_stops(context: Context) -> bool:
    """Whether ranks that are stopped are told as late: some are not, and waiting for them shows."""
    return (
        context.waits is not None
        and not context.shared_gpu
        and any(not v.host.stops.count for v in context.views)
    )


def stopped(context: Context) -> list[Int64s]:
    """Pauses of each rank that are not its own doing and told with its lateness, ns (k,)."""
    told = tells_stops(context)
    return [v.host.stopped_ns * told for v in context.views]


def stops_text(view: RankView) -> tuple[str, ...]:
    """What shows that a rank's host is stopped; empty where nothing does."""
    stops = view.host.stops
    if not stops.count:
        return ()
    return (
        f"rank {view.rank}'s threads stand still {stops.count} times for {format_ns(PAUSE_NS)} to "
        f"{format_ns(stops.longest_ns)} inside operators that are short else "
        f"({', '.join(stops.names[:4])}): another process, or a limit on CPU time, has its cores",
    )


def _what(pause: Pause) -> str:
    if pause.frame:
        return f"all that time Python is in {pause.frame}"
    return (
        "garbage collection, sleep, blocking I/O and slow Python look alike here; one step "
        "recorded with with_stack=True tells them apart"
    )


def in_usual_step(view: RankView, moment: Moment) -> bool:
    """Moments of steps that do not save a checkpoint."""
    return moment.step not in saving_steps(view.host.save_bytes)


def _not_saving(view: RankView, spent: Int64s) -> Int64s:
    spent = spent.copy()
    spent[saving_steps(view.host.save_bytes)] = 0
    return spent


def _steps_of(context: Context, spent: Sequence[Int64s]) -> tuple[int, ...]:
    pairs = zip(context.views, spent, strict=True)
    return tuple(sorted({int(n) for v, s in pairs for n in v.steps.number[(s > 0) & v.whole]}))
