"""The memory of a run: its model and settings, its recorded peaks, and other settings' peaks.

What a recording with ``profile_memory`` holds beside the model states (activations, workspaces) is
kept, and the model states of another setting are put in their place. Without such a recording only
the states are known, and whether something fits can be denied, never promised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tracelens.analysis import Analysis, RankEvents
from tracelens.errors import CannotPredict
from tracelens.gradients import find_gradients
from tracelens.infer.result import Setup
from tracelens.replay.change import Change
from tracelens.replay.memory import (
    DEFAULT_MAX_LIVE,
    DEFAULT_MAX_REUSE,
    DEFAULT_PREFETCH,
    DEFAULT_REDUCE_BUCKET,
    DEFAULT_SUB_GROUP,
    OPTIMIZER_BYTES,
    Held,
    ModelSize,
    Widths,
    ZeroSetting,
    held,
    paper_states,
)
from tracelens.replay.peaks import Recorded, find_peaks
from tracelens.thresholds.replay import MEMORY_SPARE

_ZERO = "zero_optimization."
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Footprint:
    """A run's memory on one GPU.

    Attributes
    ----------
    model : ModelSize
    setting : ZeroSetting
        What the run ran with.
    recorded : Recorded or None
        Peaks of the allocator; None without ``profile_memory``.
    capacity_bytes : int or None
        Memory of the GPU.
    assumed : tuple of str
        What neither the trace nor a ds_config tells.
    """

    model: ModelSize
    setting: ZeroSetting
    recorded: Recorded | None
    capacity_bytes: int | None
    assumed: tuple[str, ...]

    def held(self, setting: ZeroSetting | None = None) -> Held:
        """Model states and buffers of a setting; by default the recorded one."""
        return held(self.model, setting or self.setting)

    def peak_bytes(self, setting: ZeroSetting) -> float | None:
        """Peak of allocated memory with this setting; None where no peaks were recorded."""
        if self.recorded is None:
            return None
        seen = self.recorded
        then, now = self.held(setting), self.held()
        return max(
            seen.forward_bytes + then.forward_bytes - now.forward_bytes,
            seen.reducing_bytes + then.reducing_bytes - now.reducing_bytes,
            seen.updating_bytes + then.updating_bytes - now.updating_bytes,
        )

    def growth_bytes(self, setting: ZeroSetting) -> float:
        """By how much the peak grows with this setting, at most; negative where it falls.

        Without recorded peaks no moment of a step is known to be the peak: it is the largest
        growth of any.
        """
        peak = self.peak_bytes(setting)
        if self.recorded is not None and peak is not None:
            return peak - self.recorded.peak_bytes
        then, now = self.held(setting), self.held()
        return max(
            then.forward_bytes - now.forward_bytes,
            then.reducing_bytes - now.reducing_bytes,
            then.updating_bytes - now.updating_bytes,
        )

    def fits(self, setting: ZeroSetting) -> bool | None:
        """Whether it fits on the GPU; None where that cannot be told.

        What the allocator reserved above its peak (fragments) is taken to stay.
        """
        if self.capacity_bytes is None:
            return None
        peak = self.peak_bytes(setting)
        if self.recorded is not None and peak is not None:
            spare = max(self.recorded.reserved_bytes - self.recorded.peak_bytes, 0)
            if peak + spare <= self.capacity_bytes * (1 - MEMORY_SPARE):
                return True
            return False if peak > self.capacity_bytes else None
        return False if self.held(setting).resident_bytes > self.capacity_bytes else None

    def overflow(self, change: Change) -> str | None:
        """Why a change does not fit on the GPU; None where it may."""
        setting = changed(self.setting, change)
        if self.fits(setting) is not False or self.capacity_bytes is None:
            return None
        peak = self.peak_bytes(setting)
        needs = self.held(setting).resident_bytes if peak is None else peak
        what = "model states alone take" if peak is None else "it would take"
        return (
            f"does not fit: {what} {needs / _GIB:.1f} GiB of the GPU's "
            f"{self.capacity_bytes / _GIB:.1f}"
        )

    def to_json(self) -> dict[str, Any]:
        """The documented structure (docs/memory.md)."""
        return {
            "format": 1,
            "parameters": self.model.nelems,
            "largest_parameter": self.model.largest_nelems,
            "data_parallel_size": self.setting.shards,
            "capacity_bytes": self.capacity_bytes,
            "recorded": None if self.recorded is None else self.recorded.to_json(),
            "assumed": list(self.assumed),
            "table": [self._row(s) for s in stages(self.setting)],
        }

    def _row(self, setting: ZeroSetting) -> dict[str, Any]:
        paper = paper_states(self.model.nelems, setting.stage, setting.shards, self.model.widths)
        mine, peak = self.held(setting), self.peak_bytes(setting)
        return {
            "stage": setting.stage,
            "offload_optimizer": setting.offload_optimizer,
            "offload_param": setting.offload_parameters,
            "recorded": setting == self.setting,
            "paper_bytes": {
                "parameters": round(paper.parameters_bytes),
                "gradients": round(paper.gradients_bytes),
                "optimizer": round(paper.optimizer_bytes),
            },
            "resident_bytes": round(mine.resident_bytes),
            "bucket_bytes": round(mine.bucket_bytes),
            "live_bytes": round(mine.live_bytes),
            "most_bytes": round(mine.most_bytes),
            "host_bytes": round(mine.host_bytes),
            "peak_bytes": None if peak is None else round(peak),
            "fits": self.fits(setting),
        }


def stages(now: ZeroSetting) -> tuple[ZeroSetting, ...]:
    """The stages, then what can be offloaded, all else as it is."""
    here = replace(now, offload_optimizer=False, offload_parameters=False)
    plain = tuple(replace(here, stage=s) for s in range(4))
    off = tuple(replace(here, stage=s, offload_optimizer=True) for s in (1, 2, 3))
    return (*plain, *off, replace(off[-1], offload_parameters=True))


def changed(now: ZeroSetting, change: Change) -> ZeroSetting:
    """The setting once a what-if's change is applied; keys that cost no memory are left out."""
    values: dict[str, Any] = {}
    for key, field in _FIELDS.items():
        value = change.get(key)
        if value is not None:
            values[field] = value
    micro = change.get("gradient_accumulation_steps")
    if micro is not None:
        values["accumulates"] = micro > 1
    then = replace(now, **values)
    return replace(
        then,
        offload_optimizer=then.offload_optimizer and then.stage > 0,
        offload_parameters=then.offload_parameters and then.stage == 3,
    )


