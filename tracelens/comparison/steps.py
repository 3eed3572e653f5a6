"""The step and its parts before and after, and whether the difference is more than noise.

The ranks of a job wait for each other in every step, so their times are no independent
measurements: one step, averaged over ranks, is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tracelens.thresholds import (
    DIFFERENT_WORK,
    NOISE_OF_FEW_STEPS,
    NOISE_OF_RECORDINGS,
    SIGNIFICANT,
    STEADY_STEPS,
)
from tracelens.welch import Welch, welch

#: Parts of a step that are there for every one, so that they can be tested.
OF_STEPS = (
    "wall_ms", "compute_ms", "comm_ms", "overlapped_comm_ms", "exposed_comm_ms", "exposed_copy_ms",
    "idle_ms", "exposed_wait_ms", "exposed_transfer_ms",
)  # fmt: skip
#: Sections whose values are means over the run.
_MEANS = ("summary", "compute", "idle")


def values(report: Mapping[str, Any], metric: str) -> list[float]:
    """One value a step, averaged over ranks: whole steps, or all where none is whole."""
    rows = [r for r in report["steps"] if r["complete"]] or report["steps"]
    by_step: dict[int, list[float]] = {}
    for r in rows:
        if r.get(metric) is None:
            return []
        by_step.setdefault(r["step"], []).append(r[metric])
    return [fmean(v) for _, v in sorted(by_step.items())]


def step_change(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The step's time, and that of a micro-step where the runs accumulate differently.

    Returns
    -------
    dict, dict or None
        ``before``, ``after``, ``delta`` (ms), ``delta_pct``, its 95 % interval ``low_pct`` and
        ``high_pct``, ``p_value``, ``n_steps`` of both, ``noise_pct`` (what such recordings of one
        job differ by) and ``significant``: None where it cannot be told.
    """
    a, b = values(before, "wall_ms"), values(after, "wall_ms")
    n, m = micro_steps(before), micro_steps(after)
    step = _change(a, b)
    if n is None or m is None or n == m:
        return step, None
    return step, _change([v / n for v in a], [v / m for v in b]) | {"micro_steps": [n, m]}


def unprofiled_change(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, float] | None:
    """The step without a profiler, ms, where collectors timed it on both sides."""
    a, b = ((r.get("manifest") or {}).get("unprofiled_step_ms") for r in (before, after))
    if not a or not b:
        return None
    pct = round(100 * (b / a - 1), 4)
    return {"before": a, "after": b, "delta": round(b - a, 6), "delta_pct": pct}


def micro_steps(report: Mapping[str, Any]) -> int | None:
    """Micro-steps a step, where the trace tells them."""
    found = report["setup"].get("gradient_accumulation_steps", {}).get("value")
    return found if isinstance(found, int) and found > 0 else None


def _change(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    test, mean = welch(before, after), fmean(before)
    few = min(len(before), len(after)) < STEADY_STEPS
    noise = 100 * (NOISE_OF_FEW_STEPS if few else NOISE_OF_RECORDINGS)

    def pct(value: float | None) -> float | None:
        return None if value is None or not mean else round(100 * value / mean, 6)

    change = {
        "before": round(mean, 6),
        "after": round(fmean(after), 6),
        "delta": round(test.delta, 6),
        "delta_pct": pct(test.delta),
        "low_pct": pct(test.low),
        "high_pct": pct(test.high),
        "p_value": _p(test),
        "n_steps": [len(before), len(after)],
        "noise_pct": noise,
    }
    return change | {"significant": _significant(change)}


def _p(test: Welch) -> float | None:
    return None if test.p_value is None else float(f"{test.p_value:.4g}")


def _significant(change: Mapping[str, Any]) -> bool | None:
    """Whether a difference is real: True, False, or None where these steps cannot tell.

    False needs the whole interval within the smaller noise: few steps that scatter show nothing.
    """
    p, delta, low, high = (change[k] for k in ("p_value", "delta_pct", "low_pct", "high_pct"))
    if p is None or delta is None or low is None or high is None:
        return None
    if p < SIGNIFICANT and abs(delta) >= change["noise_pct"]:
        return True
    within = 100 * NOISE_OF_RECORDINGS
    return False if -within < low and high < within else None


def judge(before: Mapping[str, Any], after: Mapping[str, Any], change: Mapping[str, Any]) -> str:
    """``faster``, ``slower``, ``no difference``, ``cannot tell`` or ``different work``.

    The last where the GPU has so much more to multiply on one side that the steps do not train the
    same model on the same batch. Where the host is the limit, a profiler slows the step by up to
    its double (recorded runs), and each framework by another share: that is not told from a change.
    """
    if work_ratio(before, after) is not None:
        return "different work"
    if change["significant"] is None or profiler_decides(before, after):
        return "cannot tell"
    if not change["significant"]:
        return "no difference"
    return "faster" if change["delta"] < 0 else "slower"


def host_bound(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the host is the limit on both sides."""
    return all(any(f["id"] == "launch_bound" for f in r["findings"]) for r in (before, after))


def profiler_decides(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether what a profiler costs may be more than what the runs differ by."""
    one, other = (r["setup"].get("framework", {}).get("value") for r in (before, after))
    return one != other and host_bound(before, after)


def work_ratio(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """Time in matrix products per micro-step, after over before, where it tells different work."""
    if before["run"].get("device") != after["run"].get("device"):
        return None  # another GPU takes another time for the same work
    a, b = before["compute"].get("gemm_ms"), after["compute"].get("gemm_ms")
    n, m = micro_steps(before), micro_steps(after)
    if not a or not b:
        return None
    ratio = b / a if n is None or m is None else float(b / m / (a / n))
    return ratio if max(ratio, 1 / ratio) > DIFFERENT_WORK else None


def metrics(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every mean that both reports have: before, after, delta; a test where steps have it.

    Keys are those of ``summary``, and ``compute.gemm_ms``, ``idle.launch_ms`` and so on.
    """
    deltas: dict[str, dict[str, Any]] = {}
    for section in _MEANS:
        for key, old in before.get(section, {}).items():
            new = after.get(section, {}).get(key)
            if key == "n_steps" or key not in after.get(section, {}):
                continue
            name = key if section == "summary" else f"{section}.{key}"
            known = old is not None and new is not None
            deltas[name] = {
                "before": old,
                "after": new,
                "delta": round(new - old, 6) if known else None,
            }
            if section == "summary" and key in OF_STEPS and known:
                a, b = values(before, key), values(after, key)
                deltas[name]["p_value"] = _p(welch(a, b)) if a and b else None
    return deltas
