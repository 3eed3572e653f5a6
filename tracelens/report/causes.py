"""What slows the step, as plain rows and sentences: drawn by terminal, HTML and notebook.

Nothing is a cause here that a detector did not find; what it looked for and did not find, and what
it could not judge, is said too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tracelens.analysis import counted_steps
from tracelens.host import Cause
from tracelens.replay.change import settings_of
from tracelens.report.text import clean, duration, listing, percent, plural, ranges
from tracelens.thresholds import HIGH_SHARE, TOLD_SHARE
from tracelens.units import NS_PER_MS, format_ns

if TYPE_CHECKING:
    from tracelens.analysis import Analysis
    from tracelens.findings import Finding
    from tracelens.trace import Floats

TITLE = "What slows the step"
#: Over the findings that are information only.
INFO = "Seen, at no cost that is sure or next to none:"

#: `Cause` by name, after "while the GPU is idle".
_IDLE = {
    "LOADER": "the data loader is at work",
    "ALLOCATOR": "the host allocates or frees GPU memory",
    "PAUSE": "the host shows no event at all",
    "CPU_OPTIMIZER": "the optimizer runs on the host",
    "SYNC": "the host had waited for the GPU to run dry",
    "LAUNCH": "the host has not launched the next work yet",
    "DEVICE": "launched work has not started yet",
}


@dataclass(frozen=True, slots=True)
class CauseRow:
    """One finding as it is shown.

    `cost` and `share` are texts; `where` names ranks and steps unless it is all of them; `config`
    are lines ``key: value``, the value as JSON; `predict` is the command that replays the steps
    with them, "" where it would refuse.
    """

    id: str
    title: str
    cost: str
    share: str
    severity: str
    where: str
    evidence: tuple[str, ...]
    remedy: str
    config: tuple[str, ...]
    predict: str


def shown(analysis: Analysis) -> bool:
    """Whether there is anything to judge: GPU work, and verdicts."""
    return bool(analysis.verdicts) and any(r.kernels.any() for r in analysis.ranks)


def cause_rows(analysis: Analysis) -> tuple[CauseRow, ...]:
    """All findings, most expensive first."""
    order = sorted(analysis.finding_rows, key=lambda f: -f.cost_ms_per_step)
    return tuple(_row(analysis, f) for f in order)


def split_rows(analysis: Analysis) -> tuple[tuple[CauseRow, ...], tuple[CauseRow, ...]]:
    """The findings that cost something worth a line, and those that are information only."""
    rows = cause_rows(analysis)
    return (
        tuple(r for r in rows if r.severity != "info"),
        tuple(r for r in rows if r.severity == "info"),
    )


def _row(analysis: Analysis, f: Finding) -> CauseRow:
    cost = f.cost_ms_per_step * NS_PER_MS
    where = []
    in_title = len(f.ranks) == 1 and f.title.startswith(f"Rank {f.ranks[0]}")
    if f.ranks and set(f.ranks) != set(analysis.run.ranks) and not in_title:
        where.append(f"rank{'s' if len(f.ranks) > 1 else ''} {ranges(f.ranks)}")
    if f.steps:
        where.append(f"step{'s' if len(f.steps) > 1 else ''} {ranges(f.steps)}")
    config = [f"{k}: {json.dumps(v)}" for k, v in (f.config or {}).items()]
    return CauseRow(
        id=f.id,
        title=clean(f.title),
        cost=duration(cost),
        share=percent(cost, analysis.judged_step_ns),
        severity=f.severity,
        where=", ".join(where),
        evidence=tuple(clean(e) for e in f.evidence),
        remedy=clean(f.remedy),
        config=tuple(clean(c) for c in config),
        predict=_predict(analysis, f),
    )


def _predict(analysis: Analysis, f: Finding) -> str:
    framework = analysis.setup.get("framework")
    if framework is None or framework.value != "deepspeed":
        return ""
    settings = settings_of(f.config)
    wanted = " ".join(f"--set {key}={value}" for key, value in settings.items())
    return f"tracelens whatif RUN {wanted}" if wanted else ""


def info_text(row: CauseRow) -> str:
    """A finding that costs next to nothing, in one line."""
    if not row.evidence:
        return row.title
    first, _, rest = row.evidence[0].partition(" ")
    if first.isalpha() and first.islower():  # not the name of something
        first = first.capitalize()
    predict = f"; predict it: {row.predict}" if row.predict else ""
    return f"{row.title}. {first} {rest}{predict}"


def clean_ids(analysis: Analysis) -> tuple[str, ...]:
    """What was looked for and not found."""
    return tuple(v.id for v in analysis.verdicts if v.status == "clean")


def unjudged(analysis: Analysis) -> dict[str, list[str]]:
    """What could not be judged: ids by the reason."""
    by_reason: dict[str, list[str]] = {}
    for v in analysis.verdicts:
        if v.status == "not_applicable":
            by_reason.setdefault(clean(v.reason or "no reason given"), []).append(v.id)
    return by_reason


def looked_for(analysis: Analysis) -> tuple[str, ...]:
    """What was not found, and what could not be judged and why, in up to two sentences."""
    found, lines = clean_ids(analysis), []
    if found:
        lines.append(f"Looked for and not found: {', '.join(found)}.")
    if blocked := unjudged(analysis):
        parts = [f"{', '.join(ids)} ({why})" for why, ids in blocked.items()]
        lines.append(f"Not judged: {'; '.join(parts)}.")
    return tuple(lines)


def rest_sentence(analysis: Analysis) -> str:
    """What stays once every cause is gone, and how much of that nothing explains."""
    s = analysis.summary
    paid = sum(f.cost_ms_per_step for f in analysis.finding_rows) * NS_PER_MS
    if not paid or not s.wall:
        return ""
    rest = max(analysis.judged_step_ns - paid, 0.0)
    all_of = "this cause" if len(split_rows(analysis)[0]) == 1 else "all of these causes"
    text = f"Without {all_of} a step would take about {duration(rest)}"
    compute = _usual_compute(analysis)
    where = " on the median rank" if abs(compute - s.compute) > TOLD_SHARE * s.compute else ""
    if compute < rest:
        text += (
            f": {duration(compute)} of compute{where} and {duration(rest - compute)} that no cause "
            "found here explains"
        )
    return f"{text}. Each cost is what the step would save if that cause were gone."


def _usual_compute(analysis: Analysis) -> float:
    """Compute of the median rank, ns a step: what a rank computes longer is a cause of its own."""
    uses = counted_steps(analysis.ranks)
    pairs = zip(analysis.ranks, uses, strict=True)
    return float(np.median([r.breakdown.compute[u].mean() for r, u in pairs]))


def nothing_sentence(analysis: Analysis) -> str:
    """What to say where no finding costs anything."""
    judged = [v for v in analysis.verdicts if v.status != "not_applicable"]
    of = f"{len(judged)} of {plural(len(analysis.verdicts), 'check')}"
    return f"No cause found that is sure to cost anything; {of} could be made."


# ---------------------------------------------------------------------------- for the verdict
def first_cause(analysis: Analysis) -> str:
    """The first cause and its cost, if it is worth naming; else empty."""
    rows, step = analysis.finding_rows, analysis.judged_step_ns
    if not rows or not step:
        return ""
    first = max(rows, key=lambda f: f.cost_ms_per_step)
    cost = first.cost_ms_per_step * NS_PER_MS
    if cost < HIGH_SHARE * step:
        return ""
    title, share = clean(first.title).rstrip("."), percent(cost, step)
    told = (
        f"{share} of the step" if format_ns(cost) in title else f"{duration(cost)} a step, {share}"
    )
    s = analysis.summary
    missing = (analysis.run.world_size or 1) > len(analysis.ranks)
    if s.exposed_wait is not None or not missing or s.exposed_comm <= cost:
        return f"Largest cause: {title} ({told})."
    return (
        f"Largest cause that is sure: {title} ({told}). Exposed communication takes more "
        f"({percent(s.exposed_comm, step)}): waiting for late ranks or slow transfer, which only "
        "the other ranks' traces tell."
    )


def idle_by_cause(analysis: Analysis) -> Floats:
    """Idle GPU time by `Cause`, ns: mean over counted steps and ranks, float64 (len(Cause),)."""
    uses = counted_steps(analysis.ranks)
    table = np.concatenate([r.host.idle_ns[u] for r, u in zip(analysis.ranks, uses, strict=True)])
    return table.mean(axis=0) if len(table) else np.zeros(len(Cause))


def idle_sentence(analysis: Analysis) -> str:
    """What the host does while the GPU is idle; empty where it never is."""
    s = analysis.summary
    if not s.idle:
        return ""
    mean = idle_by_cause(analysis)
    order = [c for c in sorted(Cause, key=lambda c: -mean[c]) if mean[c] >= 0.005 * s.idle]
    parts = [f"for {duration(float(mean[c]))} {_IDLE[c.name]}" for c in order]
    share = percent(s.idle, s.wall)
    return f"The GPU is idle {duration(s.idle)} a step ({share}): {listing(parts)}."
