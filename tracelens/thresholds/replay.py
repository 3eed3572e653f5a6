"""Numbers of the replay and of predictions, each with its source."""

from __future__ import annotations

from typing import Final

EDGE_TIGHT_NS: Final = 30_000
"""Work that starts within this time of the end of other work started because of it: the GPU takes
1 to 15 us between dependent work on two streams (recorded runs on H200)."""

EDGE_CHANCE: Final = 0.02
"""Work that waited long and starts this share of its wait after other work ended did so because of
it: chance would put one in fifty there. (Between the two, kernels that fill the GPU may run.)"""

EDGE_SLACK_NS: Final = 1_000
"""Times of GPU work on two streams are exact to about this (CUPTI's device clock)."""

EDGE_MIN_BINDING: Final = 2
"""A pair of streams counts once so many starts are explained by it: one may be chance."""

SYNC_RETURN_NS: Final = 200_000
"""A synchronising call returns within this time of the end of what it waited for: 5 to 60 us on
recorded runs, more on a busy host."""

HELD_NS: Final = 100_000
"""Work that starts so much later than its launch, its stream and its waits explain was held up by
other work; shorter delays are the GPU's scheduling (up to 60 us beside NCCL on recorded runs)."""

HELD_UP: Final = 20
"""A launch returns at once; one that lasts so many typical launches was held up by the driver: a
full queue, or a copy from pageable memory that it stages."""

FULL_QUEUE: Final = 500
"""So many pieces of work ahead of the GPU may be a full queue: the driver holds about a thousand
launches a stream (1,022 measured on H200, CUDA 13)."""

ALONE_SHARE: Final = 0.05
"""A kernel ran alone if communication was beside it for less of its time."""

BESIDE_SHARE: Final = 0.5
"""A kernel is compared as contended if communication was beside it for more of its time."""

MIN_CONTENDED: Final = 20
"""So many contended kernels of a known place make a slowdown; fewer leave the prior."""

MIN_COMPARED: Final = 0.3
"""Share of the contended kernels' time that has to be compared: what is left over otherwise lies at
the ends of collectives. Where 5 to 25 % could be, the answer was off by up to 0.15 (H200)."""

PRIOR_PRODUCT_SLOWDOWN: Final = 1.25
"""Slowdown of matrix products and attention beside communication where the trace has none to
measure: with `OTHERS_SLOWED`, and products for 70 % of the time, all kernels take the 1.19 that is
the mean over A100, H100 and MI2xx of arXiv 2507.03114. On H200 1.2 to 1.3 beside a slow link, 1.3
to 1.6 beside NVLink."""

OTHERS_SLOWED: Final = 0.25
"""What other kernels are slowed by, as a share of what products are: 0.23 to 0.28 on four
recordings that showed both on nearly all kernels (H200, slow link and NVLink), 0.42 on a fifth."""

FAST_TRANSFER_SLOWDOWN: Final = 0.3
"""What a reduction takes longer per time of kernels beside it where the recording has no two of one
size to compare, over a fast link: 0.25 to 0.31 for messages of 64 MB and more on five recordings
(H200, NVLink), 0.3 to 0.4 for reduce-scatters."""

SLOW_TRANSFER_SLOWDOWN: Final = 0.03
"""The same over a slow link, where the link is the limit: 0.02 to 0.05 (H200, shared memory); and
of all-gathers, which compute nothing: 0 to 0.04 over NVLink."""

FAST_GBPS: Final = 100.0
"""Bytes of large messages over their transfer's time from which a link is a fast one, GB/s: NVLink
of A100 and H100 gives 140 and more (nccl-tests), eight 400 Gb/s NICs of a node 50 a GPU at most."""

MAX_SLOWDOWN: Final = 1.6
"""The most that is believed of other kernels: 40 % was the worst of arXiv 2507.03114."""

MAX_PRODUCT_SLOWDOWN: Final = 2.0
"""The most that is believed of products: 1.7 was measured between two runs of one model that differ
in overlap_comm alone (H200, NVLink)."""

MIN_SIZE_RATIO: Final = 1.5
"""Sizes that differ by half tell latency from bandwidth; closer ones leave it to chance."""

REPLAY_STEPS: Final = 3
"""Steps that a prediction replays: the last whole ones. Three show a step's repeats, and a
simulation of a rank's three steps takes a tenth of a second."""

SURE_REPLAY_ERROR: Final = 1.0
"""A replay that misses the recording by less than this, in percent, is trusted: 0.0 to 0.5 % on
recorded runs."""

LOW_REPLAY_ERROR: Final = 3.0
"""Predictions from a replay that misses by more, in percent, are marked low."""

NOISE_PCT: Final = 2.0
"""Smaller predicted changes, in percent of the step, are noise: two timings of one configuration
differed by 1 % (median) to 2 % on a slow link, by up to 9 % on NVLink (4 H200)."""

REPEAT_PCT: Final = 3.0
"""Half-width of a band that repeating a run alone needs, in percent: timings of one configuration
differed by 0.1 to 1 % on NVLink, and on a slow link by 1 to 6 %, within a job and between two
(ZeRO-1 and 2, 4 H200, nine steps each)."""

