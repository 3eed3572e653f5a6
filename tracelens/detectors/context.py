"""What detectors read, and how a cause becomes a cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tracelens.collectives import CommTable
from tracelens.detectors.link import Link
from tracelens.findings import Finding, Severity
from tracelens.gradients import Ready
from tracelens.host import Cause, Host
from tracelens.infer.facts import RankFacts
from tracelens.infer.result import Setup
from tracelens.infer.roles import Roles
from tracelens.ingest.ds_config import DsConfig
from tracelens.intervals import Spans, clip_lengths
from tracelens.overlap import StepBreakdown
from tracelens.steps import Steps
from tracelens.thresholds import CRITICAL_SHARE, HIGH_SHARE, INFO_SHARE
from tracelens.trace import Bools, Floats, Int64s
from tracelens.units import format_ns, ns_to_ms

PerRank = Floats
"""A quantity of each rank: mean over its whole steps, ns."""


@dataclass(frozen=True, slots=True)
class Profiler:
    """What recording costs the steps, where they were timed without it (`detectors.recording`).

    `extra_ns`: how much longer the recorded step is; `taken_ns`: how much of it is the host's.
    `kept` (number of `Cause`): share of idle time of each cause that is there without a profiler.
    `pace`: the host's time without a profiler, as a factor. `slower`: what recording takes of each
    rank.
    """

    extra_ns: float
    taken_ns: float
    kept: Floats
    pace: float
    slower: PerRank


@dataclass(frozen=True, slots=True)
class RankView:
    """One rank as detectors see it. `exposed_wait_ns` (k,) and `wait_ns` (m,): -1 unknown.

    `compute`, `backward`: when a compute kernel runs, at all and of a backward pass.
    `collective` (m,): the same number for the same collective on all ranks, -1 unknown.
    `first_ns`: start of the rank's first event.
    `transfer_ns` (2, m): least and most of each row that is transfer; alike where waiting is known.
    """

    rank: int
    first_ns: int
    steps: Steps
    whole: Bools
    breakdown: StepBreakdown
    comm: CommTable
    compute: Spans
    backward: Spans
    wait_ns: Int64s
    collective: Int64s
    exposed_wait_ns: Int64s
    transfer_ns: Int64s
    host: Host
    ready: Ready
    facts: RankFacts
    roles: Roles


@dataclass(frozen=True, slots=True)
class Context:
    """A run as detectors see it: its ranks, what was running, and the mean step in ns.

    With a `profiler` that is known, host-caused idle time and the step are those without it.
    """

    views: tuple[RankView, ...]
    setup: Setup
    device: str | None
    step_ns: float
    shared_gpu: bool
    """Another process used the GPUs: lengths of collectives say nothing about the link."""
    link: Link | None
    """What large collectives reach; None if it is not known, or the GPUs were shared."""
    explained: PerRank
    """What findings so far take of each rank, ns a step: nothing is charged twice."""
    explained_launch: PerRank
    """The part of it that was host-caused idle time."""
    unprofiled_ns: float | None = None
    """Mean step without a profiler, where the run's manifest has it."""
    unprofiled_each_ns: tuple[float, ...] = ()
    """Those steps one by one, mean of ranks; empty where that is not known."""
    profiler: Profiler | None = None
    """What recording costs, if that is known and taken off."""
    ds_config: DsConfig | None = None
    """What the job was configured to do, where that is known."""

    def per_rank(self, values: Sequence[Int64s]) -> PerRank:
        """Means over whole steps of one (k,) array a rank."""
        pairs = zip(self.views, values, strict=True)
        return np.array([float(v[view.whole].mean()) for view, v in pairs])

    def idle(self, cause: Cause) -> PerRank:
        """Idle time of a cause on each rank, ns a step."""
        return self.hosts([v.host.idle_ns[:, cause] for v in self.views], cause)

    def hosts(self, values: Sequence[Int64s], cause: Cause) -> PerRank:
        """Means of (k,) parts of the idle time of a cause, one array a rank."""
        return self.per_rank(values) * self.kept(cause)

    def kept(self, cause: Cause) -> float:
        """Share of the recorded idle time of a cause that is there without a profiler."""
        return 1.0 if self.profiler is None else float(self.profiler.kept[cause])

    def recorded_idle(self, cause: Cause) -> PerRank:
        """Idle time of a cause as it was recorded: what the GPU had to do meanwhile."""
        return self.per_rank([v.host.idle_ns[:, cause] for v in self.views])

    @property
    def charged(self) -> PerRank:
        """What findings take of each rank, the profiler's doing left out, ns a step."""
        return self.explained - (0.0 if self.profiler is None else self.profiler.slower)

    @property
    def waits(self) -> PerRank | None:
        """Exposed waiting of each rank, ns a step; None unless known of every rank and step."""
        if len(self.views) < 2:
            return None
        if any((v.exposed_wait_ns[v.whole] < 0).any() for v in self.views):
            return None
        return self.per_rank([v.exposed_wait_ns for v in self.views])

    @property
    def critical(self) -> int | None:
        """Index of the rank that the others wait for most; None if waiting is unknown."""
        slack = self.slack
        return None if slack is None else int(slack.argmin())

    def saving(self, cause: PerRank) -> float:
        """What the step saves with a cause gone that takes these ns a step of each rank.

        A rank that waits w for the others can be w earlier for nothing. With the cause gone rank r
        arrives cause[r] earlier, and the step follows the last: it gets shorter by
        ``min(slack + cause) - min(slack)``, where slack is waiting and what other findings are
        charged for. Where waiting is unknown only what all ranks share is sure.
        """
        slack = self.slack
        if slack is None:
            return float(cause.min())
        return float((slack + cause).min() - slack.min())

    @property
    def slack(self) -> PerRank | None:
        """How much earlier each rank is than the last once what is explained is gone, ns."""
        waits = self.waits
        return None if waits is None else waits + self.explained

    def roles(self) -> list[Roles]:
        """What each rank's communication is for."""
        return [v.roles for v in self.views]

    def transfer(self, masks: Sequence[Bools]) -> PerRank:
        """Length of some rows less waiting, ns a step of each rank."""
        result = []
        for view, mask in zip(self.views, masks, strict=True):
            c = view.comm
            on = mask & (c.step >= 0) & view.whole[np.maximum(c.step, 0)]
            spent = (c.dur_ns[on] - np.maximum(view.wait_ns[on], 0)).sum()
            result.append(float(spent) / max(int(view.whole.sum()), 1))
        return np.array(result)

    def exposed_transfer(self, masks: Sequence[Bools], *, least: bool = False) -> PerRank:
        """Time in which some rows transfer and no compute kernel runs, ns a step of each rank.

        Where waiting is unknown: the most that it can be, or the least.
        """
        result = []
        for view, mask in zip(self.views, masks, strict=True):
            c = view.comm
            on = mask & (c.step >= 0) & view.whole[np.maximum(c.step, 0)]
            arrived = c.end_ns[on] - view.transfer_ns[0 if least else 1][on]
            hidden = clip_lengths(view.compute, arrived, c.end_ns[on])
            exposed = (c.end_ns[on] - arrived - hidden).sum()
            result.append(float(exposed) / max(int(view.whole.sum()), 1))
        return np.array(result)


