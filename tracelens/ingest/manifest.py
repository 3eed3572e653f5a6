"""Manifests that collectors write beside traces: ``rank<N>.run.json`` (docs/formats.md).

A manifest helps and never decides: one that is damaged, of a later version, or beside traces that
it does not name is left out with a note. Notes, by code:

==============  ===================================================================================
bad_manifest    files that claim to be manifests and cannot be used
stale_manifest  manifests of traces that are not among the files read
==============  ===================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tracelens.ingest.bounds import BOUNDS
from tracelens.ingest.ds_config import DsConfig
from tracelens.remote import open_binary
from tracelens.trace import Note

FORMAT, VERSION = "tracelens.run", 1

#: The first bytes of a manifest hold its format.
_SNIFFED = 200


class _Pace(msgspec.Struct):
    mean_ms: float
    first_step: int = 0
    count: int = 0
    each_ms: list[float] = []


class _Steps(msgspec.Struct):
    unprofiled: _Pace | None = None
    profiled: _Pace | None = None


class _Recording(msgspec.Struct):
    collector: str = ""
    level: str | None = None
    traces: list[str] = []


class _Device(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    tf32_matmul: bool | None = None


class _Module(msgspec.Struct):
    name: str
    type: str = ""
    calls: int = 0
    forward: int = 0
    latency_ms: float | None = None
    parameters: int = 0


class _Flops(msgspec.Struct):
    forward: int
    backward: int = 0
    recompute: int = 0
    micro_steps: int | None = None
    parameters: int | None = None
    not_counted: list[str] = []
    modules: list[_Module] = []


class _File(msgspec.Struct):
    """The keys that are read; others may be there."""

    format: str
    version: int
    rank: int
    world_size: int | None = None
    local_rank: int | None = None
    host: str | None = None
    launcher: str | None = None
    device: _Device = msgspec.field(default_factory=_Device)
    versions: dict[str, str | None] = {}
    recording: _Recording = msgspec.field(default_factory=_Recording)
    steps: _Steps = msgspec.field(default_factory=_Steps)
    ds_config: dict[str, Any] | None = None
    flops: _Flops | None = None


@dataclass(frozen=True, slots=True)
class ModuleFlops:
    """One module: FLOPs of its forward passes in a step, and a call's time on the device, ms."""

    name: str
    type: str
    calls: int
    forward: int
    latency_ms: float | None
    parameters: int


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one rank and optimizer step, all micro-steps together.

    `recompute` is what was computed a second time (activation checkpointing, attention's scores).
    `not_counted` names operators without a formula; `modules` have the most FLOPs first.
    """

    forward: int
    backward: int
    recompute: int
    micro_steps: int | None
    parameters: int | None
    not_counted: tuple[str, ...]
    modules: tuple[ModuleFlops, ...]


@dataclass(frozen=True, slots=True)
class RankManifest:
    """What one rank's collector wrote down. None where it did not say.

    `unprofiled_ms` is its mean step without a profiler, `profiled_ms` the mean recorded step;
    `unprofiled_each_ms` has the former one by one, empty where it did not say.
    """

    path: Path
    rank: int
    host: str | None
    traces: tuple[str, ...]
    unprofiled_ms: float | None
    profiled_ms: float | None
    tf32_matmul: bool | None
    flops: Flops | None = None
    unprofiled_each_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the collectors of a run wrote down, all ranks together. None where they did not say.

    Attributes
    ----------
    ranks : tuple of RankManifest
        Ascending in rank.
    world_size : int or None
    launcher, level : str or None
    versions : dict of str
        Versions by distribution name.
    ds_config : DsConfig or None
        The effective configuration.
    """

    ranks: tuple[RankManifest, ...]
    world_size: int | None
    launcher: str | None
    level: str | None
    versions: dict[str, str]
    ds_config: DsConfig | None

    @property
    def unprofiled_step_ms(self) -> float | None:
        """Mean step without a profiler over the ranks that timed it, ms."""
        return _mean(r.unprofiled_ms for r in self.ranks)

    @property
    def unprofiled_each_ms(self) -> tuple[float, ...]:
        """Those steps one by one, mean of the ranks, ms; empty unless ranks timed as many."""
        each = [r.unprofiled_each_ms for r in self.ranks if r.unprofiled_each_ms]
        if len({len(e) for e in each}) != 1:
            return ()
        return tuple(sum(same) / len(same) for same in zip(*each, strict=True))

    @property
    def profiled_step_ms(self) -> float | None:
        """Mean recorded step over the ranks that timed it, ms."""
        return _mean(r.profiled_ms for r in self.ranks)


def is_manifest(path: Path) -> bool:
    """Whether a JSON file claims to be a manifest."""
    file, _ = open_binary(path, _SNIFFED)
    with file:
        start = file.read(_SNIFFED)
    return start.lstrip().startswith(b"{") and b'"' + FORMAT.encode() + b'"' in start


def read_manifests(
    paths: Sequence[Path], traces: Iterable[Path]
) -> tuple[Manifest | None, list[Note]]:
    """Read the manifests of a run.

    Parameters
    ----------
    paths : sequence of Path
        Files that `is_manifest` took for manifests.
    traces : iterable of Path
        The trace files of the run.

    Returns
    -------
    Manifest or None
        None without a usable one.
    list of Note
    """
    present = {p.parent / _unpacked(p.name) for p in traces}
    files: dict[Path, _File] = {}
    bad, stale = [], []
    for path in paths:
        try:
            file = msgspec.json.decode(_bytes(path), type=_File)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as e:
            bad.append(f"{path}: {e}")
            continue
        if file.format != FORMAT or file.version != VERSION:
            bad.append(f"{path}: version {file.version} of {file.format}, not {VERSION}")
        elif file.recording.traces and not any(
            path.parent / _unpacked(name) in present for name in file.recording.traces
        ):
            stale.append(f"{path} is of {', '.join(file.recording.traces)}")
        else:
            files[path] = file
    notes = []
    if bad:
        notes.append(Note("bad_manifest", len(bad), f"Not used as a manifest: {bad[0]}."))
    if stale:
        text = f"Manifests of other traces are not used: {stale[0]}, which was not read."
        notes.append(Note("stale_manifest", len(stale), text))
    return (_joined(files) if files else None), notes


def _bytes(path: Path) -> bytes:
    """A file's bytes, within what a manifest may have."""
    file, size = open_binary(path)
    with file:
        if size > BOUNDS.header:
            raise OSError(f"{size:,} bytes are more than a manifest has")
        return file.read(size)


def _unpacked(name: str) -> str:
    """A file's name without its packing: traces are packed again, or unpacked, on their way."""
    for suffix in (".gz", ".xz", ".zst"):
        name = name.removesuffix(suffix)
    return name


def _joined(files: dict[Path, _File]) -> Manifest:
    """One value of all ranks' files; what they do not agree on is unknown."""
    ordered = sorted(files.items(), key=lambda item: (item[1].rank, item[0]))
    told = [f for _, f in ordered]
    configs = [f.ds_config for f in told if f.ds_config is not None]
    return Manifest(
        ranks=tuple(_rank(path, f) for path, f in ordered),
        world_size=_agreed([f.world_size for f in told]),
        launcher=_agreed([f.launcher for f in told]),
        level=_agreed([f.recording.level for f in told]),
        versions={k: v for k, v in told[0].versions.items() if v is not None},
        ds_config=DsConfig(configs[0], "manifest") if configs else None,
    )


def _rank(path: Path, f: _File) -> RankManifest:
    plain, traced = _timed(f.steps.unprofiled), _timed(f.steps.profiled)
    return RankManifest(
        path=path,
        rank=f.rank,
        host=f.host,
        traces=tuple(f.recording.traces),
        unprofiled_ms=plain.mean_ms if plain else None,
        profiled_ms=traced.mean_ms if traced else None,
        tf32_matmul=f.device.tf32_matmul,
        flops=_flops(f.flops),
        unprofiled_each_ms=tuple(plain.each_ms) if plain else (),
    )


def _timed(pace: _Pace | None) -> _Pace | None:
    """Steps that were timed: a length of 0 or less is none."""
    if pace is None or min([pace.mean_ms, *pace.each_ms]) <= 0:
        return None
    return pace


def _flops(told: _Flops | None) -> Flops | None:
    if told is None:
        return None
    rows = [
        ModuleFlops(m.name, m.type, m.calls, m.forward, m.latency_ms, m.parameters)
        for m in told.modules
    ]
    return Flops(
        told.forward,
        told.backward,
        told.recompute,
        told.micro_steps,
        told.parameters,
        tuple(told.not_counted),
        tuple(rows),
    )


@dataclass(frozen=True, slots=True)
class Declared:
    """What is said of a run besides its traces: its manifest, and a ds_config the user gave."""

    manifest: Manifest | None = None
    given: DsConfig | None = None

    @property
    def ds_config(self) -> DsConfig | None:
        """The user's, else the manifest's."""
        return self.given or (self.manifest.ds_config if self.manifest else None)


_T = TypeVar("_T")


def _agreed(values: list[_T | None]) -> _T | None:
    """The value that all who told one told; None if they differ."""
    told = [v for v in values if v is not None]
    return told[0] if told and all(v == told[0] for v in told) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
