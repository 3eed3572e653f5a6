"""How much communication hides beside compute, and since when: the verdict's overlap sentence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tracelens.analysis import counted_steps
from tracelens.classify import Op
from tracelens.infer.result import STRUCTURAL
from tracelens.phases import Phase
from tracelens.report.text import duration, number, percent
from tracelens.thresholds import SCALAR_NELEMS

if TYPE_CHECKING:
    from tracelens.analysis import Analysis, RankAnalysis
    from tracelens.trace import Bools

REDUCTIONS = (Op.ALL_REDUCE, Op.REDUCE, Op.REDUCE_SCATTER)


@dataclass(frozen=True, slots=True)
class Hidden:
    """Communication of some kinds and phases: means per counted step and rank.

    `first_at` is the share of the host's backward pass that is over when the first row of that
    pass is issued (above 1: after it); None where the trace does not show it. `passes` is the
    number of backward passes per step that have such rows.
    """

    total_ns: float
    hidden_ns: float
    count: float
    passes: float
    first_at: float | None


def hidden(analysis: Analysis, kinds: tuple[Op, ...], phases: tuple[Phase, ...]) -> Hidden:
    """Measure the overlap of the collectives of these kinds and phases, flags and counts aside."""
    total = exposed = count = 0.0
    n_steps, first = 0, []
    for r, use in zip(analysis.ranks, counted_steps(analysis.ranks), strict=True):
        n_steps += int(use.sum())
        on = _select(r, use, kinds, phases)
        total += float(r.comm.dur_ns[on].sum())
        exposed += float(r.comm.exposed_ns[on].sum())
        count += int(on.sum())
        first += _first_at(r, on)
    n = max(n_steps, 1)
    return Hidden(
        total / n,
        (total - exposed) / n,
        count / n,
        len(first) / n,
        float(np.mean(first)) if first else None,
    )


def _select(r: RankAnalysis, use: Bools, kinds: tuple[Op, ...], phases: tuple[Phase, ...]) -> Bools:
    c = r.comm
    size = c.nelems
    on = (c.step >= 0) & use[np.maximum(c.step, 0)]
    on &= np.isin(c.kind, np.array(kinds, np.int8)) & np.isin(c.phase, np.array(phases, np.int8))
    return np.asarray(on & ((size < 0) | (size > SCALAR_NELEMS)))


def _first_at(r: RankAnalysis, on: Bools) -> list[float]:
    """Where in each backward pass its first selected row is issued by the host."""
    c, p = r.comm, r.passes
    rows = np.flatnonzero(on & (c.host_ns >= 0))
    first: dict[tuple[int, int], int] = {}
    for row in rows[np.argsort(c.host_ns[rows], kind="stable")].tolist():
        first.setdefault((int(c.step[row]), int(c.micro[row])), int(c.host_ns[row]))
    shares, passes = [], Counter[int]()
    for step, start, end in zip(
        p.step.tolist(), p.start_ns.tolist(), p.end_ns.tolist(), strict=True
    ):
        issued = first.get((step, passes[step])) if step >= 0 else None
        passes[step] += 1
        if issued is not None and end > start:
            shares.append((issued - start) / (end - start))
    return shares


def overlap_sentence(analysis: Analysis) -> str:
    """What part of the communication runs beside compute; empty where there is none."""
    s = analysis.summary
    if not s.comm:
        return ""
    told = [t for t in (_reductions(analysis), _gathers(analysis)) if t]
    if told:
        return " ".join(told)
    if not s.overlapped_comm:
        return "None of the communication runs beside compute."
    return f"{percent(s.overlapped_comm, s.comm)} of the communication runs beside compute."


def _reductions(analysis: Analysis) -> str:
    found = hidden(analysis, REDUCTIONS, (Phase.BACKWARD,))
    if not found.total_ns:
        return ""
    # with tensor parallelism, activations are reduced in backward too
    tensor = analysis.setup.get("tensor_parallel_size")
    what = "gradient reduction" if tensor and tensor.value == 1 else "reductions in backward"
    share = percent(found.hidden_ns, found.total_ns)
    text = f"{_switch(analysis, share == '0%')}{'none' if share == '0%' else share} of the {what}"
    text = f"{text[:1].upper()}{text[1:]} ({duration(found.total_ns)} a step) runs beside compute"
    return f"{text}: {_when(found)}."


def _switch(analysis: Analysis, none: bool) -> str:
    overlap = analysis.setup.get("overlap_comm")
    if not overlap or overlap.confidence < STRUCTURAL or not isinstance(overlap.value, bool):
        return ""
    if none and overlap.value:
        return "although overlap_comm is on, "
    return f"with overlap_comm {'on' if overlap.value else 'off'}, "


def _when(found: Hidden) -> str:
    """How many there are, and when the first of a backward pass is issued."""
    each = "in each backward pass" if found.passes > 1.5 else "a step"
    per_pass = found.count / found.passes if found.passes else found.count
    one = abs(per_pass - 1) < 0.005
    what = f"{number(per_pass)} {'reduction' if one else 'reductions'} {each}"
    if found.first_at is None:
        return what
    which = ", issued" if one else ", the first issued"
    if found.first_at > 1:
        return f"{what}{which} only after the host is through with backward"
    return f"{what}{which} when the host is {percent(found.first_at, 1)} through backward"


def _gathers(analysis: Analysis) -> str:
    found = hidden(analysis, (Op.ALL_GATHER,), (Phase.FORWARD, Phase.BACKWARD))
    if not found.total_ns:
        return ""
    share = percent(found.hidden_ns, found.total_ns)
    part = "None" if share == "0%" else share
    return (
        f"{part} of the all-gathers in forward and backward ({number(found.count)} a step, "
        f"{duration(found.total_ns)}) runs beside compute."
    )
