"""From files to an `Analysis`: every stage once, rank by rank, then across ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np

from tracelens.analysis import (
    Analysis,
    RankAnalysis,
    RankEvents,
    RunInfo,
    Summary,
    counted_steps,
)
from tracelens.bounds import exposed_wait_bounds, transfer_bounds
from tracelens.classify import Op
from tracelens.coherence import of_one_recording, shared_notes, step_notes
from tracelens.collectives import collect, summarize
from tracelens.detectors import (
    Context,
    RankView,
    drift,
    drift_text,
    find_link,
    is_shared,
    run_all,
    without_profiler,
)
from tracelens.efficiency import measure_efficiency
from tracelens.errors import InputError
from tracelens.fits import fit_transfers
from tracelens.gradients import find_ready
from tracelens.host import look_at_host
from tracelens.infer.facts import RankFacts, did_not_run, gather
from tracelens.infer.result import Setup
from tracelens.infer.roles import find_roles
from tracelens.infer.rules import infer_setup
from tracelens.ingest import open_trace
from tracelens.ingest.bounds import Bounds
from tracelens.ingest.ds_config import read_ds_config
from tracelens.ingest.foreign import refuse_unknown
from tracelens.ingest.manifest import Declared, read_manifests
from tracelens.ingest.run import RankFile, RunPlan, discover
from tracelens.links import link
from tracelens.matching import Matches, RankComm, exposed_wait, match
from tracelens.overlap import break_down, compute_spans
from tracelens.phases import Phase, find_phases
from tracelens.reading import ALONE, Effort, Progress, read_ranks, ticking, worth_keeping
from tracelens.remote import exists, size_of
from tracelens.steps import find_steps
from tracelens.trace import Note, Trace
from tracelens.units import ms_to_ns, ns_to_ms

Paths: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
Kept: TypeAlias = "dict[tuple[str, str | None], RankEvents]"
"""Events that were read a moment ago, by file and part of it, for who would read them again."""


def read_run(
    paths: Paths,
    ranks: Sequence[int] | None = None,
    progress: Progress | None = None,
    ds_config: str | os.PathLike[str] | None = None,
    effort: Effort = ALONE,
    kept: Kept | None = None,
) -> Analysis:
    """Read and analyse a run; see `tracelens.api.analyze`.

    A process holds one rank's events at a time; those of a small run go into `kept`.
    """
    many = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    given = None if ds_config is None else read_ds_config(ds_config)
    plan = discover(many, effort.bounds)
    manifest, odd = read_manifests(plan.manifests, [f.path for f in plan.files])
    plan = plan if ranks is None else plan.select(ranks)
    keep = kept if worth_keeping(plan.files, effort) else None
    work = partial(_read_rank, bounds=plan.bounds, kept=keep)
    found, unread = read_ranks(work, plan.files, effort, progress)
    names = {f.rank: os.fspath(f.path) for f in plan.files}  # a worker may call them otherwise
    done = [_at(r, names[r.rank]) for r in found]
    notes = [*plan.notes, *odd, *unread]
    if not done:
        raise InputError("no rank of the run could be read", hint="\n".join(n.text for n in notes))
    plan, read = _renumber(plan, tuple(done))
    read, apart = of_one_recording(read)
    notes += [*apart, *step_notes(read)]
    return _assemble(plan, read, notes, Declared(manifest, given))


def _at(r: RankAnalysis, path: str) -> RankAnalysis:
    """The rank with its file's name as it was given here."""
    return r if r.path == path else replace(r, path=path, info=replace(r.info, path=path))


def _renumber(
    plan: RunPlan, ranks: tuple[RankAnalysis, ...]
) -> tuple[RunPlan, tuple[RankAnalysis, ...]]:
    """Take the ranks that the files told once they were read whole.

    Older traces write theirs behind the events, where a look at a packed file's beginning does not
    find it.
    """
    told = {r.rank: r.info.rank for r in ranks if r.info.rank is not None}
    known = list(told.values())
    if len(known) < len(ranks) or len(set(known)) < len(known) or known == list(told):
        return plan, ranks
    files = [
        replace(f, rank=told[f.rank], rank_source="distributedInfo") if f.rank in told else f
        for f in plan.files
    ]
    renamed = [replace(r, rank=told[r.rank]) for r in ranks]
    return (
        replace(plan, files=tuple(sorted(files, key=lambda f: f.rank))),
        tuple(sorted(renamed, key=lambda r: r.rank)),
    )


def _read_rank(
    file: RankFile, tick: Callable[[int, int], None], bounds: Bounds, kept: Kept | None
) -> RankAnalysis:
    trace = open_trace(file.path, tick, file.part, bounds)
    refuse_unknown(trace)
    seen = look(trace)
    if kept is not None:
        kept[os.fspath(file.path), file.part] = seen
    return _measure(seen, file.rank)


