"""A recorded run, ready to be changed and replayed: programs, costs, and how well they hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tracelens.analysis import Analysis, RankAnalysis, RankEvents
from tracelens.classify import Op
from tracelens.errors import CannotPredict, InputError
from tracelens.infer.roles import Roles, find_roles
from tracelens.intervals import clip_lengths, union
from tracelens.operands import dims_of
from tracelens.pipeline import Kept, Paths, open_rank, read_run
from tracelens.reading import Progress
from tracelens.replay.build import Host, Window, build
from tracelens.replay.contention import Kernels, Slowdown, alone, measure, measure_admission
from tracelens.replay.footprint import Footprint, footprint
from tracelens.replay.program import Act, Program
from tracelens.replay.simulate import Costs, Simulation, simulate
from tracelens.thresholds import LARGE_MESSAGE_BYTES
from tracelens.thresholds.replay import (
    FAST_GBPS,
    FAST_TRANSFER_SLOWDOWN,
    REPLAY_STEPS,
    SLOW_TRANSFER_SLOWDOWN,
)
from tracelens.trace import Int64s
from tracelens.transfer import Line, fit_line


@dataclass(frozen=True, slots=True)
class RankModel:
    """One rank: its program, its hooks, and the rows that reduce or gather.

    `reductions`, `gathers`, `fetches` int64: `uid` of the rows of each role. `nelems` maps a row's
    `uid` to the elements of its message, `copied` to the bytes of a copy within the GPU.
    """

    rank: int
    program: Program
    host: Host
    reductions: Int64s
    gathers: Int64s
    fetches: Int64s
    nelems: Mapping[int, int]
    copied: Mapping[int, int]
    compute_stream: int


@dataclass(frozen=True, slots=True)
class Model:
    """A run's programs and what their work costs.

    Attributes
    ----------
    analysis : Analysis
    ranks : tuple of RankModel
    costs : Costs
        Of the recorded program.
    slowdown : Slowdown
    reduction, fetch : Line or None
        Transfer time of a reduction, and of a gather of ZeRO-3, by its elements on a rank; None
        without ones of known size.
    admitted : float
        The part of a kernel that fills the GPU after which collectives begin beside it; 0 if they
        begin at any time.
    matched : bool
        Whether every collective was seen on all its ranks.
    memory : Footprint or None
        What the first rank keeps on its GPU; None where that cannot be told.
    """

    analysis: Analysis
    ranks: tuple[RankModel, ...]
    costs: Costs
    slowdown: Slowdown
    reduction: Line | None
    fetch: Line | None
    admitted: float
    matched: bool
    memory: Footprint | None

    @property
    def programs(self) -> tuple[Program, ...]:
        """The ranks' programs."""
        return tuple(r.program for r in self.ranks)

    @property
    def recorded_ns(self) -> float:
        """Length of a step of the window in the recording, mean over ranks."""
        return float(np.mean([p.recorded_ns / p.n_steps for p in self.programs]))

    def with_host(self, factor: float) -> Model:
        """The model with all of its hosts' time multiplied."""
        ranks = tuple(
            replace(
                r,
                program=replace(
                    r.program,
                    gap_ns=(r.program.gap_ns * factor).astype(np.int64),
                    cost_ns=(r.program.cost_ns * factor).astype(np.int64),
                ),
            )
            for r in self.ranks
        )
        return replace(self, ranks=ranks)

    def replay(self) -> Simulation:
        """Run the programs."""
        return simulate(self.programs, self.costs)


