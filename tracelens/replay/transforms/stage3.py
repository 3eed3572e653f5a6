"""ZeRO-3 with other settings: what fetches parameters and what reduces gradients, both anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.replay.coordinator import FetchSetting
from tracelens.replay.gathering import Recorded, read_recorded
from tracelens.replay.hook_time import fit_tasks, measure_spent
from tracelens.replay.model import Model, RankModel
from tracelens.replay.program import Act, edit, listed
from tracelens.replay.transforms.bucket_plan import SHAPES, Setting
from tracelens.replay.transforms.fetch import Fetching
from tracelens.replay.transforms.scatter import Reduced, Scattering, fit_host, read_reduced
from tracelens.replay.transforms.writing import Writer, in_turn, with_streams
from tracelens.trace import Bools


@dataclass(frozen=True, slots=True)
class Stage3:
    """Settings of ZeRO-3: how parameters are fetched, how gradients are reduced."""

    fetch: FetchSetting
    reduce: Setting


def stage3_with(model: Model, now: Stage3, then: Stage3) -> Model:
    """The model with other settings of ZeRO-3.

    All that fetches and reduces is written anew, with the waits that DeepSpeed issues: those that
    the recording lets one find are too many where communication is the bottleneck.

    Raises
    ------
    CannotPredict
        If hooks, sizes or gradients were not recorded, or DeepSpeed's rules do not explain what
        was.
    """
    gather, reduce = model.fetch, model.reduction
    if gather is None or reduce is None:
        raise CannotPredict("no gather or reduction of known size was recorded", hint=SHAPES)
    world = model.analysis.run.world_size or len(model.ranks)
    recorded = [read_recorded(m, now.fetch, world) for m in model.ranks]
    reduced = [read_reduced(m, now.reduce, world) for m in model.ranks]
    spent = [measure_spent(m.program, r) for m, r in zip(model.ranks, recorded, strict=True)]
    host = fit_tasks(spent, recorded), fit_host(reduced)
    transfer = dict(model.costs.transfer_ns)
    first = max(transfer, default=-1) + 1
    ranks, shapes = [], set()
    for m, r, s, x in zip(model.ranks, recorded, spent, reduced, strict=True):
        p = m.program
        comm, gathering, red = _streams(m, r, x, then.reduce.overlap)
        gap = p.gap_ns.copy()
        w = Writer(p, int(p.uid.max(initial=0)) + 1, first)
        Fetching(m, r, (s, host[0]), w, (gathering, comm), world).write(then.fetch, gap)
        fetches = dict(w.meets)
        v = Writer(p, w.uid, first + len(fetches))
        Scattering(m, x, host[1], v, red, world).write(then.reduce)
        gone = r.rows | x.rows | _found(m, r, x)
        program = with_streams(replace(p, gap_ns=gap), max(comm, gathering, red) + 1)
        every = np.array([*fetches, *v.meets], np.int64)
        shapes.add((tuple(fetches.values()), tuple(v.meets.values())))
        ranks.append(
            replace(
                m,
                program=in_turn(edit(program, ~gone, *listed(w.made + v.made)), every),
                fetches=np.array(list(fetches), np.int64),
                reductions=np.array(list(v.meets), np.int64),
                nelems={**m.nelems, **fetches, **v.meets},
            )
        )
    if len(shapes) > 1:
        raise CannotPredict("the ranks' parameters differ", hint="compare the ranks' models")
    fetched, scattered = shapes.pop()
    times = [gather.at(n) for n in fetched] + [reduce.at(n) for n in scattered]
    transfer |= {first + k: t for k, t in enumerate(times)}
    costs = replace(model.costs, transfer_ns=transfer, admitted=model.admitted)
    return replace(model, ranks=tuple(ranks), costs=costs)


def _streams(m: RankModel, r: Recorded, x: Reduced, overlap: bool) -> tuple[int, int, int]:
    """Streams of gathers, of packing them, and of reductions: the recorded ones, or new ones."""
    p = m.program
    comm = int(p.stream[r.gather_at[0]])
    if not overlap:
        return comm, m.compute_stream, m.compute_stream
    copies = p.stream[np.concatenate((r.packing, r.unpacking))]
    heads = p.stream[np.isin(p.uid, m.reductions)]
    if (heads == comm).any():
        raise CannotPredict(
            "reductions run on the communicator's own stream here (torch before 2.8)",
            hint="record with torch 2.8 or later",
        )
    free = len(p.streams)
    beside = copies[copies != m.compute_stream]
    gathering = int(beside[0]) if len(beside) else free
    own = heads[heads != m.compute_stream]
    return comm, gathering, int(own[0]) if len(own) else max(free, gathering + 1)


def _found(m: RankModel, r: Recorded, x: Reduced) -> Bools:
    """Waits that were found between these streams, from the first hook of a pass to its end."""
    p = m.program
    found = (p.act == Act.WAIT) & (p.gap_ns == 0) & (p.cost_ns == 0)
    inside = np.zeros(len(p), bool)
    for turn, (_, stop) in zip(r.turns, x.ends, strict=True):
        inside[int(r.call_at[turn.calls[0]]) : stop + 1] = True
    both: Bools = found & inside
    return both
