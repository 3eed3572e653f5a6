"""The configuration that a job was given, against what its trace shows.

What contradicts it, and what of it has no effect. Such findings cost nothing by themselves: where
time is lost, another detector charges it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tracelens.detectors.context import Charge, Context, charge
from tracelens.detectors.reduction import reductions_per_pass
from tracelens.infer.declared import declared, value_words
from tracelens.infer.result import STRUCTURAL
from tracelens.thresholds import FEW_REDUCTIONS, OVERLAP_NOTHING
from tracelens.units import format_count

if TYPE_CHECKING:
    from tracelens.ingest.ds_config import DsConfig

#: DeepSpeed's defaults (runtime/zero/config.py, 0.19.8); an effective configuration names them.
_ALLGATHER_DEFAULT = _BUCKET_DEFAULT = 500_000_000

_ZERO = "zero_optimization."


def against_config(context: Context) -> Iterator[Charge]:
    """Does the trace show what the ds_config says, and does what it says have an effect?"""
    config = context.ds_config
    if config is None:
        return
    framework = context.setup["framework"]
    if framework.value not in (None, "deepspeed") and framework.confidence >= STRUCTURAL:
        yield _finding(
            context,
            "config_contradiction",
            f"There is a ds_config, and the trace shows {framework.value} without DeepSpeed",
            (f"ds_config: {config.source}", *framework.evidence),
        )
        return
    for said in declared(config, context.setup):
        if said.shown:
            yield _finding(
                context,
                "config_contradiction",
                f"ds_config says {said.name} is {value_words(said.value)}, the trace shows "
                f"{said.shown}",
                (f"ds_config: {config.source}", *said.seen.evidence),
            )
    yield from _without_effect(context, config)


def _finding(context: Context, id: str, title: str, evidence: tuple[str, ...]) -> Charge:
    remedy = (
        "is this the configuration that the job ran with? Scripts, launchers and Hugging Face's "
        "arguments override what a file says"
        if id == "config_contradiction"
        else "leave it out, or change what keeps it from working"
    )
    return charge(
        context,
        id,
        title,
        np.zeros(len(context.views)),
        ranks=tuple(v.rank for v in context.views),
        evidence=evidence,
        remedy=remedy,
    )


# ----------------------------------------------------------------------------- without effect
def _without_effect(context: Context, config: DsConfig) -> Iterator[Charge]:
    stage = config.get(_ZERO + "stage") or 0
    if stage and config.get(_ZERO + "overlap_comm") is True:
        yield from _nothing_overlapped(context, config)
    bucket = config.get(_ZERO + "allgather_bucket_size")
    if stage in (1, 2) and isinstance(bucket, int) and bucket != _ALLGATHER_DEFAULT:
        yield from _one_gather(context, config, bucket)


def _nothing_overlapped(context: Context, config: DsConfig) -> Iterator[Charge]:
    """overlap_comm is on, and no reduction runs beside compute."""
    total = hidden = elements = 0
    for view, roles in zip(context.views, context.roles(), strict=True):
        c, on = view.comm, roles.reduction
        total += int(c.dur_ns[on].sum())
        hidden += int((c.dur_ns[on] - c.exposed_ns[on]).sum())
        elements += int(c.in_nelems[on].clip(0).sum())
    if not total or hidden > OVERLAP_NOTHING * total:
        return
    count = reductions_per_pass(context)
    number = sum(int(r.reduction.sum()) for r in context.roles())
    size = int(elements / number * count) if number else 0  # of one pass, 0 where not recorded
    yield _finding(
        context,
        "config_without_effect",
        f"overlap_comm is true and {100 * hidden / total:.0f} % of the reduction is overlapped"
        f"{_why_nothing(context, config, count, size)}",
        (
            f"ds_config: {config.source}",
            f"reductions in a backward pass: {count:g}"
            + (f", {format_count(size)} elements in all" if size else ""),
            f"{100 * hidden / total:.2f} % of their time has compute beside it",
        ),
    )


def _why_nothing(context: Context, config: DsConfig, count: float, size: int) -> str:
    """The reason, where the configuration and the reductions give one."""
    if config.get(_ZERO + "contiguous_gradients") is False:
        return ": without contiguous_gradients the device is synchronised before every bucket"
    seen = context.setup.value("reduce_bucket_size")
    bucket = config.get(_ZERO + "reduce_bucket_size") or seen or _BUCKET_DEFAULT
    if not size or not isinstance(bucket, int) or count > FEW_REDUCTIONS:
        return ""
    if bucket >= size:
        return f", because a bucket of {format_count(bucket)} elements holds the whole model"
    return f", because a bucket of {format_count(bucket)} elements leaves {count:g} reductions"


def _one_gather(context: Context, config: DsConfig, bucket: int) -> Iterator[Charge]:
    """DeepSpeed ignores it since 0.12.4 (runtime/utils.py): one all-gather a parameter group."""
    largest = 0
    for view, roles in zip(context.views, context.roles(), strict=True):
        sizes = view.comm.out_nelems[roles.gather]
        largest = max(largest, int(sizes.max()) if len(sizes) else 0)
    if largest <= bucket:
        return
    yield _finding(
        context,
        "allgather_bucket_no_effect",
        f"allgather_bucket_size is {format_count(bucket)} and has no effect",
        (
            f"ds_config: {config.source}",
            f"after the optimizer one all-gather moves {format_count(largest)} elements: DeepSpeed "
            "gathers each parameter group at once since 0.12.4",
        ),
    )
