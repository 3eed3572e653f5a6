"""What the overview begins with, in words and numbers: the largest cause, where a step goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracelens.report.palette import PARTS
from tracelens.report.text import clean, duration, percent, plural
from tracelens.units import NS_PER_MS

from .source import Document

#: How the sentence of the report's verdict begins that names the largest cause.
_LARGEST = "Largest cause"
#: Where there is none.
NO_CAUSE = "No cause found that is sure to cost anything."
_PARTS = {
    "compute": "compute",
    "exposed_comm": "exposed communication",
    "exposed_copy": "exposed copies",
    "idle": "idle",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """The largest cause in the words of the report.

    `label` says how sure it is, `title` names it with its cost, `more` is what else is to be said;
    `finding` is its row of the report. Without a cause there is a title alone.
    """

    label: str
    title: str
    more: str
    finding: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Stat:
    """A number of the run: what it is, its text, a note, a colour (empty for the text's own)."""

    label: str
    value: str
    note: str
    color: str


def paid(document: Document) -> list[dict[str, Any]]:
    """Findings that cost something, most first."""
    found = [f for f in document["findings"] if f["severity"] != "info"]
    return sorted(found, key=lambda f: -f["cost_ms_per_step"])


def judged_ms(document: Document) -> float:
    """The mean step that costs are part of: without the profiler's doing, as far as known."""
    said = document.get("manifest") or {}
    return float(document["summary"]["wall_ms"] - (said.get("profiler_ms") or 0.0))


def headline(document: Document) -> Headline:
    """The line at the top of the overview."""
    found = paid(document)
    if not found:
        summary, said = document["summary"], document["verdict"]
        nothing_ran = summary["idle_ms"] == summary["wall_ms"] and len(said) > 1
        return Headline("", clean(said[1]) if nothing_ran else NO_CAUSE, "", None)
    told = [s for s in document["verdict"] if s.startswith(_LARGEST)]
    if told:
        label, _, sentence = clean(told[0]).partition(": ")
    else:  # not worth a sentence of the report
        share = percent(found[0]["cost_ms_per_step"], judged_ms(document))
        label = "No cause is large; the largest"
        sentence = f"{clean(found[0]['title'])} ({share} of the step)."
    title, stop, more = sentence.partition(". ")
    return Headline(label, title + stop.rstrip(), more, found[0])


def ran(document: Document) -> str:
    """What was running, in a sentence."""
    return clean(document["verdict"][0])


def stats(document: Document) -> list[Stat]:
    """How long a step takes, and its four parts."""
    s = document["summary"]
    ranks = len(document["run"]["ranks"])
    note = f"mean of {plural(s['n_steps'] // ranks, 'step')} on {plural(ranks, 'rank')}"
    found = [Stat("a step takes", duration(s["wall_ms"] * NS_PER_MS), note, "")]
    for name, label in _PARTS.items():
        value = s[f"{name}_ms"]
        share = f"{percent(value, s['wall_ms'])} of the step"
        found.append(Stat(label, duration(value * NS_PER_MS), share, PARTS[name]))
    return found
