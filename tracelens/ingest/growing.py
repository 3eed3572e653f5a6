"""Columns that grow in place while a file is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]
Layout = Mapping[str, npt.DTypeLike]

#: Columns of `tracelens.trace.Slices`.
SLICES: Layout = {
    "ts_ns": np.int64,
    "dur_ns": np.int64,
    "name": np.int32,
    "kind": np.int8,
    "track": np.int32,
    "correlation": np.int64,
    "external_id": np.int64,
    "sequence": np.int64,
    "stream": np.int32,
    "device": np.int32,
    "bytes": np.int64,
}
#: Columns of `tracelens.trace.Shapes`.
SHAPES: Layout = {"row": np.int64, "dims": np.int32, "types": np.int32, "concrete": np.int32}
#: Columns of `tracelens.trace.Memory`.
MEMORY: Layout = {
    "ts_ns": np.int64,
    "bytes": np.int64,
    "allocated": np.int64,
    "reserved": np.int64,
    "device": np.int32,
    "track": np.int32,
}
#: Columns of `tracelens.trace.Collectives`.
COLLECTIVES: Layout = {
    "row": np.int64,
    "call": np.int32,
    "in_nelems": np.int64,
    "out_nelems": np.int64,
    "group_size": np.int32,
    "dtype": np.int32,
    "group": np.int32,
    "group_desc": np.int32,
    "ranks": np.int32,
    "in_split": np.int32,
    "out_split": np.int32,
    "src_rank": np.int32,
    "dst_rank": np.int32,
    "seq": np.int64,
}


class GrowingTable:
    """Columns of one length that take more rows."""

    _GROWTH = 1.125  # numpy zeroes what it adds, so more would be touched memory for nothing

    def __init__(self, layout: Layout) -> None:
        self._columns: Columns = {name: np.empty(0, d) for name, d in layout.items()}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, rows: Columns) -> None:
        """Append rows, given as one array a column."""
        stop = self._n + len(next(iter(rows.values())))
        room = int(stop * self._GROWTH)
        for name, column in self._columns.items():
            if stop > len(column):
                column.resize(room, refcheck=False)
            column[self._n : stop] = rows[name]
        self._n = stop

    def take(self) -> Columns:
        """The finished columns; the table is empty afterwards."""
        columns, self._columns = self._columns, {}
        for column in columns.values():
            column.resize(self._n, refcheck=False)
        return columns
