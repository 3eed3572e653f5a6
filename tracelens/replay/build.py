"""From a rank's events to its `Program`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.analysis import RankEvents
from tracelens.classify import Op, is_comm, is_compute
from tracelens.gradients import Gradients, find_gradients
from tracelens.links import GpuWork
from tracelens.replay.edges import Calls, Waits, find_held, find_syncs, find_waits
from tracelens.replay.fetches import Fetches, find_fetches
from tracelens.replay.program import NOTHING, Act, Program, edit
from tracelens.thresholds.replay import FULL_QUEUE, HELD_UP
from tracelens.trace import Bools, Int32s, Int64s, Kind, Trace

#: Runtime calls by what they do to the timeline (CUDA and HIP runtime API, driver API).
_WAIT = re.compile(r"^(cuda|hip|cu)StreamWaitEvent")
#: (Freeing memory waits for all that runs: CUDA C Programming Guide, "Implicit Synchronization".)
_SYNC = re.compile(r"^(cuda|hip|cu)((Device|Stream|Event|Ctx)Synchronize|(Mem)?Free(_v2)?$)")
_DEVICE = re.compile(r"^(cuda|hip|cu)((Device|Ctx)Synchronize|(Mem)?Free(_v2)?$)")


@dataclass(frozen=True, slots=True)
class Host:
    """Gradient hooks of the window, and where in the program they begin.

    `gradients`: see there. `uid` int64 (g,): the first row issued in or after each hook.
    `fetches`: calls of ZeRO-3's module hooks; None without any.
    """

    gradients: Gradients
    uid: Int64s
    fetches: Fetches | None


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive steps of a rank: first and last row of `Steps`, and the matched collectives.

    `meet` int64 (n,): number of the collective of each row of `GpuWork`; -1 none.
    `shift_ns`: what to add to the rank's times to put them on the clock of all.
    """

    first: int
    last: int
    meet: Int64s
    shift_ns: int


def build(seen: RankEvents, window: Window) -> tuple[Program, Host]:
    """The program of one rank over a window of steps, and what else was read with it.

    Parameters
    ----------
    seen : RankEvents
    window : Window

    Returns
    -------
    Program
        Its kernels' lengths are as recorded: `contention` takes out what communication cost them.
    Host
    """
    trace, work, steps = seen.trace, seen.work, seen.found.steps
    begin = int(steps.host_start_ns[window.first])
    stop = int(steps.host_end_ns[window.last])
    calls, own, is_device, row = _calls(trace, work, begin, stop)
    streams = np.unique(work.stream[own[own >= 0]])
    gradients = find_gradients(trace, begin, stop)
    busy = _busy(work, streams, begin)
    wait, lag, pause = _delays(calls, busy + begin)
    sync = find_syncs(calls, is_device)
    op = work.op[own]
    m = len(own)
    meet = np.where(own >= 0, window.meet[own], -1)
    kinds = [meet >= 0, own >= 0, calls.is_sync]
    act = np.select(kinds, [Act.MEET, Act.LAUNCH, Act.SYNC], Act.WAIT)
    program = Program(
        act=act.astype(np.int8),
        gap_ns=_gaps(calls, begin),
        cost_ns=np.where(calls.is_sync, sync.cost_ns, _costs(calls)),
        stream=calls.stream,
        target=np.where(calls.is_sync, sync.target, NOTHING).astype(np.int32),
        until=np.where(calls.is_sync & (sync.until >= 0), sync.until + 1, -1),
        work_ns=np.maximum(calls.done - calls.start, 0),
        lag_ns=lag,
        pause_ns=pause,
        compute=(own >= 0) & is_compute(op),
        comm=(own >= 0) & is_comm(op),
        fills=(own >= 0) & np.isin(op, (Op.GEMM, Op.ATTENTION)),
        meet=meet,
        step=np.searchsorted(steps.host_start_ns, calls.ts, "right").astype(np.int32) - 1,
        micro=_carried(np.where(own >= 0, seen.phases.micro[own], -1)).astype(np.int32),
        hook=gradients.of(calls.ts),
        phase=_carried(np.where(own >= 0, seen.phases.phase[own], -1)).astype(np.int8),
        work=own,
        uid=np.arange(m) + 1,
        streams=tuple(streams.tolist()),
        busy_until_ns=tuple(busy.tolist()),
        begin_ns=begin + window.shift_ns,
        recorded_ns=_recorded(calls, begin, stop, busy),
        n_steps=window.last - window.first + 1,
    )
    program = _with_staging(wait.applied(program), calls)
    passes = seen.phases.passes
    starts = steps.host_start_ns[np.maximum(passes.step, 0)]
    fetches = find_fetches(trace, passes, starts, (row, calls.is_wait, calls.is_sync), gradients)
    return program, _host(gradients, calls, fetches)


