"""Every number that decides something, with its source. Nothing else in the project hides one."""

from __future__ import annotations

from typing import Final

SCALAR_NELEMS: Final = 64
"""A collective of at most this many elements carries flags, norms or counts, never gradients.

DeepSpeed's overflow flag and norm partials have 1 element (runtime/zero/stage_1_and_2.py,
stage3.py, 0.19.8), Hugging Face's ``num_items_in_batch`` one a rank, MoE capacity one an expert.
"""

SCALAR_BYTES: Final = 8 * SCALAR_NELEMS
"""The same where only bytes are known: no type of torch or NCCL that they may have is longer."""

STEP_WORK_TOLERANCE: Final = 0.05
"""A step without a marker of its own is whole if its GPU work count is within 5 % of the median.

Counts of one rank repeat exactly from step to step in 47 of 47 recorded torch.profiler runs, up to
a few allocator- and logging-related copies; a step cut by the window loses far more.
"""

STEP_GAP: Final = 0.1
"""Marks of steps follow each other within the profiler's own bookkeeping. A gap of a tenth of the
step is a pause between two recorded windows, and belongs to no step."""

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

ONE_TYPE_RATIO: Final = 10
"""Kernels named for one half-precision type must run ten times as long as those for the other
before they tell what the model computes in: casts and optimizers name both."""

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

UNRUN_SHARE: Final = 0.1
"""Where more than a tenth of the kernels launched did not run, the GPU's idle time is no verdict on
the host: 36 public traces of running jobs lack none, 5 of graph captures 39 to 99 % (test data of
AMD's TraceLens and of HTA)."""

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

RESUME_NS: Final = 150_000
"""Compute that goes on within 0.15 ms of a reduction's end had waited for it: 1 to 123 us on
recorded runs over a slow link, where every bucket holds compute up; else mostly 200 us and more."""

BROKEN_OVERLAP: Final = 0.02
"""Overlap that hides less than 2 % of its reductions does not work: recorded runs with overlap_comm
and more than three buckets hide 38 % and more where the host is ahead of the GPU."""

BROKEN_IDLE_SHARE: Final = 0.1
"""With more than a tenth of the step idle for its host there is little compute to run beside a
reduction, and nothing can be said about overlap."""

FEW_REDUCTIONS: Final = 3
"""Up to three reductions a backward pass leave overlap_comm nothing to do: the last one is always
reduced after the pass, and the one before it ends there (DeepSpeed issue 8364: depth one)."""

GOOD_REDUCTIONS: Final = 12
"""Buckets a pass that are advised at most where the gradients were not recorded: the last, exposed
one is a twelfth of the gradients, and each is still large enough for the link."""

MANY_REDUCTIONS: Final = 30
"""More reductions a pass than this cost the host more than their overlap gains."""

BUCKET_HOST_NS: Final = 500_000
"""Host time of reducing a bucket, where the recording's buckets do not tell: 0.31 to 0.71 ms on
recorded runs whose buckets differ (DeepSpeed 0.19.6, with a profiler)."""

BUCKET_LAG_NS: Final = 100_000
"""What a bucket's reduction takes besides its transfer (dividing it, ranks that meet, NCCL's start
beside kernels), where the recorded sizes do not tell: 50 to 250 us on recorded runs (4 H200)."""

BUCKET_WORTH: Final = 0.01
"""Another bucket size is worth setting from 1 % of the step on where there are few or many buckets:
timings of one configuration differ by that in the median (27 recorded runs on 4 H200)."""

MIN_BUCKETS: Final = 3
"""Fewer buckets a pass than this leave overlap_comm nothing to do (`FEW_REDUCTIONS`)."""

MAX_BUCKET: Final = 500_000_000
"""The largest bucket that is advised: DeepSpeed's default, elements (runtime/zero/config.py)."""

PADDING_SHARE: Final = 0.01
"""Gradients and reductions of one pass have the same elements but for padding, 1 % at most: more is
another parameter's, and says that not all were recorded. Judged."""

