"""Every number that decides something, with its source. Nothing else in the project hides one."""

from __future__ import annotations

from typing import Final

SCALAR_NELEMS: Final = 64
"""A collective of at most this many elements carries flags, norms or counts, never gradients.

DeepSpeed's overflow flag and norm partials have 1 element (runtime/zero/stage_1_and_2.py,
stage3.py, 0.19.8), Hugging Face's ``num_items_in_batch`` one a rank, MoE capacity one an expert.
"""

STEP_WORK_TOLERANCE: Final = 0.05
"""A step without a marker of its own is whole if its GPU work count is within 5 % of the median.

Counts of one rank repeat exactly from step to step in 47 of 47 recorded torch.profiler runs, up to
a few allocator- and logging-related copies; a step cut by the window loses far more.
"""

STEP_RANGE_WORK: Final = 0.5
"""At least half of the ranges that mark steps launch matrix products or attention; a range around
the optimizer alone launches none."""

WARM_UP_RATIO: Final = 1.25
"""A leading step more than a quarter longer than the median of the later half is warm-up.

Whole-process recordings: lazily loaded kernels and growing allocator pools make the first steps 1.5
times to many times as long; steady steps of one configuration stay within 10 % (recorded runs).
"""

ACTIVATION_REPEATS: Final = 2
"""Tensor parallelism repeats one activation-sized collective at least twice a layer and pass
(Megatron-LM, arXiv:1909.08053, fig. 4: one in attention, one in the MLP)."""

OFFLOAD_SHARE: Final = 0.5
"""Host-device traffic that is offload moves at least half of the bytes of the gathered shard.

CPU-Adam copies every owned gradient once to the host (4 or 2 bytes an element) and every updated
parameter back (DeepSpeed stage_1_and_2.py:1888, stage3.py, 0.19.8); logging moves a few bytes.
"""

RECOMPUTE_SHARE: Final = 0.02
"""Forward-only ops on the autograd thread, as a share of those in the forward pass, above which
activations were recomputed. One checkpointed layer of a 48-layer model gives 2 %; without
checkpointing the count is 0 (with_stack not needed)."""

ACCUMULATE_TOLERANCE: Final = 0.1
"""Passes whose gradient counts differ by more than 10 % go over different parameters.

Micro-steps of one model accumulate the same parameters each time (equal counts in all recorded
runs with accumulation); experts that see no token may drop out.
"""

SMALL_INPUT_BYTES: Final = 64 * 2**20
"""Copies from the host of less than this per step are inputs: token ids of 8 million tokens.

A model that is offloaded moves its parameters, gigabytes; where no weight size was recorded this
bound alone separates the two.
"""

PAUSE_NS: Final = 3_000_000
"""No event on any working thread for 3 ms is a pause.

In recorded healthy runs the longest such gap was below 1 ms (ZeRO-2) and 2.0 ms (ZeRO-3, at the
edges of steps); Python's own bookkeeping between two operators takes microseconds.
"""

STALL_NS: Final = 300_000
"""Launched work that an idle device starts 0.3 ms late: launch latency is some 10 us.

On recordings whose GPU another process used too, such starts cluster up to 2.4 ms (the time slice
of an H200); on 83 of 83 recordings without there was none.
"""

HOOK_BASELINE: Final = 0.1
"""At least a tenth of the gradient hooks must reduce nothing to serve as the baseline of the rest;
with fewer, the median of the other autograd nodes does (a median needs a handful of values)."""

HOST_BOUND_SHARE: Final = 0.3
"""Host-caused idle time of 30 % of the step on the rank that the others wait for is host-bound.

Measured on recorded runs: 55 to 78 % where the model is small for its GPU, below 28 % where the
micro-batch was four times larger.
"""

LAUNCH_DELAY_NS: Final = 20_000
"""A kernel that starts within 20 us of its launch found an empty queue: 9 to 13 us measured where
the host is the limit, milliseconds where the GPU is."""

LATE_SHARE: Final = 0.02
"""A rank whose lateness costs less than 2 % of the step is not worth a finding of its own."""

EXTRA_WORK_SHARE: Final = 0.05
"""Kernel time 5 % above the median rank's: equal ranks agree within 1 % on recorded runs."""

