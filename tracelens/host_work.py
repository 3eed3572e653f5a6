"""Which idle time a slower host makes longer: how long the host worked up to it.

A GPU is idle when its host is not there in time with the next launch. How late it is, is what it
took since the GPU was last dry (or since it last waited for the GPU), less the work that was
queued. So what slows the host, a profiler for one, lengthens idle time by its share of the host's
work up to its end: even a sleep leaves the GPU idle for longer if less was queued before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracelens.intervals import Ns, Spans, clip_lengths, contains, union
from tracelens.steps import Steps
from tracelens.trace import Int64s


def host_work(
    idle: Spans,
    parts: Sequence[Spans],
    still: Sequence[Spans],
    blocked: Spans,
    steps: Steps,
    first_ns: int | None,
) -> Int64s:
    """How long the host worked up to idle time of each cause.

    Parameters
    ----------
    idle : Spans
        When the GPU had nothing to do since nothing was launched.
    parts : sequence of Spans
        The same by cause.
    still : sequence of Spans
        When the host did nothing, or one thing that takes as long whoever watches: pauses, driver
        allocations.
    blocked : Spans
        When the host waited for the GPU. Idle time that begins then begins anew: what the host did
        before it came to nothing.
    steps : Steps
    first_ns : int or None
        The first launch, where any is known.

    Returns
    -------
    int64 (k, len(parts))
        ns of each step. Work before an idle stretch of several causes is shared among them by their
        lengths.
    """
    result = np.zeros((len(steps), len(parts)), np.int64)
    start, end = idle
    if not len(start) or not len(steps):
        return result
    quiet = union(*(np.concatenate(side) for side in zip(blocked, *still, strict=True)))
    begin = int(start[0]) if first_ns is None else min(first_ns, int(start[0]))
    since = np.where(contains(blocked, start), start, np.insert(end[:-1], 0, begin))
    before = _busy(quiet, since, start) / (end - start)
    for cause, (begins, ends) in enumerate(parts):
        at = np.searchsorted(start, begins, "right") - 1
        spent = _busy(quiet, begins, ends) + before[at] * (ends - begins)
        step = np.searchsorted(steps.start_ns, begins, "right") - 1
        np.add.at(result[:, cause], step[step >= 0], np.rint(spent).astype(np.int64)[step >= 0])
    return result


def _busy(quiet: Spans, start: Ns, end: Ns) -> Ns:
    return (end - start) - clip_lengths(quiet, start, end)
