"""reduce_bucket_size and overlap_comm of ZeRO-3: gradients reduced in other buckets, elsewhere.

DeepSpeed 0.19.8 runtime/zero/stage3.py: each hook reduces the bucket that its gradient would
overfill (reduce_independent_p_g_buckets_and_remove_grads), makes the reducing stream wait for the
gradient and copies it into the bucket (__add_grad_to_ipg_bucket). A bucket is put together by
rank, divided, reduce-scattered, and the rank's parts are copied (__avg_scatter_grads,
partition_grads); before, the host waits while more than two are outstanding
(__reduce_and_partition_ipg_grads). The compute stream waits for none of it; the pass ends with a
synchronisation of the reducing stream (independent_gradient_partition_epilogue). Without
overlap_comm that stream is the compute stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from tracelens.errors import CannotPredict
from tracelens.gradients import Bucket, fill
from tracelens.reducing import host_line
from tracelens.replay.model import RankModel
from tracelens.replay.program import Act, host_ns
from tracelens.replay.transforms.bucket_plan import (
    Setting,
    backward_passes,
    positions,
    typical,
    usual,
)
from tracelens.replay.transforms.writing import Writer
from tracelens.thresholds.replay import LARGE_NELEMS
from tracelens.trace import Bools, Int64s


@dataclass(frozen=True, slots=True)
class Reduced:
    """What a rank's program does to reduce gradients now.

    Attributes
    ----------
    spans : tuple of (first, stop)
        Gradients of each backward pass.
    buckets : tuple of tuple of Bucket
        As the flush rule makes them, and as they were recorded.
    rows : bool (m,)
        All that reduces.
    ends : tuple of (first, last)
        Positions of what reduces a pass's last bucket, the synchronisation included.
    host_ns : int64 (g,)
        Host time of each gradient's hook.
    end_ns : tuple of int
        Of each pass's end.
    rates : (pack, divide, copy)
        GPU time per element of putting a bucket together, of dividing it, of copying a gradient
        into it; of the rank's parts out of it the same as into it.
    """

    spans: tuple[tuple[int, int], ...]
    buckets: tuple[tuple[Bucket, ...], ...]
    rows: Bools
    ends: tuple[tuple[int, int], ...]
    host_ns: Int64s
    end_ns: tuple[int, ...]
    rates: tuple[float, float, float]


def read_reduced(m: RankModel, now: Setting, world: int) -> Reduced:
    """Find a rank's reductions, and hold the flush rule against them.

    Raises
    ------
    CannotPredict
        If gradients or reductions were not recorded, or are not the rule's.
    """
    p, g = m.program, m.host.gradients
    heads = np.flatnonzero(np.isin(p.uid, m.reductions))
    if not len(heads):
        raise CannotPredict("no gradient was reduced in the steps that were recorded")
    spans = _spans(m)
    buckets = tuple(fill(g.nelems[a:b].tolist(), now.bucket) for a, b in spans)
    seen = [m.nelems[int(u)] for u in p.uid[heads].tolist()]
    if padded_buckets(m, now.bucket, world) != seen:
        raise CannotPredict(
            f"the recorded reductions are not those of reduce_bucket_size {now.bucket:,}",
            hint="give the job's configuration: --ds-config",
        )
    red = int(p.stream[heads[0]])
    mine = (p.act != Act.LAUNCH) | (p.stream == red)
    rows = (p.hook >= 0) & mine
    ends = []
    last = np.cumsum([len(b) for b in buckets]) - 1
    for k, made in enumerate(buckets):
        packed = len(made[-1].members) > 1 or seen[last[k]] % world > 0
        first, stop = _end(m, int(heads[last[k]]), red, 2 if packed else 1)
        rows[first : stop + 1] |= mine[first : stop + 1]
        ends.append((first, stop))
    outside = np.zeros(len(p), bool)
    for first, stop in ends:
        outside[first : stop + 1] = True
    spent = host_ns(p) * rows
    hooked = rows & (p.hook >= 0) & ~outside
    host = np.bincount(p.hook[hooked], spent[hooked], len(g)).astype(np.int64)
    end_ns = tuple(int(spent[a : b + 1].sum()) for a, b in ends)
    rates = _rates(m, heads, buckets, spans, red, world)
    return Reduced(spans, buckets, rows, tuple(ends), host, end_ns, rates)


def _spans(m: RankModel) -> tuple[tuple[int, int], ...]:
    return tuple(backward_passes(m.program, positions(m.program, m.host.uid)))


def padded_buckets(m: RankModel, bucket: int, world: int) -> list[int]:
    """Sizes of the reductions that the flush rule makes of a rank's gradients, elements."""
    g = m.host.gradients.nelems
    return [padded(g[a:b], x, world) for a, b in _spans(m) for x in fill(g[a:b].tolist(), bucket)]


def padded(nelems: Int64s, b: Bucket, world: int) -> int:
    """Elements of a bucket with each gradient padded to a multiple of the ranks."""
    return sum(ceil(int(nelems[i]) / world) * world for i in b.members)


def _end(m: RankModel, head: int, red: int, before: int) -> tuple[int, int]:
    """Positions from the first copy before a pass's last reduction to the synchronisation."""
    p = m.program
    work = np.flatnonzero((p.act == Act.LAUNCH) & (p.stream == red))
    k = int(np.searchsorted(work, head))
    first = int(work[k - before]) if k >= before else head
    while first > 0 and p.act[first - 1] >= Act.WAIT and p.hook[first - 1] == p.hook[head]:
        first -= 1
    syncs = np.flatnonzero(p.act[head:] == Act.SYNC)
    return first, head + int(syncs[0]) if len(syncs) else head


