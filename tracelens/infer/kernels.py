"""What the names and counts of GPU kernels tell: types, attention, repetition, losses."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from tracelens.classify import Op, is_compute
from tracelens.links import GpuWork
from tracelens.steps import StepMap
from tracelens.trace import Bools, Trace

_ATTENTION_FORWARD = re.compile(r"fprop|flash_fwd|fmha_cutlassF|fwd_kernel|attn_fwd", re.I)
_ATTENTION_BACKWARD = re.compile(
    r"bprop|flash_bwd.*(?<!convert)kernel|fmha_cutlassB|bwd_kernel|attn_bwd", re.I
)
#: Operand types in the names of matrix kernels: cuBLAS (s16816gemm_bf16, h16816gemm, sgemm; nvjet's
#: first letter), CUTLASS, hipBLASLt (BBS, HHS, SB) and Triton.
_GEMM_TYPES = (
    (re.compile(r"bf16|bfloat16|nvjet_(sm\d+_)?t|_BB[SH]?_|_B8?B?S_BH", re.I), "bf16"),
    (re.compile(r"h16816|h1688|h884|hgemm|_f16_|fp16|nvjet_(sm\d+_)?h|_HH[SH]?_"), "fp16"),
    (re.compile(r"sgemm|tf32|f32f32|s1688gemm|_SB_|nvjet_(sm\d+_)?s(?!m\d)"), "fp32"),
)
_LOSS = re.compile(r"nll_loss\w*forward|cross_entropy\w*(fwd|forward)", re.I)
_TYPES = (
    (re.compile(r"c10::BFloat16|bf16|bfloat16", re.I), "bf16"),
    (re.compile(r"c10::Half|\b__half\b|fp16", re.I), "fp16"),
)


def attention(trace: Trace, work: GpuWork, counted: Bools) -> tuple[int, int]:
    """Forward and backward attention kernels by name."""
    on = counted & (work.op == Op.ATTENTION)
    names, counts = np.unique(trace.slices.name[work.row[on]], return_counts=True)
    forward = backward = 0
    for code, count in zip(names.tolist(), counts.tolist(), strict=True):
        if _ATTENTION_BACKWARD.search(trace.strings[code]):
            backward += count
        elif _ATTENTION_FORWARD.search(trace.strings[code]):
            forward += count
    return forward, backward


def repeats(trace: Trace, work: GpuWork, found: StepMap, whole: Bools) -> int:
    """Greatest common divisor of how often each model kernel runs in a step.

    Accumulating over g micro-steps runs every kernel of the model g times as often, so g divides
    this number. Only matrix products and attention count: all of theirs belong to the model.
    """
    on = np.isin(work.op, (Op.GEMM, Op.ATTENTION)) & (found.of_work >= 0)
    on &= whole[np.maximum(found.of_work, 0)]
    pairs = np.stack([found.of_work[on], trace.slices.name[work.row[on]]])
    _, counts = np.unique(pairs, axis=1, return_counts=True)
    return int(np.gcd.reduce(counts)) if len(counts) else 0


def kernel_types(trace: Trace, work: GpuWork, counted: Bools) -> dict[str, int]:
    """Time of compute kernels by the type that their names tell, ns."""
    on = np.flatnonzero(counted & is_compute(work.op) & (work.op != Op.OPTIMIZER))
    name = trace.slices.name[work.row[on]]
    length = (work.end_ns - work.start_ns)[on]
    spent = np.bincount(name, weights=length, minlength=len(trace.strings))
    types: Counter[str] = Counter()
    for code in np.flatnonzero(spent).tolist():
        label = next((t for p, t in _TYPES if p.search(trace.strings[code])), None)
        if label is None and "float" in trace.strings[code]:
            label = "fp32"
        if label:
            types[label] += int(spent[code])
    return dict(types)


def gemm_names(trace: Trace, work: GpuWork, counted: Bools) -> dict[str, int]:
    """Time of matrix kernels by the type that their names tell, ns."""
    on = np.flatnonzero(counted & (work.op == Op.GEMM))
    name = trace.slices.name[work.row[on]]
    spent = np.bincount(name, (work.end_ns - work.start_ns)[on], minlength=len(trace.strings))
    types: Counter[str] = Counter()
    for code in np.flatnonzero(spent).tolist():
        label = next((t for p, t in _GEMM_TYPES if p.search(trace.strings[code])), None)
        if label:
            types[label] += int(spent[code])
    return dict(types)


def loss_kernels(trace: Trace, work: GpuWork, counted: Bools) -> int:
    """Launches of a loss's forward kernel."""
    loss = np.array([bool(_LOSS.search(t)) for t in trace.strings], bool)
    on = counted & is_compute(work.op)
    return int(loss[trace.slices.name[work.row[on]]].sum())