TRANSFER_DRIFT: Final = 0.05
"""How far transfers of one size drift between recordings, relative: 0.119 to 0.135 ns an element
for one all-reduce over 17 runs of one machine."""

MIN_PLAIN_HOOKS: Final = 5
"""Hooks that do not reduce: so many tell what a hook takes without a reduction."""

GRADIENT_HOST_NS: Final = 60_000
"""Host time of each gradient in a bucket beyond `BUCKET_HOST_NS`, likewise: 0.04 to 0.10 ms."""

LONG_KERNEL_NS: Final = 150_000
"""Kernels from this length on tell when collectives find room beside them."""

LATE_ADMISSION: Final = 0.75
"""Collectives that begin during a filling kernel were held up by it if half of them begin this late
in it: by chance they would begin anywhere. Recorded: 0.9 (H200, cuBLAS 13)."""

PRIOR_ADMISSION: Final = 0.9
"""The part of a filling kernel after which a collective begins, where the recording has too few."""

FETCH_HOST_SHARES: Final = (0.9, 1.5, 0.2, 0.7, 0.4, 0.3, 0.25)
"""Host time of what a hook of ZeRO-3 does, as shares of a hook's that does nothing: launching a
gather of its own, one in advance, each parameter in it; waiting for one, unpacking each parameter;
each parameter that was under way; each given up. Rounded medians of 9 recorded runs (0.19.8, H200;
own gathers: 3 of them, in advance: 6), whose own fits differ by a third."""

FETCH_PRIOR_SPREAD: Final = 0.5
"""How far a run's own shares may be from those, relative, before its calls must show it."""

MEMORY_SPARE: Final = 0.05
"""Share of a GPU's memory that must be left for a setting to be sure to fit: the driver's context,
NCCL's buffers and fragments are outside the allocator's peak. Judged: a few GB of a large GPU."""

FASTEST_HOST: Final = 0.5
"""The most that a profiler is believed to slow the host, as a factor of its time: 0.73 to 1.18 was
measured with torch.profiler, and stacks double it."""

MAX_LATENCIES: Final = 10
"""The line through large messages begins at most so many times higher than what the smallest one
takes (5 to 14 us): at 0 to 70 us where sizes differ enough to tell (22 runs on 2 and 4 H200)."""

HOST_DRIFT: Final = 0.1
"""How far the speed of hosts is apart between two jobs of one machine, relative: what a hook of
ZeRO-3 that does nothing took without a profiler scattered by 13 % over four recorded jobs (137 to
232 us over five, one of which issues fewer events)."""

UNTIMED_HOST: Final = 0.75
"""How fast a host may be without the profiler, as a factor of its recorded time: 0.73 at the least
on recorded ZeRO-3 runs (replay fitted to un-profiled steps)."""

PASSES: Final = 12
"""Passes of a simulation at most. Recorded runs need 2 or 3; where collectives wait for room beside
kernels up to 12, in which the step still moves by a thousandth (s_shm_z3, prefetch 5e7)."""

SETTLED: Final = 2e-4
"""Change of the steps' length, relative, at which passes end: replays miss 0.04 to 0.4 %."""

ROUGH: Final = 2e-3
"""The same for the ends of a band, which is wider than ten times that."""

ROUNDS: Final = 5
"""Rounds for how long transfers last beside kernels: a slowdown of at most 0.4 (`MAX_SLOWDOWN`)
leaves 0.4 ** 5 = 1 % of the first guess' error."""

HOST_ROUNDS: Final = 7
"""Halvings in the search for the host's speed: to 0.5 / 2 ** 7 = 0.4 %, less than hosts scatter."""

SYNC_NS: Final = 12_000
"""Host time of a device synchronisation once the device is done: median of recorded ones."""

SMALL_SHARE: Final = 1e-3
"""Share of all elements that biases and norms of a layer are, at most: 13 vectors of the hidden
size beside 12 of its squares in a layer of GPT-2, from a hidden size of 1,100 on."""

MAX_FLAT_GATHERS: Final = 8
"""Parameter groups of an optimizer, each gathered at once, at most: with and without weight decay
are two, experts add some. Pieces of a bucket's size are more. Judged."""

BEHIND_LAUNCH_NS: Final = 50_000
"""What c10d issues behind a collective's launch follows within this time: 2 to 5 us on recorded
runs with a profiler, where the module's own beginning takes 80 to 300."""

BEFORE_LAUNCH: Final = 0.6
"""Part of a gather's host time that is spent before it is launched: mean of recorded calls."""

LARGE_NELEMS: Final = 1_000_000
"""Copies from this size on take as long as their bytes do, whatever a launch takes: 2 MB in 16 bits
are no longer small beside what a launch takes the GPU. Judged."""

MIN_GATHERS: Final = 3
"""Gathers behind one optimizer step that tell what one takes: the first has what prepares all of
them, and two more give a mean. Judged."""
