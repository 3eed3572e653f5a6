"""The report for scripts: `Analysis` as the documented JSON structure, ``format`` 1.

Times are ms with six decimals, which is the ns kept inside; None is what the trace cannot tell.
Keys are added freely; a rename or a changed meaning is a new format number.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tracelens.frames import BREAKDOWN
from tracelens.report.tables import COMPUTE_SPLIT, compute_split, exposed_wait
from tracelens.units import ns_to_ms

if TYPE_CHECKING:
    from tracelens.analysis import Analysis, RankAnalysis
    from tracelens.collectives import CollectiveSummary
    from tracelens.findings import Finding
    from tracelens.infer.result import Inference

FORMAT = 1


def to_json(analysis: Analysis) -> dict[str, object]:
    """The whole report as plain dicts, lists, numbers and strings.

    Parameters
    ----------
    analysis : Analysis

    Returns
    -------
    dict
        What ``tracelens analyze --json`` prints.
    """
    return {
        "format": FORMAT,
        "run": _run(analysis),
        "setup": {key: _inference(i) for key, i in analysis.setup.items()},
        "steps": [row for r in analysis.ranks for row in _steps(r)],
        "summary": _summary(analysis),
        "compute": _compute(analysis),
        "collectives": [_collective(c) for c in analysis.collective_rows],
        "findings": [_finding(f) for f in analysis.finding_rows],
        "detectors": [asdict(v) for v in analysis.verdicts],
        "import": {
            "events_read": sum(r.stats.events_read for r in analysis.ranks),
            "events_dropped": sum(r.stats.events_dropped for r in analysis.ranks),
            "notes": [asdict(n) for n in analysis.notes],
        },
    }


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns_to_ms(ns), 6)


def _round(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def _run(analysis: Analysis) -> dict[str, object]:
    run = analysis.run
    return {
        "source": run.source,
        "paths": list(run.paths),
        "ranks": list(run.ranks),
        "rank_source": run.rank_source,
        "step_source": analysis.ranks[0].step_source,
        "world_size": run.world_size,
        "device": run.device,
        "n_events": run.n_events,
        "torch": run.torch,
        "nccl": run.nccl,
    }


def _inference(i: Inference) -> dict[str, object]:
    row: dict[str, object] = {
        "value": i.value,
        "candidates": list(i.candidates),
        "confidence": round(i.confidence, 4),
        "evidence": list(i.evidence),
    }
    row |= {k: v for k, v in (("low", i.low), ("high", i.high)) if v is not None}
    return row


def _steps(r: RankAnalysis) -> list[dict[str, object]]:
    wait, transfer = exposed_wait(r)
    return [
        {
            "rank": r.rank,
            "step": int(r.steps.number[k]),
            "complete": bool(r.steps.complete[k]),
            **{f"{name}_ms": _ms(int(getattr(r.breakdown, name)[k])) for name in BREAKDOWN},
            "exposed_wait_ms": _ms(wait[k]),
            "exposed_transfer_ms": _ms(transfer[k]),
            "kernels": int(r.kernels[k]),
        }
        for k in range(len(r.steps))
    ]


def _summary(analysis: Analysis) -> dict[str, object]:
    s = analysis.summary
    return {
        **{f"{name}_ms": _ms(getattr(s, name)) for name in BREAKDOWN},
        "exposed_wait_ms": _ms(s.exposed_wait),
        "exposed_transfer_ms": _ms(s.exposed_transfer),
        "overlap_ratio": _round(s.overlap_ratio),
        "exposed_comm_pct": _round(s.exposed_comm_pct),
        "n_steps": s.n_steps,
    }


def _compute(analysis: Analysis) -> dict[str, object]:
    """Summed length of each kind of GPU work per step: concurrent kernels count each."""
    split = compute_split(analysis)
    return {f"{name}_ms": _ms(split[name]) for name in COMPUTE_SPLIT}


def _finding(f: Finding) -> dict[str, object]:
    return {
        "id": f.id,
        "title": f.title,
        "cost_ms_per_step": _round(f.cost_ms_per_step),
        "severity": f.severity,
        "ranks": list(f.ranks),
        "steps": list(f.steps),
        "evidence": list(f.evidence),
        "remedy": f.remedy,
        "config": None if f.config is None else dict(f.config),
    }


def _collective(c: CollectiveSummary) -> dict[str, object]:
    return {
        "kind": c.kind,
        "phase": c.phase,
        "group": c.group,
        "group_size": c.group_size,
        "dtype": c.dtype,
        "count_per_step": _round(c.count_per_step),
        "bytes_per_step": _round(c.bytes_per_step, 3),
        "total_ms": _ms(c.total_ns),
        "exposed_ms": _ms(c.exposed_ns),
        "wait_ms": _ms(c.wait_ns),
        "transfer_ms": _ms(c.transfer_ns),
        "algbw_gbps": _round(c.algbw_gbps),
        "busbw_gbps": _round(c.busbw_gbps),
    }