#: Fields that a key of a change sets. allgather_bucket_size is not here: gathered parameters are
#: written where they stay (runtime/utils.py, all_gather_dp_groups, 0.19.8).
_FIELDS = {
    "stage": "stage",
    "overlap_comm": "overlap_comm",
    "reduce_bucket_size": "reduce_bucket_nelems",
    "stage3_prefetch_bucket_size": "prefetch_nelems",
    "stage3_max_live_parameters": "max_live_nelems",
    "world_size": "shards",
}


def footprint(analysis: Analysis, seen: RankEvents) -> Footprint:
    """The memory of a run, from its analysis and one rank's events.

    Raises
    ------
    CannotPredict
        If the run is none of DeepSpeed's, its stage is open, or its parameters were not recorded.
    """
    rank = seen.trace.info.rank
    size = _size(seen)
    setting, assumed = _setting(analysis)
    widths, more = _widths(analysis)
    memory = seen.trace.info.device_bytes
    device = _device(seen)
    known = 0 <= device < len(memory) and memory[device] > 0
    facts = next((r.facts for r in analysis.ranks if r.rank == rank), analysis.ranks[0].facts)
    return Footprint(
        model=ModelSize(size[0], size[1], widths),
        setting=setting,
        recorded=find_peaks(seen, device, [a.nelems for a in facts.allocations]),
        capacity_bytes=memory[device] if known else None,
        assumed=(*assumed, *more),
    )


def _device(seen: RankEvents) -> int:
    """The GPU that the rank worked on; -1 if it did not."""
    on = seen.trace.slices.device[seen.work.row]
    return int(on[on >= 0][0]) if (on >= 0).any() else -1


def _size(seen: RankEvents) -> tuple[int, int]:
    """Parameters that get a gradient in a backward pass: all, and the largest."""
    passes = seen.phases.passes
    best = (0, 0)
    for begin, end in zip(passes.start_ns.tolist(), passes.end_ns.tolist(), strict=True):
        sizes = find_gradients(seen.trace, begin, end + 1).nelems
        if len(sizes) and (sizes >= 0).all():
            best = max(best, (int(sizes.sum()), int(sizes.max())))
    if not best[0]:
        raise CannotPredict(
            "the sizes of the parameters were not recorded",
            hint="record host ops with record_shapes=True and a whole backward pass",
        )
    return best