def _rates(
    m: RankModel,
    heads: Int64s,
    buckets: Sequence[Sequence[Bucket]],
    spans: Sequence[tuple[int, int]],
    red: int,
    world: int,
) -> tuple[float, float, float]:
    """GPU time per element of packing, dividing and copying; all move a message once in and out."""
    p, g = m.program, m.host.gradients
    work = np.flatnonzero((p.act == Act.LAUNCH) & (p.stream == red) & ~p.comm)
    flat = [b for made in buckets for b in made]
    divided, packed = [0.0, 0.0], [0.0, 0.0]
    for h, b in zip(heads.tolist(), flat, strict=True):
        n = m.nelems[int(p.uid[h])]
        k = int(np.searchsorted(work, h))
        if k:
            divided[0] += float(p.work_ns[work[k - 1]])
            divided[1] += n
        if k > 1 and len(b.members) > 1:
            packed[0] += float(p.work_ns[work[k - 2]])
            packed[1] += n
    flushed = {int(h) for h in p.hook[heads].tolist()}
    into = work[(p.hook[work] >= 0) & ~np.isin(p.hook[work], list(flushed))]
    into = into[g.nelems[p.hook[into]] >= LARGE_NELEMS]
    copied = [float(p.work_ns[into].sum()), float(g.nelems[np.unique(p.hook[into])].sum())]
    divide = divided[0] / divided[1] if divided[1] else 0.0
    pack = packed[0] / packed[1] if packed[1] else divide
    return pack, divide, copied[0] / copied[1] if copied[1] else divide


def fit_host(found: Sequence[Reduced]) -> tuple[float, float]:
    """Host time of reducing a bucket, from all ranks: (of a bucket, of each gradient in it), ns."""
    counts, more = [], []
    for r in found:
        flushed = _flushed(r)
        plain = np.ones(len(r.host_ns), bool)
        plain[list(flushed)] = False
        base = float(r.host_ns[plain].mean()) if plain.any() else 0.0
        counts += list(flushed.values())
        more += [float(r.host_ns[h]) - base for h in flushed]
    return host_line(np.array(counts, float), np.array(more))


def _flushed(r: Reduced) -> dict[int, int]:
    """Gradients in the bucket that each hook reduces."""
    return {
        first + b.at: len(b.members)
        for (first, stop), made in zip(r.spans, r.buckets, strict=True)
        for b in made
        if first + b.at < stop
    }


class Scattering:
    """A rank's reductions, written hook by hook."""

    def __init__(
        self,
        m: RankModel,
        reduced: Reduced,
        line: tuple[float, float],
        writer: Writer,
        stream: int,
        world: int,
    ) -> None:
        self._m, self._old, self._line, self._write = m, reduced, line, writer
        self._stream, self._world = stream, world
        p = m.program
        self._late = self._copy_late = typical(p)
        if stream != m.compute_stream:  # beside kernels: one has to let go of the GPU first
            self._late = usual(p, np.flatnonzero(np.isin(p.uid, m.reductions)))

    def write(self, setting: Setting) -> None:
        """The rows of all hooks with a setting."""
        old, write = self._old, self._write
        hook_at = positions(self._m.program, self._m.host.uid)
        g = self._m.host.gradients
        was = _flushed(old)
        for k, (first, stop) in enumerate(old.spans):
            made = fill(g.nelems[first:stop].tolist(), setting.bucket)
            due = {first + b.at: b for b in made}
            for i in range(first, stop):
                b = due.get(i)
                host = float(old.host_ns[i]) + self._time(len(b.members) if b else 0)
                host = max(host - self._time(was.get(i, 0)), 0.0)
                if b is not None:
                    share = min(self._time(len(b.members)), host)
                    self._flush(g.nelems[first:stop], b, share)
                    host -= share
                self._add(int(g.nelems[i]), setting.bucket, host)
                write.place(int(hook_at[i]), int(hook_at[i]))
            change = self._line[1] * (len(made[-1].members) - len(old.buckets[k][-1].members))
            self._flush(g.nelems[first:stop], made[-1], max(old.end_ns[k] + change, 0.0))
            write.row(act=Act.SYNC, target=self._stream)
            write.place(old.ends[k][1] + 1, old.ends[k][1])

    def _time(self, members: int) -> float:
        return self._line[0] + self._line[1] * members if members else 0.0

    def _flush(self, nelems: Int64s, b: Bucket, host_ns: float) -> None:
        """A bucket is reduced."""
        n = padded(nelems, b, self._world)
        write, red = self._write, self._stream
        pack, divide, copy = self._old.rates
        write.hold_host(host_ns / 2, red)
        if len(b.members) > 1 or n != b.nelems:
            write.launch(pack * n, red, self._copy_late, compute=True)
        write.launch(divide * n, red, self._copy_late, compute=True, gap_ns=host_ns / 2)
        write.meet(n, red, self._late)
        write.launch(copy * n / self._world, red, self._copy_late)
        write.event(red)

    def _add(self, n: int, limit: int, host_ns: float) -> None:
        """A gradient goes into the bucket."""
        write, red = self._write, self._stream
        write.row(act=Act.WAIT, stream=red, target=self._m.compute_stream, gap_ns=host_ns)
        if n <= limit:
            write.launch(self._old.rates[2] * n, red, self._copy_late)