PIECES: Final = 120
"""Parts that a pass is cut into where its gradients were not recorded: ten for each of twelve
buckets (`GOOD_REDUCTIONS`). And buckets that are tried at most where they were. Judged."""

LARGE_MESSAGE_BYTES: Final = 32 * 2**20
"""Messages of 32 MiB and more run at the link's bandwidth (nccl-tests: flat from there on)."""

NVLINK_GBPS: Final = {
    "A100-SXM4": 300.0, "A800-SXM4": 200.0, "H100 80GB HBM3": 450.0, "H800": 200.0,
    "H200": 450.0, "B200": 900.0, "GB200": 900.0, "B300": 900.0, "GB300": 900.0,
}  # fmt: skip
"""NVLink bandwidth of a GPU in one direction, GB/s, by the words that the device name contains
(NVIDIA data sheets: half of the bidirectional figure). Left out are GPUs that need not be linked: a
GH200 may be alone on its host, PCIe and NVL boards have a bridge or none."""

NVLINK_REACHED: Final = 0.75
"""Share of the data sheet's NVLink bandwidth that large all-reduces reach as bus bandwidth:
290 to 354 of 450 GB/s measured on 4 H200."""

SLOW_LINK_SHARE: Final = 0.25
"""Bus bandwidth below a quarter of NVLink's is another link: PCIe 4.0 and 5.0 x16 carry at most 32
and 64 GB/s, shared memory 15 to 30."""

STALLS: Final = 5
"""Work that starts late on an idle GPU at least five times in the window is no chance; recorded
runs that had their GPUs to themselves show none."""

SLICES_NS: Final = 10_000_000
"""A GPU that processes share turns to the next after its time slice: 2.4 ms measured on an H200, so
this is the turn of four others. What starts later still waits for something else."""

SLICE_NS: Final = 1_000_000
"""The shortest time slice that can be set is 1 ms (NVIDIA DRIVE OS, GPU scheduling parameters), and
a kernel that one interrupts gets longer by as much: by 1.5 to 2.7 ms on recorded runs that shared a
GPU. On those that did not, the same kernel of another step is up to 1.05 ms longer."""

BESIDE_COMM_SHARE: Final = 0.4
"""A kernel that is up to 1.4 times as long may just have had a collective beside it: kernels ran
1.13 to 1.35 times as long there on recorded runs (`CONTENTION`)."""

COMPARED_RANKS: Final = 16
"""Ranks whose kernels one is compared with: enough for a median where a run has hundreds."""

SLICED_SHARE: Final = 1 / 3
"""Share of late starts that only another process explains from which it is one.

Slices end without regard to this process's queue: on recordings that shared their GPU 50 to 100 %
of the late work was launched onto the idle device. Where the recording lacks work (sampled traces)
or a stream waits for a signal, what starts late was queued: 92 and 100 % of it.
"""

CONTENTION: Final = 0.2
"""Share of a hidden transfer that comes back as slower compute beside it: kernels ran 1.13 to 1.35
times as long beside a collective on recorded runs (H200, both fabrics)."""

OVERLAP_SYNC_NS: Final = 6_000_000
"""overlap_comm adds a device synchronisation to each backward pass (stage_1_and_2.py, epilogue),
behind which 6.0 to 7.6 ms of host work became visible on recorded runs (4 H200)."""

OWN_SYNCS: Final = 4
"""Synchronising calls per backward pass that DeepSpeed makes itself: two device synchronisations of
its throughput timer, one of the overlap_comm epilogue, one stream synchronisation (0.19.8)."""

BACKPRESSURE_SHARE: Final = 0.01
"""ZeRO-3 synchronises with events in every run; gaps of 1 % of the step after them are worth
saying. Recorded runs lose less than 0.1 % so."""

INFO_SHARE: Final = 0.005
"""Half a percent of the step: what costs less is information, and some of it is not said."""

TOLD_SHARE: Final = 0.01
"""Two values a percent apart are told as two, closer ones as one. Judged: percents are whole."""

