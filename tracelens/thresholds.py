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
