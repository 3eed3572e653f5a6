"""A change applied to a model: each key in the order in which they depend on each other."""

from __future__ import annotations

from tracelens.errors import CannotPredict
from tracelens.replay.change import Change
from tracelens.replay.configuration import Configuration
from tracelens.replay.model import Model, require_compute
from tracelens.replay.transforms.accumulation import accumulate
from tracelens.replay.transforms.link import with_ranks, with_speed
from tracelens.replay.transforms.reduction import Setting, reduce_with, reducing_rows
from tracelens.replay.transforms.stage3 import Hooks
from tracelens.replay.zero3 import change_stage3, find_hooks, rebuilds


def apply(
    model: Model,
    now: Configuration,
    change: Change,
    notes: list[str],
    hooks: Hooks | None = None,
) -> Model:
    """The model with a change; the same model where the change moves nothing.

    Parameters
    ----------
    model : Model
    now : Configuration
        What was recorded.
    change : Change
    notes : list of str
        Sentences about the change are appended.
    hooks : Hooks, optional
        What ZeRO-3's hooks do in `model`, where it was read before.

    Raises
    ------
    CannotPredict
        If the recording does not show what it would take.
    """
    for check in (_stage, _dead_keys):
        check(now, change, notes)
    model = _zero3(model, now, change, notes, hooks)
    for step in (_reduction, _accumulation, _machine):
        model = step(model, now, change, notes)
    return model


def _stage(now: Configuration, change: Change, notes: list[str]) -> None:
    then = change.get("stage")
    if then is None or then == now.stage:
        return
    if now.stage in (1, 2) and then in (1, 2):
        if now.micro_steps == 1 and (change.get("gradient_accumulation_steps") or 1) == 1:
            notes.append("stages 1 and 2 reduce the same buckets where nothing is accumulated")
            return
        if now.micro_steps == 1:
            return  # the accumulation that is asked for tells them apart
    here = f"ZeRO-{' or '.join(map(str, now.stages))}" if now.stages else "no known ZeRO stage"
    raise CannotPredict(
        f"this recording is of {here}: it does not show {_RUNS.get(int(then), 'that stage')}",
        hint=f"record a few steps with stage {then} and `tracelens compare`; `tracelens memory` "
        "says what each stage takes",
    )


_ONE_OR_TWO = "gathering all parameters behind the optimizer's step on a part of them"
#: What a stage runs that those that it is not predicted from do not.
_RUNS = {
    0: "the optimizer's step on all parameters on every rank",
    1: _ONE_OR_TWO,
    2: _ONE_OR_TWO,
    3: "gathering parameters in the forward and the backward pass",
}


def _dead_keys(now: Configuration, change: Change, notes: list[str]) -> None:
    if change.get("allgather_bucket_size") is not None:
        if now.gathers_flat is False:
            raise CannotPredict(
                "parameters are gathered in pieces of allgather_bucket_size here, by a DeepSpeed "
                "or torch from before 2022",
                hint="record a run with the other size and compare",
            )
        notes.append(DEAD_ALLGATHER)


DEAD_ALLGATHER = (
    "allgather_bucket_size has no effect: with torch 1.13 or later ZeRO-1 and 2 gather each group "
    "of parameters at once (runtime/utils.py, all_gather_dp_groups), and ZeRO-3 does not read it"
)


def _zero3(
    model: Model, now: Configuration, change: Change, notes: list[str], hooks: Hooks | None
) -> Model:
    if rebuilds(now, change):
        changed = change_stage3(hooks or find_hooks(model, now), change)
        if changed is model:
            notes.append("the same is gathered and reduced with these values")
        return changed
    for key in change.values:
        if key.startswith("stage3_") and now.stage is not None:
            notes.append(f"{key} has no effect: ZeRO-{now.stage} does not read it")
        elif key.startswith("stage3_"):
            raise CannotPredict(f"{key}: ZeRO-3 was not recognised", hint="record with host ops")
    return model


def _reduction(model: Model, now: Configuration, change: Change, notes: list[str]) -> Model:
    bucket, overlap = change.get("reduce_bucket_size"), change.get("overlap_comm")
    if (bucket is None and overlap is None) or now.stage == 3:
        return model
    if now.stage not in (1, 2):
        raise CannotPredict(
            f"reduce_bucket_size and overlap_comm are predicted for ZeRO, not for "
            f"{'stage ' + str(now.stage) if now.stage is not None else 'this setup'}",
            hint="record a few steps with the other value and compare",
        )
    recorded = now.reduction(model)
    then = Setting(
        bucket=int(bucket) if bucket is not None else recorded.bucket,
        overlap=bool(overlap) if overlap is not None else recorded.overlap,
    )
    if then == recorded:
        notes.append("the recording ran with these values")
        return model
    require_compute(model)
    return reduce_with(model, recorded, then)


def _accumulation(model: Model, now: Configuration, change: Change, notes: list[str]) -> Model:
    then = change.get("gradient_accumulation_steps")
    if then is None or then == now.micro_steps:
        return model
    if now.micro_steps is None:
        raise CannotPredict("micro-steps were not told apart", hint="record host ops too")
    stage = change.get("stage") if change.get("stage") is not None else now.stage
    if len(now.stages) > 1 and change.get("stage") is None:
        raise CannotPredict(
            "stages 1 and 2 leave this trace, and accumulate differently",
            hint="say which one: --set stage=2, or --ds-config",
        )
    silent = None
    if stage is None or stage < 2:
        if now.stage not in (1, 2) and now.micro_steps == 1:
            raise CannotPredict(
                "no micro-step without a reduction was recorded",
                hint="record gradient_accumulation_steps of 2",
            )
        setting = _wanted(now, model, change)
        silent = reducing_rows(model, setting) if now.micro_steps == 1 else None
    notes.append("the step is the optimizer's: it trains on another number of samples")
    return accumulate(model, now.micro_steps, int(then), silent)


def _wanted(now: Configuration, model: Model, change: Change) -> Setting:
    """How gradients are reduced once the change is applied."""
    recorded = now.reduction(model)
    bucket, overlap = change.get("reduce_bucket_size"), change.get("overlap_comm")
    return Setting(
        int(bucket) if bucket is not None else recorded.bucket,
        bool(overlap) if overlap is not None else recorded.overlap,
    )


def _machine(model: Model, now: Configuration, change: Change, notes: list[str]) -> Model:
    speed, ranks = change.get("interconnect_speed"), change.get("world_size")
    if ranks is not None:
        if now.world_size is None or now.data_parallel_size != now.world_size:
            raise CannotPredict(
                "only a run with data parallelism alone can be put on other ranks",
                hint="record a few steps at that size and compare",
            )
        notes.append("links of the same speed are assumed between all ranks: one node, most likely")
        model = with_ranks(model, now.world_size, int(ranks))
    if speed is not None:
        model = with_speed(model, float(speed))
    return model