def load(analysis: Analysis, kept: Kept | None = None, progress: Progress | None = None) -> Model:
    """Read the ranks of a run again and make their programs.

    Parameters
    ----------
    analysis : Analysis
    kept : Kept, optional
        Ranks in it are not read again.
    progress : callable, optional
        Called now and then with (what is read, bytes read, bytes of the file).

    Raises
    ------
    InputError
        If no step was recorded whole, or launches were not recorded.
    """
    first, last = _steps(analysis)
    zero = min(r.info.clock_zero_ns for r in analysis.ranks)
    found: list[tuple[RankModel, Kernels, tuple[Int64s, Int64s]]] = []
    memory: Footprint | None = None
    for r, offset, number in zip(
        analysis.ranks, analysis.matches.offset_ns, analysis.matches.number, strict=True
    ):
        seen = open_rank(analysis, r.rank, kept, progress)
        meet = np.full(len(seen.work), -1, np.int64)
        meet[r.comm.work] = number
        window = Window(first[r.rank], last[r.rank], meet, r.info.clock_zero_ns - zero - offset)
        program, host = build(seen, window)
        if not (program.act <= Act.MEET).any():
            raise InputError(
                f"rank {r.rank}: no launches were recorded",
                hint="record CPU activities too: ProfilerActivity.CPU",
            )
        memory = memory if found else _memory(analysis, seen)
        found.append(_rank(r, seen, program, host))
    slowdown = measure(
        [m.program for m, _, _ in found], [k for _, k, _ in found], [t for _, _, t in found]
    )
    ranks = tuple(_decontended(m, slowdown, t) for m, _, t in found)
    transfer = _transfers(analysis, ranks)
    shared = _beside_compute([m.program for m in ranks], [t for _, _, t in found])
    prior = FAST_TRANSFER_SLOWDOWN if _fast(analysis, transfer) else SLOW_TRANSFER_SLOWDOWN
    line, slow = _fitted(ranks, [m.reductions for m in ranks], transfer, shared, prior)
    fetch, slow_fetch = _fitted(
        ranks, [m.fetches for m in ranks], transfer, shared, SLOW_TRANSFER_SLOWDOWN
    )
    slow = slow if fetch is None else (slow + slow_fetch) / 2
    transfer = {n: max(t - slow * shared.get(n, 0.0), 0.0) for n, t in transfer.items()}
    matched = all(bool((p.act[p.comm] == Act.MEET).all()) for p in (m.program for m in ranks))
    return Model(
        analysis=analysis,
        ranks=ranks,
        costs=Costs(transfer, slowdown.products, slowdown.others, slow),
        slowdown=slowdown,
        reduction=line,
        fetch=fetch,
        admitted=measure_admission([m.program for m in ranks], [t for _, _, t in found]),
        matched=matched,
        memory=memory,
    )


def require_compute(model: Model) -> None:
    """Refuse what rearranges communication beside compute where some rank recorded none.

    Raises
    ------
    CannotPredict
    """
    if any(m.compute_stream < 0 for m in model.ranks):
        raise CannotPredict(
            "a rank shows no compute: what communication would run beside is not known",
            hint="record all of the GPU's work: torch.profiler without a filter",
        )


def read_and_load(
    paths: Paths, progress: Progress | None, ds_config: str | os.PathLike[str] | None
) -> tuple[Analysis, Model]:
    """Analyse a run and make its programs; each file of a small run is read once."""
    kept: Kept = {}
    analysis = read_run(paths, None, progress, ds_config, kept=kept)
    return analysis, load(analysis, kept)


def _memory(analysis: Analysis, seen: RankEvents) -> Footprint | None:
    try:
        return footprint(analysis, seen)
    except CannotPredict:
        return None


def _steps(analysis: Analysis) -> tuple[dict[int, int], dict[int, int]]:
    """First and last step row of each rank: the last whole steps in a row that all ranks have."""
    common = set.intersection(
        *(set(r.steps.number[r.steps.complete].tolist()) for r in analysis.ranks)
    )
    rows = {r.rank: {n: i for i, n in enumerate(r.steps.number.tolist())} for r in analysis.ranks}
    run: list[int] = []
    for n in sorted(common, reverse=True):
        # numbers may count backwards where something is wrong with the file
        apart = run and any((run[-1] - n, v[run[-1]] - v[n]) != (1, 1) for v in rows.values())
        if apart or len(run) == REPLAY_STEPS:
            break
        run.append(n)
    if not run:
        raise InputError("no step was recorded whole on all ranks", hint="record two steps or more")
    return {k: v[run[-1]] for k, v in rows.items()}, {k: v[run[0]] for k, v in rows.items()}


def _rank(
    r: RankAnalysis, seen: RankEvents, program: Program, host: Host
) -> tuple[RankModel, Kernels, tuple[Int64s, Int64s]]:
    """A rank's model with recorded lengths, what its kernels are and the times of its work."""
    work, s = seen.work, seen.trace.slices
    own = program.work
    known = own >= 0
    roles: Roles = find_roles(r.facts)
    nelems = np.full(len(work), -1, np.int64)
    nelems[r.comm.work] = r.comm.in_nelems
    copies = known & (work.op[own] == Op.COPY_D2D)

    def rows(role: np.ndarray) -> Int64s:
        return program.uid[known & np.isin(own, r.comm.work[role])]

    sized = known & program.comm
    stream = np.flatnonzero(np.array(program.streams) == r.facts.compute_stream)
    model = RankModel(
        rank=r.rank,
        program=program,
        host=host,
        reductions=rows(roles.reduction),
        gathers=rows(roles.gather),
        fetches=rows(roles.fetch),
        nelems=dict(zip(program.uid[sized].tolist(), nelems[own[sized]].tolist(), strict=True)),
        copied=dict(
            zip(program.uid[copies].tolist(), s.bytes[work.row[own[copies]]].tolist(), strict=True)
        ),
        compute_stream=int(stream[0]) if len(stream) else -1,
    )
    times = np.where(known, work.start_ns[own], 0), np.where(known, work.end_ns[own], 0)
    return model, _kernels(seen, own), times


