"""The comparison in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracelens.thresholds import STEADY_STEPS

#: The parts that a step's time is the sum of, as people call them.
PARTS = {
    "compute_ms": "compute",
    "exposed_comm_ms": "exposed communication",
    "exposed_copy_ms": "exposed copies",
    "idle_ms": "idle",
}
#: A part is named where it makes up at least this share of the step's difference.
_NAMED = 0.15


def verdict(told: Mapping[str, Any]) -> list[str]:
    """What came of it, what changed, and what of the step it was.

    Parameters
    ----------
    told : mapping
        What `tracelens.comparison.compare` has found so far.

    Returns
    -------
    list of str
        Two to seven sentences.
    """
    change = told["micro_step_ms"] or told["step_ms"]
    lines = [_outcome(told, change), _unprofiled(told), _changes(told)]
    if told["outcome"] in ("faster", "slower"):
        lines += _parts(told)
    lines += _findings(told)
    lines += told["notes"]
    lines += _prediction(told["prediction"]) if told["prediction"] else []
    return [line for line in lines if line]


def _outcome(told: Mapping[str, Any], change: Mapping[str, Any]) -> str:
    what = "micro-step" if told["micro_step_ms"] else "step"
    times = f"the {what} went from {change['before']:,.1f} to {change['after']:,.1f} ms"
    times += f" ({signed(change['delta_pct'])} %)"
    counts = " and ".join(map(str, change["n_steps"]))
    if told["outcome"] == "different work":
        return f"Not comparable: {times}, but not for the same work."
    if told["outcome"] == "cannot tell":
        return f"Cannot tell: {times} over {counts} steps, {_why(change)}"
    if told["outcome"] == "no difference":
        return f"No difference: {times} over {counts} steps, within the noise."
    word = told["outcome"].capitalize()
    chance = "p < 0.001" if change["p_value"] < 0.001 else f"p = {change['p_value']:.2g}"
    return f"{word}: {times}, more than noise ({chance}, {counts} steps)."


def _unprofiled(told: Mapping[str, Any]) -> str:
    """The step without a profiler, which is what the job pays; and whether it agrees."""
    plain = told["unprofiled_step_ms"]
    if plain is None:
        return ""
    text = f"Without a profiler it went from {plain['before']:,.1f} to {plain['after']:,.1f} ms"
    text += f" ({signed(plain['delta_pct'])} %)"
    against = plain["delta"] * told["step_ms"]["delta"] < 0
    if against and told["outcome"] in ("faster", "slower"):
        return f"{text}: the other way, so the profiler makes the difference."
    return f"{text}."


def _why(change: Mapping[str, Any]) -> str:
    """Why these steps do not decide, and what would."""
    if change["significant"] is not None:
        return (
            "and the host is the limit on both sides, which a profiler slows by another share in "
            "each framework. Compare steps without one."
        )
    few = min(change["n_steps"]) < STEADY_STEPS
    remedy = f" Record {STEADY_STEPS} steps or more of each." if few else ""
    if change["p_value"] is None:
        return f"and a single step has no scatter to compare with.{remedy}"
    if change["low_pct"] * change["high_pct"] > 0:
        return f"less than recordings of one job differ by ({change['noise_pct']:.0f} %).{remedy}"
    low, high = signed(max(change["low_pct"], -100)), signed(change["high_pct"])
    return f"which scatter so much that anything from {low} to {high} % is possible.{remedy}"


def _changes(told: Mapping[str, Any]) -> str:
    pairs = {**told["run_changes"], **told["setup_changes"]}
    texts = [f"{k} {show(a)} -> {show(b)}" for k, (a, b) in pairs.items()]
    for k, (a, b) in told["config_changes"].items():
        if k.split(".")[-1] not in pairs:  # the trace has shown it
            texts.append(f"{k} {show(a, 'not set')} -> {show(b, 'not set')}")
    if not texts:
        return "No change of the setup shows in the traces."
    return f"Changed: {', '.join(texts)}."


def _parts(told: Mapping[str, Any]) -> list[str]:
    """Which parts of the step the difference is made of."""
    if told["micro_step_ms"]:
        return []  # parts are means per step, of which one has more micro-steps
    total = told["deltas"]["wall_ms"]["delta"]
    deltas = {label: told["deltas"][k]["delta"] for k, label in PARTS.items()}
    order = sorted(deltas.items(), key=lambda p: -abs(p[1]))
    named = [f"{label} {signed(d)} ms" for label, d in order if abs(d) >= _NAMED * abs(total)]
    return [f"Of the {signed(total)} ms: {', '.join(named)}."] if named else []


def _findings(told: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, word in (("findings_gone", "Gone"), ("findings_new", "New")):
        rows = [f for f in told[key] if f["cost_ms_per_step"] > 0]
        if rows:
            texts = [f"{f['id']} ({f['cost_ms_per_step']:.1f} ms a step)" for f in rows]
            lines.append(f"{word}: {', '.join(texts)}.")
    return lines


def _prediction(p: Mapping[str, Any]) -> list[str]:
    want, got = 100 * (p["ratio"] - 1), 100 * (p["measured_ratio"] - 1)
    text = f"Predicted {signed(want)} %, measured {signed(got)} %"
    if p["inside_band"] is None:
        return [f"{text}."]
    low, high = (100 * (p[k] - 1) for k in ("low_ratio", "high_ratio"))
    where = "inside" if p["inside_band"] else "outside"
    return [f"{text}: {where} the predicted band of {signed(low)} to {signed(high)} %."]


def signed(value: float) -> str:
    """A number with its sign and one decimal; what rounds to nothing has none.

    Examples
    --------
    >>> signed(-16.54), signed(0.04), signed(3.0)
    ('-16.5', '0.0', '+3.0')
    """
    text = f"{value:+,.1f}"
    return text[1:] if text[1:] == "0.0" else text


def show(value: object, missing: str = "unknown") -> str:
    """A value of the setup as JSON writes it; None as the word for what is missing.

    Examples
    --------
    >>> show(True), show(None), show(50000000)
    ('true', 'unknown', '50,000,000')
    """
    if value is None:
        return missing
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)
