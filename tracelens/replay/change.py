"""What is changed: keys of a ds_config and of the machine, as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from tracelens.errors import CannotPredict, UsageError

Value: TypeAlias = "bool | int | float"

#: Every key that can be asked for: what it holds, and the section of the ds_config it is in.
KEYS: Mapping[str, tuple[type, str]] = MappingProxyType(
    {
        "stage": (int, "zero_optimization"),
        "overlap_comm": (bool, "zero_optimization"),
        "reduce_bucket_size": (int, "zero_optimization"),
        "allgather_bucket_size": (int, "zero_optimization"),
        "stage3_prefetch_bucket_size": (int, "zero_optimization"),
        "stage3_max_live_parameters": (int, "zero_optimization"),
        "stage3_param_persistence_threshold": (int, "zero_optimization"),
        "gradient_accumulation_steps": (int, ""),
        "interconnect_speed": (float, "machine"),
        "world_size": (int, "machine"),
    }
)

#: What the recording never shows, by the first part of a key: why, and what to record.
OTHER_RUNS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "offload_optimizer": (
            "what the CPU's optimizer and the copies to it take is not in a run without them, nor "
            "the other way round",
            "`tracelens memory` says what it frees on the GPU; for its time record a few steps "
            "with it and `tracelens compare`",
        ),
        "offload_param": (
            "what copying parameters from the CPU takes is not in a run without them, nor the "
            "other way round",
            "`tracelens memory` says what it frees on the GPU; for its time record a few steps "
            "with it and `tracelens compare`",
        ),
        "activation_checkpointing": (
            "recomputing runs kernels that are not in the recording",
            "record a few steps with it and `tracelens compare`",
        ),
        "train_micro_batch_size_per_gpu": (
            "another batch has other kernels",
            "record a few steps with it and `tracelens compare`; or change "
            "gradient_accumulation_steps, which repeats the recorded ones",
        ),
        "bf16": ("another precision has other kernels", "record a few steps with it"),
        "fp16": ("another precision has other kernels", "record a few steps with it"),
        "zero_hpz_partition_size": (
            "gathers within a node are not in a run that gathers over all ranks",
            "record a few steps with it and `tracelens compare`",
        ),
    }
)

_SECTION = "zero_optimization."
_POSITIVE = frozenset(
    {"reduce_bucket_size", "gradient_accumulation_steps", "interconnect_speed", "world_size"}
)


@dataclass(frozen=True, slots=True)
class Change:
    """Keys and the values that they are to have."""

    values: Mapping[str, Value]

    def get(self, key: str) -> Value | None:
        """The wanted value of a key; None where it stays."""
        return self.values.get(key)

    def __str__(self) -> str:
        return ", ".join(f"{k}={_text(v)}" for k, v in self.values.items())


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def make_change(values: Mapping[str, object]) -> Change:
    """A change from names and values; ``zero_optimization.`` may be left out.

    Raises
    ------
    UsageError
        If a key is unknown or a value is not of its type.
    CannotPredict
        If no recording of another setting of the key shows what it takes.

    Examples
    --------
    >>> str(make_change({"zero_optimization.overlap_comm": "true", "reduce_bucket_size": "5e7"}))
    'overlap_comm=true, reduce_bucket_size=50,000,000'
    """
    found: dict[str, Value] = {}
    for name, value in values.items():
        key = name.removeprefix(_SECTION)
        apart = OTHER_RUNS.get(key.split(".")[0])
        if apart is not None:
            raise CannotPredict(f"{name}: {apart[0]}", hint=apart[1])
        if key not in KEYS:
            raise UsageError(
                f"{name}: not a key that can be changed", hint=f"keys: {', '.join(KEYS)}"
            )
        found[key] = _typed(key, value)
    if not found:
        raise UsageError("nothing to change", hint="--set KEY=VALUE")
    return Change(MappingProxyType(found))


def parse_change(settings: Sequence[str]) -> Change:
    """A change from ``KEY=VALUE`` texts.

    Raises
    ------
    UsageError, CannotPredict
        As `make_change`; if a text has no ``=`` or a key comes twice.
    """
    values: dict[str, object] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or key.strip() in values:
            raise UsageError(f"--set {text}: KEY=VALUE, each key once")
        values[key.strip()] = value.strip()
    return make_change(values)


def _typed(key: str, value: object) -> Value:
    kind = KEYS[key][0]
    wrong = UsageError(f"{key}={value}: {_WANTED[kind]} is needed")
    text = str(value).strip().lower().replace("_", "")
    if kind is bool:
        if text not in ("true", "false"):
            raise wrong
        return text == "true"
    try:
        number = float(text)
    except ValueError:
        raise wrong from None
    if not 0 <= number < float("inf") or (key in _POSITIVE and number == 0):
        raise wrong
    if kind is int:
        if number != int(number):
            raise wrong
        return int(number)
    return number


_WANTED = {bool: "true or false", int: "a whole number, such as 5e7", float: "a number above 0"}


def settings_of(config: Mapping[str, object] | None) -> dict[str, str]:
    """A ds_config's keys as names and texts that `parse_change` takes; none if it would not.

    Examples
    --------
    >>> settings_of({"zero_optimization.overlap_comm": True})
    {'overlap_comm': 'true'}
    >>> settings_of({"zero_optimization.offload_param": None})
    {}
    """
    found: dict[str, str] = {}
    for name, value in (config or {}).items():
        key = name.removeprefix(_SECTION)
        if key not in KEYS or not isinstance(value, (bool, int, float)):
            return {}
        found[key] = str(value).lower()
    return found
