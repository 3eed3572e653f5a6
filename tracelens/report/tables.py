"""What the reports show, as plain rows: computed here, drawn by terminal, HTML and notebook."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tracelens.analysis import counted_steps
from tracelens.classify import Op
from tracelens.remote import absolute
from tracelens.report.text import clean, listing
from tracelens.representatives import representatives
from tracelens.units import format_count

if TYPE_CHECKING:
    from tracelens.analysis import Analysis, RankAnalysis
    from tracelens.collectives import CollectiveSummary
    from tracelens.infer.result import Inference, Value

#: The four parts of a step that add up to its wall time, and their names in reports.
PARTS = {
    "compute": "compute",
    "exposed_comm": "exposed comm",
    "exposed_copy": "exposed copies",
    "idle": "idle",
}

#: Kinds of GPU work that the compute split tells apart.
COMPUTE_SPLIT: dict[str, tuple[Op, ...]] = {
    "gemm": (Op.GEMM,),
    "attention": (Op.ATTENTION,),
    "optimizer": (Op.OPTIMIZER,),
    "elementwise": (Op.ELEMENTWISE,),
    "other": (Op.COMPUTE_OTHER,),
    "copy": (Op.COPY_H2D, Op.COPY_D2H, Op.COPY_D2D, Op.COPY_OTHER),
    "memset": (Op.MEMSET,),
}

_WAIT_NOTE = "Total and exposed time include waiting for other ranks; bus bandwidth does not."
_SHARED_NOTE = "Another process used the GPU: lengths and bandwidths are not the link's."

#: More ranks than this are shown as the shortest, median and longest.
MAX_RANKS = 8
#: Fewer of many ranks would not show how far they lie apart.
_LEAST_RANKS = 3
#: Notes of one kind that are spelled out.
MAX_NOTES = 5
#: More rows (ranks times steps) than this are shown as one mean row a rank.
MAX_STEP_ROWS = 16


@dataclass(frozen=True, slots=True)
class BreakdownRow:
    """One line of the step table, ns: one step of a rank, or a mean where `step` is None."""

    rank: int | None
    step: int | None
    complete: bool
    n_steps: int
    wall: float
    compute: float
    exposed_comm: float
    exposed_copy: float
    idle: float
    overlapped_comm: float
    comm: float

    @property
    def parts(self) -> dict[str, float]:
        """The four parts by name, in the order of the bars."""
        return {name: getattr(self, name) for name in PARTS}


@dataclass(frozen=True, slots=True)
class SetupRow:
    """One line of the setup table.

    `known` is False where the trace cannot tell; `evidence` are sentences.
    """

    key: str
    value: str
    confidence: str
    known: bool
    evidence: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The one sentence to show: the first piece of evidence, or what would decide."""
        if not self.evidence:
            return ""
        return self.evidence[0] if self.known else self.evidence[-1]


_COLUMNS = ("wall", *PARTS, "overlapped_comm", "comm")


def run_name(analysis: Analysis) -> str:
    """A short name of the run: its folder, and the file where there is only one."""
    paths = [absolute(p) for p in analysis.run.paths]
    if len(paths) == 1:
        folder, file = os.path.split(paths[0])
        return clean(os.path.join(os.path.basename(folder), file))
    return clean(os.path.basename(os.path.commonpath(paths)) or paths[0])


def mean_row(analysis: Analysis) -> BreakdownRow:
    """The mean over all counted steps of all ranks."""
    s = analysis.summary
    return BreakdownRow(None, None, True, s.n_steps, **{c: getattr(s, c) for c in _COLUMNS})


def rank_rows(analysis: Analysis) -> tuple[BreakdownRow, ...]:
    """One mean row a rank that has counted steps, ascending in rank."""
    rows = []
    for r, use in zip(analysis.ranks, counted_steps(analysis.ranks), strict=True):
        if use.any():
            means = {c: float(getattr(r.breakdown, c)[use].mean()) for c in _COLUMNS}
            rows.append(BreakdownRow(r.rank, None, True, int(use.sum()), **means))
    return tuple(rows)


def step_rows(r: RankAnalysis) -> tuple[BreakdownRow, ...]:
    """One row a step of one rank, cut ones included."""
    return tuple(
        BreakdownRow(
            r.rank,
            int(r.steps.number[k]),
            bool(r.steps.complete[k]),
            1,
            **{c: float(getattr(r.breakdown, c)[k]) for c in _COLUMNS},
        )
        for k in range(len(r.steps))
    )


