"""What NCCL says about each of its calls, in the payloads of its NVTX ranges.

NCCL writes the message size since 2.16.2 and the communicator since 2.25.1 (src/include/nvtx.h and
src/include/nvtx_payload_schemas.h). An export has them as JSON text (``nsys export
--include-json=true``) or as the bytes themselves (``--include-blobs=true``), laid out as
``NVTX_PAYLOAD_SCHEMA_ENTRIES`` says, behind 32 bytes of which three little-endian numbers are
used: domain, schema, size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec

from tracelens.ingest.nsys.database import Database

#: NCCL's names of the fields, in either form.
_COMMUNICATOR, _BYTES, _RANKS, _RANK, _ROOT = (
    "NCCL communicator ID", "Message size [bytes]", "No. of ranks", "Rank", "Root",
)  # fmt: skip
_PEER = ("Peer rank", "Peer")

_HEADER = struct.Struct("<QQQQ")
#: NVTX payload entry types (nvtx3/nvToolsExtPayload.h) -> struct codes; enumerations are ints.
_CODES = {
    1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "q", 8: "Q",
    9: "b", 10: "B", 11: "h", 12: "H", 13: "i", 14: "I", 17: "q", 18: "Q", 22: "Q",
}  # fmt: skip
_ENUMERATION = 1 << 24

#: Calls that create a communicator and say its size and this process's place in it.
INIT_CALLS = ("ncclCommInitRank", "ncclCommInitRankConfig", "ncclCommInitRankScalable")


@dataclass(frozen=True, slots=True)
class Payload:
    """One call's recorded arguments; -1 where it has none.

    `communicator` is NCCL's hash of it, as written; `bytes` is the message as NCCL counts it: what
    a rank gives to an all-gather or gets from a reduce-scatter, else the whole buffer.
    """

    communicator: int = -1
    bytes: int = -1
    ranks: int = -1
    rank: int = -1
    root: int = -1
    peer: int = -1


@dataclass(frozen=True, slots=True)
class Call:
    """A payload and the range that it belongs to."""

    global_tid: int
    start_ns: int
    end_ns: int
    payload: Payload


_Schemas = dict[tuple[int, int], list[tuple[str, int, int]]]


def _schemas(db: Database) -> _Schemas:
    """Fields of each (domain, schema): (name, type, offset)."""
    found: _Schemas = {}
    wanted = ("domainId", "schemaId", "idx", "type", "name", "offset")
    for domain, schema, _, kind, name, offset in sorted(
        set(db.rows("NVTX_PAYLOAD_SCHEMA_ENTRIES", wanted)), key=str
    ):
        if isinstance(domain, int) and isinstance(schema, int) and isinstance(kind, int):
            place = offset if isinstance(offset, int) else 0
            found.setdefault((domain, schema), []).append((str(name), kind, place))
    return found


def _fields(blob: bytes, schemas: _Schemas) -> dict[str, object]:
    if len(blob) < _HEADER.size:
        return {}
    domain, schema, size, _ = _HEADER.unpack_from(blob)
    body = blob[_HEADER.size : _HEADER.size + size]
    fields: dict[str, object] = {}
    for name, kind, offset in schemas.get((domain, schema), ()):
        code = "i" if kind >= _ENUMERATION else _CODES.get(kind)
        if code is not None and offset + struct.calcsize(code) <= len(body):
            fields[name] = struct.unpack_from("<" + code, body, offset)[0]
    return fields


def _payload(fields: dict[str, object]) -> Payload:
    def number(*names: str) -> int:
        found = next((fields[n] for n in names if n in fields), -1)
        return found if isinstance(found, int) else -1

    return Payload(
        communicator=number(_COMMUNICATOR),
        bytes=number(_BYTES),
        ranks=number(_RANKS),
        rank=number(_RANK),
        root=number(_ROOT),
        peer=number(*_PEER),
    )


def read_calls(db: Database, condition: str = "") -> list[Call]:
    """All ranges with a payload that can be read, in the order of the file.

    Parameters
    ----------
    db : Database
    condition : str
        Further SQL condition on ``NVTX_EVENTS``.
    """
    forms = [c for c in ("jsonText", "jsonTextId", "binaryData") if db.has("NVTX_EVENTS", c)]
    if not forms:
        return []
    there = " OR ".join(f"{c} IS NOT NULL" for c in forms)
    wanted = ("globalTid", "start", "end", "jsonText", "jsonTextId", "binaryData")
    rows = db.rows("NVTX_EVENTS", wanted, f"WHERE ({there}) {condition}")
    texts = db.strings(r[4] for r in rows if isinstance(r[4], int))
    schemas = _schemas(db)
    calls = []
    for tid, start, end, text, text_id, blob in rows:
        if not isinstance(tid, int) or not isinstance(start, int):
            continue
        if text is None and isinstance(text_id, int):
            text = texts.get(text_id)
        if isinstance(text, str) and text:
            fields = _from_json(text)
        else:  # declared as TEXT, but holds the bytes
            fields = _fields(blob, schemas) if isinstance(blob, bytes) else {}
        if fields:
            calls.append(Call(tid, start, end if isinstance(end, int) else -1, _payload(fields)))
    return calls


def _from_json(text: str) -> dict[str, object]:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def init_calls(db: Database) -> list[Call]:
    """The payloads of the calls that made communicators."""
    if not db.has("NVTX_EVENTS", "textId"):
        return []
    names = ", ".join(f"'{n}'" for n in INIT_CALLS)
    named = f"text IN ({names}) OR textId IN (SELECT id FROM StringIds WHERE value IN ({names}))"
    return [c for c in read_calls(db, f"AND ({named})") if c.payload.ranks > 0]
