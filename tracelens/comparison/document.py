"""Whether a report that comes from a file or a store is one: its keys, their types, their range.

What reads a report then takes it as it is. Keys that are not listed here are nobody's to check.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tracelens.errors import InputError

#: A century of ms. What lies beyond, and below nothing, would leave the range of floats in sums
#: and quotients.
_MOST = 3.2e12
_Ms: TypeAlias = Annotated[float, Meta(ge=-_MOST, le=_MOST)]
_Number: TypeAlias = Annotated[int, Meta(ge=-(2**53), le=2**53)]
_Scalar: TypeAlias = "bool | int | float | str | None"


class _Run(Struct):
    paths: Annotated[list[str], Meta(min_length=1)]
    ranks: list[_Number]
    source: str | None = None
    device: str | None = None
    world_size: _Number | None = None
    torch: str | None = None
    nccl: str | None = None


class _Inference(Struct):
    value: _Scalar
    candidates: list[_Scalar]
    low: float | UnsetType = UNSET
    high: float | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.low is not UNSET and isinstance(self.value, str):
            raise ValueError("a text between bounds")


class _Step(Struct):
    step: _Number
    complete: bool
    wall_ms: _Ms
    compute_ms: _Ms | None = None
    comm_ms: _Ms | None = None
    overlapped_comm_ms: _Ms | None = None
    exposed_comm_ms: _Ms | None = None
    exposed_copy_ms: _Ms | None = None
    idle_ms: _Ms | None = None
    exposed_wait_ms: _Ms | None = None
    exposed_transfer_ms: _Ms | None = None


class _Summary(Struct):
    wall_ms: _Ms
    compute_ms: _Ms
    comm_ms: _Ms
    overlapped_comm_ms: _Ms
    exposed_comm_ms: _Ms
    exposed_copy_ms: _Ms
    idle_ms: _Ms
    exposed_wait_ms: _Ms | None
    exposed_transfer_ms: _Ms | None
    overlap_ratio: _Ms | None
    exposed_comm_pct: _Ms | None


class _Finding(Struct):
    id: str
    title: str
    cost_ms_per_step: _Ms
    severity: str
    ranks: list[_Number]


class _Detector(Struct):
    id: str
    status: str
    reason: str | None


class _Manifest(Struct):
    unprofiled_step_ms: _Ms | None = None


class _DsConfig(Struct):
    values: dict[str, Any]


class _Efficiency(Struct):
    mfu: _Ms | None = None


class _Report(Struct):
    run: _Run
    setup: dict[str, _Inference]
    steps: list[_Step]
    summary: _Summary
    compute: dict[str, _Ms | None]
    idle: dict[str, _Ms | None]
    findings: list[_Finding]
    detectors: list[_Detector]
    manifest: _Manifest | None = None
    ds_config: _DsConfig | None = None
    efficiency: _Efficiency | None = None


class _Told(Struct):
    step_ms: _Ms | None = None
    ratio: _Ms | None = None
    low_ms: _Ms | None = None
    high_ms: _Ms | None = None


class _Baseline(Struct):
    step_ms: Annotated[float, Meta(gt=0, le=_MOST)]


class _Candidate(Struct):
    predicted: _Told | None = None
    change: dict[str, _Scalar] | None = None


class _Prediction(_Candidate):
    baseline: _Baseline | None = None
    best: _Candidate | None = None


def check_report(document: Mapping[str, Any], name: str) -> None:
    """Raise an InputError if a document is no whole report.

    Parameters
    ----------
    document : mapping
        A report in ``format`` 1.
    name : str
        What to call it in the error.
    """
    _check(document, _Report, f"{name}: not a whole report of tracelens")


def check_prediction(document: Mapping[str, Any], name: str) -> None:
    """Raise an InputError if a document is no prediction."""
    _check(document, _Prediction, f"{name}: not a whole prediction of tracelens")


def _check(document: Mapping[str, Any], kind: type[Struct], what: str) -> None:
    try:
        msgspec.convert(document, kind)
    except (msgspec.ValidationError, RecursionError) as e:
        raise InputError(f"{what}: {e}", hint="write it again, or give the run itself") from e