def open_rank(
    analysis: Analysis, rank: int, kept: Kept | None = None, progress: Progress | None = None
) -> RankEvents:
    """Read one rank's file again and link it; or take its events out of `kept`.

    `progress` is called now and then with (what is read, bytes read, bytes of the file).

    Raises
    ------
    InputError
        If the run has no such rank, or its file is another by now.
    """
    read = {r.rank for r in analysis.ranks}
    for f in analysis.plan.files:
        if f.rank == rank and rank in read:
            known = None if kept is None else kept.pop((os.fspath(f.path), f.part), None)
            if known is not None:
                return known
            _check_same(f)
            tick = ticking(f"rank {rank}", progress)
            return look(open_trace(f.path, tick, f.part, analysis.plan.bounds))
    have = ", ".join(str(r.rank) for r in analysis.ranks)
    raise InputError(f"the run has no rank {rank}", hint=f"ranks read: {have}")


def _check_same(file: RankFile) -> None:
    """A file of another size is another recording: what is known of the run is not of it."""
    if file.part is not None or not exists(file.path):
        return
    size = size_of(file.path)
    if size != file.bytes:
        raise InputError(
            f"{file.path}: changed since it was analysed: {file.bytes:,} bytes then, {size:,} now",
            hint="analyse the run again",
        )


def look(trace: Trace) -> RankEvents:
    """Link a trace and find its steps and phases."""
    work = link(trace)
    found = find_steps(trace, work)
    return RankEvents(trace, work, found, find_phases(trace, work, found))


def analyze_rank(trace: Trace, rank: int) -> RankAnalysis:
    """Measure one rank: links, steps, phases, breakdown, collectives, facts for the inference."""
    refuse_unknown(trace)
    return _measure(look(trace), rank)


def _measure(seen: RankEvents, rank: int) -> RankAnalysis:
    trace, work, found = seen.trace, seen.work, seen.found
    comm = collect(trace, work, found, seen.phases)
    facts = gather(trace, work, found, seen.phases, comm)
    inside = found.of_work >= 0
    op_ns = np.zeros((len(found.steps), len(Op)), np.int64)
    np.add.at(
        op_ns,
        (found.of_work[inside], work.op[inside].astype(np.int64)),
        (work.end_ns - work.start_ns)[inside],
    )
    return RankAnalysis(
        rank=rank,
        path=trace.info.path,
        info=trace.info,
        stats=replace(trace.stats, notes=(*trace.stats.notes, *found.notes, *_unrun(facts))),
        first_ns=int(trace.slices.ts_ns[0]),
        steps=found.steps,
        step_source=found.source,
        breakdown=break_down(work, found.steps),
        comm=comm,
        passes=seen.phases.passes,
        op_ns=op_ns,
        kernels=np.bincount(found.of_work[inside], minlength=len(found.steps)),
        compute=compute_spans(work),
        backward=compute_spans(work, seen.phases.phase == Phase.BACKWARD),
        exposed_wait_ns=np.full(len(found.steps), -1, np.int64),
        host=look_at_host(trace, work, found, seen.phases.passes, found.steps.counted),
        ready=find_ready(trace, work, seen.phases.passes, facts.compute_stream),
        facts=facts,
    )


def _unrun(facts: RankFacts) -> tuple[Note, ...]:
    """Say that what was launched did not run, where it is more than the end of a window."""
    if not did_not_run(facts):
        return ()
    unrun, launched = facts.kernel_launches
    text = (
        f"{unrun} of {launched} kernel launches have no work on the GPU: they were captured into a "
        "CUDA graph, or their kernels were not recorded."
    )
    return (Note("unrun_launches", unrun, text),)


def _with_waits(ranks: tuple[RankAnalysis, ...]) -> tuple[tuple[RankAnalysis, ...], Matches]:
    """The ranks with what matching their collectives tells about waiting."""
    seen = [
        RankComm(
            r.rank,
            r.comm,
            np.where(r.comm.step >= 0, r.steps.number[r.comm.step], -1),
            r.info.clock_zero_ns,
        )
        for r in ranks
    ]
    matches = match(seen)
    told = [
        replace(r, exposed_wait_ns=exposed_wait(r.comm, w, r.compute, r.steps))
        for r, w in zip(ranks, matches.wait_ns, strict=True)
    ]
    return tuple(told), matches


