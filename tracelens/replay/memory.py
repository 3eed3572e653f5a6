"""What ZeRO keeps on a GPU, in bytes: the paper's table, and DeepSpeed's buffers beside it.

Two accounts of the same thing:

* `paper_states` is the table of Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training
  Trillion Parameter Models" (SC20, arXiv 1910.02054), sections 3 and 5: parameters, gradients and
  optimizer states, and which of them a stage partitions.
* `held` is what DeepSpeed 0.19.8 allocates (runtime/zero/stage_1_and_2.py, stage3.py,
  partitioned_param_coordinator.py, fp16/fused_optimizer.py), and when: between steps, in the
  forward pass, while gradients are reduced, while the optimizer updates.

Neither counts activations, temporaries of kernels, or the allocator's and NCCL's own memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: DeepSpeed's defaults, elements (0.19.8 runtime/zero/config.py).
DEFAULT_REDUCE_BUCKET = 500_000_000
DEFAULT_MAX_LIVE = 1_000_000_000
DEFAULT_MAX_REUSE = 1_000_000_000
DEFAULT_PREFETCH = 50_000_000
DEFAULT_SUB_GROUP = 1_000_000_000

#: Bytes a parameter of an optimizer's states, all of them float32: two moments, or one.
OPTIMIZER_BYTES: Mapping[str, int] = MappingProxyType(
    {"adam": 8, "adamw": 8, "lamb": 8, "lion": 4, "adagrad": 4}
)


@dataclass(frozen=True, slots=True)
class Widths:
    """Bytes a parameter takes in each of its forms.

    The defaults are mixed precision with Adam: 16 bytes, of which the optimizer's K is 12 (ZeRO
    paper, section 3.1).

    Attributes
    ----------
    parameter_bytes, gradient_bytes : int
        As the model computes; gradients in the type in which they are accumulated.
    master_bytes : int
        The optimizer's own copy of the parameters, and of the gradients that it is given.
    optimizer_bytes : int
        Its states: momentum, variance.
    """

    parameter_bytes: int = 2
    gradient_bytes: int = 2
    master_bytes: int = 4
    optimizer_bytes: int = 8


@dataclass(frozen=True, slots=True)
class States:
    """Model states of one GPU in the ZeRO paper's three kinds, bytes."""

    parameters_bytes: float
    gradients_bytes: float
    optimizer_bytes: float

    @property
    def total_bytes(self) -> float:
        """All of them."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes


def paper_states(nelems: int, stage: int, shards: int, widths: Widths) -> States:
    """Model states by the ZeRO paper: stage 1 partitions the optimizer's, 2 gradients, 3 all.

    Parameters
    ----------
    nelems : int
        Parameters of the model.
    stage : int
        0 to 3.
    shards : int
        Degree of data parallelism.
    widths : Widths

    Examples
    --------
    The paper's example (figure 1): 7.5 billion parameters on 64 GPUs, in GB.

    >>> [round(paper_states(7_500_000_000, s, 64, Widths()).total_bytes / 1e9, 1) for s in range(4)]
    [120.0, 31.4, 16.6, 1.9]
    """
    kept = widths.master_bytes + widths.optimizer_bytes
    return States(
        parameters_bytes=nelems * widths.parameter_bytes / (shards if stage >= 3 else 1),
        gradients_bytes=nelems * widths.gradient_bytes / (shards if stage >= 2 else 1),
        optimizer_bytes=nelems * kept / (shards if stage >= 1 else 1),
    )


@dataclass(frozen=True, slots=True)
class ZeroSetting:
    """The settings that decide what DeepSpeed allocates; sizes in elements.

    Attributes
    ----------
    stage : int
        0 to 3.
    shards : int
        Degree of data parallelism.
    overlap_comm, contiguous_gradients : bool
    accumulates : bool
        Whether a step has several micro-steps.
    reduce_bucket_nelems : int
        ``reduce_bucket_size``.
    max_live_nelems, max_reuse_nelems, prefetch_nelems, sub_group_nelems : int
        Stage 3's ``max_live_parameters``, ``max_reuse_distance``, ``prefetch_bucket_size``,
        ``sub_group_size``.
    offload_optimizer, offload_parameters : bool
        To the host; parameters at stage 3 only.
    """

    stage: int
    shards: int
    overlap_comm: bool = False
    contiguous_gradients: bool = True
    accumulates: bool = False
    reduce_bucket_nelems: int = DEFAULT_REDUCE_BUCKET
    max_live_nelems: int = DEFAULT_MAX_LIVE
    max_reuse_nelems: int = DEFAULT_MAX_REUSE
    prefetch_nelems: int = DEFAULT_PREFETCH
    sub_group_nelems: int = DEFAULT_SUB_GROUP
    offload_optimizer: bool = False
    offload_parameters: bool = False


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A model's size: parameters in all and in the largest one, and bytes of each."""

    nelems: int
    largest_nelems: int
    widths: Widths = Widths()