def _delays(calls: Calls, busy_ns: Int64s) -> tuple[Waits, Int64s, Int64s]:
    """Waits of streams, and lag and pause of each launched work, ns."""
    wait = find_waits(calls, len(busy_ns))
    lag, pause = _starts(calls, wait, busy_ns)
    held = find_held(calls, pause, len(busy_ns))
    if len(held.at):
        wait = wait.joined(held)
        lag, pause = _starts(calls, wait, busy_ns)
    return wait, lag, pause


def _host(gradients: Gradients, calls: Calls, fetches: Fetches | None) -> Host:
    first = np.searchsorted(calls.ts, gradients.start_ns, "left")
    return Host(gradients, np.minimum(first, max(len(calls.ts) - 1, 0)) + 1, fetches)


def _with_staging(program: Program, calls: Calls) -> Program:
    """The program with a wait of the host behind each copy that it staged."""
    at = np.flatnonzero(np.isin(program.uid, np.flatnonzero(_held(calls)) + 1))
    if not len(at):
        return program
    k = program.uid[at] - 1
    new = {
        "act": np.full(len(at), Act.SYNC),
        "until": program.uid[at],
        "cost_ns": calls.end[k] - calls.done[k],
        "step": program.step[at],
        "micro": program.micro[at],
    }
    return edit(program, np.ones(len(program), bool), at + 1, new)


def _held(calls: Calls) -> Bools:
    """Staged copies that held the host up for long."""
    cost = calls.end - calls.ts
    launch = calls.stream >= 0
    typical = int(np.median(cost[launch])) if launch.any() else 0
    return _staged(calls) & (cost > HELD_UP * typical)


def _named(trace: Trace, name: Int32s, pattern: re.Pattern[str]) -> Bools:
    wanted = [i for i in np.unique(name).tolist() if pattern.match(trace.strings[i])]
    return np.isin(name, np.array(wanted, np.int32))


def _calls(
    trace: Trace, work: GpuWork, begin: int, stop: int
) -> tuple[Calls, Int64s, Bools, Int64s]:
    """The calls that matter, by the time they began; the GPU work of each; which wait for all.

    Last the row of `Slices` of each.

    Calls of threads that launch nothing (c10d's watchdog, the profiler's own) do not count.
    """
    s = trace.slices
    row = trace.rows(Kind.RUNTIME)
    row = row[(s.ts_ns[row] >= begin) & (s.ts_ns[row] < stop)]
    order = np.argsort(work.launch, kind="stable")
    launches = work.launch[order]
    k = np.minimum(np.searchsorted(launches, row), max(len(launches) - 1, 0))
    own = np.where(launches[k] == row, order[k], -1) if len(launches) else np.full(len(row), -1)
    launching = np.isin(s.track[row], np.unique(s.track[row[own >= 0]]))
    name = s.name[row]
    told = _named(trace, name, _WAIT) | _named(trace, name, _SYNC)
    keep = (own >= 0) | (told & launching)
    row, own, name = row[keep], own[keep], name[keep]
    streams = np.unique(work.stream[own[own >= 0]])
    stream = np.searchsorted(streams, work.stream[own]).astype(np.int32)
    calls = Calls(
        ts=s.ts_ns[row],
        end=s.end_ns[row],
        is_wait=_named(trace, name, _WAIT),
        is_sync=_named(trace, name, _SYNC),
        stream=np.where(own >= 0, stream, -1).astype(np.int32),
        start=np.where(own >= 0, work.start_ns[own], -1),
        done=np.where(own >= 0, work.end_ns[own], -1),
    )
    return calls, own, _named(trace, name, _DEVICE), row