def _setting(analysis: Analysis) -> tuple[ZeroSetting, tuple[str, ...]]:
    """What the run ran with: the trace first, then its ds_config, then DeepSpeed's defaults."""
    setup, given, assumed = analysis.setup, analysis.ds_config, []

    def told(key: str, path: str, default: int | bool) -> Any:
        value = setup.value(key)
        if value is None and given is not None:
            value = given.get(path)
        if value is None:
            value = default
            assumed.append(f"{path} is {str(default).lower()}")
        return value

    if setup.value("framework") != "deepspeed":
        raise CannotPredict("the memory of a run is told for DeepSpeed")
    size = setup.value("data_parallel_size")
    if not isinstance(size, int):
        raise CannotPredict(
            "the degree of data parallelism is open", hint="read the traces of all ranks"
        )
    for key in ("tensor_parallel_size", "pipeline_parallel_size", "expert_parallel_size"):
        if setup.value(key) not in (None, 1):
            raise CannotPredict(f"{key} is {setup.value(key)}: parameters differ between ranks")
    stage = _stage(analysis)
    default_overlap = stage == 3  # config.py, overlap_comm_valid
    bucket = told("reduce_bucket_size", _ZERO + "reduce_bucket_size", _likely_bucket(setup))
    setting = ZeroSetting(
        stage=stage,
        shards=size,
        overlap_comm=bool(told("overlap_comm", _ZERO + "overlap_comm", default_overlap)),
        contiguous_gradients=setup.value("contiguous_gradients") is not False,
        accumulates=setup.value("gradient_accumulation_steps") not in (None, 1),
        reduce_bucket_nelems=int(bucket),
        offload_optimizer=setup.value("offload_optimizer") not in (None, "none"),
        offload_parameters=setup.value("offload_param") not in (None, "none"),
    )
    if stage == 3:
        setting = replace(
            setting,
            max_live_nelems=int(told("", _ZERO + "stage3_max_live_parameters", DEFAULT_MAX_LIVE)),
            max_reuse_nelems=int(told("", _ZERO + "stage3_max_reuse_distance", DEFAULT_MAX_REUSE)),
            prefetch_nelems=int(told("", _ZERO + "stage3_prefetch_bucket_size", DEFAULT_PREFETCH)),
            sub_group_nelems=int(told("", _ZERO + "sub_group_size", DEFAULT_SUB_GROUP)),
        )
    return setting, tuple(assumed)


def _likely_bucket(setup: Setup) -> int:
    """DeepSpeed's default bucket where the recorded reductions allow it, else the least they do."""
    found = setup.get("reduce_bucket_size")
    if found is None or found.low is None:
        return DEFAULT_REDUCE_BUCKET
    below = found.high is None or found.high > DEFAULT_REDUCE_BUCKET
    return DEFAULT_REDUCE_BUCKET if found.low <= DEFAULT_REDUCE_BUCKET and below else found.low


def _stage(analysis: Analysis) -> int:
    """The stage; 2 where the trace shows that it is 1 or 2, which then hold the same."""
    stage = analysis.setup.value("zero_stage")
    if stage is None and analysis.ds_config is not None:
        stage = analysis.ds_config.get(_ZERO + "stage")
    if stage is None and set(analysis.setup["zero_stage"].candidates) == {1, 2}:
        stage = 2
    if not isinstance(stage, int):
        raise CannotPredict("the ZeRO stage is open", hint="give the configuration: --ds-config")
    return stage


def _widths(analysis: Analysis) -> tuple[Widths, tuple[str, ...]]:
    """Bytes a parameter, by its precision and optimizer."""
    given = analysis.ds_config
    kind = given.get("optimizer.type") if given is not None else None
    accumulated = given.get("data_types.grad_accum_dtype") if given is not None else None
    element = 4 if analysis.setup.value("precision") == "fp32" else 2
    known = OPTIMIZER_BYTES.get(str(kind).lower())
    widths = Widths(
        parameter_bytes=element,
        gradient_bytes=4 if accumulated == "fp32" else element,
        optimizer_bytes=known if known is not None else OPTIMIZER_BYTES["adamw"],
    )
    if known is not None:
        return widths, ()
    what = f"optimizer {kind}" if kind else "the optimizer"
    return widths, (f"{what} keeps two float32 moments a parameter, as Adam does",)
