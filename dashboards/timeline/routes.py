"""What the canvas asks for: lanes, viewports, events, sums, matches, files.

All but ``cancel`` read only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response, request
from werkzeug.exceptions import BadRequest, Conflict

from tracelens.units import NS_PER_MS

from . import details, export, params, search, selection, wire
from .book import Find, Run, known, rank_job, understood
from .classes import CLASSES
from .details import Frame
from .lanes import Lane, RankLanes
from .lod import Row, draw


@dataclass(frozen=True, slots=True)
class Asked:
    """The run and anchor rank that a request is about."""

    run: Run
    anchor: int

    def frame(self) -> Frame:
        """The axis; 409 until the clocks are aligned."""
        found = understood(self.run).result
        if found is None:
            raise Conflict("the run is still being read")
        return Frame(found.analysis, found.clocks, self.anchor)

    def book(self, rank: int) -> RankLanes:
        """A rank that was read; 400 where there is none, 409 until it is."""
        if rank not in self.run.ranks:
            raise params.Bad("the run has no such rank")
        job = known(self.run, rank)
        if job is None or job.result is None:
            raise Conflict("that rank is not read yet")
        return job.result

    def lane(self, rank: int, lane: int) -> tuple[RankLanes, Lane]:
        """One lane; 400 where there is none."""
        book = self.book(rank)
        if lane >= len(book.lanes):
            raise params.Bad("the rank has no such lane")
        return book, book.lanes[lane]

    def row(self, rank: int, lane: int, depth: int) -> tuple[RankLanes, Row]:
        """One row of a lane; 400 where there is none."""
        book, found = self.lane(rank, lane)
        if depth >= len(found.rows):
            raise params.Bad("the lane has no such row")
        return book, found.rows[depth]

    def chosen(self) -> export.Chosen:
        """The lanes that the parameter ``rows`` names, each once."""
        wanted = dict.fromkeys((r, n) for r, n, _ in params.rows(request.args))
        return [(*_with_number(self.lane(r, n), n),) for r, n in wanted]


def _with_number(found: tuple[RankLanes, Lane], number: int) -> tuple[RankLanes, int, Lane]:
    return found[0], number, found[1]


def answer(path: str, find: Find) -> Response:
    """The answer to a request for one of `mount.ROUTES`.

    Raises
    ------
    BadRequest, Conflict
    """
    run = find(request.args.get("run"))
    if run is None:
        raise params.Bad("there is no such run, or it is not read yet")
    if "rank" not in request.args:
        return _ANSWERS[path](Asked(run, run.ranks[0]))
    anchor = params.integer(request.args, "rank", 0, 10**6)
    if anchor not in run.ranks:
        raise params.Bad("the run has no such rank")
    return _ANSWERS[path](Asked(run, anchor))


def refused(e: BadRequest | Conflict) -> tuple[Response, int]:
    """An answer that says what was wrong with the question."""
    return _json({"error": e.description}), e.code


def _json(value: Any) -> Response:
    return _uncached(
        Response(json.dumps(value, separators=(",", ":")), mimetype="application/json")
    )


def _uncached(answer: Response) -> Response:
    answer.headers["Cache-Control"] = "no-store"
    return answer


# --------------------------------------------------------------------------------------- answers
def _meta(asked: Asked) -> Response:
    """The lanes of what is read, how far the rest is; ``load`` names ranks to be read."""
    job = understood(asked.run)
    for rank in params.ranks(request.args):
        if rank not in asked.run.ranks:
            raise params.Bad("the run has no such rank")
        rank_job(asked.run, rank).start()  # again, where it was cancelled or failed
    told: dict[str, Any] = {
        "name": wire.short(asked.run.name),
        "anchor": asked.anchor,
        "classes": [list(c) for c in CLASSES],
        "state": _state(job.state),
        "ranks": [],
    }
    if job.result is not None:
        frame = asked.frame()
        told["aligned"] = [frame.clocks.how, frame.clocks.residual_ns]
        told["ranks"] = [_rank(asked.run, rank, frame) for rank in asked.run.ranks]
    return _json(told)


def _rank(run: Run, rank: int, frame: Frame) -> dict[str, Any]:
    job = known(run, rank)
    if job is None:
        return {"rank": rank, "state": {"status": "closed"}}
    told: dict[str, Any] = {"rank": rank, "state": _state(job.state)}
    book = job.result
    if book is None:
        return told
    shift = frame.shift(rank)
    steps = book.seen.found.steps
    return told | {
        "t0": book.start_ns + shift,
        "t1": book.end_ns + shift,
        "n": len(book.seen.trace.slices),
        "lanes": [
            {
                "label": lane.label,
                "kind": lane.kind,
                "rows": len(lane.rows),
                "n": sum(len(row) for row in lane.rows),
                "hidden": lane.on_demand,
            }
            for lane in book.lanes
        ],
        "steps": [
            [int(n), int(a) + shift, int(b) + shift]
            for n, a, b in zip(steps.number, steps.start_ns, steps.end_ns, strict=True)
        ],
    }


def _state(state: Any) -> dict[str, Any]:
    return {
        "status": state.status,
        "what": wire.short(state.what),
        "percent": round(state.percent),
        "message": wire.short(state.message),
        "hint": wire.short(state.hint),
    }


def _cancel(asked: Asked) -> Response:
    """Stop reading the ranks that ``load`` names; one that is read stays."""
    for rank in params.ranks(request.args):
        job = known(asked.run, rank)
        if job is not None:
            job.cancel()
    return _json({})


def _view(asked: Asked) -> Response:
    """A viewport, as `wire` packs it."""
    frame, span = asked.frame(), params.window(request.args)
    width = params.integer(request.args, "w", 1, params.MAX_WIDTH)
    drawn, texts = [], {}
    for rank, lane, depth in params.rows(request.args):
        book, row = asked.row(rank, lane, depth)
        shift = frame.shift(rank)
        texts[rank] = book.strings
        drawn.append((rank, row, draw(row, span.t0 - shift, span.t1 - shift, width)))
    body = wire.pack((span.t0, span.t1, width), drawn, texts)
    return _uncached(Response(body, mimetype="application/octet-stream"))


def _event(asked: Asked) -> Response:
    """Everything about one event."""
    book = asked.book(params.integer(request.args, "of", 0, 10**6))
    at = params.integer(request.args, "event", 0, len(book.seen.trace.slices) - 1)
    told = details.event(book, at, asked.frame())
    for same in told["same"]:
        job = known(asked.run, same["rank"])
        if job is not None and job.result is not None:
            there = job.result
            row = int(there.seen.work.row[same["work"]])
            same |= {"event": row, "lane": int(there.lane[row]), "depth": int(there.depth[row])}
    return _json(told)


def _pixel(asked: Asked) -> Response:
    """What lies in a short span of one row."""
    frame, span = asked.frame(), params.window(request.args)
    found = params.rows(request.args)
    if len(found) != 1:
        raise params.Bad("rows has to be one RANK.LANE.DEPTH")
    book, row = asked.row(*found[0])
    shift = frame.shift(book.rank)
    return _json(details.pixel(book, row, span.t0 - shift, span.t1 - shift))


def _stats(asked: Asked) -> Response:
    """Sums over a range of time on some lanes."""
    frame, span = asked.frame(), params.window(request.args)
    chosen = asked.chosen()
    own = [(span.t0 - frame.shift(b.rank), span.t1 - frame.shift(b.rank)) for b, _, _ in chosen]
    lanes = [
        {"rank": book.rank, "lane": number} | selection.of_lane(book, lane, *at)
        for (book, number, lane), at in zip(chosen, own, strict=True)
    ]
    books = {book.rank: (book, at) for (book, _, _), at in zip(chosen, own, strict=True)}
    named = [
        ((b, lane), at)
        for (b, _, lane), at in zip(chosen, own, strict=True)
        if lane.kind not in ("band", "whole")
    ]
    return _json(
        {
            "ranks": [selection.of_rank(book, *at) for book, at in books.values()],
            "lanes": lanes,
            "names": selection.names([n for n, _ in named], [at for _, at in named]),
        }
    )


def _find(asked: Asked) -> Response:
    """Events by name, and the one next to an instant."""
    frame = asked.frame()
    wanted = params.text(request.args, "q")
    after = params.integer(request.args, "after", -(10**18), 10**18)
    forward = params.integer(request.args, "forward", 0, 1) == 1
    jobs = [known(asked.run, rank) for rank in asked.run.ranks]
    books = [job.result for job in jobs if job is not None and job.result is not None]
    return _json(search.told([search.find(b, wanted) for b in books], after, forward, frame))


def _export(asked: Asked) -> Response:
    """A window as a file."""
    frame, span, chosen = asked.frame(), params.window(request.args), asked.chosen()
    form = request.args.get("format")
    writers: dict[str, tuple[Callable[..., Iterator[str]], str]] = {
        "json": (export.chrome, "application/json"),
        "csv": (export.table, "text/csv"),
    }
    if form not in writers:
        raise params.Bad("format has to be json or csv")
    write, mimetype = writers[form]
    name = f"timeline_{span.t0 / NS_PER_MS:.3f}_{span.t1 / NS_PER_MS:.3f}_ms.{form}"
    answer = Response(write(chosen, span.t0, span.t1, frame), mimetype=mimetype)
    answer.headers["Content-Disposition"] = f"attachment; filename={name}"
    return _uncached(answer)


_ANSWERS: dict[str, Callable[[Asked], Response]] = {
    "meta": _meta,
    "cancel": _cancel,
    "view": _view,
    "event": _event,
    "pixel": _pixel,
    "stats": _stats,
    "find": _find,
    "export": _export,
}
