"""Achieved TFLOP/s, MFU and HFU, where the FLOPs of a step were counted.

    MFU = model FLOPs / (step time x peak)      forward and backward, nothing twice
    HFU = hardware FLOPs / (step time x peak)   and what activation checkpointing computes again

after PaLM (arXiv:2204.02311, appendix B). The FLOPs are one rank's, so the peak is one GPU's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tracelens.infer.result import STRUCTURAL, Setup
from tracelens.ingest.manifest import Flops, Manifest
from tracelens.peaks import Peak, find_peak

_TERA = 1e12


@dataclass(frozen=True, slots=True)
class Efficiency:
    """How much of what the GPUs can compute is used, mean over the ranks that counted.

    Attributes
    ----------
    model_flops, hardware_flops : float
        FLOPs of a rank and step, without and with what was computed again.
    step_ms : float
        The step that they are divided by.
    step_source : {"unprofiled", "trace"}
        Timed by the collector without a profiler, or the recorded steps' mean.
    tflops : float
        Achieved model TFLOP/s of a GPU.
    peak_tflops, mfu, hfu : float or None
        Dense peak of the GPU in `precision`, and shares of it (0 to 1); None where it is not known.
    precision : str or None
        What the peak is for: bf16, fp16, tf32, fp32.
    source : str or None
        Where the peak is from.
    ranks : tuple of int
        Ranks that counted.
    notes : tuple of str
        What the numbers leave out, and why one is unknown.
    """

    model_flops: float
    hardware_flops: float
    step_ms: float
    step_source: Literal["unprofiled", "trace"]
    tflops: float
    peak_tflops: float | None
    mfu: float | None
    hfu: float | None
    precision: str | None
    source: str | None
    ranks: tuple[int, ...]
    notes: tuple[str, ...]


def measure_efficiency(
    manifest: Manifest | None, setup: Setup, device: str | None, recorded_ms: float
) -> Efficiency | None:
    """Turn counted FLOPs into rates.

    Parameters
    ----------
    manifest : Manifest or None
    setup : Setup
        For the precision.
    device : str or None
        The GPU's name.
    recorded_ms : float
        Mean recorded step, ms; used where no step was timed without a profiler.

    Returns
    -------
    Efficiency or None
        None where no FLOPs were counted.
    """
    counted = [r for r in manifest.ranks if r.flops] if manifest else []
    flops = [r.flops for r in counted if r.flops]
    plain = manifest.unprofiled_step_ms if manifest else None
    step_ms = plain or recorded_ms
    if not flops or step_ms <= 0:
        return None
    model = sum(f.forward + f.backward for f in flops) / len(flops)
    hardware = model + sum(f.recompute for f in flops) / len(flops)
    rate = model / (step_ms / 1e3) / _TERA
    precision, unsure = _precision(setup, [r.tf32_matmul for r in counted])
    found = find_peak(device)
    peak = _of(found, precision)
    notes = [*_left_out(flops), *unsure]
    if found is None:
        notes.append(f"the peak of {device or 'the device'} is not in the table")
    elif peak is None and precision is not None:
        notes.append(f"{device} has no unit for {precision}")
    return Efficiency(
        model_flops=model,
        hardware_flops=hardware,
        step_ms=step_ms,
        step_source="unprofiled" if plain else "trace",
        tflops=rate,
        peak_tflops=peak,
        mfu=rate / peak if peak else None,
        hfu=rate / peak * (hardware / model) if peak and model else None,
        precision=precision,
        source=found.source if found else None,
        ranks=tuple(r.rank for r in counted),
        notes=tuple(notes),
    )


def _precision(setup: Setup, tf32: list[bool | None]) -> tuple[str | None, list[str]]:
    """What the products run in; fp32 may be TF32 on tensor cores, which no trace tells surely."""
    found = setup.get("precision")
    value = found.value if found and found.confidence >= STRUCTURAL else None
    if value in ("bf16", "fp16"):
        return str(value), []
    if value == "fp32" and None not in tf32 and len(set(tf32)) == 1:
        return ("tf32" if tf32[0] else "fp32"), []
    if value == "fp32":
        return None, ["fp32 products may run on TF32: the manifest does not say"]
    return None, ["the precision of the matrix products is not known"]


def _of(peak: Peak | None, precision: str | None) -> float | None:
    if peak is None or precision is None:
        return None
    value: float | None = getattr(peak, precision)
    return value


def _left_out(flops: list[Flops]) -> list[str]:
    ops = sorted({op for f in flops for op in f.not_counted})
    return [f"operators without a formula are not counted: {', '.join(ops)}"] if ops else []
