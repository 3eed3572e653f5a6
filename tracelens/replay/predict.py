"""A change, predicted: applied to the model, replayed, with a band and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tracelens.errors import CannotPredict
from tracelens.replay.apply import apply
from tracelens.replay.change import Change, Value
from tracelens.replay.configuration import Configuration, find_configuration
from tracelens.replay.footprint import changed as changed_setting
from tracelens.replay.model import Model
from tracelens.replay.simulate import Costs, Simulation
from tracelens.replay.transforms.stage3 import Hooks, Stage3
from tracelens.replay.zero3 import as_recorded, find_hooks, find_stage3, rebuilds, staying_nelems
from tracelens.thresholds.replay import (
    FASTEST_HOST,
    HOST_DRIFT,
    HOST_ROUNDS,
    LOW_REPLAY_ERROR,
    NOISE_PCT,
    REPEAT_PCT,
    ROUGH,
    SURE_REPLAY_ERROR,
    TRANSFER_DRIFT,
    UNTIMED_HOST,
)

if TYPE_CHECKING:
    from tracelens.analysis import Analysis

Confidence = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The recorded run and its replay, ms per step.

    `step_ms` is measured in the trace, `unprofiled_step_ms` without a profiler where that is known.
    """

    step_ms: float
    replayed_step_ms: float
    unprofiled_step_ms: float | None

    @property
    def replay_error_pct(self) -> float:
        """How far the replay is from the recording."""
        return 100 * (self.replayed_step_ms / self.step_ms - 1)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a change would give.

    Attributes
    ----------
    baseline : Baseline
    change : Change
    ratio : float
        Predicted step over the replayed one.
    low, high : float
        The same at the ends of the band.
    confidence : str
    notes : tuple of str
    memory_bytes : float or None
        By how much the peak of a GPU's memory grows, at most; None where that cannot be told.
    """

    baseline: Baseline
    change: Change
    ratio: float
    low: float
    high: float
    confidence: Confidence
    notes: tuple[str, ...]
    memory_bytes: float | None = None

    @property
    def step_ms(self) -> float:
        """Predicted step, under the conditions of the recording."""
        return self.ratio * self.baseline.step_ms

    @property
    def within_noise(self) -> bool:
        """Whether the change is too small to be seen between two runs."""
        return abs(self.ratio - 1) * 100 < NOISE_PCT or self.low <= 1 <= self.high

    def to_json(self) -> dict[str, Any]:
        """The documented structure (docs/json.md)."""
        return {
            "format": 1,
            "baseline": baseline_json(self.baseline),
            "change": dict(self.change.values),
            "predicted": self.predicted_json(),
            "confidence": self.confidence,
            "notes": list(self.notes),
        }

    def predicted_json(self) -> dict[str, Any]:
        """The prediction alone."""
        ms = self.baseline.step_ms
        timed = self.baseline.unprofiled_step_ms
        return {
            "step_ms": round(self.step_ms, 3),
            "low_ms": round(self.low * ms, 3),
            "high_ms": round(self.high * ms, 3),
            "ratio": round(self.ratio, 4),
            "unprofiled_step_ms": round(self.ratio * timed, 3) if timed else None,
            "within_noise": self.within_noise,
            "memory_delta_bytes": None if self.memory_bytes is None else round(self.memory_bytes),
        }


def baseline_json(baseline: Baseline) -> dict[str, Any]:
    """The recorded run as in the JSON report."""
    timed = baseline.unprofiled_step_ms
    return {
        "step_ms": round(baseline.step_ms, 3),
        "replayed_step_ms": round(baseline.replayed_step_ms, 3),
        "replay_error_pct": round(baseline.replay_error_pct, 3),
        "unprofiled_step_ms": round(timed, 3) if timed else None,
    }


class Predictor:
    """Predictions for one run: its model is read once.

    Parameters
    ----------
    analysis : Analysis
    model : Model
    timed_ms : float, optional
        Mean step without a profiler; by default the manifest's.

    Raises
    ------
    InputError
        If the run has no step that was recorded whole, or no launches.
    """

    def __init__(self, analysis: Analysis, model: Model, timed_ms: float | None = None) -> None:
        self.now: Configuration = find_configuration(analysis, model)
        manifest = analysis.manifest
        timed = timed_ms or (manifest.unprofiled_step_ms if manifest else None)
        ran = model.replay()
        self.baseline = Baseline(model.recorded_ns / 1e6, ran.step_ns / 1e6, timed)
        self._recorded = _Start(model, model, ran, 1.0)
        self._usual = self._recorded if timed is None else _unprofiled(self._recorded, timed * 1e6)
        self._stage3: _Start | None = None

    @property
    def model(self) -> Model:
        """What is changed: the recording, with the host of a run without a profiler if known."""
        return self._usual.model

    def predict(self, change: Change) -> Prediction:
        """Predict one change.

        Raises
        ------
        CannotPredict
            If the recording does not show what it would take; the hint says what to record.
        """
        return self._predicted(change, self._start(change), banded=True)

    def estimate(self, change: Change) -> Prediction:
        """Predict what can be recommended, with no more of a band than repeats need.

        Raises
        ------
        CannotPredict
            As `predict`; if the change does not fit on the GPU.
        """
        known = self.model.memory
        overflow = known.overflow(change) if known else None
        if overflow is not None:
            raise CannotPredict(overflow)
        return self._predicted(change, self._start(change), banded=False)

    def _predicted(self, change: Change, start: _Start, banded: bool) -> Prediction:
        notes: list[str] = []
        changed = apply(start.model, self.now, change, notes, start.hooks)
        ratio = low = high = 1.0
        drift = 0.0
        if changed is not start.model:
            ran = changed.replay()
            ratio = ran.step_ns / start.step_ns
            low, high = ratio - REPEAT_PCT / 100, ratio + REPEAT_PCT / 100
            if banded:
                drift = _host_drift(changed, ran) / start.step_ns
                low, high = self._band(change, start, (changed, ran), drift)
        confidence = self._confidence(change, changed is start.model, drift, notes)
        memory = self._memory(change, start, notes)
        return Prediction(self.baseline, change, ratio, low, high, confidence, tuple(notes), memory)

    def _memory(self, change: Change, start: _Start, notes: list[str]) -> float | None:
        """By how much the peak of memory grows; a change that does not fit is noted."""
        known = self.model.memory
        if known is None:
            return None
        overflow = known.overflow(change)
        if overflow is not None:
            notes.append(overflow)
        stays = staying_nelems(start.hooks, change) if start.hooks else 0.0
        more = stays * known.model.widths.parameter_bytes
        return known.growth_bytes(changed_setting(known.setting, change)) + more

    def _start(self, change: Change) -> _Start:
        """What a change is applied to.

        What ZeRO-3's hooks do is written anew for a change. What the rules then miss is missed by
        the recorded setting too, but not alike: the replay of the recording itself is what the
        changed step compares to, brought to the host without a profiler.
        """
        if not rebuilds(self.now, change):
            return self._usual
        if self._stage3 is None:
            model, timed = self._recorded.model, self.baseline.unprofiled_step_ms
            hooks = find_hooks(model, self.now)
            rebuilt = as_recorded(hooks)
            ran = rebuilt.replay()
            start = _Start(model, rebuilt, ran, self._recorded.ran.step_ns / ran.step_ns, hooks)
            if timed is not None:
                start = _unprofiled(start, timed * 1e6)
                start = replace(start, hooks=find_hooks(start.model, self.now))
            self._stage3 = start
        return self._stage3

    def stage3(self) -> Stage3:
        """The settings of ZeRO-3 that the recording ran with.

        Raises
        ------
        CannotPredict
            If none explains it.
        """
        return find_stage3(self._recorded.model, self.now)

    def runs_with(self, values: Mapping[str, Value]) -> bool:
        """Whether the recording ran with these settings of its reductions."""
        try:
            recorded = self.now.reduction(self.model)
        except CannotPredict:
            return False
        return values == {"overlap_comm": recorded.overlap, "reduce_bucket_size": recorded.bucket}

    def _band(
        self, change: Change, start: _Start, changed: tuple[Model, Simulation], drift: float
    ) -> tuple[float, float]:
        """Ratios with contention and transfer times at the ends of what they may be.

        What repeats differ by is added: on the GPU, and as far as the host decides (`drift`).
        """
        model, ran = changed
        ratios = [ran.step_ns / start.step_ns]
        variations = _variations(self.model)
        if self._host_unsure(change):
            variations.append(lambda c: replace(c, host=UNTIMED_HOST))
        for k, vary in enumerate(variations):
            ratios.append(ran.again(vary(model.costs), ROUGH).step_ns / start.varied_ns(k, vary))
        margin = (abs(self.baseline.replay_error_pct) + REPEAT_PCT) / 100 + drift
        return min(ratios) - margin, max(ratios) + margin

    def _confidence(
        self, change: Change, unchanged: bool, drift: float, notes: list[str]
    ) -> Confidence:
        error = abs(self.baseline.replay_error_pct)
        if error > LOW_REPLAY_ERROR:
            notes.append(f"the replay misses the recording by {error:.1f} %")
            return "low"
        if unchanged:
            return "high"
        if not self.model.matched:
            notes.append("not all ranks were read: what is waiting and what transfer is unknown")
            return "low"
        if change.get("world_size") is not None:
            return "low"
        if change.get("overlap_comm") and not self.model.slowdown.measured:
            notes.append(
                "nothing overlaps in this recording: how much kernels and communication slow each "
                f"other is assumed (matrix products x {self.model.slowdown.products:.2f})"
            )
            return "medium"
        if self._host_unsure(change):
            notes.append(
                "ZeRO-3's host is on the critical path, and the profiler slows it: steps timed "
                "without a profiler (collectors do) make this surer"
            )
            return "medium"
        if drift > NOISE_PCT / 100:
            notes.append(
                f"the host limits these steps: hosts {HOST_DRIFT:.0%} apart, as two jobs may find "
                f"them, make steps {drift:.1%} apart"
            )
            return "medium"
        return "high" if error <= SURE_REPLAY_ERROR else "medium"

    def _host_unsure(self, change: Change) -> bool:
        """Whether the host's own speed decides, and is known with a profiler only."""
        return rebuilds(self.now, change) and self.baseline.unprofiled_step_ms is None


