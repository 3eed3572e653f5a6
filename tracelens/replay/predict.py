"""A change, predicted: applied to the model, replayed, with a band and how far to trust it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tracelens.errors import CannotPredict
from tracelens.replay.apply import apply
from tracelens.replay.change import Change, Value
from tracelens.replay.configuration import Configuration, find_configuration
from tracelens.replay.footprint import changed as changed_setting
from tracelens.replay.model import Model, step_ns
from tracelens.replay.transforms.stage3 import Stage3
from tracelens.replay.zero3 import as_recorded, find_stage3, rebuilds
from tracelens.thresholds.replay import (
    FASTEST_HOST,
    LOW_REPLAY_ERROR,
    MAX_SLOWDOWN,
    NOISE_PCT,
    REPEAT_PCT,
    SURE_REPLAY_ERROR,
    TRANSFER_DRIFT,
    UNTIMED_HOST,
)

#: Change of the steps' length at which the passes for a band end.
ROUGH = 2e-3
#: Halvings in the search for the host's speed: to 0.5 / 2 ** 7 = 0.4 %.
HOST_ROUNDS = 7

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
        replayed = _step(model)
        self.baseline = Baseline(model.recorded_ns / 1e6, replayed / 1e6, timed)
        #: The model that is changed: its host as fast as without a profiler, where that is known.
        self.model = model if timed is None else unprofiled(model, timed * 1e6)
        self._base = replayed if self.model is model else _step(self.model)
        self._recorded = model
        self._stage3: tuple[Model, Model, float, float] | None = None
        self._varied: dict[int, float] = {}

    def predict(self, change: Change) -> Prediction:
        """Predict one change.

        Raises
        ------
        CannotPredict
            If the recording does not show what it would take; the hint says what to record.
        """
        notes: list[str] = []
        model, base = self._start(change)
        changed = apply(model, self.now, change, notes)
        ratio = _step(changed) / base if changed is not model else 1.0
        low = high = ratio
        if changed is not model:
            low, high = self._band(change, changed, ratio)
        confidence = self._confidence(change, changed, notes)
        memory = self._memory(change, notes)
        return Prediction(self.baseline, change, ratio, low, high, confidence, tuple(notes), memory)

    def _memory(self, change: Change, notes: list[str]) -> float | None:
        """By how much the peak of memory grows; a change that does not fit is noted."""
        known = self.model.memory
        if known is None:
            return None
        overflow = known.overflow(change)
        if overflow is not None:
            notes.append(overflow)
        return known.growth_bytes(changed_setting(known.setting, change))

    def ratio(self, change: Change) -> float:
        """Predicted step over the replayed one, without a band, of what can be recommended.

        Raises
        ------
        CannotPredict
            As `predict`; if the change does not fit on the GPU.
        """
        known = self.model.memory
        overflow = known.overflow(change) if known else None
        if overflow is not None:
            raise CannotPredict(overflow)
        model, base = self._start(change)
        changed = apply(model, self.now, change, [])
        return 1.0 if changed is model else _step(changed) / base

    def _start(self, change: Change) -> tuple[Model, float]:
        """The model that a change is applied to, and its step to compare with, ns.

        What ZeRO-3's hooks do is written anew for a change. What the rules then miss is missed by
        the recorded setting too, but not alike: the replay of the recording itself is what the
        changed step compares to, brought to the host without a profiler.
        """
        if not rebuilds(self.now, change):
            return self.model, self._base
        if self._stage3 is None:
            timed, model = self.baseline.unprofiled_step_ms, self._recorded
            rebuilt = as_recorded(model, self.now)
            missed = _step(model) / _step(rebuilt)
            if timed is not None:
                factor = host_factor(rebuilt, timed * 1e6)
                model, rebuilt = model.with_host(factor), rebuilt.with_host(factor)
            self._stage3 = model, rebuilt, _step(rebuilt) * missed, missed
        model, _, base, _ = self._stage3
        return model, base

    def unbounded(self, change: Change, ratio: float) -> Prediction:
        """A prediction whose ratio is known already, with no more of a band than repeats need."""
        notes: list[str] = []
        changed = apply(self.model, self.now, change, notes)
        confidence = self._confidence(change, changed, notes)
        margin = REPEAT_PCT / 100
        memory = self._memory(change, notes)
        low, high = ratio - margin, ratio + margin
        return Prediction(self.baseline, change, ratio, low, high, confidence, tuple(notes), memory)

    def stage3(self) -> Stage3:
        """The settings of ZeRO-3 that the recording ran with.

        Raises
        ------
        CannotPredict
            If none explains it.
        """
        return find_stage3(self._recorded, self.now)

    def runs_with(self, values: Mapping[str, Value]) -> bool:
        """Whether the recording ran with these settings of its reductions."""
        try:
            recorded = self.now.reduction(self.model)
        except CannotPredict:
            return False
        return values == {"overlap_comm": recorded.overlap, "reduce_bucket_size": recorded.bucket}

    def _band(self, change: Change, changed: Model, ratio: float) -> tuple[float, float]:
        """Ratios with contention and transfer times at the ends of what they may be."""
        ratios = [ratio]
        variations = _variations(self.model)
        if self._host_unsure(change):
            variations.append(lambda m: m.with_host(UNTIMED_HOST))
        for k, vary in enumerate(variations):
            if rebuilds(self.now, change) and self._stage3 is not None:
                _, rebuilt, _, missed = self._stage3
                if k not in self._varied:
                    self._varied[k] = _roughly(vary(rebuilt))
                ratios.append(_roughly(vary(changed)) / (self._varied[k] * missed))
                continue
            varied = vary(self.model)
            ratios.append(_step(apply(varied, self.now, change, [])) / _step(varied))
        margin = (abs(self.baseline.replay_error_pct) + REPEAT_PCT) / 100
        return min(ratios) - margin, max(ratios) + margin

    def _confidence(self, change: Change, changed: Model, notes: list[str]) -> Confidence:
        error = abs(self.baseline.replay_error_pct)
        if error > LOW_REPLAY_ERROR:
            notes.append(f"the replay misses the recording by {error:.1f} %")
            return "low"
        if changed is self.model:
            return "high"
        if not self.model.matched:
            notes.append("not all ranks were read: what is waiting and what transfer is unknown")
            return "low"
        if change.get("world_size") is not None:
            return "low"
        if change.get("overlap_comm") and not self.model.slowdown.measured:
            notes.append(
                "nothing overlaps in this recording: how much kernels and communication slow each "
                f"other is assumed (kernels x {self.model.slowdown.factor:.2f})"
            )
            return "medium"
        if self._host_unsure(change):
            notes.append(
                "ZeRO-3's host is on the critical path, and the profiler slows it: steps timed "
                "without a profiler (collectors do) make this surer"
            )
            return "medium"
        return "high" if error <= SURE_REPLAY_ERROR else "medium"

    def _host_unsure(self, change: Change) -> bool:
        """Whether the host's own speed decides, and is known with a profiler only."""
        return rebuilds(self.now, change) and self.baseline.unprofiled_step_ms is None


