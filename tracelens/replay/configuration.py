"""What the recording ran with, as far as predictions need it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracelens.analysis import Analysis
from tracelens.errors import CannotPredict
from tracelens.replay.model import Model
from tracelens.replay.transforms.bucket_plan import Setting, explains
from tracelens.thresholds.replay import MAX_FLAT_GATHERS


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings of the recording; None where neither the trace nor a ds_config tells.

    `stages` are those that leave this trace; `stage` is one of them, to reduce by.
    `gathers_flat` is whether updated parameters are gathered at once, not piece by piece.
    """

    stage: int | None
    stages: tuple[int, ...]
    overlap: bool | None
    buckets: tuple[int, ...]
    micro_steps: int | None
    world_size: int | None
    data_parallel_size: int | None
    gathers_flat: bool | None

    def reduction(self, model: Model) -> Setting:
        """How gradients were reduced: the candidate whose buckets are the recorded ones.

        The most likely one where no candidate's are; what is to be changed then refuses it.

        Raises
        ------
        CannotPredict
            If there is no candidate, or whether reductions overlap is open.
        """
        if self.overlap is None:
            raise CannotPredict(
                "whether reductions overlap the backward pass is open",
                hint="give the job's configuration: --ds-config",
            )
        if not self.buckets:
            raise CannotPredict(
                "the bucket size is unknown", hint="give the job's configuration: --ds-config"
            )
        for bucket in self.buckets:
            setting = Setting(bucket, self.overlap)
            if explains(model.ranks[0], setting):
                return setting
        return Setting(self.buckets[0], self.overlap)


def find_configuration(analysis: Analysis, model: Model) -> Configuration:
    """Read the configuration of a run: the trace first, its ds_config where the trace is silent."""
    setup, given = analysis.setup, analysis.ds_config

    def known(key: str, path: str) -> object:
        value = setup.value(key)
        if value is None and given is not None:
            value = given.get(path)
        return value

    found = known("zero_stage", "zero_optimization.stage")
    stages: tuple[int, ...] = (found,) if isinstance(found, int) else ()
    candidates = setup["zero_stage"].candidates if "zero_stage" in setup else ()
    if not stages and set(candidates) == {1, 2}:
        stages = (1, 2)
    overlap = known("overlap_comm", "zero_optimization.overlap_comm")
    micro = known("gradient_accumulation_steps", "gradient_accumulation_steps")
    size = setup.value("data_parallel_size")
    return Configuration(
        stage=stages[-1] if stages else None,
        stages=stages,
        overlap=overlap if isinstance(overlap, bool) else _by_stream(model),
        buckets=_buckets(analysis),
        micro_steps=micro if isinstance(micro, int) else None,
        world_size=analysis.run.world_size,
        data_parallel_size=size if isinstance(size, int) else None,
        gathers_flat=_gathers_flat(model),
    )


def _by_stream(model: Model) -> bool | None:
    """Whether reductions run on a stream of their own; None where there are none."""
    for m in model.ranks:
        on = m.program.stream[np.isin(m.program.uid, m.reductions)]
        if len(on):
            return bool((on != m.compute_stream).any())
    return None


def _buckets(analysis: Analysis) -> tuple[int, ...]:
    """Sizes that reduce_bucket_size may have, most likely first."""
    found: list[int] = []
    inferred = analysis.setup.get("reduce_bucket_size")
    if inferred is not None and isinstance(inferred.value, int):
        found.append(inferred.value)
    if analysis.ds_config is not None:
        given = analysis.ds_config.get("zero_optimization.reduce_bucket_size")
        if isinstance(given, (int, float)):
            found.append(int(given))
    if inferred is not None and inferred.low is not None:
        found.append(inferred.low)
    return tuple(dict.fromkeys([*found, DEFAULT_BUCKET]))


#: DeepSpeed's default reduce_bucket_size, elements (0.19.8 runtime/zero/config.py).
DEFAULT_BUCKET = 500_000_000


def _gathers_flat(model: Model) -> bool | None:
    """Whether each step gathers in a few collectives, not one a bucket; None without gathers."""
    m = model.ranks[0]
    count = len(m.gathers) / m.program.n_steps
    return count <= MAX_FLAT_GATHERS if count else None