HIGH_SHARE: Final = 0.05
"""Severity is high from 5 % of the step on, more than recordings of one job mostly differ by
(`NOISE_OF_RECORDINGS`), and the verdict names the largest such cause. Judged, as is the next."""

CRITICAL_SHARE: Final = 0.15
"""Severity is critical from 15 % of the step on: a seventh of what the job costs."""

TIMER_SYNCS: Final = 2
"""Device synchronisations per backward pass of DeepSpeed's throughput timer (utils/timer.py,
0.19.8); with contiguous_gradients off each bucket adds one, which is not the comms_logger's."""

OVERLAP_NOTHING: Final = 0.005
"""Half a percent of the reductions' time beside compute is chance at the edges of kernels: recorded
runs with few large buckets show 0.00 %, those with working overlap 19 % and more."""

OUTLIER_SHARE: Final = 0.25
"""A step a quarter longer than the median is an outlier: steps of one run repeat within 12 %."""

ENOUGH_MICRO_BATCHES: Final = 4
"""Micro-batches for each pipeline stage from which on the bubble is negligible (GPipe,
arXiv:1811.06965, section 2.3: "when M >= 4 K")."""

PREFETCH_SHARE: Final = 0.2
"""Prefetched parameters travel beside the layer before theirs: 34 to 55 % of the fetching was
hidden with DeepSpeed's default prefetch on recorded runs, 7 to 14 % without (4 H200)."""

ONE_WEIGHT_SHARE: Final = 0.7
"""Fetches of exactly one weight each are not prefetched: all of them on recorded runs with a bucket
of 0, a fifth to two fifths (embeddings, weights as large as the bucket) with the default."""

PREFETCH_DEFAULT: Final = 50_000_000
"""DeepSpeed's default stage3_prefetch_bucket_size, elements (runtime/zero/config.py, 0.19.8)."""

STUB_SHARE: Final = 0.2
"""A marked step with less than a fifth of the median step's GPU work is a stub that the profiler
left when it stopped, or a step that was cut."""

ONE_RECORDING_NS: Final = 3_600_000_000_000
"""Ranks of one job are profiled at the same steps; clocks of machines that keep time by NTP agree
within a second, and even neglected ones seldom drift by an hour. Further apart is another run."""

CLOCKS_AGREE_NS: Final = 60_000_000_000
"""A gap of a minute between ranks' recordings is more than clocks kept by NTP (RFC 5905)
explain."""

MIN_BUCKET_NELEMS: Final = 1_000
"""A buffer of fewer elements in a gradient hook is no reduction bucket: DeepSpeed's own tests go
down to some thousands, training runs to hundreds of thousands."""

HOOK_COPY_SHARE: Final = 0.1
"""Hooks that fill a bucket copy most gradients (all but those larger than the bucket)."""

GATHER_SHARE: Final = 0.5
"""ZeRO-1 and 2 gather all parameters, as many elements as one pass reduces gradients; logging,
losses and counts gather a few."""

FIT_SIZES: Final = 3
"""Sizes that a line takes: two always lie on one, and nothing says how well."""

FIT_SPAN: Final = 4.0
"""Largest over smallest size of a fit: over less, the scatter of transfers (5 % on recorded runs)
tilts the line by more than the latency that it is to tell."""

FIT_SAME_SIZE: Final = 1.1
"""Messages within a tenth of each other's size count as one: buckets differ by some biases."""

FIT_ALONE_SHARE: Final = 0.9
"""A transfer with compute beside less than a tenth of it runs at its own pace; others were slowed
by up to a third on recorded runs (H200)."""

FIT_RESIDUAL: Final = 0.5
"""Transfers that lie half of their length off the line, on average, do not lie on one: protocols
change with the size, or the link was shared. Recorded NVLink runs stay below 0.3."""

SIGNIFICANT: Final = 0.05
"""A difference that chance alone would bring in less than one of twenty comparisons (the field's
convention; with the noise of recordings below, no wrong claim in 164 pairs of recorded runs)."""