def shown_ranks(analysis: Analysis) -> tuple[tuple[BreakdownRow, ...], str]:
    """Mean rows of the ranks to show, and a sentence on which they are if that is not all.

    Those are representatives: of each position while there are few, then the oddest ranks; where
    these are hardly any, the shortest and the longest step too.
    """
    rows = rank_rows(analysis)
    if len(rows) <= MAX_RANKS:
        return rows, ""
    chosen = representatives(analysis.ranks)
    odd = [c for c in chosen if not c.stands_for][: MAX_RANKS // 2]
    usual = [c for c in chosen if c.stands_for][: MAX_RANKS - len(odd)]
    why = {c.rank: f"{'is' if c.stands_for else 'has'} {c.why}" for c in (*usual, *odd)}
    if len(why) < _LEAST_RANKS:
        order = sorted(rows, key=lambda r: (r.wall, r.rank or 0))
        for row, words in ((order[0], "shortest"), (order[-1], "longest")):
            why.setdefault(int(row.rank or 0), f"has the {words} step")
    told = "; ".join(f"{rank} {words}" for rank, words in sorted(why.items()))
    more = len(chosen) - len(usual) - len(odd)
    rest = f" ({more} more were chosen: `representatives` in JSON)" if more else ""
    by_rank = {r.rank: r for r in rows}
    text = f"Shown are {len(why)} of {len(rows)} ranks: {told}{rest}."
    return tuple(by_rank[rank] for rank in sorted(why)), text


def note_lines(analysis: Analysis) -> list[str]:
    """What to know about the input: the first notes of each kind, and how many more there are."""
    seen: Counter[str] = Counter()
    lines = []
    of = Counter(n.code for n in analysis.notes)
    for n in analysis.notes:
        seen[n.code] += 1
        if seen[n.code] <= MAX_NOTES:
            lines.append(clean(n.text))
        elif seen[n.code] == of[n.code]:
            lines.append(f"and {of[n.code] - MAX_NOTES} more like this")
    return lines


def exposed_wait(r: RankAnalysis) -> tuple[list[int | None], list[int | None]]:
    """Waiting and transfer within each step's exposed communication, ns; None where unknown."""
    wait = [w if w >= 0 else None for w in r.exposed_wait_ns.tolist()]
    exposed = r.breakdown.exposed_comm.tolist()
    return wait, [None if w is None else e - w for e, w in zip(exposed, wait, strict=True)]


def compute_split(analysis: Analysis) -> dict[str, float]:
    """Mean summed length, ns per step, of each kind of GPU work; concurrent work counts twice."""
    per_op = np.concatenate(
        [r.op_ns[use] for r, use in zip(analysis.ranks, counted_steps(analysis.ranks), strict=True)]
    )
    mean = per_op.mean(axis=0) if len(per_op) else np.zeros(len(Op))
    return {name: float(mean[list(ops)].sum()) for name, ops in COMPUTE_SPLIT.items()}


def where(c: CollectiveSummary) -> str:
    """A collective with its phase, in words: ``all_reduce in backward``."""
    return f"{c.kind} in {phase_words(c.phase)}" if c.phase else c.kind


def phase_words(phase: str | None) -> str:
    """A phase in words; the one called ``step`` is the optimizer's."""
    return {"step": "the optimizer step", None: "an unknown phase"}.get(phase, str(phase))


def group_name(c: CollectiveSummary) -> str:
    """The process group's name, or nothing where it has none that tells."""
    return "" if c.group in (None, "undefined", "default_pg") else clean(str(c.group))


def wait_note(analysis: Analysis) -> str:
    """What to know about the numbers in the table of collectives."""
    shared = any(v.id == "gpu_shared" and v.status == "fired" for v in analysis.verdicts)
    return f"{_WAIT_NOTE} {_SHARED_NOTE}" if shared else _WAIT_NOTE


def value_text(value: Value) -> str:
    """A setup value as it is written in a config: ``true``, ``500,000,000``, ``bf16``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return format_count(value)
    return "none known" if value is None else clean(str(value))


def setup_rows(analysis: Analysis) -> tuple[SetupRow, ...]:
    """The setup, key by key, in the order of the inference."""
    return tuple(_setup_row(i) for i in analysis.setup.values())


def _setup_row(i: Inference) -> SetupRow:
    known = i.value is not None
    sure = (
        f"{100 * i.confidence:.0f}%" if known else "?" if len(i.candidates) + len(_told(i)) else ""
    )
    return SetupRow(i.key, _value(i), sure, known, tuple(clean(e) for e in i.evidence))


def _value(i: Inference) -> str:
    if i.value is not None:
        return value_text(i.value)
    if bounds := _told(i):
        return listing(bounds)
    if len(i.candidates) == 1:
        return f"perhaps {value_text(i.candidates[0])}"
    return listing([value_text(c) for c in i.candidates], "or") or "-"


def _told(i: Inference) -> list[str]:
    """The bounds that are known, in words."""
    bounds = (("at least", i.low), ("below", i.high))
    return [f"{word} {format_count(n)}" for word, n in bounds if n is not None]
