"""What the reader of the report should know about an export.

====================  =============================================================================
newer_schema          written by a later Nsight Systems than this reader was tried on
several_ranks         the export holds several ranks and one was not chosen
missing_table         a kind of activity was not recorded, and what the report lacks without it
damaged_table         the file is cut or damaged within a table; what comes before is used
hidden_in_graph       CUDA graphs were recorded as one piece of work each
no_gpu_work           nothing ran on a GPU in the recorded window
message_sizes         NCCL's calls are there, their sizes were not exported
open_range            NVTX ranges that never ended, left out
odd_times             events that end before they start, left out
stray_device          the process also ran a little work on a device that is no rank of the run
profiler_warning      what Nsight Systems itself warned of
====================  =============================================================================
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tracelens.ingest.nsys.calls import NcclCalls
from tracelens.ingest.nsys.database import NEWEST_SCHEMA, Database
from tracelens.ingest.nsys.gpu import Piece
from tracelens.ingest.nsys.nvtx import Ranges
from tracelens.ingest.nsys.ranks import NVTX, RUNTIME, Part
from tracelens.trace import HIDDEN_GRAPH, Kind, Note

#: Warnings worth repeating. Others may quote paths or the program's output.
_WARNINGS = re.compile(
    r"Not all (NVTX|CUDA|cuBLAS|OS runtime) events might have been collected"
    r"|CUDA hardware tracing is not supported"
    r"|CUDA profiling might have not been started correctly"
)


def notes_of(
    db: Database,
    part: Part,
    parts: Sequence[Part],
    pieces: Sequence[Piece],
    ranges: Ranges,
    calls: NcclCalls,
) -> tuple[Note, ...]:
    """All notes about one rank of an export."""
    notes: list[Note] = []
    schema = db.schema()
    if schema is not None and schema[:2] > NEWEST_SCHEMA:
        version = db.settings().get("EXPORT_PRODUCT_VERSION", "a later version")
        text = (
            f"Written by Nsight Systems {version} with a schema "
            f"({'.'.join(map(str, schema))}) newer than any tried here; known columns are read."
        )
        notes.append(Note("newer_schema", 1, text))
    if len(parts) > 1:
        text = f"The export holds {len(parts)} ranks; this is the first of them."
        notes.append(Note("several_ranks", len(parts), text))
    notes += _missing(db, ranges)
    if db.damaged:
        where = ", ".join(sorted(db.damaged - {"the whole"}))
        text = f"The file is cut short or damaged{' within ' + where if where else ''}."
        notes.append(Note("damaged_table", len(db.damaged), f"{text} What comes before is used."))
    hidden = [p for p in pieces if p.names == (HIDDEN_GRAPH,) and len(p)]
    if hidden:
        n = sum(map(len, hidden))
        text = (
            f"{n} CUDA graph launches were recorded as one piece of work each: which kernels and "
            "which communication run inside is hidden, and all of it counts as compute here. "
            "Record with --cuda-graph-trace=node."
        )
        notes.append(Note("hidden_in_graph", n, text))
    work = (Kind.KERNEL, Kind.MEMCPY, Kind.MEMSET)
    if not any(len(p) for p in pieces if p.kind in work):
        text = (
            "No GPU work is left in the file."
            if db.damaged
            else "No GPU work was recorded: was the GPU used then, and was -t cuda on?"
        )
        notes.append(Note("no_gpu_work", 1, text))
    if len(calls.row) and not calls.sized:
        text = (
            f"{len(calls.row)} NCCL calls have no sizes in this export; they come with "
            "`nsys export --type sqlite --include-json=true`."
        )
        notes.append(Note("message_sizes", len(calls.row), text))
    return (*notes, *_oddities(db, part, pieces, ranges))


def _missing(db: Database, ranges: Ranges) -> list[Note]:
    notes = []
    if not db.has(RUNTIME):
        text = "CUDA API calls were not recorded: work belongs to steps by its own time on the GPU."
        notes.append(Note("missing_table", 1, text))
    if not db.has(NVTX) or not len(ranges):
        text = (
            "There are no NVTX ranges (record with -t cuda,nvtx): steps, phases and collectives "
            "are told by kernels alone."
        )
        notes.append(Note("missing_table", 1, text))
    return notes


def _oddities(db: Database, part: Part, pieces: Sequence[Piece], ranges: Ranges) -> list[Note]:
    notes = []
    if ranges.open:
        text = f"{ranges.open} NVTX ranges were still open when the recording ended; left out."
        notes.append(Note("open_range", ranges.open, text))
    odd = sum(p.dropped for p in pieces)
    if odd:
        notes.append(Note("odd_times", odd, f"{odd} events end before they start; left out."))
    if part.stray:
        text = f"{part.stray} pieces of work of this process ran on other devices; left out."
        notes.append(Note("stray_device", part.stray, text))
    rows = db.rows("DIAGNOSTIC_EVENT", ("text", "globalPid"), "WHERE severity >= 2")
    said = Counter(
        m.group()
        for text, pid in rows
        if pid in (None, part.global_pid) and (m := _WARNINGS.search(str(text)))
    )
    for text, n in said.most_common():
        notes.append(Note("profiler_warning", n, f"Nsight Systems warned: {text}."))
    return notes
