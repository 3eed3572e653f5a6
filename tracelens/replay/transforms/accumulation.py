"""gradient_accumulation_steps: micro-steps repeated, or left out.

All micro-steps of a step run the same forward and backward pass. ZeRO-2 and 3 reduce in each of
them; ZeRO-0 and 1 in the last alone (DeepSpeed 0.19.8 runtime/zero/stage_1_and_2.py,
reduce_ready_partitions_and_remove_grads; runtime/engine.py, allreduce_gradients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.phases import Phase
from tracelens.replay.model import Model
from tracelens.replay.program import COLUMNS, Act, Columns, Program, edit
from tracelens.trace import Bools, Int64s


def accumulate(model: Model, now: int, then: int, silent: Sequence[Bools] | None) -> Model:
    """The model with another number of micro-steps.

    Parameters
    ----------
    model : Model
    now, then : int
        Micro-steps in the recording, and wanted.
    silent : sequence of bool (m,), one a rank, optional
        Rows that only the last micro-step of a step has; None where each reduces.

    Raises
    ------
    CannotPredict
        If the micro-steps of the recording are not told apart.
    """
    if then == now:
        return model
    transfer = dict(model.costs.transfer_ns)
    fresh = max(transfer, default=-1) + 1
    ranks = []
    for i, m in enumerate(model.ranks):
        left_out = silent[i] if silent is not None and now == 1 else None
        program, made = _repeated(m.program, (now, then), fresh, left_out)
        transfer |= {number: model.costs.transfer_ns[old] for number, old in made.items()}
        ranks.append(replace(m, program=program))
    if len({len(r.program.meet[r.program.meet >= 0]) for r in ranks}) > 1:
        raise CannotPredict("the ranks' micro-steps differ", hint="compare the ranks' batches")
    return replace(model, ranks=tuple(ranks), costs=replace(model.costs, transfer_ns=transfer))


def _repeated(
    p: Program, counts: tuple[int, int], fresh: int, left_out: Bools | None
) -> tuple[Program, dict[int, int]]:
    """The program with micro-steps left out or repeated, and which collective each copy is of."""
    now, then = counts
    keep = np.ones(len(p), bool)
    blocks: list[tuple[int, Columns]] = []
    made: dict[int, int] = {}
    uid = int(p.uid.max(initial=0)) + 1
    for step in np.unique(p.step).tolist():
        micros = [_rows_of(p, step, k) for k in range(now)]
        if any(len(rows) == 0 for rows in micros):
            raise CannotPredict(
                f"{now} micro-steps were expected in each step and not all were found",
                hint="record host ops too: ProfilerActivity.CPU",
            )
        if then < now:
            for rows in micros[: now - then]:
                keep[rows] = False
            continue
        source = micros[0] if left_out is None else micros[0][~left_out[micros[0]]]
        for _ in range(then - now):
            block = {name: getattr(p, name)[source].copy() for name in COLUMNS}
            block["uid"] = uid + np.arange(len(source))
            uid += len(source)
            block["until"] = _moved(block["until"], p.uid[source], block["uid"])
            for i in np.flatnonzero(block["meet"] >= 0).tolist():
                number = fresh + len(made)
                made[number] = int(block["meet"][i])
                block["meet"][i] = number
            blocks.append((int(micros[0][0]), block))
    if not blocks:
        return edit(p, keep, np.empty(0, np.int64), {}), made
    at = np.concatenate([np.full(len(b["uid"]), at) for at, b in blocks])
    new = {name: np.concatenate([b[name] for _, b in blocks]) for name in COLUMNS}
    return edit(p, keep, at, new), made


def _rows_of(p: Program, step: int, micro: int) -> Int64s:
    """Rows of one micro-step's passes."""
    mine = (p.step == step) & (p.micro == micro) & (p.phase != Phase.STEP)
    mine &= p.act <= Act.SYNC
    return np.flatnonzero(mine)


def _moved(until: Int64s, old: Int64s, new: Int64s) -> Int64s:
    """References into a block, pointed at its copy."""
    order = np.argsort(old)
    k = order[np.minimum(np.searchsorted(old[order], until), len(old) - 1)]
    return np.where((until >= 0) & (old[k] == until), new[k], until)