STEADY_STEPS: Final = 5
"""Recordings of fewer steps do not average out what their first steps after a pause differ by."""

NOISE_OF_RECORDINGS: Final = 0.03
"""Two recordings of one job differ by 3 %: repeats of one run differ by 1 to 2 % in the median
(un-profiled step times of 27 recorded runs on 4 H200)."""

NOISE_OF_FEW_STEPS: Final = 0.1
"""With few steps each, recordings of one job differ by up to 9.4 % (the same runs); two that ran
equally fast un-profiled differed by 7.3 % in two profiled steps each."""

DIFFERENT_WORK: Final = 1.85
"""Matrix products that take 1.85 times as long on the same GPU multiply more: beside collectives
they run up to 1.35 times as long (recorded runs), with recomputed activations 4/3 times."""

RECOMPUTE_COST_SHARE: Final = 0.1
"""Recomputation of a tenth of the compute is worth saying: full checkpointing takes a quarter to a
third (one forward pass of three), attention alone a few percent (arXiv:2205.05198)."""

UNEVEN_TOKENS: Final = 1.3
"""A rank with 1.3 times the mean number of tokens: balanced routers stay within some percent."""

PROFILER_SHARE: Final = 0.05
"""Recording that makes steps 5 % longer; two timings of one run differ by up to 3 %."""

STOPS: Final = 5
"""A host that stands still so often inside operators that are short else is not running: 44 and 54
times in six steps on two recorded ranks that shared their core with a busy process, never on 405
others, but for CPU offloading's one long copy a step (`STOP_NAMES`)."""

STOP_NAMES: Final = 3
"""Who takes a core away does not ask what runs on it: it is not always the same operator."""

STOP_SHARE: Final = 0.1
"""An operator is short else if its median is a tenth of `PAUSE_NS`. That is a time slice: Linux
gives each task of a shared core 3 ms at once (kernel/sched/fair.c: a base slice of 0.75 ms, times 4
from 8 cores on), and looks at ticks of 4 ms (250 Hz). Most recorded stops are 4.0 or 8.0 ms."""

TREND_P: Final = 0.01
"""Chance at which un-profiled steps are taken to grow or shrink on their own, by `PROFILER_SHARE`
and more. Of 59 recorded runs four do: one logs every collective and grows from 431 to 557 ms, three
wander by 6 to 13 %, as hosts do. Neither tells what the profiler costs."""

ZERO3_BUSY: Final = 0.8
"""Share of the passes in which the link carries parameters or gradients, above which it is the
limit: 85 % on a recorded run over a slow link with prefetching on, 70 to 74 % with it off, where
fetches come too late; up to 12 % over NVLink."""

ONE_RANK_SHARE: Final = 0.3
"""A long step is one rank's if that has seven tenths of the growth and no other more than three
tenths: the rest is the noise of steps, which repeat within 12 %."""

PECULIAR_NS: Final = 1_000_000
"""A host event that takes 1 ms more in one step than in the median step may be what it did
differently; operators differ by less (recorded runs)."""

PECULIAR_NAMES: Final = 16
"""Names that are kept of these."""

TRANSFER_SCATTER: Final = 0.2
"""Transfers of one size differ by up to a fifth (with compute beside them by more, which does not
count where they are exposed): recorded runs over NVLink and shared memory, ranks read together."""

RANK_OUTLIER_SCORE: Final = 3.5
"""A rank is unlike its like from 3.5 robust standard deviations on (Iglewicz and Hoaglin, How to
Detect and Handle Outliers, 1993: modified z-score)."""

RANK_OUTLIER_SHARE: Final = 0.05
"""And from 5 % of the step on: compute of equal ranks lies up to 4.2 % of the step off their median
(0.4 % in the middle of 33 recorded runs of four ranks), that of a rank made slow 6.5 %."""

RANK_OUTLIER_PEERS: Final = 4
"""Of three ranks the median's deviations do not tell which one is odd."""

MOMENTS: Final = 4
"""Moments that a rank keeps to prove a finding: enough to look at, little to carry."""
