"""The report for scripts: `Analysis` as the documented JSON structure, ``format`` 1.

Times are ms with six decimals, which is the ns kept inside; None is what the trace cannot tell.
Keys are added freely; a rename or a changed meaning is a new format number.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tracelens.host import Cause
from tracelens.infer.declared import declared
from tracelens.overlap import BREAKDOWN
from tracelens.report.causes import idle_by_cause
from tracelens.report.tables import COMPUTE_SPLIT, compute_split, exposed_wait
from tracelens.report.verdict import verdict
from tracelens.representatives import representatives
from tracelens.units import ns_to_ms

if TYPE_CHECKING:
    from tracelens.analysis import Analysis, RankAnalysis
    from tracelens.collectives import CollectiveSummary
    from tracelens.findings import Finding
    from tracelens.fits import Fit
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
        "verdict": list(verdict(analysis)),
        "setup": _setup(analysis),
        "steps": [row for r in analysis.ranks for row in _steps(r)],
        "representatives": [
            asdict(r) | {"stands_for": list(r.stands_for)} for r in representatives(analysis.ranks)
        ],
        "summary": _summary(analysis),
        "bounds": _bounds(analysis),
        "compute": _compute(analysis),
        "idle": _idle(analysis),
        "collectives": [_collective(c) for c in analysis.collective_rows],
        "fits": [_fit(f) for f in analysis.fits],
        "findings": [_finding(f) for f in analysis.finding_rows],
        "detectors": [asdict(v) for v in analysis.verdicts],
        "manifest": _manifest(analysis),
        "ds_config": _ds_config(analysis),
        "efficiency": _efficiency(analysis),
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


def _manifest(analysis: Analysis) -> dict[str, object] | None:
    manifest = analysis.manifest
    if manifest is None:
        return None
    return {
        "ranks": [r.rank for r in manifest.ranks],
        "world_size": manifest.world_size,
        "launcher": manifest.launcher,
        "level": manifest.level,
        "versions": dict(manifest.versions),
        "unprofiled_step_ms": _round(manifest.unprofiled_step_ms),
        "profiled_step_ms": _round(manifest.profiled_step_ms),
        "profiler_ms": _ms(analysis.profiler_ns),
    }


def _efficiency(analysis: Analysis) -> dict[str, object] | None:
    e = analysis.efficiency
    if e is None or analysis.manifest is None:
        return None
    modules = [r.flops.modules for r in analysis.manifest.ranks if r.flops]
    return {
        "model_flops": round(e.model_flops),
        "hardware_flops": round(e.hardware_flops),
        "step_ms": _round(e.step_ms),
        "step_source": e.step_source,
        "tflops": _round(e.tflops, 3),
        "peak_tflops": e.peak_tflops,
        "mfu": _round(e.mfu),
        "hfu": _round(e.hfu),
        "precision": e.precision,
        "source": e.source,
        "ranks": list(e.ranks),
        "notes": list(e.notes),
        "modules": [asdict(m) for m in modules[0]] if modules else [],
    }


def _ds_config(analysis: Analysis) -> dict[str, object] | None:
    config = analysis.ds_config
    return None if config is None else {"source": config.source, "values": dict(config.values)}


def _setup(analysis: Analysis) -> dict[str, dict[str, object]]:
    """What was inferred, and beside it what the configuration says for sure."""
    rows = {key: _inference(i) for key, i in analysis.setup.items()}
    for said in declared(analysis.ds_config, analysis.setup) if analysis.ds_config else ():
        rows[said.seen.key] |= {"given": said.value, "contradicted": bool(said.shown)}
    return rows


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
            "start_ms": _ms(int(r.steps.start_ns[k]) - r.first_ns),
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


def _bounds(analysis: Analysis) -> dict[str, object] | None:
    """What is sure of waiting and transfer where they cannot be told apart."""
    if analysis.wait_bounds is None:
        return None
    low, high = analysis.wait_bounds
    exposed = analysis.summary.exposed_comm
    return {
        "exposed_wait_ms": [_ms(low), _ms(high)],
        "exposed_transfer_ms": [_ms(exposed - high), _ms(exposed - low)],
    }


def _compute(analysis: Analysis) -> dict[str, object]:
    """Summed length of each kind of GPU work per step: concurrent kernels count each."""
    split = compute_split(analysis)
    return {f"{name}_ms": _ms(split[name]) for name in COMPUTE_SPLIT}


def _idle(analysis: Analysis) -> dict[str, object]:
    """Idle GPU time per step by what the host was doing; adds up to the idle time."""
    mean = idle_by_cause(analysis)
    return {f"{cause.name.lower()}_ms": _ms(float(mean[cause])) for cause in Cause}


def _finding(f: Finding) -> dict[str, object]:
    return {
        "id": f.id,
        "title": f.title,
        "cost_ms_per_step": _round(f.cost_ms_per_step),
        "recorded_ms_per_step": _round(f.recorded_ms_per_step),
        "severity": f.severity,
        "ranks": list(f.ranks),
        "steps": list(f.steps),
        "evidence": list(f.evidence),
        "remedy": f.remedy,
        "config": None if f.config is None else dict(f.config),
        "proof": [asdict(p) for p in f.proof],
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


def _fit(f: Fit) -> dict[str, object]:
    return {k: _round(v) if isinstance(v, float) else v for k, v in asdict(f).items()}
