"""stage3_param_persistence_threshold: which parameters stay on every rank, gathered all at once.

Parameters of at most so many elements stay (DeepSpeed 0.19.8 runtime/zero/parameter_offload.py,
mark_persistent_parameters): hooks never fetch them. Behind the optimizer each is gathered by a
collective of its own, then the device is synchronised (stage3.py, _post_step;
partition_parameters.py, _allgather_params_coalesced).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.phases import Phase
from tracelens.replay.model import Model, RankModel
from tracelens.replay.program import ALL, Act, edit, host_ns, listed
from tracelens.replay.transforms.bucket_plan import SHAPES, usual
from tracelens.thresholds.replay import MIN_GATHERS
from tracelens.trace import Bools, Int64s


def persist(model: Model, sizes: Sequence[int], limits: tuple[int, int], world: int) -> Model:
    """The model with other parameters gathered behind the optimizer.

    Parameters
    ----------
    model : Model
    sizes : sequence of int
        Elements of each parameter.
    limits : (now, then)
        Thresholds.
    world : int
        Ranks.

    Raises
    ------
    CannotPredict
        If what is gathered behind the optimizer is not what the rule says, or too little to tell
        what more of it takes.
    """
    line = model.fetch
    if line is None:
        raise CannotPredict("no gather of known size was recorded", hint=SHAPES)
    was, will = (Counter(ceil(n / world) for n in sizes if n <= limit) for limit in limits)
    more, less = list((will - was).elements()), list((was - will).elements())
    first = max(model.costs.transfer_ns, default=-1) + 1
    ranks = [_rank(m, was, (more, less), first) for m in model.ranks]
    steps = model.programs[0].n_steps
    transfer = {first + k: line.at(n) for k, n in enumerate(more * steps)}
    costs = replace(model.costs, transfer_ns=model.costs.transfer_ns | transfer)
    return replace(model, ranks=tuple(ranks), costs=costs)


def _rank(
    m: RankModel, was: Counter[int], change: tuple[list[int], list[int]], number: int
) -> RankModel:
    p, (more, less) = m.program, change
    every = _gathers(m, was)
    keep = np.ones(len(p), bool)
    made: list[tuple[int, dict[str, object]]] = []
    sizes: dict[int, int] = {}
    uid = int(p.uid.max(initial=0)) + 1
    for step in np.unique(p.step).tolist():
        mine = every[p.step[every] == step]
        if Counter(m.nelems[int(u)] for u in p.uid[mine].tolist()) != was:
            raise CannotPredict(
                "what is gathered behind the optimizer is not the parameters up to the recorded "
                "stage3_param_persistence_threshold",
                hint="give the job's configuration: --ds-config",
            )
        keep &= ~_without(m, mine, less)
        if not more:
            continue
        if len(mine) < MIN_GATHERS:
            raise CannotPredict(
                "hardly any parameter stays on every rank in this recording: what gathering more "
                "of them behind the optimizer takes is not in it",
                hint="record the other stage3_param_persistence_threshold and compare",
            )
        host, at = host_ns(p)[mine[0] + 1 : _end(m, mine)].sum() / len(mine), int(mine[-1])
        lag, pause = usual(p, mine)
        for n in more:
            sizes[uid] = n
            row = {
                "act": Act.MEET, "meet": number, "comm": True, "gap_ns": host, "uid": uid,
                "lag_ns": lag, "pause_ns": pause, "stream": int(p.stream[at]), "step": step,
                "micro": int(p.micro[at]), "phase": int(p.phase[at]),
            }  # fmt: skip
            made.append((at + 1, row))
            uid, number = uid + 1, number + 1
    return replace(m, program=edit(p, keep, *listed(made)), nelems={**m.nelems, **sizes})


def _gathers(m: RankModel, was: Counter[int]) -> Int64s:
    """Positions of the gathers behind the optimizer: the collectives of those sizes there."""
    p = m.program
    found = np.flatnonzero((p.act == Act.MEET) & (p.phase == Phase.STEP))
    known = [m.nelems.get(int(u), -1) in was for u in p.uid[found].tolist()]
    mine: Int64s = found[np.array(known, bool)]
    return mine


def _end(m: RankModel, mine: Int64s) -> int:
    """Position of the synchronisation behind the last gather of a step; behind it without one."""
    p = m.program
    syncs = np.flatnonzero((p.act == Act.SYNC) & (p.target == ALL))
    k = int(np.searchsorted(syncs, mine[-1]))
    return int(syncs[k]) if k < len(syncs) else int(mine[-1]) + 1


def _without(m: RankModel, mine: Int64s, less: list[int]) -> Bools:
    """Rows that go with the gathers that are no more; with all of them the synchronisation too."""
    gone = np.zeros(len(m.program), bool)
    if not less:
        return gone
    length = int(np.median(np.diff(mine))) if len(mine) > 1 else 1
    begins = np.concatenate(([mine[0] - length], mine[:-1])) + 1
    left = Counter(less)
    # (the first has the preparations of all: it goes last)
    for begin, at in [*zip(begins[1:].tolist(), mine[1:].tolist(), strict=True),
                      (int(begins[0]), int(mine[0]))]:  # fmt: skip
        n = m.nelems[int(m.program.uid[at])]
        if left[n]:
            left[n] -= 1
            gone[begin : at + 1] = True
    if len(less) == len(mine):
        gone[mine[0] : _end(m, mine) + 1] = True
    return gone