def unprofiled(model: Model, step_ns: float) -> Model:
    """The model with a host so much faster that its step is the one timed without a profiler.

    The profiler costs the host time at every call, and the GPU next to none. A step that a faster
    host does not make shorter stays as it was recorded.

    Parameters
    ----------
    model : Model
    step_ns : float
        Mean step without a profiler.
    """
    return model.with_host(host_factor(model, step_ns))


def host_factor(model: Model, step_ns: float) -> float:
    """What the host's time has to be multiplied by for a step to last so long, at most 1."""
    if _step(model) <= step_ns:
        return 1.0
    low, high = FASTEST_HOST, 1.0
    if _step(model.with_host(low)) > step_ns:
        return low
    for _ in range(HOST_ROUNDS):
        middle = (low + high) / 2
        if _step(model.with_host(middle)) > step_ns:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _step(model: Model) -> float:
    return step_ns(model.programs, model.replay())


def _roughly(model: Model) -> float:
    """Length of a step for a band: to a fifth of a percent."""
    return step_ns(model.programs, model.replay(ROUGH))


def _variations(model: Model) -> list[Callable[[Model], Model]]:
    """The model at the ends of what its constants may be."""
    factor = model.slowdown.factor
    spread = max(model.reduction.spread if model.reduction else 0.0, TRANSFER_DRIFT)
    spread = min(spread, 0.5)
    low, high = (1 + (factor - 1) / 2, min(1 + (factor - 1) * 1.5, MAX_SLOWDOWN))
    if not model.slowdown.measured:
        low, high = 1.0, MAX_SLOWDOWN

    def slowed(to: float) -> Callable[[Model], Model]:
        return lambda m: replace(m, costs=replace(m.costs, compute_slowdown=to))

    def scaled(by: float) -> Callable[[Model], Model]:
        def vary(m: Model) -> Model:
            transfer = {n: t * by for n, t in m.costs.transfer_ns.items()}
            costs = replace(m.costs, transfer_ns=transfer)
            reduction, fetch = (x.scaled(by) if x else None for x in (m.reduction, m.fetch))
            return replace(m, costs=costs, reduction=reduction, fetch=fetch)

        return vary

    return [slowed(low), slowed(high), scaled(1 - spread), scaled(1 + spread)]