def _kernels(seen: RankEvents, own: Int64s) -> Kernels:
    """What each row of a program is, by its row of `GpuWork` (-1 none)."""
    s, work = seen.trace.slices, seen.work
    name = np.where(own >= 0, s.name[work.row[own]], -1).astype(np.int64)
    dims = np.where(own >= 0, dims_of(seen.trace, work.parent[own]), -1)
    return Kernels(name * (int(dims.max(initial=0)) + 2) + dims, dims >= 0)


def _decontended(m: RankModel, slowdown: Slowdown, times: tuple[Int64s, Int64s]) -> RankModel:
    work = alone(m.program, slowdown, *times)
    return replace(m, program=replace(m.program, work_ns=work))


def _transfers(analysis: Analysis, ranks: tuple[RankModel, ...]) -> dict[int, float]:
    """Transfer of each collective: its shortest length over ranks, ns."""
    shortest: dict[int, float] = {}
    for r, number in zip(analysis.ranks, analysis.matches.number, strict=True):
        for n, d in zip(number.tolist(), r.comm.dur_ns.tolist(), strict=True):
            if n >= 0:
                shortest[n] = min(shortest.get(n, d), d)
    used = {n for m in ranks for n in m.program.meet.tolist() if n >= 0}
    return {n: float(shortest[n]) for n in used}


def _fast(analysis: Analysis, transfer: dict[int, float]) -> bool:
    """Whether large messages move as over NVLink: where kernels beside them cost them the most."""
    rates = []
    for r, number in zip(analysis.ranks, analysis.matches.number, strict=True):
        large = np.flatnonzero((r.comm.bytes >= LARGE_MESSAGE_BYTES) & (number >= 0))
        rates += [
            b / transfer[n]
            for n, b in zip(number[large].tolist(), r.comm.bytes[large].tolist(), strict=True)
            if transfer.get(n)
        ]
    return bool(rates) and float(np.median(rates)) >= FAST_GBPS


def _beside_compute(
    programs: Sequence[Program], times: Sequence[tuple[Int64s, Int64s]]
) -> dict[int, float]:
    """For how long of each collective's transfer kernels ran, mean over its ranks, ns.

    The transfer is the end of the kernel: before, it waits for the last rank.
    """
    shared: dict[int, list[tuple[int, float]]] = {}
    for p, (start, end) in zip(programs, times, strict=True):
        met = np.flatnonzero(p.meet >= 0)
        busy = union(start[p.compute], end[p.compute])
        inside = clip_lengths(busy, start[met], end[met])
        for n, d, o in zip(
            p.meet[met].tolist(), (end - start)[met].tolist(), inside.tolist(), strict=True
        ):
            shared.setdefault(n, []).append((d, o))
    mean = {}
    for n, seen in shared.items():
        transfer = min(d for d, _ in seen)
        mean[n] = float(np.mean([min(o, transfer) for _, o in seen]))
    return mean


def _fitted(
    ranks: tuple[RankModel, ...],
    role: Sequence[Int64s],
    transfer: dict[int, float],
    shared: dict[int, float],
    prior: float,
) -> tuple[Line | None, float]:
    """Time of a role's transfers by their size, and what kernels beside them cost.

    Over matched ones, else over this rank's own lengths. `role` has the `uid` on each rank.
    """
    found: dict[int, tuple[int, float, float]] = {}
    for m, uid in zip(ranks, role, strict=True):
        at = np.flatnonzero(np.isin(m.program.uid, uid))
        for i in at.tolist():
            n = m.nelems.get(int(m.program.uid[i]), -1)
            meet = int(m.program.meet[i])
            if n <= 0:
                continue
            if meet >= 0:
                found[meet] = n, transfer[meet], shared.get(meet, 0.0)
            else:
                found[-1 - len(found)] = n, float(m.program.work_ns[i]), 0.0
    if not found:
        return None, 0.0
    sizes, times, beside = (np.array(c) for c in zip(*found.values(), strict=True))
    return fit_line(sizes, times, beside, min(transfer.values(), default=np.inf), prior)
