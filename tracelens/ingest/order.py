"""Rows in time's order, each event once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tracelens.ingest.growing import Columns
from tracelens.ingest.values import MAX_SPAN_NS
from tracelens.trace import Bools, Int64s


def in_time(ts_ns: Int64s, dur_ns: Int64s) -> npt.NDArray[np.intp] | None:
    """Rows by start, longer first among equal starts, else as read; None if they are already.

    Kineto writes a few sorted runs, for which numpy's stable sort (timsort) is near linear; the
    second key is looked at only where starts are equal.
    """
    step = np.diff(ts_ns)
    if (step > 0).all():
        return None
    del step
    order = np.argsort(ts_ns, kind="stable")
    tied = np.diff(ts_ns[order]) == 0
    if tied.any():
        among = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))
        rows = order[among]
        order[among] = rows[np.lexsort((-dur_ns[rows], ts_ns[rows]))]
    return order


def repeated(slices: Columns) -> Bools | None:
    """Rows that an earlier row already holds, in columns sorted `in_time`; None if there are none.

    Two events are one if all their columns agree and one of their ids is set: an id names one
    launch or one call of an operator, so a second row with it at the same time is a second writing.
    Without ids, equal rows may be equal events (frames of a recursion in whole microseconds).
    """
    ts_ns, dur_ns = slices["ts_ns"], slices["dur_ns"]
    tied = (ts_ns[1:] == ts_ns[:-1]) & (dur_ns[1:] == dur_ns[:-1])
    if not tied.any():
        return None
    among = np.flatnonzero(np.append(tied, False) | np.insert(tied, 0, False))
    among = among[(slices["correlation"][among] > 0) | (slices["external_id"][among] > 0)]
    columns = [column[among] for column in slices.values()]
    order = np.lexsort(columns)  # stable: of equal rows the one read first comes first
    same = np.ones(max(0, len(order) - 1), bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    if not same.any():
        return None
    again = np.zeros(len(ts_ns), bool)
    again[among[order[1:][same]]] = True
    return again


def astray(slices: Columns) -> Bools | None:
    """Rows, in time's order, that are of no recording with most others; None if there are none."""
    ts_ns, dur_ns = slices["ts_ns"], slices["dur_ns"]
    if not len(ts_ns):
        return None
    middle = int(ts_ns[len(ts_ns) // 2])
    first, last = int(ts_ns[0]), int(ts_ns[-1])
    if last - first <= MAX_SPAN_NS and int(dur_ns.max()) <= MAX_SPAN_NS:
        return None
    far = np.abs(ts_ns - middle) > MAX_SPAN_NS // 2
    return np.asarray(far | (dur_ns > MAX_SPAN_NS), bool)


def by_row(columns: Columns, new_row: Int64s | None) -> Columns:
    """A side table with its rows renumbered, ascending, without those whose new row is -1."""
    if new_row is not None:
        columns["row"] = new_row[columns["row"]]
        if len(columns["row"]) and int(columns["row"].min()) < 0:
            keep = columns["row"] >= 0
            columns = {name: column[keep] for name, column in columns.items()}
    order = np.argsort(columns["row"], kind="stable")
    return {name: column[order] for name, column in columns.items()}