Status = Literal["fired", "clean", "not_applicable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a detector's run ended: fired, clean, or not applicable with the reason."""

    id: str
    status: Status
    reason: str | None = None


def severity(cost_ns: float, step_ns: float) -> Severity:
    """Severity by share of the step."""
    share = cost_ns / step_ns if step_ns else 0.0
    if share >= CRITICAL_SHARE:
        return "critical"
    if share >= HIGH_SHARE:
        return "high"
    return "low" if share >= INFO_SHARE else "info"


@dataclass(frozen=True, slots=True)
class Charge:
    """A finding, and what its cause takes of each rank, ns a step."""

    finding: Finding
    cause: PerRank
    of_launch: PerRank
    """The part of it that is host-caused idle time (`Cause.LAUNCH`)."""


def charge(
    context: Context,
    id: str,
    title: str,
    cause: PerRank,
    *,
    of_launch: bool | PerRank = False,
    idle_ns: float = 0.0,
    **more: Any,
) -> Charge:
    """Charge a cause with what the step would save without it.

    `of_launch`: whether the cause is host-caused idle time, or how much of it. `idle_ns`: part of
    every rank's waiting that would go as well.
    """
    cost = max(context.saving(cause), 0.0) + idle_ns
    finding = Finding(
        id=id,
        title=_title(title, cost),
        cost_ms_per_step=ns_to_ms(cost),
        severity=severity(cost, context.step_ns),
        **more,
    )
    whole = cause * float(of_launch) if isinstance(of_launch, bool) else of_launch
    return Charge(finding, cause, np.minimum(whole, cause))


def _title(title: str, cost: float) -> str:
    """The title with its cost; what costs nothing has none in its title."""
    if cost > 0:
        return title.replace("{cost}", format_ns(cost))
    return title.replace(", {cost} a step", "").replace("{cost} a step", "some time")


def ranks_of(context: Context, hit: Iterable[object]) -> tuple[int, ...]:
    """Ranks for which something holds."""
    return tuple(v.rank for v, h in zip(context.views, hit, strict=True) if h)


def spread(values: PerRank) -> str:
    """Smallest and largest of a quantity, as text; one where they are alike."""
    low, high = float(values.min()), float(values.max())
    same = high - low < 0.05 * high
    return format_ns(high) if same else f"{format_ns(low)} to {format_ns(high)} by rank"
