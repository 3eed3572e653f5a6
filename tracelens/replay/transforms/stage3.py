"""ZeRO-3 with other settings: what fetches parameters and what reduces gradients, both anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.replay.coordinator import FetchSetting
from tracelens.replay.gathering import Recorded, read_recorded
from tracelens.replay.hook_time import Spent, Tasks, fit_tasks, measure_spent
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


@dataclass(frozen=True, slots=True)
class Hooks:
    """What ZeRO-3's hooks do in a recording: all that does not depend on what is asked.

    Attributes
    ----------
    model : Model
    now : Stage3
    world : int
        Ranks.
    recorded, reduced, spent
        Of each rank: its fetches, its reductions, and host time of its hooks.
    tasks : Tasks
        Host time of each thing that a fetch does.
    flush_ns : (of a bucket, of each gradient in it)
        Host time of reducing.
    """

    model: Model
    now: Stage3
    world: int
    recorded: tuple[Recorded, ...]
    reduced: tuple[Reduced, ...]
    spent: tuple[Spent, ...]
    tasks: Tasks
    flush_ns: tuple[float, float]


def read_hooks(model: Model, now: Stage3) -> Hooks:
    """Find what the hooks did, and hold DeepSpeed's rules against it.

    Raises
    ------
    CannotPredict
        If hooks, sizes or gradients were not recorded, or the rules do not explain what was.
    """
    world = model.analysis.run.world_size or len(model.ranks)
    recorded = tuple(read_recorded(m, now.fetch, world) for m in model.ranks)
    reduced = tuple(read_reduced(m, now.reduce, world) for m in model.ranks)
    spent = tuple(measure_spent(m.program, r) for m, r in zip(model.ranks, recorded, strict=True))
    tasks, flush_ns = fit_tasks(spent, recorded), fit_host(reduced)
    return Hooks(model, now, world, recorded, reduced, spent, tasks, flush_ns)


def rewritten(hooks: Hooks, then: Stage3) -> Model:
    """The model with other settings of ZeRO-3.

    All that fetches and reduces is written anew, with the waits that DeepSpeed issues: those that
    the recording lets one find are too many where communication is the bottleneck.

    Raises
    ------
    CannotPredict
        If no gather or reduction has a known size.
    """
    model = hooks.model
    gather, reduce = model.fetch, model.reduction
    if gather is None or reduce is None:
        raise CannotPredict("no gather or reduction of known size was recorded", hint=SHAPES)
    first = max(model.costs.transfer_ns, default=-1) + 1
    made = [_rank(hooks, k, then, first) for k in range(len(model.ranks))]
    sizes = {(tuple(w.meets.values()), tuple(v.meets.values())) for _, w, v in made}
    if len(sizes) > 1:
        raise CannotPredict("the ranks' parameters differ", hint="compare the ranks' models")
    fetched, scattered = sizes.pop()
    times = [gather.at(n) for n in fetched] + [reduce.at(n) for n in scattered]
    transfer = model.costs.transfer_ns | {first + k: t for k, t in enumerate(times)}
    costs = replace(model.costs, transfer_ns=transfer, admitted=model.admitted)
    return replace(model, ranks=tuple(m for m, _, _ in made), costs=costs)


def _rank(hooks: Hooks, k: int, then: Stage3, first: int) -> tuple[RankModel, Writer, Writer]:
    """A rank with other settings; what wrote its fetches and its reductions."""
    m, r, x = hooks.model.ranks[k], hooks.recorded[k], hooks.reduced[k]
    p = m.program
    comm, gathering, red = _streams(m, r, x, then.reduce.overlap)
    gap = p.gap_ns.copy()
    w = Writer(p, int(p.uid.max(initial=0)) + 1, first)
    fetching = Fetching(m, r, (hooks.spent[k], hooks.tasks), w, (gathering, comm), hooks.world)
    fetching.write(then.fetch, gap)
    v = Writer(p, w.uid, first + len(w.meets))
    Scattering(m, x, hooks.flush_ns, v, red, hooks.world).write(then.reduce)
    gone = r.rows | x.rows | _found(m, r, x)
    program = with_streams(replace(p, gap_ns=gap), max(comm, gathering, red) + 1)
    every = np.array([*w.meets, *v.meets], np.int64)
    changed = replace(
        m,
        program=in_turn(edit(program, ~gone, *listed(w.made + v.made)), every),
        fetches=np.array(list(w.meets), np.int64),
        reductions=np.array(list(v.meets), np.int64),
        nelems={**m.nelems, **w.meets, **v.meets},
    )
    return changed, w, v


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
