"""A viewport as bytes for the canvas: a JSON header, then arrays.

Layout: uint32 length of the header, the header, then the arrays; each begins at a multiple of 4
bytes from the end of the header, and all numbers are little-endian. The header has

* ``w``, ``t0``, ``t1``: the window;
* ``rows``, a row a requested one: ``n`` events in view, ``marks`` how many are told one by one,
  ``pixels`` and ``exposed`` whether there are arrays by pixel;
* ``names``, by rank: the text of those names that have room.

Of each row follow, in this order, x0 float32 (marks,), x1 float32 (marks,), event int32 (marks,),
name int32 (marks,), class uint8 (marks,); with ``pixels`` class uint8 (w,), cover uint8
(w,); with ``exposed`` uint8 (w,).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tracelens.report.text import clean

from .lod import Drawing, Row

#: A mark narrower than this has no room for a letter, in pixels.
LABEL_PX = 14
#: More of a name than this has no room in a lane, nor in a tooltip.
LONGEST_NAME = 160


def short(text: str) -> str:
    """A name from a trace as it is shown: without control characters, not too long."""
    text = clean(text)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def pack(
    window: tuple[int, int, int], drawn: Sequence[tuple[int, Row, Drawing]], texts: dict[int, Any]
) -> bytes:
    """The answer to a request for a viewport.

    Parameters
    ----------
    window : (t0, t1, width)
    drawn : sequence of (rank, Row, Drawing)
        In the order of the request.
    texts : dict
        Strings by rank.
    """
    t0, t1, width = window
    rows, arrays = [], []
    names: dict[int, dict[int, str]] = {}
    for rank, row, d in drawn:
        rows.append(
            {
                "n": d.n,
                "marks": len(d.marks),
                "pixels": d.count is not None,
                "exposed": d.exposed is not None,
            }
        )
        arrays += _arrays(row, d)
        wide = np.unique(row.name[d.marks[d.x1 - d.x0 >= LABEL_PX]])
        known = names.setdefault(rank, {})
        known.update((i, short(texts[rank][i])) for i in wide.tolist() if i not in known)
    header = {"t0": t0, "t1": t1, "w": width, "rows": rows, "names": names}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    head += b" " * (-len(head) % 4)
    return b"".join([len(head).to_bytes(4, "little"), head, *map(_padded, arrays)])


def _arrays(row: Row, d: Drawing) -> list[np.ndarray]:
    at = d.marks
    told = [
        d.x0.astype("<f4"),
        d.x1.astype("<f4"),
        row.event[at].astype("<i4"),
        row.name[at].astype("<i4"),
        row.cls[at],
    ]
    if d.cls is not None and d.cover is not None:
        told += [d.cls, d.cover]
    if d.exposed is not None:
        told.append(d.exposed)
    return told


def _padded(array: np.ndarray) -> bytes:
    raw = array.tobytes()
    return raw + b"\0" * (-len(raw) % 4)
