"""The shape of a Chrome trace event, as far as we read it (msgspec structs, tagged by "ph").

Names and types follow libkineto's output_json.cpp and torch's ParamCommsUtils.hpp; whatever else
an event carries is skipped while decoding. Times stay text (`msgspec.Raw`): that is as fast as
float and keeps absolute unix microseconds exact. A `Raw` points into the decoded buffer, so copy it
(``bytes(raw)``) before the buffer is used again.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec
from msgspec import Raw

#: A number as some writer may put it: plain, decimal, quoted ("0x0" on ROCm) or null.
Number = Union[int, float, str, None]  # noqa: UP007 - msgspec evaluates it, on 3.10 too
Id = Union[int, str]  # noqa: UP007

#: Default of text fields; the one empty `Raw`, so `is ABSENT` tells it.
ABSENT = Raw(b"")


class Args(msgspec.Struct, gc=False, frozen=True):
    """The arguments of a slice that any analysis reads."""

    external_id: Number = msgspec.field(default=-1, name="External id")
    correlation: Number = -1
    stream: Number = -1
    device: Number = -1
    bytes: Number = -1
    sequence: Number = msgspec.field(default=-1, name="Sequence number")
    #: torch 1.8 to 1.10
    old_external_id: Number = msgspec.field(default=-1, name="external id")
    collective: str | None = msgspec.field(default=None, name="Collective name")
    in_nelems: Number = msgspec.field(default=None, name="In msg nelems")
    out_nelems: Number = msgspec.field(default=-1, name="Out msg nelems")
    group_size: Number = msgspec.field(default=-1, name="Group size")
    dtype: Raw = ABSENT
    group: Raw = msgspec.field(default=ABSENT, name="Process Group Name")
    group_desc: Raw = msgspec.field(default=ABSENT, name="Process Group Description")
    ranks: Raw = msgspec.field(default=ABSENT, name="Process Group Ranks")
    in_split: Raw = msgspec.field(default=ABSENT, name="In split size")
    out_split: Raw = msgspec.field(default=ABSENT, name="Out split size")
    src_rank: Number = msgspec.field(default=-1, name="Src Rank")
    dst_rank: Number = msgspec.field(default=-1, name="Dst Rank")
    seq: Number = msgspec.field(default=-1, name="Seq")
    dims: Raw = msgspec.field(default=ABSENT, name="Input Dims")
    types: Raw = msgspec.field(default=ABSENT, name="Input type")
    concrete: Raw = msgspec.field(default=ABSENT, name="Concrete Inputs")


class MemoryArgs(msgspec.Struct, gc=False, frozen=True):
    """The arguments of a "[memory]" instant."""

    bytes: Number = msgspec.field(default=None, name="Bytes")
    allocated: Number = msgspec.field(default=-1, name="Total Allocated")
    reserved: Number = msgspec.field(default=-1, name="Total Reserved")
    device_type: Number = msgspec.field(default=0, name="Device Type")
    device_id: Number = msgspec.field(default=-1, name="Device Id")


class NameArgs(msgspec.Struct, gc=False, frozen=True):
    """The arguments of a metadata event."""

    name: Number = None
    labels: Number = None


NO_ARGS, NO_MEMORY, NO_NAME = Args(), MemoryArgs(), NameArgs()


class Slice(msgspec.Struct, gc=False, tag="X", tag_field="ph"):
    """A complete event with its times as written."""

    ts: Raw = ABSENT
    dur: Raw = ABSENT
    name: str = ""
    cat: str = ""
    pid: Id = -1
    tid: Id = -1
    args: Args = NO_ARGS


class Begin(msgspec.Struct, gc=False, tag="B", tag_field="ph"):
    """The start of a slice; its arguments stay text until the end is seen."""

    ts: Raw = ABSENT
    name: str = ""
    cat: str = ""
    pid: Id = -1
    tid: Id = -1
    args: Raw = ABSENT


class End(msgspec.Struct, gc=False, tag="E", tag_field="ph"):
    """The end of the innermost open slice of its thread."""

    ts: Raw = ABSENT
    pid: Id = -1
    tid: Id = -1


class Instant(msgspec.Struct, gc=False, tag="i", tag_field="ph"):
    """An instant; only "[memory]" is kept."""

    ts: Raw = ABSENT
    name: str = ""
    pid: Id = -1
    tid: Id = -1
    args: MemoryArgs = NO_MEMORY


class Naming(msgspec.Struct, gc=False, tag="M", tag_field="ph"):
    """A metadata event: names a process or a thread."""

    name: str = ""
    pid: Id = -1
    tid: Id = -1
    args: NameArgs = NO_NAME


#: Phases that are counted and skipped: flows, counters, async, objects, samples, marks ...
#: (Chrome "Trace Event Format", section "Event Descriptions").
SKIPPED_PHASES = "sftICPbneNODSTpFRcvV(),="

_SKIPPED: tuple[Any, ...] = tuple(
    msgspec.defstruct(f"Skipped{ord(p)}", [], gc=False, tag=p, tag_field="ph")
    for p in SKIPPED_PHASES
)

#: An event that is counted and not looked at.
SKIPPED = _SKIPPED[0]()

_KINDS: tuple[Any, ...] = (Slice, Begin, End, Instant, Naming, *_SKIPPED)
_EVENT: Any = Union[_KINDS]  # noqa: UP007 - of a tuple


def events_decoder() -> msgspec.json.Decoder[list[Any]]:
    """Decoder of a JSON array of events."""
    return msgspec.json.Decoder(list[_EVENT])


def args_decoder() -> msgspec.json.Decoder[Args]:
    """Decoder of one slice's arguments."""
    return msgspec.json.Decoder(Args)
