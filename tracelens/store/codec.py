"""An `Analysis` as bytes and back: MessagePack of its dataclasses, packed with zstandard.

The same for the events of a rank. Typed on the way back, so what a file holds can only become
numbers, text and the dataclasses named in the type; nothing in it is run. Bytes of other types than
today's are not read: `shape` tells.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints, overload

import msgspec
import numpy as np
import zstandard

from tracelens.analysis import Analysis, RankEvents
from tracelens.errors import StoreError
from tracelens.infer.result import Inference, Setup
from tracelens.ingest.bounds import BOUNDS
from tracelens.remote import as_path

#: Kinds of numpy numbers that columns have: bool, signed, unsigned, float.
_NUMBERS = "biuf"
#: zstandard's levels: an analysis is small, the events of a rank may be hundreds of MB.
_LEVEL: Final = {Analysis: 3, RankEvents: 1}


def encode(value: Analysis | RankEvents) -> bytes:
    """The value as bytes."""
    if isinstance(value, Analysis):  # and nothing that a class derived from it adds
        fields = dataclasses.fields(Analysis)
        value = Analysis(**{f.name: getattr(value, f.name) for f in fields})
    packed = msgspec.msgpack.encode(value, enc_hook=_plain)
    return zstandard.compress(packed, _LEVEL[type(value)])


@overload
def decode(data: bytes) -> Analysis: ...
@overload
def decode(data: bytes, of: type[RankEvents]) -> RankEvents: ...
def decode(data: bytes, of: type[Any] = Analysis) -> Any:
    """The value that `encode` was given; `of` is its type.

    Raises
    ------
    StoreError
        If the bytes are damaged.
    """
    try:
        packed = _unpack(data)
        return msgspec.msgpack.decode(packed, type=of, dec_hook=_rich)
    except (zstandard.ZstdError, msgspec.MsgspecError, ValueError) as e:
        raise StoreError(f"the analysis in the store is damaged: {e}") from e


def _unpack(data: bytes) -> bytes:
    """The content of a frame, which says how large it is: `encode` writes it so."""
    size = zstandard.frame_content_size(data)
    if not 0 <= size <= BOUNDS.unpacked(len(data)):
        raise ValueError(f"{len(data):,} bytes that would unpack to {size:,}")
    return zstandard.decompress(data)


def shape(of: type[Any] = Analysis) -> str:
    """Digest of all types that a type is made of."""
    seen: dict[str, str] = {}
    _describe(of, seen)
    text = "\n".join(f"{name}({fields})" for name, fields in sorted(seen.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _describe(hint: Any, seen: dict[str, str]) -> None:
    """Note the dataclasses that a type leads to, with their fields."""
    for part in get_args(hint):
        _describe(part, seen)
    if not dataclasses.is_dataclass(hint) or not isinstance(hint, type):
        return
    name = f"{hint.__module__}.{hint.__qualname__}"
    if name in seen:
        return
    hints = get_type_hints(hint)
    seen[name] = ", ".join(f"{f.name}: {hints[f.name]}" for f in dataclasses.fields(hint))
    for f in dataclasses.fields(hint):
        _describe(hints[f.name], seen)


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Setup):
        return list(value.values())
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"an analysis holds a {type(value).__name__}")


def _rich(hint: Any, value: Any) -> Any:
    if hint is object:
        return value
    if hint is Setup:
        return Setup(tuple(msgspec.convert(i, Inference) for i in value))
    if hint is Path:
        return as_path(value)
    if (get_origin(hint) or hint) is np.ndarray:
        dtype, size, data = value
        if np.dtype(dtype).kind not in _NUMBERS:
            raise ValueError(f"a column of {dtype}")
        return np.frombuffer(data, dtype).reshape(size)
    raise NotImplementedError(f"an analysis holds a {hint}")
