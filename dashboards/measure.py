"""What the pages compute from the communication of a run: pure functions of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tracelens.collectives import bus_factor
from tracelens.units import NS_PER_MS, NS_PER_US

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Messages of one kind and group by size, ascending.

    `bytes`, `transfer_ns`, `busbw_gbps` float64 (n,): a size, the median transfer, and its bus
    bandwidth (algorithm bandwidth where the kind has no factor); `count` int64 (n,).
    """

    kind: str
    group: str
    bytes: Floats
    transfer_ns: Floats
    busbw_gbps: Floats
    count: npt.NDArray[np.int64]


def sizes(comm: pd.DataFrame) -> list[Sizes]:
    """Bandwidth by message size of each kind and group, of what is known: largest sum first.

    A collective's transfer is what is left of it once waiting is taken off, the same on all ranks.
    """
    import pandas as pd

    known = comm[comm["wait_ns"].notna() & comm["bytes"].notna()]
    known = known[known["bytes"] > 0].drop_duplicates("number")
    found = []
    for (kind, group), rows in known.groupby(["kind", "group"], dropna=False, sort=False):
        n_ranks = rows["group_size"].iloc[0]
        factor = bus_factor(str(kind), None if pd.isna(n_ranks) else int(n_ranks))
        spent = (rows["dur_ns"] - rows["wait_ns"]).astype("int64")
        rows = rows.assign(spent=spent)[spent > 0]
        if not len(rows):
            continue
        by_size = rows.groupby("bytes")["spent"].agg(["median", "size"]).sort_index()
        x, t = by_size.index.to_numpy(float), by_size["median"].to_numpy(float)
        gbps = (factor or 1.0) * x / t
        found.append(Sizes(str(kind), str(group), x, t, gbps, by_size["size"].to_numpy(np.int64)))
    return sorted(found, key=lambda s: -float((s.transfer_ns * s.count).sum()))


def fitted(fit: dict[str, Any], n: int = 60) -> tuple[Floats, Floats]:
    """Bus bandwidth, GB/s, by bytes along a row of the report's ``fits``: two float64 (n,)."""
    x = np.geomspace(max(fit["min_bytes"], 1), fit["max_bytes"], n)
    ns = (fit["latency_us"] or 0.0) * NS_PER_US + x / fit["bandwidth_gbps"]
    return x, fit["bus_bandwidth_gbps"] / fit["bandwidth_gbps"] * x / ns


@dataclass(frozen=True, slots=True)
class Skew:
    """How long each rank waited in each collective of one step.

    `wait_ms` float64 (ranks, n), NaN where the rank took no part; `texts` say what each column is;
    `merged` is how many collectives a column stands for, at most.
    """

    ranks: list[int]
    wait_ms: Floats
    texts: list[str]
    merged: int


def skew(comm: pd.DataFrame, step: int, max_columns: int = 240) -> Skew | None:
    """Waiting of every rank in the collectives of a step, in order; None where none is known.

    More than `max_columns` collectives are merged with their neighbours: their waiting adds up.
    """
    rows = comm[(comm["step"] == step).fillna(False) & comm["number"].notna()]
    if not len(rows):
        return None
    first = rows.groupby("number")["start_ns"].min().sort_values()
    order = {number: i for i, number in enumerate(first.index.tolist())}
    at = rows["number"].map(order).to_numpy(np.int64)
    merged = -(-len(order) // max_columns)
    at //= merged
    ranks = sorted(rows["rank"].unique().tolist())
    row = np.searchsorted(ranks, rows["rank"].to_numpy(np.int64))
    wait = np.zeros((len(ranks), int(at.max()) + 1))
    seen = np.zeros(wait.shape, bool)
    np.add.at(wait, (row, at), rows["wait_ns"].to_numpy(np.int64) / NS_PER_MS)
    seen[row, at] = True
    wait[~seen] = np.nan
    return Skew(ranks, wait, _columns(rows, at, wait.shape[1]), merged)


def _columns(rows: pd.DataFrame, at: npt.NDArray[np.int64], n: int) -> list[str]:
    """What each column of a skew map stands for."""
    kinds = rows["kind"].fillna("?").astype(str) + " in " + rows["phase"].fillna("?").astype(str)
    texts: list[list[str]] = [[] for _ in range(n)]
    for i, text in zip(at.tolist(), kinds.tolist(), strict=True):
        if text not in texts[i]:
            texts[i].append(text)
    return [", ".join(t) for t in texts]


def waits_for(comm: pd.DataFrame, steps: dict[int, set[int]]) -> tuple[list[int], Floats] | None:
    """Who waits for whom, ms a step: ranks, and float64 (waiting rank, rank that came last).

    Parameters
    ----------
    comm : pandas.DataFrame
    steps : dict
        The steps of each rank that count.

    Returns
    -------
    tuple or None
        None where no waiting is known.
    """
    import pandas as pd

    known = comm[comm["number"].notna() & comm["step"].notna()]
    counted = pd.MultiIndex.from_tuples(
        [(r, s) for r, mine in steps.items() for s in mine], names=["rank", "step"]
    )
    known = known[pd.MultiIndex.from_frame(known[["rank", "step"]]).isin(counted)]
    if not len(known):
        return None
    ranks = sorted(known["rank"].unique().tolist())
    number, rank = known["number"].to_numpy(np.int64), known["rank"].to_numpy(np.int64)
    wait = known["wait_ns"].to_numpy(np.int64)
    last = np.full(int(number.max()) + 1, -1, np.int64)
    last[number[wait == 0]] = rank[wait == 0]
    sums = np.zeros((len(ranks), len(ranks)))
    on = last[number] >= 0
    place = (np.searchsorted(ranks, rank[on]), np.searchsorted(ranks, last[number[on]]))
    np.add.at(sums, place, wait[on] / NS_PER_MS)
    n_steps = np.array([max(len(steps.get(r, ())), 1) for r in ranks])
    return ranks, sums / n_steps[:, None]


def counted_steps(document: dict[str, Any]) -> dict[int, set[int]]:
    """Steps of each rank that means are over: the whole ones, all where none is whole."""
    rows = [r for r in document["steps"] if r["complete"]] or document["steps"]
    found: dict[int, set[int]] = {}
    for r in rows:
        found.setdefault(r["rank"], set()).add(r["step"])
    return found


def envelope(x: Floats, y: npt.NDArray[np.int64], n: int = 1500) -> tuple[Floats, Floats]:
    """The highest values of a curve in at most `n` pieces of its range, so that no peak is lost.

    Parameters
    ----------
    x : float64 (m,)
        Ascending.
    y : int64 (m,)
    n : int
        Pieces; a curve of fewer points is returned whole.

    Returns
    -------
    x, y : float64 (at most n,)
    """
    if len(x) <= n:
        return x.astype(float), y.astype(float)
    edges = np.searchsorted(x, np.linspace(x[0], x[-1], n, endpoint=False))
    edges = np.unique(edges)
    top = np.maximum.reduceat(y, edges)
    return x[edges].astype(float), top.astype(float)
