"""What a trace file says about its rank, without reading it: its first bytes and its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tracelens.errors import InputError
from tracelens.ingest import HEAD_BYTES, header, nsys, recognise, unsupported
from tracelens.ingest.bounds import BOUNDS, Bounds
from tracelens.ingest.nsys.export import is_report
from tracelens.ingest.source import Source, read_tail
from tracelens.ingest.values import as_int, as_rank
from tracelens.remote import BEGINNING
from tracelens.sqlite import RUN_DB, application_id

#: Bytes at a plain file's end: older torch writes distributedInfo after the events.
_TAIL_BYTES = 64_000

#: Where pg_config is so long that the object does not end within the head.
_RANK = re.compile(r'"distributedInfo"\s*:\s*\{[^{}\[\]]*?"rank"\s*:\s*"?(\d+)')
_WORLD = re.compile(r'"distributedInfo"\s*:\s*\{[^{}\[\]]*?"world_size"\s*:\s*"?(\d+)')

#: torch.profiler.tensorboard_trace_handler: {worker or host_pid}.{unix ms or ns}.pt.trace.json;
#: numbers in the host's name and the pid are no ranks.
_HOST_PID = re.compile(r"^.+_\d+\.\d{10,}\.pt\.trace\.")
_NAMED_RANK = re.compile(r"(?<![a-z])rank[-_. ]?(\d{1,6})(?!\d)", re.IGNORECASE)
_WORKER = re.compile(r"(?<![a-z])worker[-_]?(\d{1,6})(?=[._-]|$)", re.IGNORECASE)
_TRAILING = re.compile(r"_(\d{1,6})\.")


@dataclass(frozen=True, slots=True)
class Peek:
    """What one rank of a trace file says of itself, by a short look; None where it does not.

    `source` names the reader. `part` tells a file's ranks apart, None where it holds one;
    `parts` is how many it holds, and `bytes` this one's share of the file.
    """

    path: Path
    bytes: int
    source: str = "torch.profiler"
    part: str | None = None
    parts: int = 1
    rank: int | None = None
    world_size: int | None = None
    group_count: int | None = None
    clock_zero_ns: int = 0


def peek(path: Path, bounds: Bounds = BOUNDS) -> tuple[Peek, ...]:
    """Look into a file.

    Returns
    -------
    tuple of Peek
        One a rank; empty for JSON that is no trace (a manifest, a config, a record of truth) and
        for a run.db.

    Raises
    ------
    InputError
        If the file is no trace and no other JSON either, or cannot be read.
    """
    try:
        with Source(path, bounds, BEGINNING) as source:
            head, size, error = source.read(HEAD_BYTES), source.size, source.error
        if application_id(head) == RUN_DB:  # it may lie among the traces that it keeps
            return ()
        reader = recognise(head)
        if is_report(path, head) or (reader is not None and reader.name == "nsys"):
            return _in_export(path, size, bounds)
        if reader is None:
            if error is not None:
                raise InputError(f"{path}: {error}", hint="copy the file again, or record again")
            if head.lstrip()[:1] in (b"{", b"[") and b"\0" not in head[:4]:
                return ()
            raise unsupported(path, head)
        tail = read_tail(path, _TAIL_BYTES) if size > len(head) else b""
    except OSError as e:
        raise InputError(f"{path}: {e.strerror or e}") from e
    text = (head + b"\n" + tail).decode("utf-8", "replace")
    return (_from_text(path, size, text),)


def _in_export(path: Path, size: int, bounds: Bounds) -> tuple[Peek, ...]:
    """The ranks in an Nsight Systems export."""
    clock, parts = nsys.look(path, bounds)
    return tuple(
        Peek(
            path=path,
            bytes=size // len(parts),
            source="nsys",
            part=part.key,
            parts=len(parts),
            rank=as_rank(part.rank),
            world_size=as_rank(part.world),
            clock_zero_ns=clock,
        )
        for part in parts
    )


def _from_text(path: Path, size: int, text: str) -> Peek:
    keys = header.salvage(text, ("distributedInfo", "baseTimeNanoseconds"))
    info = header.distributed(keys)
    if info:
        rank, world = as_rank(info.get("rank")), as_rank(info.get("world_size"))
    else:
        rank, world = _number(_RANK, text), _number(_WORLD, text)
    return Peek(
        path=path,
        bytes=size,
        rank=rank,
        world_size=world,
        group_count=as_int(info.get("pg_count")),
        clock_zero_ns=header.clock_zero_ns(keys),
    )


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return as_rank(match.group(1)) if match else None


def rank_in_name(path: Path) -> int | None:
    """The rank that a file's name (or its folder's) tells; None if it tells none.

    Examples
    --------
    >>> [rank_in_name(Path(p)) for p in ("rank3.json", "trace_rank-12.json.gz", "t_7.json")]
    [3, 12, 7]
    >>> rank_in_name(Path("gpu17_4242.1712195495505.pt.trace.json")) is None  # host and pid
    True
    >>> rank_in_name(Path("rank_2/trace.json"))
    2
    """
    name = path.name
    patterns = [_NAMED_RANK] if _HOST_PID.match(name) else [_NAMED_RANK, _WORKER, _TRAILING]
    for pattern in patterns:
        found = pattern.search(name)
        if found:
            return int(found.group(1))
    folder = _NAMED_RANK.fullmatch(path.parent.name)
    return int(folder.group(1)) if folder else None
