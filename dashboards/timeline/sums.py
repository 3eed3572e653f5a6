"""Looking up long ascending arrays, and time by class up to any event of a row.

A window at full zoom asks for some 1,500 places all over a row. Where the row has a million events,
a plain binary search waits for memory at nearly every step; `Ascending` stays in the processor's
cache until the last 64 entries. Rows of few classes, as the host's threads are, keep a running sum
of every class beside each event, and need no search at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int64s: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
UInt8s: TypeAlias = npt.NDArray[np.uint8]

#: Entries between two of the first level.
_BLOCK = 64
#: Shorter arrays fit into a core's cache: 512 kB on the machines of today.
_SHORT = 65_536
#: With more classes a running sum of each would take more memory than the events themselves.
_DENSE_CLASSES = 3


class Ascending:
    """An ascending array that is looked up often.

    Parameters
    ----------
    values : int array (n,)
        Ascending; kept, not copied.

    Examples
    --------
    >>> Ascending(np.array([1, 3, 3, 9])).before(np.array([0, 3, 4, 10])).tolist()
    [0, 1, 3, 4]
    """

    __slots__ = ("_first", "_values")

    def __init__(self, values: Int64s | Int32s) -> None:
        self._values = values
        self._first = None if len(values) <= _SHORT else values[::_BLOCK].copy()

    def before(self, keys: Int64s | Int32s) -> Int64s:
        """How many values are smaller than each key: int64, as `numpy.searchsorted`."""
        values, first = self._values, self._first
        if first is None:
            return np.searchsorted(values, keys, "left")
        block = np.searchsorted(first, keys, "left") - 1
        at = block * _BLOCK + 1  # the block's first value is smaller
        step, last = _BLOCK // 2, len(values) - 1
        while step:
            probe = np.minimum(at + (step - 1), last)
            at += step * (values[probe] < keys)
            step //= 2
        return np.where(block < 0, 0, np.minimum(at, len(values)))


@dataclass(frozen=True, slots=True)
class ClassSums:
    """Time of each class of a row, up to any event.

    `codes` are the classes that the row has. Of each, `dense` (classes, n + 1) has the sum before
    each event; where there are many classes `sparse` has their events and sums before these.
    """

    codes: tuple[int, ...]
    dense: Int64s | None
    sparse: tuple[tuple[Ascending, Int64s], ...]

    @classmethod
    def of(cls, length: Int64s, classes: UInt8s) -> ClassSums:
        """The sums of events of these lengths and classes."""
        codes = tuple(np.unique(classes).tolist())
        if len(codes) <= _DENSE_CLASSES:
            dense = np.zeros((len(codes), len(length) + 1), np.int64)
            for row, c in zip(dense, codes, strict=True):
                np.cumsum(np.where(classes == c, length, 0), out=row[1:])
            return cls(codes, dense, ())
        sparse = []
        for c in codes:
            at = np.flatnonzero(classes == c).astype(np.int32)
            sparse.append((Ascending(at), np.concatenate(([0], np.cumsum(length[at])))))
        return cls(codes, None, tuple(sparse))

    def before(self, events: Int64s) -> list[Int64s]:
        """Time of each of `codes` in the events before each of these: int64, as many."""
        if self.dense is not None:
            return [row[events] for row in self.dense]
        narrow = events.astype(np.int32)  # of the type that is searched, or that would be converted
        return [total[at.before(narrow)] for at, total in self.sparse]
