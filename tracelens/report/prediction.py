"""Predictions on a terminal: one change, or the settings that were tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracelens.report.grid import Column, grid
from tracelens.report.printing import print_report, put, section, to_text
from tracelens.report.text import clean

if TYPE_CHECKING:
    from tracelens.replay.predict import Baseline, Prediction
    from tracelens.replay.tune import Tuning

_GIB = 2**30
#: Settings shown of those that were tried.
_SHOWN = 8


def render(found: Prediction, console: Console) -> None:
    """Print a prediction."""
    print_report(lambda c: _draw(found, c), console)


def render_text(found: Prediction, width: int = 100) -> str:
    """A prediction as plain text of at most `width` columns."""
    return to_text(lambda c: _draw(found, c), width)


def render_tuning(found: Tuning, console: Console) -> None:
    """Print what was tried."""
    print_report(lambda c: _draw_tuning(found, c), console)


def verdict(found: Prediction) -> str:
    """What a change gives, in a sentence."""
    now, then = found.baseline.step_ms, found.step_ms
    if found.ratio == 1.0:
        return f"{found.change}: no effect on the step."
    span = f"{found.low * now:.1f} to {found.high * now:.1f} ms"
    if found.within_noise:
        return (
            f"{found.change}: within noise. {now:.1f} ms a step now, {then:.1f} ms predicted "
            f"({span}): two runs of one configuration differ as much."
        )
    change = 100 * (found.ratio - 1)
    return (
        f"{found.change}: {now:.1f} ms a step now, {then:.1f} ms predicted ({change:+.1f} %), "
        f"{span}. Confidence: {found.confidence}."
    )


def _draw(found: Prediction, console: Console) -> None:
    put(console, Text(verdict(found), style="bold"))
    for line in (*found.notes, *_trust(found.baseline)):
        put(console, Text(f"- {clean(line)}"))
    if found.memory_bytes:
        change = found.memory_bytes / _GIB
        put(console, Text(f"- peak of a GPU's memory: {change:+.2f} GiB at most"))
    timed = found.baseline.unprofiled_step_ms
    if timed is not None:
        text = f"- without a profiler: {timed:.1f} ms a step now, {found.ratio * timed:.1f} ms then"
        put(console, Text(text))


def _trust(baseline: Baseline) -> tuple[str, ...]:
    error = baseline.replay_error_pct
    return (
        f"the replay gives {baseline.replayed_step_ms:.1f} ms for the recorded "
        f"{baseline.step_ms:.1f} ms ({error:+.2f} %)",
    )


def _draw_tuning(found: Tuning, console: Console) -> None:
    best = found.best
    if best is not None:
        put(console, Text(verdict(best), style="bold"))
        for line in best.notes:
            put(console, Text(f"- {clean(line)}"))
    else:
        put(console, Text(f"Nothing is worth a change: {found.not_worth_it}.", style="bold"))
    for line in _trust(found.baseline):
        put(console, Text(f"- {line}"))
    for key, why in found.no_effect:
        text = why if why.startswith(key) else f"{key}: {why}"
        put(console, Text(f"- {clean(text)}"))
    section(console, "Settings tried", _table(found, console) if found.candidates else None)
    for key, why in found.refused:
        put(console, Text(f"not predicted: {key}: {clean(why)}"))


def _table(found: Tuning, console: Console) -> Table:
    shown = found.candidates[:_SHOWN]
    columns = [
        Column("setting", [Text(str(p.change)) for p in shown], "left"),
        Column("ms a step", [Text(f"{p.step_ms:.1f}") for p in shown]),
        Column("change", [Text(f"{100 * (p.ratio - 1):+.1f} %") for p in shown]),
        Column("confidence", [Text(p.confidence) for p in shown], "left", drop=1),
    ]
    return grid(columns, console.width, console.options.ascii_only)