def _assemble(
    plan: RunPlan, ranks: tuple[RankAnalysis, ...], notes: list[Note], declared: Declared
) -> Analysis:
    ranks, matches = _with_waits(ranks)
    info = ranks[0].info
    world = {r.info.world_size for r in ranks if r.info.world_size is not None}
    notes += shared_notes(ranks)
    run = RunInfo(
        source=info.source,
        paths=tuple(dict.fromkeys(r.path for r in ranks)),
        ranks=tuple(r.rank for r in ranks),
        rank_source=plan.files[0].rank_source,
        world_size=world.pop() if len(world) == 1 else plan.world_size,
        device=info.devices[0] if info.devices else None,
        n_events=sum(r.stats.events_read for r in ranks),
        torch=info.torch,
        nccl=info.nccl,
    )
    setup = infer_setup(tuple(r.facts for r in ranks), run.world_size)
    summary = _summarize(ranks)
    context = _context(ranks, matches, setup, run, summary)
    context = _declared(context, declared)
    findings, verdicts = run_all(context)
    profiler = without_profiler(context).profiler
    notes += _drifting(context)
    return Analysis(
        run=run,
        ranks=ranks,
        setup=setup,
        collective_rows=summarize([r.comm for r in ranks], counted_steps(ranks), matches.wait_ns),
        summary=summary,
        notes=tuple(notes),
        plan=plan,
        matches=matches,
        fits=() if context.shared_gpu else fit_transfers([r.comm for r in ranks], matches),
        finding_rows=findings,
        verdicts=verdicts,
        wait_bounds=_wait_bounds(context) if summary.exposed_wait is None else None,
        manifest=declared.manifest,
        ds_config=declared.ds_config,
        profiler_ns=None if profiler is None else profiler.taken_ns,
        efficiency=measure_efficiency(declared.manifest, setup, run.device, ns_to_ms(summary.wall)),
    )


def _context(
    ranks: tuple[RankAnalysis, ...], matches: Matches, setup: Setup, run: RunInfo, summary: Summary
) -> Context:
    views = tuple(
        RankView(
            rank=r.rank,
            first_ns=r.first_ns,
            steps=r.steps,
            whole=r.steps.counted,
            breakdown=r.breakdown,
            comm=r.comm,
            compute=r.compute,
            backward=r.backward,
            wait_ns=wait,
            collective=number,
            exposed_wait_ns=r.exposed_wait_ns,
            transfer_ns=np.stack(transfer_bounds(r.comm, wait, run.device)),
            host=r.host,
            ready=r.ready,
            facts=r.facts,
            roles=find_roles(r.facts),
        )
        for r, wait, number in zip(ranks, matches.wait_ns, matches.number, strict=True)
    )
    shared = is_shared(views)
    link = None if shared else find_link([r.comm for r in ranks], matches.wait_ns, run.device)
    none = np.zeros(len(views))
    return Context(views, setup, run.device, summary.wall, shared, link, none, none)


def _declared(context: Context, declared: Declared) -> Context:
    """The context with what is said of the run besides its traces."""
    context = replace(context, ds_config=declared.ds_config)
    plain = declared.manifest.unprofiled_step_ms if declared.manifest else None
    if declared.manifest is None or plain is None:
        return context
    each = tuple(float(ms_to_ns(ms)) for ms in declared.manifest.unprofiled_each_ms)
    return replace(context, unprofiled_ns=ms_to_ns(plain), unprofiled_each_ns=each)


def _drifting(context: Context) -> tuple[Note, ...]:
    """Say that steps change on their own: then the recorded ones are only as they were then."""
    found = drift(context)
    if found is None:
        return ()
    text = drift_text(found)
    more = "what the profiler costs, and so what the job would save, is not told from that"
    return (Note("drifting_steps", 1, f"{text[0].upper()}{text[1:]}; {more}."),)


def _wait_bounds(context: Context) -> tuple[float, float] | None:
    """Bounds of the exposed waiting, ns, mean over whole steps and ranks."""
    if context.shared_gpu:
        return None
    low, high = [], []
    for v in context.views:
        transfer = v.transfer_ns[0], v.transfer_ns[1]
        least, most = exposed_wait_bounds(v.comm, transfer, v.compute, v.steps)
        low.append(least[v.whole])
        high.append(most[v.whole])
    return float(np.concatenate(low).mean()), float(np.concatenate(high).mean())


def _summarize(ranks: Sequence[RankAnalysis]) -> Summary:
    """Means over the whole steps of all ranks; over all steps where none is whole."""
    use = counted_steps(ranks)

    def mean(column: str) -> float:
        parts = [getattr(r.breakdown, column)[u] for r, u in zip(ranks, use, strict=True)]
        return float(np.concatenate(parts).mean())

    columns = ("wall", "compute", "comm", "overlapped_comm", "exposed_comm", "exposed_copy", "idle")
    means = {c: mean(c) for c in columns}
    waits = np.concatenate([r.exposed_wait_ns[u] for r, u in zip(ranks, use, strict=True)])
    wait = float(waits.mean()) if (waits >= 0).all() else None
    return Summary(
        n_steps=sum(int(u.sum()) for u in use),
        **means,
        overlap_ratio=means["overlapped_comm"] / means["comm"] if means["comm"] else None,
        exposed_comm_pct=100 * means["exposed_comm"] / means["wall"] if means["wall"] else None,
        exposed_wait=wait,
        exposed_transfer=means["exposed_comm"] - wait if wait is not None else None,
    )
