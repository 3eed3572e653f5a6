"""Search the settings that matter for what was running, and say whether a change is worth it."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracelens.errors import CannotPredict
from tracelens.replay.apply import DEAD_ALLGATHER
from tracelens.replay.change import KEYS, Change, make_change
from tracelens.replay.predict import (
    Baseline,
    Prediction,
    Predictor,
    baseline_json,
)
from tracelens.thresholds.replay import NOISE_PCT

if TYPE_CHECKING:
    from tracelens.ingest.ds_config import DsConfig

#: Bucket sizes that are tried, elements: a third of a decade apart around DeepSpeed's default.
BUCKETS = (5_000_000, 10_000_000, 20_000_000, 50_000_000, 100_000_000, 200_000_000, 500_000_000)
#: Candidates that get a band: it costs four simulations each.
SHOWN = 5

#: Sizes to try with ZeRO-3, elements: none, the default, and what gathers several layers at once.
PREFETCH_SIZES = (0, 50_000_000, 200_000_000)
STAGE3_BUCKETS = (50_000_000, 200_000_000, 500_000_000)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Tuning:
    """The settings that were tried, best first.

    Attributes
    ----------
    baseline : Baseline
    candidates : tuple of Prediction
    not_worth_it : str or None
        Why nothing is recommended; None where something is.
    no_effect : tuple of (key, why)
    refused : tuple of (key, why)
        Keys that this recording cannot predict.
    ds_config : mapping or None
        The given configuration with the best change in it; the change alone where none was given.
    """

    baseline: Baseline
    candidates: tuple[Prediction, ...]
    not_worth_it: str | None
    no_effect: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...]
    ds_config: Mapping[str, Any] | None

    @property
    def best(self) -> Prediction | None:
        """What is recommended; None where nothing is."""
        return self.candidates[0] if self.candidates and self.not_worth_it is None else None

    def to_json(self) -> dict[str, Any]:
        """The documented structure (docs/json.md)."""

        def one(p: Prediction) -> dict[str, Any]:
            return {
                "change": dict(p.change.values),
                "predicted": p.predicted_json(),
                "confidence": p.confidence,
                "notes": list(p.notes),
            }

        return {
            "format": 1,
            "baseline": baseline_json(self.baseline),
            "candidates": [one(p) for p in self.candidates],
            "best": one(self.best) if self.best else None,
            "not_worth_it": self.not_worth_it,
            "no_effect": [{"key": k, "why": why} for k, why in self.no_effect],
            "refused": [{"key": k, "why": why} for k, why in self.refused],
            "ds_config": self.ds_config,
        }


def tune(
    predictor: Predictor, given: DsConfig | None = None, progress: Progress | None = None
) -> Tuning:
    """Try the settings that matter for the recorded stage.

    Parameters
    ----------
    predictor : Predictor
    given : DsConfig, optional
        What the recommendation is put into.
    progress : callable, optional
        Called with (settings tried, settings in all).
    """
    found: list[Prediction] = []
    refused: dict[str, str] = {}
    tried = list(_candidates(predictor))
    for i, change in enumerate(tried):
        try:
            found.append(predictor.estimate(change))
        except CannotPredict as e:
            hint = f": {e.hint}" if e.hint else ""
            refused.update(dict.fromkeys(change.values, f"{e}{hint}"))
        if progress is not None:
            progress(i + 1, len(tried))
    found.sort(key=lambda p: p.ratio)
    for p in found:
        for key in p.change.values:
            refused.pop(key, None)
    candidates = (*(predictor.predict(p.change) for p in found[:SHOWN]), *found[SHOWN:])
    why = _not_worth_it(candidates)
    no_effect = (("allgather_bucket_size", DEAD_ALLGATHER),) if predictor.now.gathers_flat else ()
    config = None
    if why is None:
        config = with_change(given.values if given else {}, candidates[0].change)
    return Tuning(
        baseline=predictor.baseline,
        candidates=candidates,
        not_worth_it=why,
        no_effect=no_effect,
        refused=tuple(refused.items()),
        ds_config=config,
    )


def _candidates(predictor: Predictor) -> Iterator[Change]:
    now = predictor.now
    if now.stage == 3:
        yield from _of_stage3(predictor)
    if now.stage not in (1, 2):
        return
    for overlap, bucket in itertools.product((True, False), BUCKETS):
        values = {"overlap_comm": overlap, "reduce_bucket_size": bucket}
        if now.stage in (1, 2) and predictor.runs_with(values):
            continue
        yield make_change(values)


def _of_stage3(predictor: Predictor) -> Iterator[Change]:
    """One key at a time, and prefetching together with buckets: what each call costs adds up."""
    try:
        recorded = predictor.stage3()
    except CannotPredict:
        return
    sizes = [s for s in PREFETCH_SIZES if s != recorded.fetch.prefetch_bucket_size]
    buckets = [b for b in STAGE3_BUCKETS if b != recorded.reduce.bucket]
    for size in sizes:
        yield make_change({"stage3_prefetch_bucket_size": size})
    for bucket in buckets:
        yield make_change({"reduce_bucket_size": bucket})
    yield make_change({"overlap_comm": not recorded.reduce.overlap})
    for size, bucket in itertools.product(sizes, buckets):
        yield make_change({"stage3_prefetch_bucket_size": size, "reduce_bucket_size": bucket})


def _not_worth_it(candidates: tuple[Prediction, ...]) -> str | None:
    if not candidates:
        return "no setting of this run can be tuned from its recording"
    best = candidates[0]
    gain = 100 * (1 - best.ratio)
    if gain <= 0:
        return "the recorded settings are the fastest of those tried"
    needed = max(NOISE_PCT, 50 * (best.high - best.low))
    if gain < needed:
        return (
            f"the best change ({best.change}) would save {gain:.1f} % of the step: below the "
            f"{needed:.1f} % that can be told from noise"
        )
    return None


def with_change(values: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """A configuration with a change in it; what belongs to the machine is left out."""
    config: dict[str, Any] = copy.deepcopy(dict(values))
    for key, value in change.values.items():
        section = KEYS[key][1]
        if section == "machine":
            continue
        place = config.setdefault(section, {}) if section else config
        place[key] = value
    return config


def to_text(tuning: Tuning, comments: bool) -> str:
    """The tuned configuration as a file: JSON, or with comments as Hjson, which DeepSpeed reads."""
    best = tuning.best
    if best is None or tuning.ds_config is None:
        return "{}\n"
    text = json.dumps(tuning.ds_config, indent=2) + "\n"
    if not comments:
        return text
    gain = 100 * (1 - best.ratio)
    why = [
        f"# predicted from a recording: {best.step_ms:.1f} ms a step instead of "
        f"{tuning.baseline.step_ms:.1f} ms ({gain:.1f} % less, confidence {best.confidence})",
        *(f"# {n}" for n in best.notes),
    ]
    lines = []
    for line in text.splitlines():
        key = line.strip().split('"')[1] if line.strip().startswith('"') else ""
        if key in best.change.values:
            indent = line[: len(line) - len(line.lstrip())]
            lines.append(f"{indent}# changed: {best.change}")
        lines.append(line)
    return "\n".join([*why, *lines]) + "\n"
