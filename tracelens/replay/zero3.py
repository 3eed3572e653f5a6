"""ZeRO-3 settings of a recording, read from it, and changes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tracelens.errors import CannotPredict
from tracelens.replay.change import Change
from tracelens.replay.configuration import Configuration
from tracelens.replay.coordinator import (
    MAX_LIVE,
    MAX_REUSE,
    PERSISTENCE,
    PREFETCH,
    FetchSetting,
)
from tracelens.replay.gathering import find_turns, gathers
from tracelens.replay.model import Model, require_compute
from tracelens.replay.transforms.bucket_plan import Setting
from tracelens.replay.transforms.persistence import persist
from tracelens.replay.transforms.scatter import padded_buckets
from tracelens.replay.transforms.stage3 import Hooks, Stage3, read_hooks, rewritten

#: Keys that change what ZeRO-3's hooks do.
ZERO3_KEYS = frozenset(
    {
        "stage3_prefetch_bucket_size",
        "stage3_max_live_parameters",
        "stage3_param_persistence_threshold",
        "reduce_bucket_size",
        "overlap_comm",
    }
)

#: Sizes that a bucket may have where no configuration is given: those that people write.
SIZES = (*(m * 10**e for e in (6, 7, 8) for m in (1, 2, 3, 5)), 10**9)


def rebuilds(now: Configuration, change: Change) -> bool:
    """Whether a change takes what ZeRO-3's hooks do to be written anew."""
    return now.stage == 3 and not ZERO3_KEYS.isdisjoint(change.values)


def find_hooks(model: Model, now: Configuration) -> Hooks:
    """What ZeRO-3's hooks do in a recording, with the settings that explain it.

    Raises
    ------
    CannotPredict
        As `find_stage3` and `read_hooks`.
    """
    return read_hooks(model, find_stage3(model, now))


def as_recorded(hooks: Hooks) -> Model:
    """The model with all that ZeRO-3's hooks do written anew, as it was: what changes compare to.

    Raises
    ------
    CannotPredict
        As `rewritten`.
    """
    return rewritten(hooks, hooks.now)


def change_stage3(hooks: Hooks, change: Change) -> Model:
    """The model with a change of ZeRO-3's keys; the same model where the change moves nothing.

    Raises
    ------
    CannotPredict
        As `rewritten` and `persist`.
    """
    then = _changed(hooks.now, change)
    if _alike(hooks, then):
        return hooks.model
    model = rewritten(hooks, then)
    limits = hooks.now.fetch.param_persistence_threshold, then.fetch.param_persistence_threshold
    sizes = hooks.recorded[0].turns[0].nelems
    if any(min(limits) < n <= max(limits) for n in sizes):
        model = persist(model, sizes, limits, hooks.world)
    return model


def staying_nelems(hooks: Hooks, change: Change) -> float:
    """Elements of other ranks' parts that a change makes stay on each rank; 0 where fewer stay."""
    now, then = (
        s.fetch.param_persistence_threshold for s in (hooks.now, _changed(hooks.now, change))
    )
    more = sum(n for n in hooks.recorded[0].turns[0].nelems if now < n <= then)
    return more * (1 - 1 / hooks.world)


def _alike(hooks: Hooks, then: Stage3) -> bool:
    """Whether another setting gathers and reduces the same."""
    now, m, r = hooks.now, hooks.model.ranks[0], hooks.recorded[0]
    if now.reduce.overlap != then.reduce.overlap:
        return False
    one, other = (padded_buckets(m, s.reduce.bucket, hooks.world) for s in (now, then))
    runs = zip(r.turns, r.fetched, strict=True)
    return one == other and all(t.run(then.fetch) == e for t, e in runs)


def _changed(now: Stage3, change: Change) -> Stage3:
    fetch = {
        name: int(value)
        for name in ("prefetch_bucket_size", "max_live_parameters", "param_persistence_threshold")
        if (value := change.get(f"stage3_{name}")) is not None
    }
    bucket, overlap = change.get("reduce_bucket_size"), change.get("overlap_comm")
    return Stage3(
        replace(now.fetch, **fetch),
        Setting(
            now.reduce.bucket if bucket is None else int(bucket),
            now.reduce.overlap if overlap is None else bool(overlap),
        ),
    )


def find_stage3(model: Model, now: Configuration) -> Stage3:
    """The settings that explain what was gathered and reduced: as configured, else those tried.

    Raises
    ------
    CannotPredict
        If none does.
    """
    if now.overlap is None:
        raise CannotPredict(
            "whether reductions overlap the backward pass is open",
            hint="give the job's configuration: --ds-config",
        )
    require_compute(model)
    m = model.ranks[0]
    if m.host.fetches is None:
        raise CannotPredict(
            "no module hook of ZeRO-3 was recorded",
            hint="record CPU activities with torch.profiler",
        )
    world = now.world_size or len(model.ranks)
    turns = find_turns(m.host.fetches, m.host.gradients)
    fetched = [m.nelems[int(u)] for u in m.fetches.tolist()]
    reduced = [m.nelems[int(u)] for u in m.reductions.tolist()]
    for fetch in _fetch_settings(model):
        made = [x.nelems for t in turns for x in gathers(t, t.run(fetch), world)]
        if made == fetched:
            break
    else:
        raise CannotPredict(
            "the parameters gathered in this recording are not what DeepSpeed 0.19.8 gathers with "
            "any usual setting",
            hint="give the job's configuration with --ds-config; frozen or tied parameters, "
            "activation checkpointing and leaf modules gather in ways of their own",
        )
    given = model.analysis.ds_config
    told = given.get("zero_optimization.reduce_bucket_size") if given is not None else None
    first = (int(told),) if isinstance(told, (int, float)) else ()
    for bucket in dict.fromkeys((*first, *SIZES, *now.buckets)):
        if padded_buckets(m, bucket, world) == reduced:
            return Stage3(fetch, Setting(bucket, now.overlap))
    raise CannotPredict(
        "the gradients reduced in this recording are not what any usual reduce_bucket_size makes",
        hint="give the job's configuration: --ds-config",
    )


def _fetch_settings(model: Model) -> Iterator[FetchSetting]:
    """Settings that the recording may have run with, most likely first."""
    given = model.analysis.ds_config

    def known(name: str, default: int) -> int:
        value = given.get(f"zero_optimization.stage3_{name}") if given is not None else None
        return int(value) if isinstance(value, (int, float)) else default

    usual = FetchSetting(
        known("prefetch_bucket_size", PREFETCH),
        known("max_live_parameters", MAX_LIVE),
        known("max_reuse_distance", MAX_REUSE),
        known("param_persistence_threshold", PERSISTENCE),
    )
    for persistence in dict.fromkeys((usual.param_persistence_threshold, 0)):
        for prefetch in dict.fromkeys((usual.prefetch_bucket_size, 0, *SIZES)):
            yield replace(
                usual, prefetch_bucket_size=prefetch, param_persistence_threshold=persistence
            )
