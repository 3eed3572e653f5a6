"""Two runs beside each other: what changed in the setup, in the step, in what slows it.

`compare` takes two reports (the JSON documents of `tracelens.api.analyze`) and judges the step with
the noise in view: a difference is claimed where the steps' own scatter and what recordings of one
job differ by leave no doubt, and "cannot tell" is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from tracelens.comparison.differences import (
    config_changes,
    findings,
    notes,
    run_changes,
    setup_changes,
)
from tracelens.comparison.prediction import against
from tracelens.comparison.steps import judge, metrics, step_change, unprofiled_change
from tracelens.comparison.words import verdict
from tracelens.errors import UsageError

#: Format of what `compare` returns, as `--json` prints it.
FORMAT = 1

Report: TypeAlias = Mapping[str, Any]


def compare(before: Report, after: Report, predicted: Report | None = None) -> dict[str, Any]:
    """Compare two reports.

    Parameters
    ----------
    before, after : mapping
        Reports in ``format`` 1, as `Analysis.to_json` returns them.
    predicted : mapping, optional
        What ``tracelens whatif --json`` or ``tune --json`` said of the change.

    Returns
    -------
    dict
        What ``tracelens compare --json`` prints; docs/compare.md has its keys.

    Raises
    ------
    UsageError
        If one of them is no report in this format, or has no steps.
    """
    for name, report in (("BEFORE", before), ("AFTER", after)):
        if report.get("format") != FORMAT or not report.get("steps"):
            raise UsageError(
                f"{name} is not a report with steps in format {FORMAT}",
                hint="give a run, a run.db, or what `tracelens analyze --json` printed",
            )
    step, micro_step = step_change(before, after)
    unprofiled = unprofiled_change(before, after)
    told: dict[str, Any] = {
        "format": FORMAT,
        "before": before["summary"],
        "after": after["summary"],
        "runs": {"before": before["run"], "after": after["run"]},
        "run_changes": run_changes(before, after),
        "setup_changes": setup_changes(before, after),
        "config_changes": config_changes(before, after),
        "step_ms": step,
        "micro_step_ms": micro_step,
        "unprofiled_step_ms": unprofiled,
        "outcome": judge(before, after, micro_step or step),
        "deltas": metrics(before, after),
        **findings(before, after),
        "notes": notes(before, after),
    }
    told["prediction"] = None if predicted is None else against(predicted, step, unprofiled)
    told["sentences"] = verdict(told)
    told["verdict"] = " ".join(told["sentences"])
    return told