def _host_drift(model: Model, ran: Simulation) -> float:
    """By how much a step is shorter on a host as much faster as hosts differ between jobs, ns."""
    faster = ran.again(replace(model.costs, host=1 - HOST_DRIFT), ROUGH)
    return max(ran.step_ns - faster.step_ns, 0.0)


@dataclass(frozen=True, slots=True)
class _Start:
    """What changes are applied to, and what the changed step is compared with.

    `model` is changed; `written` is the recorded setting as a change writes it, and `ran` its
    simulation; `missed`: the step of `model` over that of `written`; `hooks`: what ZeRO-3's do in
    `model`. `varied`: lengths of a step with other costs, by the number of the variation.
    """

    model: Model
    written: Model
    ran: Simulation
    missed: float
    hooks: Hooks | None = None
    varied: dict[int, float] = field(default_factory=dict)

    @property
    def step_ns(self) -> float:
        """The step that a changed one is compared with."""
        return self.ran.step_ns * self.missed

    def varied_ns(self, k: int, vary: Vary) -> float:
        """That step with other costs."""
        if k not in self.varied:
            self.varied[k] = self.ran.again(vary(self.written.costs), ROUGH).step_ns
        return self.varied[k] * self.missed


def _unprofiled(start: _Start, step_ns: float) -> _Start:
    """The same with a host so much faster that its step is the one timed without a profiler.

    The profiler costs the host time at every call, and the GPU next to none. A step that a faster
    host does not make shorter stays as it was recorded.
    """
    factor = host_factor(start.written, start.ran, step_ns)
    model = start.model.with_host(factor)
    written = model if start.written is start.model else start.written.with_host(factor)
    return _Start(model, written, written.replay(), start.missed)


