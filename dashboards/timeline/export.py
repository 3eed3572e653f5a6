"""A window of the timeline for other programs: Chrome JSON, as Perfetto opens it, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import numpy as np

from tracelens.intervals import clip_lengths
from tracelens.report.text import cell, clean

from .classes import CLASSES
from .details import Frame
from .lanes import Lane, RankLanes

_COLUMNS = ("rank", "lane", "depth", "name", "class", "start_ns", "dur_ns", "exposed_ns")

Chosen = list[tuple[RankLanes, int, Lane]]


def chrome(chosen: Chosen, t0: int, t1: int, frame: Frame) -> Iterator[str]:
    """Events that overlap the window as a Chrome trace: whole, microseconds, a process a rank."""
    yield '{"displayTimeUnit": "ns", "traceEvents": [\n'
    head = []
    for book in {b.rank: b for b, _, _ in chosen}.values():
        head.append(_meta("process_name", book.rank, 0, f"rank {book.rank}"))
    for book, number, lane in chosen:
        head.append(_meta("thread_name", book.rank, number, clean(lane.label)))
        head.append(_meta("thread_sort_index", book.rank, number, number))
    yield ",\n".join(json.dumps(e) for e in head)
    flows: dict[int, tuple[int, set[int]]] = {}
    for book, number, lane in chosen:
        shift = frame.shift(book.rank)
        for row in lane.rows:
            first, stop = row.within(t0 - shift, t1 - shift)
            for i in range(first, stop):
                event = {
                    "ph": "X",
                    "pid": book.rank,
                    "tid": number,
                    "name": clean(book.strings[row.name[i]]),
                    "cat": CLASSES[row.cls[i]].name,
                    "ts": _us(int(row.start_ns[i]) + shift),
                    "dur": _us(int(row.end_ns[i] - row.start_ns[i])),
                }
                yield ",\n" + json.dumps(event)
        flows.setdefault(book.rank, (shift, set()))[1].add(number)
    books = {b.rank: b for b, _, _ in chosen}
    for rank, (shift, lanes) in flows.items():
        yield from _flows(books[rank], lanes, (t0 - shift, t1 - shift), shift)
    yield "\n]}\n"


def _us(ns: int) -> float:
    return ns / 1000


def _meta(what: str, pid: int, tid: int, value: str | int) -> dict[str, object]:
    key = "sort_index" if what.endswith("index") else "name"
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {key: value}}


def _flows(book: RankLanes, lanes: set[int], window: tuple[int, int], shift: int) -> Iterator[str]:
    """Arrows from launches to GPU work, where both are exported."""
    work, s = book.seen.work, book.seen.trace.slices
    inside = (work.launch >= 0) & (work.start_ns < window[1]) & (work.end_ns > window[0])
    inside &= np.isin(book.lane[work.row], [*lanes])
    for i in np.flatnonzero(inside).tolist():
        launch, row = int(work.launch[i]), int(work.row[i])
        if int(book.lane[launch]) not in lanes or s.end_ns[launch] <= window[0]:
            continue
        for ph, at in (("s", launch), ("f", row)):
            event: dict[str, object] = {
                "ph": ph,
                "id": book.rank << 40 | i,
                "pid": book.rank,
                "tid": int(book.lane[at]),
                "name": "launch",
                "cat": "launch",
                "ts": _us(int(s.ts_ns[at]) + shift),
            }
            yield ",\n" + json.dumps(event | ({"bp": "e"} if ph == "f" else {}))


def table(chosen: Chosen, t0: int, t1: int, frame: Frame) -> Iterator[str]:
    """The same as CSV: times in ns since the anchor rank's first event."""
    yield _line(_COLUMNS)
    for book, _, lane in chosen:
        shift = frame.shift(book.rank)
        for depth, row in enumerate(lane.rows):
            first, stop = row.within(t0 - shift, t1 - shift)
            mine = row.start_ns[first:stop], row.end_ns[first:stop]
            exposed = clip_lengths(row.exposed, *mine).tolist()
            for i in range(first, stop):
                yield _line(
                    (
                        book.rank,
                        lane.label,
                        depth,
                        book.strings[row.name[i]],
                        CLASSES[row.cls[i]].name,
                        int(row.start_ns[i]) + shift,
                        int(row.end_ns[i] - row.start_ns[i]),
                        exposed[i - first],
                    )
                )


def _line(cells: tuple[object, ...]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([cell(c) for c in cells])
    return out.getvalue()
