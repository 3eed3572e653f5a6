"""How many elements the operands of host ops have, by their recorded sizes (record_shapes)."""

from __future__ import annotations

import numpy as np

from tracelens.ingest.values import MAX_NELEMS
from tracelens.trace import Int64s, Trace

#: Operators that multiply matrices.
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def nelems_of(dims: object) -> int:
    """Elements of one operand by its sizes as written; -1 where they are none, or damage.

    Examples
    --------
    >>> nelems_of([8, 4]), nelems_of([]), nelems_of("x"), nelems_of([2**40, 2**40])
    (32, 1, -1, -1)
    """
    if not isinstance(dims, list):
        return -1
    found = 1
    for d in dims:  # no further than what a tensor may have: damage can be of any length
        if not isinstance(d, int) or not 0 <= found * d <= MAX_NELEMS:
            return -1
        found *= d
    return found


def dims_of(trace: Trace, rows: Int64s) -> Int64s:
    """Recorded sizes of some rows of `Slices`: their string index, int64 (n,), -1 unknown."""
    shapes = trace.shapes
    if not len(shapes):
        return np.full(len(rows), -1, np.int64)
    at = np.minimum(np.searchsorted(shapes.row, rows), len(shapes) - 1)
    return np.where(shapes.row[at] == rows, shapes.dims[at], -1).astype(np.int64)


def first_nelems(trace: Trace, rows: Int64s) -> Int64s:
    """Elements of the first operand of some rows of `Slices`: int64 (n,), -1 unknown."""
    nelems = np.full(len(rows), -1, np.int64)
    dims = dims_of(trace, rows)
    for code in np.unique(dims[dims >= 0]).tolist():
        for first in trace.listed(code)[:1]:
            nelems[dims == code] = nelems_of(first)
    return nelems
