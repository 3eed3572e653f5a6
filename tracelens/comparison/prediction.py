"""What was predicted of a change, against what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracelens.comparison.differences import setup_changes
from tracelens.errors import UsageError

#: What a change and a setup call differently.
_IN_SETUP = {"stage": "zero_stage"}


def made_for(
    predictions: Sequence[Mapping[str, Any]], before: Mapping[str, Any], after: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Of the predictions made of `before`, the last one of the change that `after` shows.

    All that it changes has to be seen in the setup of `after`, and nothing else may have changed.
    """
    changed = set(setup_changes(before, after))
    for document in reversed(predictions):
        wanted = {_IN_SETUP.get(k, k): v for k, v in (document.get("change") or {}).items()}
        found = {k: after["setup"].get(k, {}).get("value") for k in wanted}
        if wanted and found == wanted and changed == set(wanted):
            return dict(document)
    return None


def against(
    document: Mapping[str, Any],
    step: Mapping[str, Any],
    unprofiled: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compare a prediction with the measured change, as ratios of step times.

    Parameters
    ----------
    document : mapping
        What ``tracelens whatif --json`` printed, or ``tune --json``, whose best candidate counts.
    step, unprofiled : mapping
        As `steps.step_change` and `steps.unprofiled_change` return them; the second is measured
        against where it is known.

    Returns
    -------
    dict
        ``change``, ``ratio`` with its band ``low_ratio`` and ``high_ratio`` (None where the
        prediction has none), ``measured_ratio`` of steps that were ``measured`` "unprofiled" or
        "profiled", ``error_pct`` of the prediction, ``inside_band``.

    Raises
    ------
    UsageError
        If the document predicts nothing.
    """
    made = document if "predicted" in document else document.get("best")
    told = made.get("predicted") if isinstance(made, Mapping) else None
    if not isinstance(told, Mapping) or not told.get("step_ms"):
        raise UsageError(
            "the prediction holds no predicted step time",
            hint="give what `tracelens whatif --json` or `tracelens tune --json` printed",
        )
    ratio = told.get("ratio") or told["step_ms"] / document["baseline"]["step_ms"]
    seen = unprofiled or step
    measured = seen["after"] / seen["before"]
    low, high = (
        ratio * told[k] / told["step_ms"] if told.get(k) else None for k in ("low_ms", "high_ms")
    )
    known = low is not None and high is not None
    return {
        "change": dict(made.get("change") or {}) if isinstance(made, Mapping) else {},
        "ratio": round(ratio, 6),
        "low_ratio": None if low is None else round(low, 6),
        "high_ratio": None if high is None else round(high, 6),
        "measured": "unprofiled" if unprofiled else "profiled",
        "measured_ratio": round(measured, 6),
        "error_pct": round(100 * (ratio / measured - 1), 4),
        "inside_band": low <= measured <= high if known else None,
    }
