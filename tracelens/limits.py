"""Limits that a run has to keep: what `tracelens check` asks of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from tracelens.errors import UsageError

Status: TypeAlias = Literal["kept", "broken", "unknown"]

#: Name of a limit -> what of a report it is about. A name begins with the side that is allowed.
MEASURES = {
    "max_step_ms": "step time, ms",
    "max_exposed_comm_ms": "exposed communication, ms a step",
    "max_exposed_comm_pct": "exposed communication, % of the step",
    "max_exposed_copy_pct": "exposed copies, % of the step",
    "max_exposed_wait_ms": "exposed waiting for other ranks, ms a step",
    "max_idle_ms": "idle GPU, ms a step",
    "max_idle_pct": "idle GPU, % of the step",
    "min_overlap_pct": "communication hidden behind compute, %",
    "min_mfu_pct": "model FLOPs, % of the GPU's peak",
    "max_finding_ms": "most expensive finding, ms a step",
    "max_step_spread_pct": "longest over shortest step, % more",
}
_SEVERITIES = ("info", "low", "high", "critical")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit and how it ended.

    Attributes
    ----------
    name : str
        As in `MEASURES`, ``severity``, ``finding:ID`` or ``setup:KEY``.
    what : str
        In words.
    limit, value
        What is allowed, and what the run has; None where the trace does not say.
    status : {"kept", "broken", "unknown"}
    """

    name: str
    what: str
    limit: Any
    value: Any
    status: Status


def check(
    report: Mapping[str, Any],
    limits: Mapping[str, float],
    *,
    fail_on: str | None = None,
    findings: Sequence[str] = (),
    setup: Mapping[str, Any] | None = None,
) -> list[Limit]:
    """Hold a report against limits.

    Parameters
    ----------
    report : mapping
        A report in ``format`` 1.
    limits : mapping
        Names of `MEASURES` and the largest (or smallest) value allowed.
    fail_on : str, optional
        The lowest severity of a finding that is not allowed.
    findings : sequence of str
        Ids of findings that are not allowed, whatever they cost.
    setup : mapping, optional
        Keys of the setup and the values that they must have.

    Returns
    -------
    list of Limit
        One a question, in the order above.

    Raises
    ------
    UsageError
        If a name is not known.
    """
    told = [_measured(report, name, limit) for name, limit in limits.items()]
    if fail_on is not None:
        told.append(_severity(report, fail_on))
    told += [_finding(report, id_) for id_ in findings]
    told += [_setup(report, key, value) for key, value in (setup or {}).items()]
    return told


def to_json(limits: Sequence[Limit]) -> dict[str, Any]:
    """What ``tracelens check --json`` prints."""
    kept = not any(x.status == "broken" for x in limits)
    return {"format": 1, "kept": kept, "limits": [asdict(x) for x in limits]}


def _measured(report: Mapping[str, Any], name: str, limit: float) -> Limit:
    if name not in MEASURES:
        raise UsageError(f"there is no limit {name}", hint=f"limits: {', '.join(MEASURES)}")
    value = _value(report, name)
    if value is None:
        return Limit(name, MEASURES[name], limit, None, "unknown")
    value = round(value, 6)  # as it is shown
    broken = value < limit if name.startswith("min_") else value > limit
    return Limit(name, MEASURES[name], limit, value, "broken" if broken else "kept")


def _value(report: Mapping[str, Any], name: str) -> float | None:
    """What the report says of one measure; None where it does not."""
    summary, measure = report["summary"], name.split("_", 1)[1]
    if name == "max_finding_ms":
        return max((float(f["cost_ms_per_step"]) for f in report["findings"]), default=0.0)
    if name == "min_mfu_pct":
        mfu = (report.get("efficiency") or {}).get("mfu")
        return None if mfu is None else 100 * float(mfu)
    if name == "max_step_spread_pct":
        return _spread(report)
    if name == "min_overlap_pct":
        ratio = summary["overlap_ratio"]
        return None if ratio is None else 100 * float(ratio)
    if measure.endswith("_pct"):
        part, wall = summary[measure.removesuffix("_pct") + "_ms"], summary["wall_ms"]
        return None if part is None or not wall else 100 * float(part) / float(wall)
    value = summary["wall_ms" if measure == "step_ms" else measure]
    return None if value is None else float(value)


def _spread(report: Mapping[str, Any]) -> float | None:
    """Longest step over shortest, each averaged over ranks; None with fewer than two steps."""
    by_step: dict[int, list[float]] = {}
    for row in report["steps"]:
        if row["complete"]:
            by_step.setdefault(row["step"], []).append(row["wall_ms"])
    walls = [sum(v) / len(v) for v in by_step.values()]
    return 100 * (max(walls) / min(walls) - 1) if len(walls) > 1 and min(walls) > 0 else None


def _severity(report: Mapping[str, Any], lowest: str) -> Limit:
    if lowest not in _SEVERITIES:
        raise UsageError(f"there is no severity {lowest}", hint=f"one of {', '.join(_SEVERITIES)}")
    bad = _SEVERITIES[_SEVERITIES.index(lowest) :]
    found = [f["id"] for f in report["findings"] if f["severity"] in bad]
    what = f"findings of severity {lowest} or more"
    return Limit("severity", what, "none", found, "broken" if found else "kept")


def _finding(report: Mapping[str, Any], id_: str) -> Limit:
    """An id that must not be found; unknown where its detector could not look."""
    status = {d["id"]: d for d in report["detectors"]}
    if id_ not in status:
        raise UsageError(f"there is no finding {id_}", hint=f"ids: {', '.join(sorted(status))}")
    told = {"fired": "broken", "clean": "kept"}.get(status[id_]["status"], "unknown")
    cost = sum(f["cost_ms_per_step"] for f in report["findings"] if f["id"] == id_)
    value = {"broken": f"{cost:.3f} ms a step", "kept": "not found"}.get(told)
    return Limit(f"finding:{id_}", f"finding {id_}", "none", value, told)  # type: ignore[arg-type]


def _setup(report: Mapping[str, Any], key: str, wanted: Any) -> Limit:
    """A key of the setup: broken where its value, or all its candidates, are others."""
    if key not in report["setup"]:
        raise UsageError(f"there is no setup key {key}", hint=f"keys: {', '.join(report['setup'])}")
    found = report["setup"][key]
    value, candidates = found["value"], found["candidates"]
    status: Status = "unknown"
    if value is not None:
        status = "kept" if value == wanted and type(value) is type(wanted) else "broken"
    elif candidates and wanted not in candidates:
        status = "broken"
    shown = value if value is not None else (candidates or None)
    return Limit(f"setup:{key}", f"setup {key}", wanted, shown, status)