@dataclass(frozen=True, slots=True)
class Held:
    """What DeepSpeed holds on one GPU, bytes; `host_bytes` in the host's memory for this rank.

    `parameters_bytes`, `master_bytes`, `optimizer_bytes`: from step to step.
    `standing_bytes`: buffers that stay, too: stage 3's bucket and partition of the gradients, the
    staging buffer of an offloaded optimizer.
    `accumulated_bytes`: gradients kept from one micro-step to the next.
    `live_bytes`: parameters that stage 3 has gathered, at most.
    `bucket_bytes`: buffers in which gradients are collected and reduced.
    `reduced_bytes`: gradients beside the buckets when the backward pass ends.
    `update_bytes`: gradients and their copies for the optimizer, at most.
    """

    parameters_bytes: float
    master_bytes: float
    optimizer_bytes: float
    standing_bytes: float
    accumulated_bytes: float
    live_bytes: float
    bucket_bytes: float
    reduced_bytes: float
    update_bytes: float
    host_bytes: float

    @property
    def resident_bytes(self) -> float:
        """Between two steps."""
        kept = self.parameters_bytes + self.master_bytes + self.optimizer_bytes
        return kept + self.standing_bytes

    @property
    def forward_bytes(self) -> float:
        """In the forward pass, up to the first gradient, at most."""
        return self.resident_bytes + self.accumulated_bytes + self.live_bytes

    @property
    def reducing_bytes(self) -> float:
        """From the first gradient to the last reduction, at most."""
        return self.forward_bytes + self.bucket_bytes + self.reduced_bytes

    @property
    def updating_bytes(self) -> float:
        """While the optimizer updates, at most."""
        return self.resident_bytes + self.update_bytes

    @property
    def most_bytes(self) -> float:
        """The largest of all moments."""
        return max(self.reducing_bytes, self.updating_bytes)


def held(model: ModelSize, setting: ZeroSetting) -> Held:
    """What DeepSpeed 0.19.8 holds with this setting.

    Raises
    ------
    ValueError
        If the stage is none, or nothing is there to offload at it.
    """
    if setting.stage not in (0, 1, 2, 3) or setting.shards < 1:
        raise ValueError(f"stage {setting.stage} on {setting.shards} GPUs")
    if setting.offload_parameters and setting.stage != 3:
        raise ValueError("parameters are offloaded at stage 3 only")
    if setting.stage == 0:
        if setting.offload_optimizer:
            raise ValueError("stage 0 offloads nothing")
        return _whole(model, setting)
    return _partitioned(model, setting) if setting.stage == 3 else _split_states(model, setting)


def _whole(model: ModelSize, setting: ZeroSetting) -> Held:
    """Stage 0: everything on every GPU (FP16_Optimizer, for bfloat16 too).

    Gradients are reduced in copies of at most `_WHOLE_BUCKET` (engine.py, allreduce_gradients).
    The step converts each gradient, then copies all into one buffer: two of master's type.
    """
    n, w = model.nelems, model.widths
    gradients = float(n * w.gradient_bytes)
    return Held(
        parameters_bytes=n * w.parameter_bytes,
        master_bytes=n * w.master_bytes,
        optimizer_bytes=n * w.optimizer_bytes,
        standing_bytes=0.0,
        accumulated_bytes=gradients if setting.accumulates else 0.0,
        live_bytes=0.0,
        bucket_bytes=float(min(n, _WHOLE_BUCKET) * w.gradient_bytes),
        reduced_bytes=0.0 if setting.accumulates else gradients,
        update_bytes=gradients + 2.0 * n * w.master_bytes,
        host_bytes=0.0,
    )


#: Elements that stage 0 reduces at once, whatever reduce_bucket_size (engine.py,
#: MEMORY_OPT_ALLREDUCE_SIZE).
_WHOLE_BUCKET = 500_000_000


