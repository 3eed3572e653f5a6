"""stage3_prefetch_bucket_size, stage3_max_live_parameters, stage3_param_persistence_threshold.

The coordinator is run with the wanted setting on the recorded hooks (`coordinator`), and what its
calls do takes the place of what the recorded ones did. DeepSpeed 0.19.8
runtime/zero/partitioned_param_coordinator.py, _fetch_sub_module_impl and __all_gather_params_: a
gather is packed on the gathering stream and runs on the communicator's; a parameter that was under
way makes the gathering stream wait for its gather, which is then unpacked; the host waits while
more than two such events are outstanding; last the compute stream waits for the gathering one.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from tracelens.replay.coordinator import Fetched, FetchSetting
from tracelens.replay.gathering import Recorded, Turn
from tracelens.replay.hook_time import Spent, Tasks
from tracelens.replay.model import RankModel
from tracelens.replay.program import Act
from tracelens.replay.transforms.bucket_plan import typical, usual
from tracelens.replay.transforms.writing import Writer
from tracelens.thresholds.replay import BEFORE_LAUNCH
from tracelens.trace import Int64s


class Fetching:
    """A rank's fetches, written call by call.

    Parameters
    ----------
    m : RankModel
    recorded : Recorded
    spent : Spent
    tasks : Tasks
    writer : Writer
    streams : (gathering, communicator)
    """

    def __init__(
        self,
        m: RankModel,
        recorded: Recorded,
        host: tuple[Spent, Tasks],
        writer: Writer,
        streams: tuple[int, int],
        world: int,
    ) -> None:
        self._m, self._old, self._write, self._world = m, recorded, writer, world
        self._spent, self._tasks = host
        self._stream, self._comm = streams
        self._copy_ns = copy_rate(m, recorded)
        self._late = usual(m.program, recorded.gather_at)
        self._copy_late = typical(m.program)
        self._meets: dict[tuple[int, ...], int] = {}

    def write(self, setting: FetchSetting, gap_ns: Int64s) -> None:
        """The rows of all calls with a setting; host time that stays behind goes to `gap_ns`."""
        old, write = self._old, self._write
        debt = 0.0
        for turn, was in zip(old.turns, old.fetched, strict=True):
            self._meets = {}
            freed = freed_now = 0
            for c, e, f in zip(turn.calls, was, turn.run(setting), strict=True):
                at = int(old.call_at[c])
                change = self._tasks.before(f, freed_now) - self._tasks.before(e, freed)
                debt += self._spent.before[c] + change
                self._call(turn, c, f, debt)
                write.place(at, at)
                debt = self._ahead(turn, c, (e, f), min(debt, 0.0), gap_ns)
                if f.ahead:
                    write.place(at + 1, at)
                freed, freed_now = e.freed, f.freed

    def _call(self, turn: Turn, c: int, f: Fetched, budget: float) -> None:
        """A call until the compute stream waits, in so much host time."""
        tasks, write = self._tasks, self._write
        known = tasks.before(f, 0)
        gap = max(budget - known, 0.0)
        part = min(known, max(budget, 0.0)) / known if known else 0.0
        if f.own:
            launch = tasks.launch(len(f.own)) * part
            self._gather(turn, f.own, gap + BEFORE_LAUNCH * launch)
            gap = (1 - BEFORE_LAUNCH) * launch
        handles = iter(f.waited)
        for k in range(f.popped):
            write.hold_host(gap + tasks.pop * part, self._stream)
            gap = 0.0
            if k < len(f.waited):
                handle = next(handles)
                until = self._meets[handle]
                write.row(act=Act.WAIT, gap_ns=tasks.wait * part, stream=self._stream, until=until)
                for p in handle if len(handle) > 1 else ():
                    self._copy(turn.nelems[p], tasks.unpack * part)
            write.event(self._stream)
        uid = int(self._m.program.uid[self._old.call_at[c]])
        write.row(
            uid=uid, act=Act.WAIT, gap_ns=gap, stream=self._m.compute_stream, target=self._stream
        )

    def _ahead(
        self, turn: Turn, c: int, done: tuple[Fetched, Fetched], debt: float, gap_ns: Int64s
    ) -> float:
        """What a call does behind its wait. Returns host time that could not be saved."""
        e, f = done
        change = self._tasks.after(f) - self._tasks.after(e)
        budget = float(self._spent.after[c]) + change + debt
        launch = min(self._tasks.after(f), max(budget, 0.0))
        if f.ahead:
            self._gather(turn, f.ahead, BEFORE_LAUNCH * launch)
            budget -= BEFORE_LAUNCH * launch
        rest = int(self._spent.rest[c])
        if rest < 0:
            return budget
        gap_ns[rest] = max(budget, 0.0)
        return min(budget, 0.0)

    def _gather(self, turn: Turn, params: tuple[int, ...], gap_ns: float) -> None:
        """Pack a rank's parts, launch the gather."""
        n = sum(ceil(turn.nelems[p] / self._world) for p in params)
        if len(params) > 1:
            self._copy(n, gap_ns)
            gap_ns = 0.0
        write = self._write
        write.row(act=Act.WAIT, gap_ns=gap_ns, stream=self._comm, target=self._stream)
        self._meets[params] = write.meet(n, self._comm, self._late)

    def _copy(self, nelems: int, gap_ns: float) -> None:
        work = self._copy_ns * nelems
        self._write.launch(work, self._stream, self._copy_late, gap_ns=gap_ns, compute=True)


def copy_rate(m: RankModel, r: Recorded) -> float:
    """Time of packing or unpacking, ns per element; where neither was recorded, as the kernel
    before a reduction, which moves as many bytes.
    """
    p = m.program
    unpacked = [
        turn.nelems[x]
        for turn, done in zip(r.turns, r.fetched, strict=True)
        for e in done
        for handle in e.waited
        if len(handle) > 1
        for x in handle
    ]
    packed = [x.nelems for x in r.made if x.count > 1]
    time = float(p.work_ns[r.packing].sum() + p.work_ns[r.unpacking].sum())
    if time and unpacked:
        return time / (sum(packed) + sum(unpacked))
    heads = np.flatnonzero(np.isin(p.uid, m.reductions))
    work = np.flatnonzero((p.act == Act.LAUNCH) & p.compute)
    before = work[np.maximum(np.searchsorted(work, heads) - 1, 0)] if len(work) else heads[:0]
    total = sum(m.nelems.get(int(u), 0) for u in p.uid[heads].tolist())
    return float(p.work_ns[before].sum()) / total if total else 0.0
