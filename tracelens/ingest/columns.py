"""Event structs, piece by piece, to the column tables of a `Trace`.

Columns grow in place and are sorted one after the other, so that the peak of memory stays close to
the size of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Raw

from tracelens.ingest import growing
from tracelens.ingest.growing import Columns
from tracelens.ingest.kinds import ON_DEVICE, ON_TRACK, UNKNOWN, KindOfCategory, infer_kind
from tracelens.ingest.order import astray, by_row, in_time, repeated
from tracelens.ingest.schema import (
    ABSENT,
    NO_ARGS,
    Args,
    Begin,
    End,
    Instant,
    Naming,
    Number,
    Slice,
    args_decoder,
)
from tracelens.ingest.tally import Tally
from tracelens.ingest.tracks import TrackTable
from tracelens.ingest.values import (
    MAX_NELEMS,
    as_int,
    integers,
    small_integers,
    text_of,
    time_ns,
    times_ns,
)
from tracelens.trace import (
    SHAPE_OPS,
    Collectives,
    Int32s,
    Int64s,
    Memory,
    Shapes,
    Slices,
    Tracks,
)

_COLLECTIVE_TEXTS = ("dtype", "group", "group_desc", "ranks", "in_split", "out_split")
_COLLECTIVE_SMALL = ("group_size", "src_rank", "dst_rank")


class Interner(dict[str, int]):
    """String -> its index, in order of first sight."""

    def __missing__(self, text: str) -> int:
        self[text] = index = len(self)
        return index


class TableBuilder:
    """Collects the events of one file.

    Attributes
    ----------
    strings : Interner
        Every name and kept text.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.strings = Interner()
        self._tracks = TrackTable()
        self._kind_of = KindOfCategory()
        self._slices = growing.GrowingTable(growing.SLICES)
        self._collectives = growing.GrowingTable(growing.COLLECTIVES)
        self._shapes = growing.GrowingTable(growing.SHAPES)
        self._memory = growing.GrowingTable(growing.MEMORY)
        self._open: dict[tuple[int | str, int | str], list[tuple[int | None, Begin]]] = {}
        self._args_decoder = args_decoder()

    def __len__(self) -> int:
        return len(self._slices)

    # ------------------------------------------------------------------ taking events
    def add(self, events: Sequence[Any]) -> None:
        """Take the events of one piece. Nothing of them is kept but values."""
        slices = [e for e in events if e.__class__ is Slice]
        if slices:
            ts_ns, usable = times_ns([e.ts for e in slices])
            dur_ns, has_dur = times_ns([e.dur for e in slices])
            if not usable.all():
                self._tally.add("bad_time", int((~usable).sum()))
                slices = [e for e, ok in zip(slices, usable, strict=True) if ok]
                ts_ns, dur_ns, has_dur = ts_ns[usable], dur_ns[usable], has_dur[usable]
            self._tally.add("missing_dur", int((~has_dur).sum()))
            self._add_slices(slices, ts_ns, dur_ns)
        if len(slices) < len(events):
            self._add_others([e for e in events if e.__class__ is not Slice])

    def _add_others(self, events: list[Any]) -> None:
        memory, spans = [], []
        for e in events:
            kind = e.__class__
            if kind is Instant:
                if e.name == "[memory]":
                    memory.append(e)
            elif kind is Naming:
                self._tracks.rename(e)
            elif kind is Begin or kind is End:
                spans.append(e)
        if memory:
            self._add_memory(memory)
        if spans:
            self._add_spans(spans)

    def _add_spans(self, events: list[Begin | End]) -> None:
        """Join begin and end events of a thread, innermost first."""
        done: list[Slice] = []
        starts: list[int] = []
        lengths: list[int] = []
        for e in events:
            stack = self._open.setdefault((e.pid, e.tid), [])
            ns = time_ns(e.ts)
            if isinstance(e, Begin):
                # It may wait for its end past this piece, whose buffer is used again.
                stack.append((ns, msgspec.structs.replace(e, ts=ABSENT, args=e.args.copy())))
                continue
            start, begin = stack.pop() if stack else (None, None)
            if start is None or begin is None or ns is None:
                self._tally.add("unmatched_begin_end", 1 if begin is None else 2)
                continue
            args = self._args_of(begin.args)
            done.append(
                Slice(name=begin.name, cat=begin.cat, pid=begin.pid, tid=begin.tid, args=args)
            )
            starts.append(start)
            lengths.append(ns - start)
        if done:
            self._add_slices(done, np.array(starts, np.int64), np.array(lengths, np.int64))

    def _args_of(self, written: Raw) -> Args:
        try:
            return self._args_decoder.decode(written) if bytes(written) else NO_ARGS
        except (msgspec.DecodeError, UnicodeDecodeError):
            return NO_ARGS

    def _add_slices(self, slices: list[Slice], ts_ns: Int64s, dur_ns: Int64s) -> None:
        n, first = len(slices), len(self._slices)
        negative = dur_ns < 0
        if negative.any():
            self._tally.add("negative_dur", int(negative.sum()))
            dur_ns = np.where(negative, 0, dur_ns)
        args = [e.args for e in slices]
        name = self.strings
        track = self._tracks.row
        external = [a.external_id if a.external_id != -1 else a.old_external_id for a in args]
        self._slices.add(
            {
                "ts_ns": ts_ns,
                "dur_ns": dur_ns,
                "name": np.fromiter([name[e.name] for e in slices], np.int32, n),
                "kind": self._kinds(slices),
                "track": np.fromiter([track[e.pid, e.tid] for e in slices], np.int32, n),
                "correlation": self._integers([a.correlation for a in args]),
                "external_id": self._integers(external),
                "sequence": self._integers([a.sequence for a in args]),
                "stream": self._small([a.stream for a in args]),
                "device": self._small([a.device for a in args]),
                "bytes": self._integers([a.bytes for a in args]),
            }
        )
        calls = [
            i for i, a in enumerate(args) if a.collective is not None or a.in_nelems is not None
        ]
        if calls:
            self._add_collectives(calls, [args[i] for i in calls], first)
        shaped = [i for i, e in enumerate(slices) if e.name in SHAPE_OPS and _has_shapes(e.args)]
        if shaped:
            self._add_shapes(shaped, [args[i] for i in shaped], first)

    def _kinds(self, slices: list[Slice]) -> npt.NDArray[np.int8]:
        kind_of = self._kind_of
        kinds = np.fromiter([kind_of[e.cat] for e in slices], np.int8, len(slices))
        for i in np.flatnonzero(kinds == UNKNOWN):
            kinds[i] = infer_kind(slices[i])
        return kinds

    def _add_collectives(self, at: list[int], args: list[Args], first: int) -> None:
        rows: Columns = {"row": np.array(at, np.int64) + first}
        rows["call"] = self._texts(a.collective for a in args)
        rows["in_nelems"] = self._sizes([a.in_nelems for a in args])
        rows["out_nelems"] = self._sizes([a.out_nelems for a in args])
        rows["seq"] = self._integers([a.seq for a in args])
        for field in _COLLECTIVE_SMALL:
            rows[field] = self._small([getattr(a, field) for a in args])
        for field in _COLLECTIVE_TEXTS:
            rows[field] = self._texts(text_of(getattr(a, field)) for a in args)
        self._collectives.add(rows)

    def _add_shapes(self, at: list[int], args: list[Args], first: int) -> None:
        rows: Columns = {"row": np.array(at, np.int64) + first}
        for field in ("dims", "types", "concrete"):
            rows[field] = self._texts(_json_text(getattr(a, field)) for a in args)
        self._shapes.add(rows)

    def _add_memory(self, events: list[Instant]) -> None:
        ts_ns, usable = times_ns([e.ts for e in events])
        if not usable.all():
            self._tally.add("bad_time", int((~usable).sum()))
            events = [e for e, ok in zip(events, usable, strict=True) if ok]
            ts_ns = ts_ns[usable]
        args = [e.args for e in events]
        track = self._tracks.row
        # c10::DeviceType: 0 is the CPU; every other type is numbered by its own devices.
        device = [-1 if as_int(a.device_type) == 0 else a.device_id for a in args]
        self._memory.add(
            {
                "ts_ns": ts_ns,
                "bytes": self._integers([0 if a.bytes is None else a.bytes for a in args]),
                "allocated": self._integers([a.allocated for a in args]),
                "reserved": self._integers([a.reserved for a in args]),
                "device": self._small(device),
                "track": np.array([track[e.pid, e.tid] for e in events], np.int32),
            }
        )

    def _integers(self, values: list[Number]) -> Int64s:
        found, odd = integers(values)
        self._tally.add("odd_values", odd)
        return found

    def _sizes(self, values: list[Number]) -> Int64s:
        found = self._integers(values)
        wrong = np.abs(found) > MAX_NELEMS
        self._tally.add("odd_values", int(wrong.sum()))
        return np.where(wrong, -1, found)

    def _small(self, values: list[Number]) -> Int32s:
        return small_integers(self._integers(values))

    def _texts(self, texts: Iterable[str | None]) -> Int32s:
        strings = self.strings
        return np.array([-1 if t is None else strings[t] for t in texts], np.int32)

    # ------------------------------------------------------------------ handing over
    def finish(self) -> tuple[Tracks, Slices, Collectives, Shapes, Memory]:
        """The finished tables, in time's order. The builder is empty afterwards."""
        self._tally.add("unmatched_begin_end", sum(len(s) for s in self._open.values()))
        tracks = self._tracks.table()
        slices = self._slices.take()
        self._place(slices)
        new_row = self._sort(slices)
        collectives = by_row(self._collectives.take(), new_row)
        shapes = by_row(self._shapes.take(), new_row)
        memory = self._memory.take()
        in_time = np.argsort(memory["ts_ns"], kind="stable")
        memory = {name: column[in_time] for name, column in memory.items()}
        return (
            tracks,
            Slices(**slices),
            Collectives(**collectives),
            Shapes(**shapes),
            Memory(**memory),
        )

    def _sort(self, slices: Columns) -> Int64s | None:
        """Bring rows in time's order, each once; -> the new place of each, -1 if it is gone."""
        order = in_time(slices["ts_ns"], slices["dur_ns"])
        new_row: Int64s | None = None
        if order is not None:
            for name in list(slices):
                slices[name] = slices[name][order]
            new_row = np.empty(len(order), np.int64)
            new_row[order] = np.arange(len(order))
        for code, find in (("bad_time", astray), ("repeated_events", repeated)):
            gone = find(slices)
            if gone is None:
                continue
            self._tally.add(code, int(gone.sum()))
            place = np.where(gone, -1, np.cumsum(~gone) - 1)
            new_row = place if new_row is None else np.where(new_row < 0, -1, place[new_row])
            for name in list(slices):
                slices[name] = slices[name][~gone]
        return new_row

    def _place(self, slices: Columns) -> None:
        """Stream and device: none on host rows; on a GPU's track its numbers, if not written."""
        on_device = np.isin(slices["kind"], np.array(ON_DEVICE, np.int8))
        on_track = np.isin(slices["kind"], np.array(ON_TRACK, np.int8))
        for name, of_track in zip(("device", "stream"), self._tracks.numbers(), strict=True):
            column = slices[name]
            column[~on_device] = -1
            bare = np.flatnonzero(on_track & (column == -1))
            if len(bare):
                column[bare] = of_track[slices["track"][bare]]


def _has_shapes(args: Args) -> bool:
    return args.dims is not ABSENT or args.types is not ABSENT or args.concrete is not ABSENT


def _json_text(raw: Raw) -> str | None:
    return None if raw is ABSENT else bytes(raw).decode("utf-8", "replace")
