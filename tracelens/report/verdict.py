"""The verdict: what ran, what slows it most, where the time goes and what is exposed, in sentences.

Every claim is read off the tables of the `Analysis`. No cause is named that no detector found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracelens.analysis import counted_steps
from tracelens.infer.result import STRUCTURAL
from tracelens.report.causes import first_cause, idle_sentence
from tracelens.report.hidden import overlap_sentence
from tracelens.report.tables import PARTS, rank_rows, where
from tracelens.report.text import clean, duration, listing, number, percent, plural, ranges
from tracelens.units import NS_PER_MS

if TYPE_CHECKING:
    from tracelens.analysis import Analysis
    from tracelens.infer.result import Inference

_FRAMEWORKS = {
    "ddp": "PyTorch DDP",
    "deepspeed": "DeepSpeed",
    "fsdp1": "PyTorch FSDP (version 1)",
    "fsdp2": "PyTorch FSDP (version 2, fully_shard)",
    "megatron": "Megatron",
    "pytorch": "Plain PyTorch",
    "zero_redundancy_optimizer": "PyTorch DDP with ZeroRedundancyOptimizer",
}

_PARALLEL = {
    "data_parallel_size": "data",
    "tensor_parallel_size": "tensor",
    "pipeline_parallel_size": "pipeline",
    "expert_parallel_size": "expert",
    "sequence_parallel_size": "sequence",
}


def verdict(analysis: Analysis) -> tuple[str, ...]:
    """The verdict in three to seven sentences, the first of which says what ran."""
    if not any(r.kernels.any() for r in analysis.ranks):
        return (
            _what_ran(analysis),
            "The recording holds no GPU work, so there is nothing to break down.",
            "Record with ProfilerActivity.CUDA to see kernels and communication.",
        )
    sentences = (
        _what_ran(analysis),
        first_cause(analysis),
        _undecided(analysis),
        _where_time_goes(analysis),
        _exposed(analysis),
        overlap_sentence(analysis),
        idle_sentence(analysis),
        _recording(analysis),
        _efficiency(analysis),
    )
    return tuple(s for s in sentences if s)


def _recording(analysis: Analysis) -> str:
    """What recording cost, where the manifest has steps timed without a profiler."""
    manifest = analysis.manifest
    plain = manifest.unprofiled_step_ms if manifest else None
    if plain is None:
        return ""
    without, wall = plain * NS_PER_MS, analysis.summary.wall
    more = f"{percent(wall - without, without)} more"
    less = f"{percent(without - wall, without)} less"
    return (
        f"Without a profiler a step took {duration(without)} (timed by the collector before it "
        f"recorded); a recorded one takes {more if wall >= without else less}."
    )


def _efficiency(analysis: Analysis) -> str:
    """Achieved TFLOP/s and MFU, where the FLOPs were counted."""
    e = analysis.efficiency
    if e is None:
        return ""
    head = f"Each GPU computes {number(e.tflops)} TFLOP/s of the model's work"
    if e.mfu is None or e.hfu is None:
        return f"{head}; {e.notes[-1]}." if e.notes else f"{head}."
    text = f"{head}: MFU {percent(e.mfu, 1)} of {number(e.peak_tflops or 0)} (dense {e.precision})"
    return f"{text}, HFU {percent(e.hfu, 1)}."


# ---------------------------------------------------------------------------------- what ran
def _what_ran(analysis: Analysis) -> str:
    run, setup = analysis.run, analysis.setup
    head = _framework(analysis)
    about = []
    if (precision := _sure(setup.get("precision"))) is not None:
        about.append(str(precision))
    if isinstance(steps := _sure(setup.get("gradient_accumulation_steps")), int) and steps > 1:
        about.append(f"{steps} micro-steps a step")
    for key, what in (("offload_optimizer", "optimizer"), ("offload_param", "parameters")):
        if (place := _sure(setup.get(key))) not in (None, "none"):
            about.append(f"{what} offloaded to {clean(str(place))}")
    if _sure(setup.get("activation_checkpointing")) is True:
        about.append("activation checkpointing")
    about += _parallelism(analysis)
    size = run.world_size or len(run.ranks)
    at = f"{plural(size, 'rank')}{f' ({clean(run.device)})' if run.device else ''}"
    return f"{', '.join([head, *about])}, on {at}."


def _framework(analysis: Analysis) -> str:
    setup = analysis.setup
    found = setup.get("framework")
    name = str(found.value) if found and found.value is not None else "unknown"
    head = _FRAMEWORKS.get(name, "A framework that this trace does not show")
    if found and name in _FRAMEWORKS and found.confidence < STRUCTURAL:
        head = f"Probably {head if name != 'pytorch' else 'plain PyTorch'}"
    if _sure(setup.get("mode")) == "inference":
        head += " inference"
    if name != "deepspeed":
        return head
    text = _stage(setup.get("zero_stage"))
    overlap = setup.get("overlap_comm")
    if overlap and (value := _sure(overlap)) is not None:
        text += f" with overlap_comm {'on' if value else 'off'}"
    return f"{head}{text}"


def _stage(stage: Inference | None) -> str:
    if stage is None:
        return ""
    if stage.value is not None:
        doubt = "" if stage.confidence >= STRUCTURAL else " (likely)"
        return f" ZeRO-{stage.value}{doubt}"
    options = [f"ZeRO-{c}" for c in stage.candidates if c is not None]
    return f" {listing(options, 'or')}" if options else " (ZeRO stage unknown)"


def _undecided(analysis: Analysis) -> str:
    """What would tell the possible ZeRO stages apart; empty where the stage is known."""
    stage = analysis.setup.get("zero_stage")
    if stage is None or stage.value is not None or len(stage.candidates) < 2:
        return ""
    if analysis.setup.value("framework") != "deepspeed":
        return ""
    decides = ""
    if stage.evidence:
        last = clean(stage.evidence[-1]).removeprefix("would decide: ").rstrip(".")
        decides = f"; what would decide: {last}"
    return f"This trace cannot tell which ZeRO stage{decides}."


def _sure(found: Inference | None) -> object:
    """The value, if the structure of the trace shows it."""
    return found.value if found and found.confidence >= STRUCTURAL else None


def _parallelism(analysis: Analysis) -> list[str]:
    sizes = {word: _sure(analysis.setup.get(key)) for key, word in _PARALLEL.items()}
    ways = [f"{n}-way {w}" for w, n in sizes.items() if isinstance(n, int) and n > 1]
    return [f"{listing(ways)} parallel"] if ways else []


# --------------------------------------------------------------------------- where time goes
def _where_time_goes(analysis: Analysis) -> str:
    s = analysis.summary
    parts = {label: getattr(s, name) for name, label in _WORDS.items()}
    shares = [
        f"{duration(ns)} ({percent(ns, s.wall)}) {label}"
        for label, ns in sorted(parts.items(), key=lambda p: -p[1])
        if ns > 0
    ]
    return f"{_step_words(analysis)} takes {duration(s.wall)}: {listing(shares)}."


_WORDS = {**PARTS, "exposed_comm": "exposed communication", "idle": "idle"}


def _step_words(analysis: Analysis) -> str:
    n, ranks = analysis.summary.n_steps, len(analysis.ranks)
    if all(r.step_source == "whole trace" for r in analysis.ranks):
        return "The recording shows no step boundaries; taken as one step it"
    on = f" on {plural(ranks, 'rank')}" if ranks > 1 else f" on rank {analysis.ranks[0].rank}"
    each = {int(use.sum()) for use in counted_steps(analysis.ranks)}
    over = f"{n}{on}" if ranks == 1 or len(each) > 1 else f"{plural(each.pop(), 'step')}{on}"
    if not any(r.steps.complete.any() for r in analysis.ranks):
        return f"No step was recorded whole; a cut one (mean of {over})"
    return f"A step (mean of {over})" if n > 1 else f"The one whole step{on}"


# ------------------------------------------------------------------------------- what is exposed
def hidden_communication(analysis: Analysis) -> str:
    """What to say where graphs may hide all communication; empty where nothing is hidden."""
    hidden = sum(r.facts.hidden for r in analysis.ranks)
    if not hidden:
        return ""
    return (
        f"Whether ranks communicate is hidden in {plural(hidden, 'CUDA graph')} recorded as a "
        "whole; record with --cuda-graph-trace=node."
    )


def _exposed(analysis: Analysis) -> str:
    s = analysis.summary
    if not s.comm:
        return hidden_communication(analysis) or "No communication runs on the GPU in these steps."
    if not s.exposed_comm:
        return "No communication is exposed: all of it runs beside compute."
    rows = sorted(
        (c for c in analysis.collective_rows if c.exposed_ns > 0), key=lambda c: -c.exposed_ns
    )
    merged: dict[str, float] = {}
    for c in rows:
        merged[where(c)] = merged.get(where(c), 0.0) + c.exposed_ns
    top = sorted(merged.items(), key=lambda p: -p[1])
    named = [f"{duration(ns)} {name}" for name, ns in top[:3]]
    if len(top) > 3:
        named.append(f"{duration(sum(ns for _, ns in top[3:]))} other")
    cost = f"{duration(s.exposed_comm)} a step ({percent(s.exposed_comm, s.wall)})"
    at_once = duration(sum(merged.values())) != duration(s.exposed_comm)
    parts = f"{listing(named)}{' (some at the same time)' if at_once else ''}"
    cost += _spread(analysis)
    return f"Communication runs with no compute beside it for {cost}: {parts}{_waiting(analysis)}."


def _waiting(analysis: Analysis) -> str:
    """What part of the exposed communication is waiting, or why that is not known."""
    s = analysis.summary
    if s.exposed_wait is not None and s.exposed_transfer is not None:
        wait, transfer = duration(s.exposed_wait), duration(s.exposed_transfer)
        return f"; {wait} of it is waiting for the last rank to arrive, {transfer} is transfer"
    missing = _missing_ranks(analysis)
    cannot = f" without {missing}" if missing else " in this recording"
    if analysis.wait_bounds is not None:
        low, high = (duration(w) for w in analysis.wait_bounds)
        return f"; {low} to {high} of it is waiting for other ranks (not to be told closer{cannot})"
    return f"; waiting for other ranks is part of that and cannot be told from transfer{cannot}"


def _spread(analysis: Analysis) -> str:
    """Between which ranks the exposed communication lies; empty where they do not differ."""
    rows = sorted(rank_rows(analysis), key=lambda r: r.exposed_comm)
    low, high = (duration(r.exposed_comm) for r in (rows[0], rows[-1]))
    if low == high:
        return ""
    return f", from {low} on rank {rows[0].rank} to {high} on rank {rows[-1].rank}"


def _missing_ranks(analysis: Analysis) -> str:
    size, have = analysis.run.world_size, set(analysis.run.ranks)
    absent = sorted(set(range(size or 0)) - have)
    return f"rank{'s' if len(absent) > 1 else ''} {ranges(absent)}" if absent else ""
