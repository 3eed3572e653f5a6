"""What one rank computes that the others do not: kernels of its own, products of other sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np

from tracelens.detectors.context import Context
from tracelens.operands import nelems_of
from tracelens.units import format_ns

#: How a rank's work differs: products of other sizes, work besides the others', or not known.
Difference = Literal["sizes", "besides", "unknown"]

#: What names of C++ kernels have before the function's own name, and behind it.
_BEFORE = re.compile(r"^void |\(anonymous namespace\)::|\bat::native::")
_BEHIND = re.compile(r"[<(].*", re.DOTALL)
#: Longer names are cut, and of many kernels the first are named.
_LONGEST, _NAMED = 48, 3


def difference(context: Context, at: int) -> tuple[Difference, tuple[str, ...]]:
    """How the work of rank `at` differs from that of most other ranks, and what shows it."""
    mine = context.views[at].facts.products
    others = [v.facts.products for i, v in enumerate(context.views) if i != at]
    usual = Counter(others).most_common(1)[0][0]
    kernels = _kernels(context, at)
    if not mine or not usual:
        untold = "sizes of operands were not recorded (record_shapes): whether they differ is open"
        return "unknown", (*kernels, untold)
    own, missing = mine - usual, usual - mine
    if own and missing:
        said = f"its matrix products have other sizes: {_largest(own)}, others {_largest(missing)}"
        return "sizes", (said, *kernels)
    if own:
        said = f"it has the others' matrix products, and sizes of its own besides: {_largest(own)}"
        return "besides", (*kernels, said)
    return "besides", (*kernels, "its matrix products have the sizes of the other ranks'")


def _kernels(context: Context, at: int) -> tuple[str, ...]:
    """Kernels that most others do not run, and those of them that this rank does not, if any."""
    sums = [v.host.kernel_sums for v in context.views]
    mine, others = sums[at], [s for i, s in enumerate(sums) if i != at]

    def usual(name: str) -> float:
        return float(np.median([s.get(name, (0.0, 0.0))[1] for s in others]))

    own = {n: ns for n, (_, ns) in mine.items() if not usual(n)}
    gone = {n: ns for n in set().union(*others) - set(mine) if (ns := usual(n))}
    said = []
    if own:
        said.append(f"kernels that the others do not run take {_time(own)}: {_named(own)}")
    if gone:
        said.append(f"it does not run their {_named(gone)}, {_time(gone)}")
    return ("; ".join(said),) if said else ()


def _time(kernels: dict[str, float]) -> str:
    return f"{format_ns(sum(kernels.values()))} a step"


def _named(kernels: dict[str, float]) -> str:
    """The kernels that take most, by what their names begin with."""
    heads: Counter[str] = Counter()
    for name, ns in kernels.items():
        heads[kernel_head(name)] += round(ns)
    first = [f"{head} ({format_ns(ns)})" for head, ns in heads.most_common(_NAMED)]
    return ", ".join(first) + (" ..." if len(heads) > len(first) else "")


def kernel_head(name: str) -> str:
    """The function's name of a kernel, without namespaces and template arguments.

    Examples
    --------
    >>> kernel_head("void at::native::(anonymous namespace)::softmax_warp<float, 11>(float*, int)")
    'softmax_warp'
    """
    head = _BEHIND.sub("", _BEFORE.sub("", name)) or name
    return head if len(head) <= _LONGEST else f"{head[: _LONGEST - 3]}..."


def _largest(products: Iterable[str]) -> str:
    """The product with the largest operands, as ``[4, 8] x [8, 2]``."""
    listed = [_operands(p) for p in sorted(products)]
    most = max(listed, key=lambda dims: sum(nelems_of(d) for d in dims))
    return " x ".join(str(d) for d in most)


def _operands(text: str) -> list[object]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return []
    return [d for d in found if d] if isinstance(found, list) else []
