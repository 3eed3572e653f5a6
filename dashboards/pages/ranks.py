"""Ranks against each other: who is late, who waits for whom, and how their steps differ."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
import numpy as np

from tracelens.report.figures import text_of
from tracelens.report.text import duration
from tracelens.units import NS_PER_MS

from .. import figures, measure, ui
from ..measure import Floats
from ..query import Query
from ..source import Document, RunView, Source

#: Ranks that a map has room for.
_MAX_RANKS = 64
_MS = ("wall", "compute", "exposed_wait", "exposed_transfer", "exposed_copy", "idle")


def layout(view: RunView, query: Query, _source: Source) -> Any:
    """The page."""
    if len(view.ranks) < 2:
        return ui.nothing(
            "One rank was recorded.",
            "Ranks can be compared where several were: record on all ranks, and open their folder.",
        )
    return dmc.Stack(
        [
            dmc.Grid(
                [
                    dmc.GridCol(_waits_for(view), span={"base": 12, "lg": 5}),
                    dmc.GridCol(_skew(view, query), span={"base": 12, "lg": 7}),
                ],
            ),
            _table(view),
        ],
        gap="md",
    )


def _most(weights: Floats) -> list[int]:
    """The places of the largest values, as many as a map has room for, ascending."""
    order = np.argsort(-weights, kind="stable")[:_MAX_RANKS]
    return sorted(order.tolist())


def _left_out(of: int, shown: int) -> str:
    return f" Shown are the {shown} of {of} ranks with most waiting." if shown < of else ""


def _unknown(view: RunView) -> Any:
    missing = (view.document["run"]["world_size"] or 0) - len(view.ranks)
    why = f"{missing} ranks of the job were not read. " if missing > 0 else ""
    return dmc.Text(f"{why}Waiting is known where every rank of a group was recorded.", size="sm")


def _waits_for(view: RunView) -> Any:
    found = measure.waits_for(view.comm, measure.counted_steps(view.document))
    title = "Who waits for whom"
    if found is None:
        return ui.card(_unknown(view), title=title)
    ranks, matrix = found
    total, worst = matrix.sum(axis=0), int(matrix.sum(axis=0).argmax())
    note = (
        f"Waiting in collectives, ms a step, exposed or not. Most is for rank {ranks[worst]}: "
        f"{duration(total[worst] / (len(ranks) - 1) * NS_PER_MS)} a step on each of the others."
    )
    keep = _most(total + matrix.sum(axis=1))
    note += _left_out(len(ranks), len(keep))
    ranks, matrix = [ranks[i] for i in keep], matrix[np.ix_(keep, keep)]
    names = [f"rank {r}" for r in ranks]
    texts = [
        [
            f"{names[i]} waits {duration(v * NS_PER_MS)} a step for {names[k]}"
            for k, v in enumerate(row)
        ]
        for i, row in enumerate(matrix)
    ]
    shown = np.where(np.eye(len(ranks), dtype=bool), np.nan, matrix)
    figure = figures.heat(shown, names, names, texts, "ms")
    figure.update_xaxes(title={"text": "rank that arrived last"}, type="category")
    return ui.card(ui.graph(figure, "tracelens-who-waits"), title=title, note=note)


def _skew(view: RunView, query: Query) -> Any:
    _, step = ui.chosen(view, query)
    controls = ui.controls(view, query, "step")
    title = "Waiting in each collective of a step"
    found = measure.skew(view.comm, step)
    if found is None:
        return ui.card(controls, _unknown(view), title=title)
    keep = _most(np.nansum(found.wait_ms, axis=1))
    shown = found.wait_ms[keep]
    names = [f"rank {found.ranks[i]}" for i in keep]
    columns = [str(i) for i in range(shown.shape[1])]
    what = [text_of(t) for t in found.texts]
    texts = [
        [_cell(name, what[k], v) for k, v in enumerate(row)]
        for name, row in zip(names, shown.tolist(), strict=True)
    ]
    figure = figures.heat(shown, columns, names, texts, "ms")
    figure.update_xaxes(title={"text": "collectives in their order"}, type="category", nticks=20)
    note = "A rank that does not wait came last."
    note += _left_out(len(found.ranks), len(keep))
    if found.merged > 1:
        note += f" {found.merged} collectives a column."
    return ui.card(controls, ui.graph(figure, "tracelens-skew"), title=title, note=note)


def _cell(rank: str, what: str, wait_ms: float) -> str:
    if wait_ms == 0:
        return f"{what}<br>{rank} came last"
    return f"{what}<br>{rank} waits {duration(wait_ms * NS_PER_MS)}"


# ----------------------------------------------------------------------------------------- table
def _table(view: RunView) -> Any:
    columns = [
        ui.column("rank", "rank"),
        ui.column("steps", "steps", 0),
        ui.column("wall", "step ms", 3),
        ui.column("compute", "compute ms", 3),
        ui.column("exposed_wait", "exposed waiting ms", 3),
        ui.column("exposed_transfer", "exposed transfer ms", 3),
        ui.column("exposed_copy", "exposed copies ms", 3),
        ui.column("idle", "idle ms", 3),
        ui.column("kernels", "kernels", 0),
        ui.column("waited_for", "others wait for it ms", 3),
    ]
    rows = _rows(view.document)
    found = measure.waits_for(view.comm, measure.counted_steps(view.document))
    caused = {}
    if found is not None:
        caused = dict(zip(found[0], found[1].sum(axis=0).tolist(), strict=True))
    for row in rows:
        row["waited_for"] = caused.get(row["rank"])
    note = "Means over whole steps. The last column adds up the waiting of all other ranks."
    return ui.card(ui.table("tracelens-ranks", columns, rows), title="Rank by rank", note=note)


def _rows(document: Document) -> list[dict[str, Any]]:
    """Means of each rank over its counted steps; None where one of them is not known."""
    rows = []
    for rank, steps in sorted(measure.counted_steps(document).items()):
        mine = [r for r in document["steps"] if r["rank"] == rank and r["step"] in steps]
        row: dict[str, Any] = {"rank": rank, "steps": len(mine)}
        for name in _MS:
            values = [r[f"{name}_ms"] for r in mine]
            row[name] = None if None in values else float(np.mean(values))
        row["kernels"] = float(np.mean([r["kernels"] for r in mine]))
        rows.append(row)
    return rows