SAVE_BYTES: Final = 1 << 20
"""Copies of a megabyte or more to pageable memory, in some steps only, save a checkpoint: logging
and metrics move scalars."""

FEW_REDUCTIONS: Final = 3
"""Up to three reductions a backward pass leave overlap_comm nothing to do: the last one is always
reduced after the pass, and the one before it ends there (DeepSpeed issue 8364: depth one)."""

GOOD_REDUCTIONS: Final = 12
"""Buckets a pass that a model should have: between 8 and 30, where the last, exposed one is a
twelfth of the gradients and each is still large enough for the link."""

MANY_REDUCTIONS: Final = 30
"""More reductions a pass than this cost the host more than their overlap gains."""

LARGE_MESSAGE_BYTES: Final = 32 * 2**20
"""Messages of 32 MiB and more run at the link's bandwidth (nccl-tests: flat from there on)."""

NVLINK_GBPS: Final = {
    "A100-SXM": 300.0, "A800-SXM": 200.0, "H100 80GB HBM3": 450.0, "H800": 200.0,
    "H200": 450.0, "B200": 900.0, "GB200": 900.0, "B300": 900.0,
}  # fmt: skip
"""NVLink bandwidth of a GPU in one direction, GB/s, by what the device name contains (NVIDIA data
sheets: half of the bidirectional figure)."""

NVLINK_REACHED: Final = 0.75
"""Share of the data sheet's NVLink bandwidth that large all-reduces reach as bus bandwidth:
290 to 354 of 450 GB/s measured on 4 H200."""

SLOW_LINK_SHARE: Final = 0.25
"""Bus bandwidth below a quarter of NVLink's is another link: PCIe 4.0 and 5.0 x16 carry at most 32
and 64 GB/s, shared memory 15 to 30."""

STALLS: Final = 5
"""Work started late on an idle GPU at least five times in the window is another process at work;
recorded runs that had their GPUs to themselves show none."""

CONTENTION: Final = 0.2
"""Share of a hidden transfer that comes back as slower compute beside it: kernels ran 1.13 to 1.35
times as long beside a collective on recorded runs (H200, both fabrics)."""

OVERLAP_SYNC_NS: Final = 6_000_000
"""overlap_comm adds a device synchronisation to each backward pass (stage_1_and_2.py, epilogue),
behind which 6.0 to 7.6 ms of host work became visible on recorded runs (4 H200)."""

OWN_SYNCS: Final = 4
"""Synchronising calls per backward pass that DeepSpeed makes itself: two device synchronisations of
its throughput timer, one of the overlap_comm epilogue, one stream synchronisation (0.19.8)."""

TIMER_SYNCS: Final = 2
"""Device synchronisations per backward pass of DeepSpeed's throughput timer (utils/timer.py,
0.19.8); with contiguous_gradients off each bucket adds one, which is not the comms_logger's."""

OUTLIER_SHARE: Final = 0.25
"""A step a quarter longer than the median is an outlier: steps of one run repeat within 12 %."""

PREFETCH_SHARE: Final = 0.2
"""Prefetched parameters travel beside the layer before theirs: 34 to 55 % of the fetching was
hidden with DeepSpeed's default prefetch on recorded runs, 7 to 14 % without (4 H200)."""

PREFETCH_DEFAULT: Final = 50_000_000
"""DeepSpeed's default stage3_prefetch_bucket_size, elements (runtime/zero/config.py, 0.19.8)."""

STUB_SHARE: Final = 0.2
"""A marked step with less than a fifth of the median step's GPU work is a stub that the profiler
left when it stopped, or a step that was cut."""

MIN_BUCKET_NELEMS: Final = 1_000
"""A buffer of fewer elements in a gradient hook is no reduction bucket: DeepSpeed's own tests go
down to some thousands, training runs to hundreds of thousands."""

HOOK_COPY_SHARE: Final = 0.1
"""Hooks that fill a bucket copy most gradients (all but those larger than the bucket)."""

GATHER_SHARE: Final = 0.5
"""ZeRO-1 and 2 gather all parameters, as many elements as one pass reduces gradients; logging,
losses and counts gather a few."""
