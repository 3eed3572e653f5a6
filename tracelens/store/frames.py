"""Tables of the store as the DataFrames that an `Analysis` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from tracelens.overlap import BREAKDOWN

Columns: TypeAlias = Mapping[str, Sequence[Any]]
"""Values of a table by column, one a row."""

#: Keys of a finding that its table shows.
FINDING = (
    "id", "title", "cost_ms_per_step", "severity", "ranks", "steps", "evidence", "remedy", "config",
)  # fmt: skip
#: Columns of `Analysis.comm` that are missing where the trace does not say.
_MAYBE = ("step", "micro_step", "group_size", "bytes", "wait_ns", "number")


def steps(of: Columns) -> pd.DataFrame:
    """As `tracelens.frames.steps_frame`."""
    parts = ("exposed_wait_ms", "exposed_transfer_ms")
    return pd.DataFrame(
        {
            "rank": _ints(of, "rank"),
            "step": _ints(of, "step"),
            "complete": _ints(of, "complete").astype(bool),
            **{f"{name}_ms": _floats(of, f"{name}_ms") for name in BREAKDOWN},
            **{name: _floats(of, name) for name in parts},
            "kernels": _ints(of, "kernels"),
        }
    )


def collectives(of: Columns) -> pd.DataFrame:
    """As `tracelens.frames.collectives_frame`."""
    total, exposed = _floats(of, "total_ms"), _floats(of, "exposed_ms")
    with np.errstate(invalid="ignore"):
        overlapped = 100 * (total - exposed) / total
    last = ("wait_ms", "transfer_ms", "algbw_gbps", "busbw_gbps")
    return pd.DataFrame(
        {
            "kind": _strings(of, "kind"),
            "phase": _strings(of, "phase"),
            "group": _strings(of, "group_name"),
            "group_size": pd.array(of["group_size"], dtype="Int64"),
            "dtype": _strings(of, "dtype"),
            "count_per_step": _floats(of, "count_per_step"),
            "bytes_per_step": _floats(of, "bytes_per_step"),
            "total_ms": total,
            "exposed_ms": exposed,
            "overlapped_pct": overlapped,
            **{name: _floats(of, name) for name in last},
        }
    )


def comm(of: Columns) -> pd.DataFrame:
    """As `tracelens.frames.comm_frame`."""

    def column(name: str) -> Any:
        if name in ("kind", "phase", "group_name", "dtype"):
            return _strings(of, name)
        if name in _MAYBE:
            return pd.array(of[name], dtype="Int64")
        return _ints(of, name).astype(np.int32 if name == "stream" else np.int64)

    names = (
        "rank", "step", "kind", "phase", "micro_step", "group_name", "group_size", "dtype",
        "stream", "bytes", "start_ns", "dur_ns", "exposed_ns", "wait_ns", "number",
    )  # fmt: skip
    return pd.DataFrame({"group" if n == "group_name" else n: column(n) for n in names})


def findings(of: Columns) -> pd.DataFrame:
    """As `tracelens.frames.findings_frame`, by keys of the report."""

    def objects(values: list[object]) -> pd.Series[Any]:
        return pd.Series(values, dtype=object)

    return pd.DataFrame(
        {
            "id": _strings(of, "id"),
            "title": _strings(of, "title"),
            "cost_ms_per_step": _floats(of, "cost_ms_per_step"),
            "severity": _strings(of, "severity"),
            **{n: objects([tuple(v) for v in of[n]]) for n in ("ranks", "steps", "evidence")},
            "remedy": _strings(of, "remedy"),
            "config": objects(list(of["config"])),
        }
    )


def _ints(of: Columns, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(of[name], np.int64)


def _floats(of: Columns, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if v is None else v for v in of[name]], np.float64)


def _strings(of: Columns, name: str) -> Any:
    return pd.array(of[name], dtype="string")
