"""What the recording itself costs, and the run without it.

A cost is worth what the job saves by it, and the job runs without a profiler. Where the manifest
has steps without one, the recorded ones are longer by what the profiler takes of the host, and that
is taken off all that the host causes before a cause is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tracelens.detectors.context import Charge, Context, PerRank, Profiler, charge
from tracelens.findings import Finding
from tracelens.host import Cause
from tracelens.thresholds import PROFILER_SHARE, TOLD_SHARE, TREND_P
from tracelens.thresholds.replay import FASTEST_HOST
from tracelens.trace import Floats
from tracelens.units import NS_PER_MS, format_ns
from tracelens.welch import Trend, trend, welch

#: Halvings of a share: to less than any float64 of it tells.
_ROUNDS = 50

_WORDS = {
    Cause.CPU_OPTIMIZER: "the optimizer on the CPU",
    Cause.LOADER: "the loader",
    Cause.ALLOCATOR: "driver allocations",
    Cause.PAUSE: "pauses",
    Cause.SYNC: "synchronisations",
    Cause.LAUNCH: "launching",
}


def without_profiler(context: Context) -> Context:
    """The run as it is without a profiler; the same context where that cannot be told.

    A slower host makes idle time longer by its share of the work that led up to it
    (`tracelens.host_work`), so recording takes

        slower[rank] = sum over causes of idle[rank, cause] x min(1, p x work[cause] / idle[cause])

    with work and idle time of all ranks together: what a cause is made of is the same everywhere.
    p is the share of the profiler in the host's work at which the recorded step loses what it is
    longer than one without (`Context.saving`), and no more than what-if believes
    (`1 - FASTEST_HOST`).
    """
    extra = _extra(context)
    if extra <= 0 or context.profiler is not None:
        return context
    causes = [c for c in Cause if c != Cause.DEVICE]
    idle = np.stack([context.idle(c) for c in causes], axis=1)
    weight = _work_of_idle(context)

    def slower(share: float) -> PerRank:
        return np.asarray((idle * np.minimum(share * weight, 1.0)).sum(axis=1))

    share = _solve(lambda p: context.saving(slower(p)), extra, 1 - FASTEST_HOST)
    kept = np.ones(len(Cause))
    kept[causes] = 1 - np.minimum(share * weight, 1.0)
    taken = min(max(context.saving(slower(share)), 0.0), extra)
    known = Profiler(extra, taken, kept, 1 - share, slower(share))
    return replace(
        context,
        profiler=known,
        step_ns=context.step_ns - taken,
        explained=context.explained + known.slower,
    )


def _work_of_idle(context: Context) -> Floats:
    """Work that led up to idle time of each cause over that time, all ranks together (c,).

    Without the last step, whose end stands for the way into one that was not recorded.
    """
    work, idle = np.zeros(len(Cause) - 1), np.zeros(len(Cause) - 1)
    for v in context.views:
        used = v.whole.copy()
        used[-1] &= used.sum() == 1
        work += v.host.work_ns[used].mean(axis=0)
        idle += v.host.idle_ns[used, :-1].mean(axis=0)
    return work / np.maximum(idle, 1.0)


def _solve(saved: Callable[[float], float], wanted: float, most: float) -> float:
    """The share at which so much is saved, or the most; `saved` never falls."""
    low, high = 0.0, most
    if saved(high) <= wanted:
        return high
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if saved(middle) > wanted else (middle, high)
    return high


def _extra(context: Context) -> float:
    """How much longer the recorded step is, ns; 0 where that is not sure.

    By means and by medians, the smaller: a step that saves or evaluates in one of the two series
    only is no profiler's doing.
    """
    plain, each = context.unprofiled_ns, context.unprofiled_each_ns
    if plain is None or drift(context) is not None:
        return 0.0
    extra = context.step_ns - plain
    if len(each) < 2:
        return extra if extra >= PROFILER_SHARE * plain else 0.0
    recorded = _recorded_steps(context)
    sure = welch(each, recorded).low
    usual = [float(np.median(v.breakdown.wall[v.whole])) for v in context.views]
    extra = min(extra, float(np.mean(usual) - np.median(each)))
    if extra >= PROFILER_SHARE * plain or (sure is not None and sure > 0):
        return max(extra, 0.0)
    return 0.0


def _recorded_steps(context: Context) -> Sequence[float]:
    """Lengths of the whole steps, mean of the ranks that have each, ns."""
    walls: dict[int, list[float]] = {}
    for v in context.views:
        pairs = zip(v.steps.number[v.whole].tolist(), v.breakdown.wall[v.whole], strict=True)
        for number, wall in pairs:
            walls.setdefault(number, []).append(float(wall))
    return [float(np.mean(w)) for w in walls.values()]


def drift(context: Context) -> Trend | None:
    """The line through the un-profiled steps where they change on their own; None where not."""
    found = trend(context.unprofiled_each_ns)
    if found is None or found.p_value >= TREND_P:
        return None
    rise = abs(found.last - found.first)
    return found if rise >= PROFILER_SHARE * float(np.mean(context.unprofiled_each_ns)) else None


def drift_text(found: Trend) -> str:
    """How the un-profiled steps change."""
    way = "longer" if found.last > found.first else "shorter"
    return (
        f"steps without a profiler became {way} while they were timed, from "
        f"{format_ns(found.first)} to {format_ns(found.last)} (a line through them)"
    )


def profiler_overhead(context: Context) -> Iterator[Charge]:
    """How much longer are the recorded steps than those without a profiler?

    Fires at `PROFILER_SHARE` of the step, and where it is more than the steps scatter (95 %
    confidence). The job saves nothing by it, so it costs 0; what it takes of the host is left out
    of all costs (`without_profiler`).
    """
    plain, known = context.unprofiled_ns, context.profiler
    if plain is None or known is None:
        return
    recorded = context.step_ns + known.taken_ns
    rest = known.extra_ns - known.taken_ns
    yield charge(
        context,
        "profiler_overhead",
        f"Recording makes the step {format_ns(known.extra_ns)} longer: "
        f"{(plain + known.extra_ns) / plain:.2f} times",
        np.zeros(len(context.views)),
        ranks=tuple(v.rank for v in context.views),
        evidence=(
            f"{format_ns(recorded)} a recorded step, {format_ns(plain)} without a profiler "
            "(the run's manifest)",
            f"{format_ns(known.taken_ns)} of it is the host's, and left out of all costs; idle "
            f"time without it: {_kept_text(context)}",
            *(
                (f"the other {format_ns(rest)} is in no cost",)
                if rest > TOLD_SHARE * recorded
                else ()
            ),
        ),
        remedy="record fewer steps, without shapes, stacks and memory where they are not needed",
    )


def _kept_text(context: Context) -> str:
    """Idle time by cause, of the rank that has most, as recorded and without the profiler."""
    parts = []
    for cause, word in _WORDS.items():
        recorded = float(context.recorded_idle(cause).max())
        if recorded >= PROFILER_SHARE * context.step_ns:
            less = format_ns(recorded * context.kept(cause))
            parts.append(f"{word} {less} of {format_ns(recorded)}")
    return ", ".join(parts) or "next to none"


def beside_recorded(plain: Sequence[Finding], recorded: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings of the run without a profiler, with what was recorded: its evidence and its cost.

    What only recorded steps have is told by `profiler_overhead`.
    """
    before: dict[str, list[Finding]] = {}
    for f in recorded:
        before.setdefault(f.id, []).append(f)
    done = []
    for f in plain:
        same = before.get(f.id, [])
        was = same.pop(0) if same else None
        done.append(f if was is None else _told(f, was))
    gone = [f for rest in before.values() for f in rest if f.cost_ms_per_step > 0]
    return tuple(_with_gone(f, gone) if f.id == "profiler_overhead" else f for f in done)


def _told(plain: Finding, was: Finding) -> Finding:
    now, then = plain.cost_ms_per_step, was.cost_ms_per_step
    if abs(now - then) < max(TOLD_SHARE * then, 0.01):
        return replace(plain, evidence=was.evidence)
    words = f"{_ms(then)} a step in the recorded steps, {_ms(now)} without the profiler"
    evidence = (*was.evidence[:1], words, *was.evidence[1:])
    return replace(plain, evidence=evidence, recorded_ms_per_step=then)


def _with_gone(f: Finding, gone: Sequence[Finding]) -> Finding:
    if not gone:
        return f
    names = ", ".join(f"{g.id} ({_ms(g.cost_ms_per_step)})" for g in gone)
    return replace(f, evidence=(*f.evidence, f"only in the recorded steps: {names}"))


def _ms(value: float) -> str:
    return format_ns(value * NS_PER_MS)