def _gaps(calls: Calls, begin: int) -> Int64s:
    """Host time before each call that no earlier call was still using, ns."""
    reach = np.maximum.accumulate(np.concatenate(([begin], calls.end[:-1])))
    return np.maximum(calls.ts - reach, 0)


def _costs(calls: Calls) -> Int64s:
    """Host time of each call, ns; of a launch that was held up, that of a typical one."""
    cost = calls.end - np.maximum(
        calls.ts, np.concatenate(([0], np.maximum.accumulate(calls.end)[:-1]))
    )
    cost = np.maximum(cost, 0)
    launch = calls.stream >= 0
    typical = int(np.median(cost[launch])) if launch.any() else 0
    queued = np.searchsorted(np.flatnonzero(launch), np.arange(len(cost))) - np.searchsorted(
        np.sort(calls.done[launch]), calls.end
    )
    full = (queued >= FULL_QUEUE) | _staged(calls)
    return np.where(launch & full & (cost > HELD_UP * typical), typical, cost)


def _staged(calls: Calls) -> Bools:
    """Launches that returned only when their own work was done: copies from pageable memory."""
    return (calls.stream >= 0) & (calls.end >= calls.done) & (calls.start > calls.ts)


def _busy(work: GpuWork, streams: Int32s, begin: int) -> Int64s:
    """When each stream ends what was launched earlier, ns from `begin`; 0 if it has."""
    busy = np.zeros(len(streams), np.int64)
    earlier = (work.launch_ns < begin) & (work.end_ns > begin)
    k = np.searchsorted(streams, work.stream[earlier])
    known = np.isin(work.stream[earlier], streams)
    np.maximum.at(busy, k[known], work.end_ns[earlier][known] - begin)
    return busy


def _starts(calls: Calls, waits: Waits, busy_ns: Int64s) -> tuple[Int64s, Int64s]:
    """What delayed each launched work: (lag behind its call, pause behind what it waited for), ns.

    Work that the GPU could have begun when it was launched tells its lag, other work its pause; the
    other of the two is the rank's median.
    """
    m = len(calls.ts)
    lag, pause = np.zeros(m, np.int64), np.zeros(m, np.int64)
    ready = waits.ready(calls)
    for stream in range(len(busy_ns)):
        ops = calls.on(stream)
        before = np.concatenate((busy_ns[stream : stream + 1], calls.done[ops][:-1]))
        ready[ops] = np.maximum(ready[ops], np.maximum.accumulate(before))
    launched = np.flatnonzero(calls.stream >= 0)
    if not len(launched):
        return lag, pause
    since_call = calls.start[launched] - calls.ts[launched]
    behind = calls.start[launched] - ready[launched]
    idle = ready[launched] <= calls.ts[launched]
    queued = ready[launched] >= calls.end[launched]
    typical_lag = int(np.median(since_call[idle])) if idle.any() else 0
    typical_pause = int(np.median(behind[queued])) if queued.any() else 0
    free = since_call - behind < typical_lag  # it could have started when it was launched
    lag[launched] = np.where(free, since_call, np.minimum(typical_lag, since_call))
    pause[launched] = np.where(free, np.minimum(typical_pause, behind), behind)
    return np.maximum(lag, 0), np.maximum(pause, 0)


def _recorded(calls: Calls, begin: int, stop: int, busy: Int64s) -> int:
    """From the beginning, or the end of earlier work, to the end of the last work, ns."""
    since = begin + int(busy.max(initial=0))
    return max(stop, int(calls.done.max(initial=stop))) - since


def _carried(value: Int64s) -> Int64s:
    """The value of the last launch before each call; of the first one before any."""
    last = np.maximum.accumulate(np.where(value >= 0, np.arange(len(value)), -1))
    first = int(np.flatnonzero(value >= 0)[0]) if (value >= 0).any() else 0
    return value[np.where(last >= 0, last, first)] if len(value) else value
