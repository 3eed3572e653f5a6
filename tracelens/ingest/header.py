"""What a Kineto file says about itself, outside its event array."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracelens.ingest.values import as_int
from tracelens.trace import ProcessGroup

_JSON = json.JSONDecoder(strict=False)

#: Keys that we read, to be looked for one by one where the whole is not valid JSON.
KEYS = (
    "schemaVersion",
    "baseTimeNanoseconds",
    "distributedInfo",
    "deviceProperties",
    "record_shapes",
    "with_stack",
    "profile_memory",
    "cuda_runtime_version",
    "torch_version",
    "pytorch_version",
)
_FLAGS = ("record_shapes", "with_stack", "profile_memory")
_TORCH = ("torch_version", "pytorch_version", "PyTorch version")
#: More devices than a node has; a larger id is another kind of number.
_MAX_DEVICES = 64


def parse_before(text: bytes) -> tuple[dict[str, Any], bool]:
    """Keys before the event array; whether that text was sound."""
    written = text.decode("utf-8", "replace")
    try:
        found = _JSON.decode(written + '"traceEvents":[]}')
    except (ValueError, RecursionError):
        return salvage(written), False
    return (found, True) if isinstance(found, dict) else ({}, False)


@dataclass(frozen=True, slots=True)
class After:
    """Keys after the event array.

    `rest` is what follows the trace; `cut` tells that the trace's end is missing.
    """

    keys: dict[str, Any]
    rest: str = ""
    sound: bool = True
    cut: bool = False


def parse_after(text: bytes, *, bare: bool) -> After:
    """Read the text after the array's closing bracket."""
    written = text.decode("utf-8", "replace").strip()
    if bare:
        return After({}, rest=written)
    inner = written.removeprefix(",")
    if not inner.strip():
        return After({}, cut=True)
    try:
        found, end = _JSON.raw_decode("{" + inner.lstrip())
    except json.JSONDecodeError as e:
        cut = e.msg.startswith("Unterminated") or e.pos >= len(inner.lstrip())
        return After(salvage(written), sound=cut, cut=cut)
    except (ValueError, RecursionError):
        return After(salvage(written), sound=False)
    return After(found, rest=inner.lstrip()[end - 1 :].strip())


def salvage(text: str, keys: tuple[str, ...] = KEYS) -> dict[str, Any]:
    """Those of `keys` whose value can be read at the first place where they are written."""
    found = {}
    for key in keys:
        match = re.search(rf'"{re.escape(key)}"\s*:\s*', text)
        if not match:
            continue
        try:
            found[key], end = _JSON.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            continue
        if end == len(text) and not isinstance(found[key], (dict, list)):
            del found[key]  # a number that the end of the text may have cut
    return found


def clock_zero_ns(keys: Mapping[str, Any]) -> int:
    """Unix time of ts 0, ns; 0 where times are absolute."""
    return as_int(keys.get("baseTimeNanoseconds")) or 0


def distributed(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The ``distributedInfo`` object, {} if there is none."""
    value = keys.get("distributedInfo")
    if isinstance(value, str):  # some exporters add it as text
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def process_groups(info: Mapping[str, Any]) -> tuple[ProcessGroup, ...]:
    """The communicators of ``pg_config``; torch 2.3 wrote their sizes as ``group_size``."""
    config = info.get("pg_config")
    groups = []
    for entry in config if isinstance(config, list) else []:
        if not isinstance(entry, dict):
            continue
        written = entry.get("ranks")
        ranks = [as_int(r) for r in written] if isinstance(written, list) else []
        whole = tuple(r for r in ranks if r is not None)
        size = as_int(entry.get("pg_size", entry.get("group_size")))
        name, description = entry.get("pg_name", ""), entry.get("pg_desc", "")
        groups.append(
            ProcessGroup(str(name), str(description), len(whole) if size is None else size, whole)
        )
    return tuple(groups)


def device_names(keys: Mapping[str, Any]) -> tuple[str, ...]:
    """GPU names by device number."""
    names = {n: str(entry.get("name", "")) for n, entry in _devices(keys).items()}
    return tuple(names.get(i, "") for i in range(max(names, default=-1) + 1))


def device_bytes(keys: Mapping[str, Any]) -> tuple[int, ...]:
    """Memory of each GPU by device number, -1 where it is not written."""
    sizes = {n: as_int(entry.get("totalGlobalMem")) for n, entry in _devices(keys).items()}
    found = (sizes.get(i) for i in range(max(sizes, default=-1) + 1))
    return tuple(n if n is not None and n > 0 else -1 for n in found)


def _devices(keys: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """What is written of each GPU, by device number."""
    properties = keys.get("deviceProperties")
    found: dict[int, Mapping[str, Any]] = {}
    for entry in properties if isinstance(properties, list) else []:
        number = as_int(entry.get("id")) if isinstance(entry, dict) else None
        if number is not None and 0 <= number < _MAX_DEVICES:
            found[number] = entry
    return found


def flags(keys: Mapping[str, Any]) -> dict[str, bool | None]:
    """The recording's switches: on where written, off where the header could have said so."""
    silent = "schemaVersion" not in keys and not any(f in keys for f in _FLAGS)
    return {f: None if silent else bool(keys.get(f)) for f in _FLAGS}


def torch_version(keys: Mapping[str, Any]) -> str | None:
    """The torch version, if any key tells (Kineto itself writes none)."""
    return next((str(keys[k]) for k in _TORCH if isinstance(keys.get(k), str)), None)


def text_or_none(value: object) -> str | None:
    """A value as text, None if it is missing or empty."""
    return None if value in (None, "") else str(value)
