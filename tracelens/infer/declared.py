"""What a ds_config says for sure of the properties that are inferred, and what the trace shows.

DeepSpeed's own defaults count only where their effect is sure: without a stage there is no ZeRO,
without an offload section nothing is offloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracelens.infer.result import STRUCTURAL, Inference, Setup
from tracelens.ingest.ds_config import DsConfig
from tracelens.units import format_count

_ZERO = "zero_optimization."


@dataclass(frozen=True, slots=True)
class Declared:
    """One value of a configuration beside what was inferred for the same thing.

    `name` is what the configuration calls it; `shown` what the trace shows instead, in words, and
    empty where it agrees or cannot tell.
    """

    name: str
    value: object
    seen: Inference
    shown: str


def declared(config: DsConfig, setup: Setup) -> Iterator[Declared]:
    """All that a configuration says for sure, in the order of the inference."""
    for name, value, key in _values(config, setup):
        seen = setup.get(key)
        if seen is not None:
            yield Declared(name, value, seen, _shown(value, seen))


def value_words(value: object) -> str:
    """A value as people read it.

    Examples
    --------
    >>> value_words(True), value_words(500_000_000), value_words("bf16")
    ('true', '500,000,000', 'bf16')
    """
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return format_count(value) if isinstance(value, int) else str(value)


def _values(config: DsConfig, setup: Setup) -> Iterator[tuple[str, object, str]]:
    """Name in the configuration, value, and key of the inference."""
    zero = config.get("zero_optimization") or {}
    stage = zero.get("stage", 0)
    yield f"{_ZERO}stage", stage, "zero_stage"
    for key in ("overlap_comm", "reduce_bucket_size", "contiguous_gradients"):
        value = config.get(_ZERO + key)
        if stage and value is not None:
            yield _ZERO + key, value, key
    for key in ("offload_optimizer", "offload_param"):
        place = (zero.get(key) or {}).get("device", "cpu") if zero.get(key) else "none"
        yield _ZERO + key, place or "none", key
    steps = config.get("gradient_accumulation_steps")
    if steps is not None:
        yield "gradient_accumulation_steps", steps, "gradient_accumulation_steps"
    if precision := _precision(config):
        yield "precision", precision, "precision"
    whole, micro = config.get("train_batch_size"), config.get("train_micro_batch_size_per_gpu")
    # (ranks that share a sequence count as data-parallel ones unless DeepSpeed is told of them)
    if whole and micro and steps and setup.value("sequence_parallel_size") == 1:
        ranks = whole // (micro * steps)
        yield "train_batch_size (in data-parallel ranks)", ranks, "data_parallel_size"


def _precision(config: DsConfig) -> str | None:
    """What the model computes in; None where something else decides it."""
    if config.get("torch_autocast.enabled") or config.get("amp.enabled"):
        return None
    for key in ("bf16", "fp16"):
        enabled = config.get(f"{key}.enabled")
        if enabled:
            return key
    auto = [k for k in ("bf16", "fp16") if config.get(k) and config.get(f"{k}.enabled") is None]
    return None if auto else "fp32"


def _shown(value: object, seen: Inference) -> str:
    """What the trace shows instead; empty where it agrees or cannot tell."""
    if seen.confidence >= STRUCTURAL and seen.candidates and value not in seen.candidates:
        shown = [value_words(c) for c in seen.candidates]
        return " or ".join(shown)
    if isinstance(value, int) and seen.value is None:
        if seen.low is not None and value < seen.low:
            return f"at least {format_count(seen.low)}"
        if seen.high is not None and value >= seen.high:
            return f"less than {format_count(seen.high)}"
    return ""
