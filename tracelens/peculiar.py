"""What a rank's host does in some steps and not, or not as often, in the others."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tracelens.operands import PRODUCTS, nelems_of
from tracelens.steps import Steps
from tracelens.thresholds import PECULIAR_NAMES, PECULIAR_NS
from tracelens.trace import Bools, Int64s, Kind, Trace, _freeze

#: Names that number the step itself.
_NUMBERED = re.compile(r"#\d+$")


@dataclass(frozen=True, slots=True)
class Peculiar:
    """A host event whose time differs between steps: calls and summed ns of each, int64 (k,)."""

    name: str
    count: Int64s
    spent_ns: Int64s

    def __post_init__(self) -> None:
        _freeze(self)


def find_peculiar(trace: Trace, steps: Steps, whole: Bools) -> tuple[Peculiar, ...]:
    """Host events that take `PECULIAR_NS` more in some whole step than in the median one.

    The `PECULIAR_NAMES` with the largest difference; nested events count each. An event counts for
    the step in whose window on the GPU it begins: where the host makes a step long, the GPU waits
    for it, and what it does before a step's first work makes the window before that longer.
    """
    s = trace.slices
    if int(whole.sum()) < 3:
        return ()
    rows = trace.rows((Kind.CPU_OP, Kind.ANNOTATION, Kind.RUNTIME))
    step = np.searchsorted(steps.start_ns, s.ts_ns[rows], "right") - 1
    inside = (step >= 0) & (s.ts_ns[rows] < steps.end_ns[np.maximum(step, 0)])
    rows, step = rows[inside], step[inside]
    # (a table of all names in all steps would be large: every step may have a range of its own)
    name, k = s.name[rows].astype(np.int64), len(steps)
    pairs, index = np.unique(name * k + step, return_inverse=True)
    count = np.bincount(index, minlength=len(pairs))
    spent = np.bincount(index, s.dur_ns[rows], minlength=len(pairs)).astype(np.int64)
    found: list[tuple[float, Peculiar]] = []
    long = (spent >= PECULIAR_NS) & whole[pairs % k]
    for code in np.unique(pairs[long] // k).tolist():
        if _NUMBERED.search(trace.strings[code]):
            continue
        mine = slice(*np.searchsorted(pairs, (code * k, (code + 1) * k)).tolist())
        columns = np.zeros((2, k), np.int64)
        columns[:, pairs[mine] % k] = count[mine], spent[mine]
        excess = float(columns[1][whole].max() - np.median(columns[1][whole]))
        if excess >= PECULIAR_NS:
            found.append((excess, Peculiar(trace.strings[code], columns[0], columns[1])))
    return tuple(p for _, p in sorted(found, key=lambda f: -f[0])[:PECULIAR_NAMES])


def operand_nelems(trace: Trace, steps: Steps) -> Int64s:
    """Elements of the operands of each step's matrix products (record_shapes): int64 (k,).

    More of them in one step is a longer or larger batch. 0 where shapes were not recorded.
    """
    s, shapes = trace.slices, trace.shapes
    total = np.zeros(len(steps), np.int64)
    on = np.flatnonzero(np.isin(s.name[shapes.row], trace.names_where(PRODUCTS)))
    step = steps.at_host(s.ts_ns[shapes.row[on]])
    inside = step >= 0
    codes, index = np.unique(shapes.dims[on[inside]], return_inverse=True)
    operands = ([d for d in trace.listed(c) if d] for c in codes.tolist())  # [] is no tensor
    sizes = np.array([sum(max(nelems_of(d), 0) for d in ds) for ds in operands], np.int64)
    np.add.at(total, step[inside], sizes[index])
    return total
