"""The events of a rank as they were read and linked, kept beside the store for the next look.

What `StoredRun.open_rank` takes half a minute to read of five million events is back in a second.
A file is named by the types that it holds, so another version of tracelens passes it by; whatever
cannot be read is as if it were not there, and everything may be deleted at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

from tracelens.analysis import RankEvents
from tracelens.errors import StoreError
from tracelens.store import codec

#: With fewer events a trace is read in less than a second or two.
WORTH_EVENTS = 200_000
_SUFFIX = ".events"


def kept(cache: Path, rank: int) -> RankEvents | None:
    """A rank's events, as `keep` was given them; None where they are not there.

    Parameters
    ----------
    cache : Path
        The run's: `StoredRun.cache`.
    rank : int
    """
    try:
        return codec.decode(_place(cache, rank).read_bytes(), RankEvents)
    except (OSError, StoreError):
        return None


def keep(cache: Path, rank: int, seen: RankEvents) -> bool:
    """Keep a rank's events, whole or not at all.

    Returns
    -------
    bool
        False where they are too few to be worth it, or the disk does not take them.
    """
    if len(seen.trace.slices) < WORTH_EVENTS:
        return False
    place = _place(cache, rank)
    half = place.with_name(f"{place.name}.{os.getpid()}.half")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.glob(f"rank{rank}.*"):
            old.unlink(missing_ok=True)
        try:
            half.write_bytes(codec.encode(seen))
            half.replace(place)
        finally:
            half.unlink(missing_ok=True)
    except OSError:  # a full or a read-only disk: the trace is still there
        return False
    return True


def _place(cache: Path, rank: int) -> Path:
    return cache / f"rank{rank}.{codec.shape(RankEvents)}{_SUFFIX}"
