"""FLOPs of matrix products, convolutions and attention as torch dispatches them, by pass.

The formulas are torch's own (torch.utils.flop_counter); what is added here is which pass an
operator belongs to. Backward runs inside autograd's engine with gradients off; an operator in there
with gradients on is a forward pass again: activation checkpointing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

#: Attention's backward kernels compute the scores again: one of their five products
#: (FlashAttention, arXiv:2205.14135, algorithm 4; torch's formula counts all five).
_RECOMPUTED_SCORES = 1 / 5

#: Operators of these namespaces do no products of their own, or are told by their aten operators.
_KNOWN = ("aten", "prim", "prims", "c10d", "c10d_functional", "_c10d_functional", "profiler",
          "inductor", "symm_mem", "fsdp", "_dtensor", "rngprims", "quantized")  # fmt: skip


class Counts:
    """What was counted: FLOPs by pass, by operator, and what has no formula."""

    def __init__(self) -> None:
        self.forward = self.backward = self.recompute = 0
        self.by_op: Counter[str] = Counter()
        self.unknown: set[str] = set()

    def add(self, op: str, flops: int, within: str) -> None:
        """Count an operator in the forward, backward or recompute pass."""
        self.by_op[op] += flops
        if within == "backward" and "attention" in op:
            again = int(flops * _RECOMPUTED_SCORES)
            self.recompute += again
            flops -= again
        setattr(self, within, getattr(self, within) + flops)


def formulas(torch: Any) -> dict[Any, Callable[..., int]]:
    """FLOPs of an operator by its packet; torch's, and the CPU's attention, which it lacks."""
    from torch.utils import flop_counter

    known = dict(flop_counter.flop_registry)
    aten = torch.ops.aten
    for there, here in (
        ("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu"),
        (
            "_scaled_dot_product_flash_attention_backward",
            "_scaled_dot_product_flash_attention_for_cpu_backward",
        ),
        ("_scaled_dot_product_flash_attention", "_scaled_dot_product_fused_attention_overrideable"),
        (
            "_scaled_dot_product_flash_attention_backward",
            "_scaled_dot_product_fused_attention_overrideable_backward",
        ),
    ):
        if hasattr(aten, there) and hasattr(aten, here):
            known.setdefault(getattr(aten, here), known[getattr(aten, there)])
    return known


def counting(torch: Any, counts: Counts) -> Any:
    """A dispatch mode that counts what runs in it: enter it, train a step, leave it."""
    from torch.utils._python_dispatch import TorchDispatchMode

    known = formulas(torch)

    class Counting(TorchDispatchMode):  # type: ignore[misc]  # torch is not there for mypy
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            packet = getattr(func, "_overloadpacket", func)
            formula = known.get(packet)
            if formula is None:
                # without autograd (inference) composite operators come whole: take them apart
                with self:
                    parts = func.decompose(*args, **kwargs) if hasattr(func, "decompose") else None
                if parts is not None and parts is not NotImplemented:
                    return parts
            out = func(*args, **kwargs)
            if formula is not None:
                try:
                    flops = int(formula(*args, **kwargs, out_val=out))
                # older formulas assert shapes (grouped queries): no reason to end the training
                except Exception:
                    counts.unknown.add(str(packet))
                    return out
                counts.add(str(packet), flops, _within(torch))
            elif getattr(func, "namespace", "aten") not in _KNOWN:
                counts.unknown.add(str(packet))
            return out

    return Counting()


def _within(torch: Any) -> str:
    """The pass that runs on this thread now."""
    if torch._C._current_graph_task_id() == -1:
        return "forward"
    return "recompute" if torch.is_grad_enabled() else "backward"
