"""Do the ranks that were read belong together: recorded at one time, with steps in common?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tracelens.analysis import RankAnalysis
from tracelens.ingest.run import compact
from tracelens.thresholds import CLOCKS_AGREE_NS, ONE_RECORDING_NS
from tracelens.trace import Note

#: Times before this (the year 2001) are no unix times: the file does not say when it was recorded.
_UNIX_TIMES_NS = 10**18
#: How many odd groups of ranks a note spells out.
_NAMED = 3


def of_one_recording(
    ranks: Sequence[RankAnalysis],
) -> tuple[tuple[RankAnalysis, ...], tuple[Note, ...]]:
    """The ranks that were recorded at one time, and notes on those that were not.

    Ranks of one job record the same steps at the same time, as far as their clocks agree. Where
    recordings lie hours apart the largest group is kept, of equal ones the newest.
    """
    spans = {r.rank: _when(r) for r in ranks}
    order = sorted((span, rank) for rank, span in spans.items() if span is not None)
    groups: list[list[int]] = []
    gaps: list[int] = []
    until = 0
    for (start, end), rank in order:
        gap = start - until
        if groups and gap <= ONE_RECORDING_NS:
            groups[-1].append(rank)
            gaps.append(gap)
        else:
            groups.append([rank])
        until = max(until, end)
    if len(groups) > 1:
        kept = max(reversed(groups), key=len)
        left = {rank for g in groups if g is not kept for rank in g}
        hours = (order[-1][0][0] - order[0][0][0]) / 3.6e12
        text = (
            f"Left out: {_ranks(left)}, recorded at another time than {_ranks(kept)} "
            f"({hours:.1f} hours apart), so another run."
        )
        return tuple(r for r in ranks if r.rank not in left), (Note("mixed_run", len(left), text),)
    widest = max(gaps, default=0)
    if widest > CLOCKS_AGREE_NS:
        text = (
            f"Between the recordings of some ranks lie {widest / 6e10:.0f} minutes: are they of "
            "one run, and are the clocks right?"
        )
        return tuple(ranks), (Note("apart_in_time", 1, text),)
    return tuple(ranks), ()


def step_notes(ranks: Sequence[RankAnalysis]) -> tuple[Note, ...]:
    """What to know where not all ranks recorded the same whole steps."""
    by_steps: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for r in ranks:
        numbers = r.steps.number[r.steps.counted]
        by_steps[tuple(sorted(set(numbers.tolist())))].append(r.rank)
    if len(by_steps) < 2:
        return ()
    usual = max(by_steps, key=lambda s: (len(by_steps[s]), s))
    odd = [(found, who) for found, who in by_steps.items() if found != usual]
    told = "".join(f"; {_ranks(who)} {_have(who)} {_steps(found)}" for found, who in odd[:_NAMED])
    more = f"; and {len(odd) - _NAMED} more groups of ranks" if len(odd) > _NAMED else ""
    common = set(usual).intersection(*by_steps)
    if common:
        code = "uneven_steps"
        end = f"What needs all ranks is known of {_steps(common)}."
    else:
        code = "no_common_step"
        end = "No step is on all ranks, so waiting and stragglers are not known."
    who = by_steps[usual]
    text = f"Whole steps differ: {_ranks(who)} {_have(who)} {_steps(usual)}{told}"
    return (Note(code, sum(len(who) for _, who in odd), f"{text}{more}. {end}"),)


def shared_notes(ranks: Sequence[RankAnalysis]) -> tuple[Note, ...]:
    """What is odd about single ranks' files: one note for all that say the same."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for r in ranks:
        for n in r.stats.notes:
            found[n.code, n.text].append((r.rank, n.count))
    return tuple(
        Note(code, sum(n for _, n in who), f"{_ranks([rank for rank, _ in who])}: {text}")
        for (code, text), who in found.items()
    )


def _when(r: RankAnalysis) -> tuple[int, int] | None:
    """Unix time of a rank's first and last step, ns; None if it is not known."""
    if not len(r.steps):
        return None
    start = r.info.clock_zero_ns + int(r.steps.start_ns.min())
    end = r.info.clock_zero_ns + int(r.steps.end_ns.max())
    return (start, end) if start > _UNIX_TIMES_NS else None


def _have(ranks: Sequence[int]) -> str:
    return "have" if len(ranks) > 1 else "has"


def _ranks(ranks: Sequence[int] | set[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {compact(ranks)}"


def _steps(numbers: Sequence[int] | set[int]) -> str:
    if not numbers:
        return "no step"
    return f"step{'s' if len(numbers) > 1 else ''} {compact(numbers)}"