def host_factor(model: Model, ran: Simulation, step_ns: float) -> float:
    """What the host's time has to be multiplied by for a step to last so long, at most 1."""

    def length(factor: float) -> float:
        return ran.again(replace(model.costs, host=factor)).step_ns

    if ran.step_ns <= step_ns:
        return 1.0
    low, high = FASTEST_HOST, 1.0
    if length(low) > step_ns:
        return low
    for _ in range(HOST_ROUNDS):
        middle = (low + high) / 2
        if length(middle) > step_ns:
            high = middle
        else:
            low = middle
    return (low + high) / 2


Vary: TypeAlias = Callable[[Costs], Costs]


def _variations(model: Model) -> list[Vary]:
    """Costs at the ends of what they may be."""
    spread = max(model.reduction.spread if model.reduction else 0.0, TRANSFER_DRIFT)
    spread = min(spread, 0.5)
    low, high = (0.5, 1.5) if model.slowdown.measured else (0.0, 2.0)

    def slowed(by: float) -> Vary:
        return lambda c: replace(
            c,
            product_slowdown=1 + (c.product_slowdown - 1) * by,
            compute_slowdown=1 + (c.compute_slowdown - 1) * by,
        )

    def scaled(by: float) -> Vary:
        return lambda c: replace(c, transfer_ns={n: t * by for n, t in c.transfer_ns.items()})

    return [slowed(low), slowed(high), scaled(1 - spread), scaled(1 + spread)]