def _split_states(model: ModelSize, setting: ZeroSetting) -> Held:
    """Stages 1 and 2.

    Bucket buffers come with the first gradient of a backward pass (setup_buckets: a second one
    with overlap_comm) and go with its last reduction. The partition's gradients are copied out of
    them (copy_grads_in_partition), flattened, then converted to master's type (step). A gradient
    that entered a bucket has no memory of its own any more; at stage 1 they enter after the
    backward pass where nothing overlaps, and at the last micro-step where some are accumulated.
    """
    n, w, off = model.nelems, model.widths, setting.offload_optimizer
    share = n / setting.shards
    partition = 0.0 if off else share * w.gradient_bytes
    staging = float(model.largest_nelems * w.parameter_bytes)
    whole = float(n * w.gradient_bytes)
    buffers = (2 if setting.overlap_comm else 1) if setting.contiguous_gradients else 0
    if setting.stage == 1:
        accumulated = whole if setting.accumulates else 0.0
        waiting = 0.0 if setting.accumulates or setting.overlap_comm else whole
    else:
        accumulated = partition if setting.accumulates else 0.0
        waiting = 0.0
    kept = share * (w.master_bytes + w.optimizer_bytes)
    # on the host besides: gradients in master's type, updated parameters on their way back, a
    # staging buffer, and between micro-steps the gradients so far
    host = kept + share * (w.master_bytes + w.parameter_bytes) + staging
    host += share * w.gradient_bytes if setting.accumulates else 0.0
    return Held(
        parameters_bytes=float(n * w.parameter_bytes),
        master_bytes=0.0 if off else share * w.master_bytes,
        optimizer_bytes=0.0 if off else share * w.optimizer_bytes,
        standing_bytes=staging if off else 0.0,
        accumulated_bytes=accumulated,
        live_bytes=0.0,
        bucket_bytes=float(buffers * setting.reduce_bucket_nelems * w.gradient_bytes),
        reduced_bytes=partition + waiting,
        update_bytes=0.0 if off else 2 * partition + share * w.master_bytes,
        host_bytes=host if off else 0.0,
    )


def _partitioned(model: ModelSize, setting: ZeroSetting) -> Held:
    """Stage 3.

    One bucket and the partition of the gradients are allocated once (stage3.py,
    _setup_for_real_optimizer). A bucket is copied rank by rank before it is scattered
    (reduce_scatter_coalesced). The step flattens and converts the gradients of one sub-group after
    the other.
    """
    n, w, off = model.nelems, model.widths, setting.offload_optimizer
    share = n / setting.shards
    parameters = share * w.parameter_bytes
    gradients = share * w.gradient_bytes
    kept = share * (w.master_bytes + w.optimizer_bytes)
    bucket = float(setting.reduce_bucket_nelems * w.gradient_bytes)
    at_once = min(share, setting.sub_group_nelems)
    host = 0.0
    if off:
        host += kept + gradients + share * w.master_bytes
    if setting.offload_parameters:
        host += parameters
    return Held(
        parameters_bytes=0.0 if setting.offload_parameters else parameters,
        master_bytes=0.0 if off else share * w.master_bytes,
        optimizer_bytes=0.0 if off else share * w.optimizer_bytes,
        standing_bytes=(bucket if setting.contiguous_gradients else 0.0)
        + (0.0 if off else gradients),
        accumulated_bytes=0.0,
        live_bytes=float(_live(model, setting) * w.parameter_bytes),
        bucket_bytes=bucket,
        reduced_bytes=0.0,
        update_bytes=0.0 if off else at_once * (w.gradient_bytes + w.master_bytes),
        host_bytes=host,
    )


def _live(model: ModelSize, setting: ZeroSetting) -> int:
    """Parameters that stage 3 has gathered at the end of the forward pass, elements, at most.

    Prefetching goes on up to max_live_parameters, past the loss into the backward pass. Without it
    only those remain that are used again within max_reuse_distance, there and back
    (partitioned_param_coordinator.py, fetch_sub_module and __params_to_release). A module's own
    are gathered whatever the bounds.
    """
    bound = setting.max_live_nelems
    if not setting.prefetch_nelems:
        bound = min(bound, setting.max_reuse_nelems // 2)
    return min(model.nelems, max(bound, model.largest_nelems))
