"""Reader of Kineto's Chrome traces (torch.profiler, torch 1.8 to 2.11 and Kineto's main of 2026).

What was odd about a file is in ``Trace.stats.notes``, by these codes:

====================  =============================================================================
truncated             the file ends early: all whole events before the cut are there
damaged_stream        the compressed stream is damaged or cut
no_events             the event array is empty
damaged_events        dropped: not valid JSON (unescaped quotes, flipped bytes)
not_an_event          dropped: no ``ph``, or not an object
repeated_events       dropped: the file holds them twice, ids and times and all
bad_time              dropped: no usable ``ts``
unmatched_begin_end   dropped: B without E, or E without B
missing_dur           kept with duration 0
negative_dur          duration set to 0
odd_values            arguments that are not numbers, taken as absent
not_finite            NaN or infinite numbers, taken as absent
not_utf8              characters replaced
tolerant_slices       stretches (2 MB) that had to be read event by event
bad_header            header not valid JSON, read as far as possible
unknown_schema        a schema version other than 1, the only one since 2020
trailing_data         text after the end
====================  =============================================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from tracelens.errors import CorruptTrace, UnsupportedFormat
from tracelens.ingest import header
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.chunks import EventStream
from tracelens.ingest.columns import TableBuilder
from tracelens.ingest.decode import PieceDecoder
from tracelens.ingest.foreign import refuse_others
from tracelens.ingest.source import Source
from tracelens.ingest.tally import Tally
from tracelens.ingest.values import as_int, as_rank
from tracelens.trace import Kind, Slices, Trace, TraceInfo

Progress = Callable[[int, int], None]

#: Kineto's (libkineto/src/output_json.cpp).
SCHEMA_VERSION = 1
#: Characters of a strange value that a note repeats.
_MAX_DETAIL = 40

_PHASE = re.compile(rb'"ph"\s*:\s*"')
_OBJECT_KEYS = re.compile(rb'"(?:traceEvents|schemaVersion|deviceProperties|baseTimeNanoseconds)"')


def sniff(head: bytes) -> bool:
    """Whether unpacked bytes look like the start of a Chrome trace.

    Examples
    --------
    >>> sniff(b'{"schemaVersion": 1, "deviceProperties": ['), sniff(b'[{"ph": "X", "ts": 1')
    (True, True)
    >>> sniff(b'{"world_size": 4}'), sniff(b"[1, 2, 3]")
    (False, False)
    """
    start = head.lstrip()
    if start.startswith(b"{"):
        return _OBJECT_KEYS.search(start) is not None
    return start.startswith(b"[") and _PHASE.search(start) is not None


def read(
    path: str | os.PathLike[str], *, progress: Progress | None = None, bounds: Bounds = BOUNDS
) -> Trace:
    """Read one rank's trace.

    Parameters
    ----------
    path : path
        Chrome trace, plain or packed (gzip, xz, zstandard), whole or cut off.
    progress : callable, optional
        Called after each slice with (bytes of the file read, bytes of the file).
    bounds : Bounds, optional
        Where to stop a file that grows too large.

    Raises
    ------
    UnsupportedFormat
        If there is no event array, or nothing in it is an event.
    CorruptTrace
        If the file claims to be a trace and nothing of it can be read.
    OSError
        If the file cannot be opened.
    """
    tally = Tally()
    builder = TableBuilder(tally)
    with Source(path, bounds) as source:
        stream = _stream(source, path)
        decoder = PieceDecoder(tally)
        events_read, tail = 0, None
        for piece in stream:
            decoded = decoder(piece)
            builder.add(decoded.events)
            events_read += decoded.read
            if progress is not None:
                progress(source.position, source.size)
            if decoded.tail is not None:
                tail = stream.rest(decoded.tail, piece.separator)
                break
        if source.error is not None:
            tally.add("damaged_stream", detail=source.error)
        was_cut = source.error is not None or bool(decoder.left)
    keys, truncated = _keys(stream, tail, tally)
    truncated = truncated or was_cut
    if truncated:
        tally.add("truncated")
    if keys.get("schemaVersion", SCHEMA_VERSION) != SCHEMA_VERSION:
        tally.add("unknown_schema", detail=repr(keys["schemaVersion"])[:_MAX_DETAIL])
    _check(path, tally, events_read, truncated=truncated)
    tracks, slices, collectives, shapes, memory = builder.finish()
    refuse_others(os.fspath(path), keys, tracks)
    return Trace(
        info=_info(path, keys, slices, truncated=truncated),
        strings=tuple(builder.strings),
        tracks=tracks,
        slices=slices,
        collectives=collectives,
        shapes=shapes,
        memory=memory,
        stats=tally.stats(events_read),
    )


def _stream(source: Source, path: str | os.PathLike[str]) -> EventStream:
    name = os.fspath(path)
    if source.size == 0:
        raise UnsupportedFormat(
            f"{name}: the file is empty", hint="was the profiler stopped before the job ended?"
        )
    try:
        return EventStream(source)
    except UnsupportedFormat as e:
        if source.error is not None:
            raise CorruptTrace(
                f"{name}: {source.error}; nothing of a trace could be read",
                hint="copy the file again, or record again",
            ) from e
        raise UnsupportedFormat(f"{name}: {e}", hint=e.hint) from e


def _keys(stream: EventStream, tail: bytes | None, tally: Tally) -> tuple[dict[str, Any], bool]:
    """All keys beside the events; whether the file lacks its end."""
    if stream.bare:
        if tail is not None and tail.strip():
            tally.add("trailing_data")
        return {}, False  # Chrome lets a bare array go without its closing bracket
    keys, sound = header.parse_before(stream.header)
    if not sound:
        tally.add("bad_header")
    if tail is None:
        return keys, True
    after = header.parse_after(tail, bare=stream.bare)
    if not after.sound:
        tally.add("bad_header")
    if after.rest:
        tally.add("trailing_data")
    return keys | after.keys, after.cut


def _check(
    path: str | os.PathLike[str], tally: Tally, events_read: int, *, truncated: bool
) -> None:
    """Stop where there is nothing to show; an empty array of a whole file is an answer."""
    name = os.fspath(path)
    if events_read and tally["not_an_event"] == events_read:
        raise UnsupportedFormat(
            f"{name}: none of the {events_read} entries of the array is a trace event",
            hint="a Chrome trace as torch.profiler's export_chrome_trace writes it is expected",
        )
    if events_read == tally.dropped and (truncated or events_read):
        raise CorruptTrace(
            f"{name}: no whole event could be read ({events_read} damaged)",
            hint="copy the file again, or record again",
        )
    if not events_read:
        tally.add("no_events")


def _info(
    path: str | os.PathLike[str], keys: dict[str, Any], slices: Slices, *, truncated: bool
) -> TraceInfo:
    info = header.distributed(keys)
    flags = header.flags(keys)
    if bool((slices.kind == Kind.PYTHON).any()):
        flags["with_stack"] = True
    return TraceInfo(
        path=os.fspath(path),
        source="torch.profiler",
        clock_zero_ns=header.clock_zero_ns(keys),
        rank=as_rank(info.get("rank")),
        world_size=as_rank(info.get("world_size")),
        backend=header.text_or_none(info.get("backend")),
        devices=header.device_names(keys),
        device_bytes=header.device_bytes(keys),
        torch=header.torch_version(keys),
        nccl=header.text_or_none(info.get("nccl_version")),
        cuda_runtime=as_int(keys.get("cuda_runtime_version")),
        groups=header.process_groups(info),
        truncated=truncated,
        **flags,
    )
