"""Trace analyzer for distributed training: where each step's time went, what ran, what is exposed.

>>> import tracelens
>>> a = tracelens.analyze("run/")  # doctest: +SKIP
>>> a.setup, a.steps, a.collectives, a.events(rank=0)  # doctest: +SKIP

Everything is imported on first use, so that ``import tracelens`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelens.api import Analysis, Comparison, analyze, compare, open_store
    from tracelens.errors import (
        CorruptTrace,
        EmptyTrace,
        InputError,
        InvariantError,
        StoreError,
        TraceLensError,
        UnsupportedFormat,
        UsageError,
    )
    from tracelens.findings import Finding
    from tracelens.infer.result import Inference, Setup
    from tracelens.ingest import open_trace
    from tracelens.trace import Trace

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "CannotPredict",
    "Comparison",
    "CorruptTrace",
    "CriticalPath",
    "EmptyTrace",
    "Finding",
    "Inference",
    "InputError",
    "InvariantError",
    "Prediction",
    "Setup",
    "StoreError",
    "Trace",
    "TraceLensError",
    "Tuning",
    "UnsupportedFormat",
    "UsageError",
    "__version__",
    "analyze",
    "compare",
    "critical_path",
    "open_store",
    "open_trace",
    "tune",
    "whatif",
]

_HOME = {
    "Analysis": "tracelens.api",
    "Comparison": "tracelens.api",
    "analyze": "tracelens.api",
    "compare": "tracelens.api",
    "critical_path": "tracelens.api",
    "tune": "tracelens.api",
    "whatif": "tracelens.api",
    "CannotPredict": "tracelens.errors",
    "open_store": "tracelens.api",
    "CorruptTrace": "tracelens.errors",
    "EmptyTrace": "tracelens.errors",
    "InputError": "tracelens.errors",
    "InvariantError": "tracelens.errors",
    "StoreError": "tracelens.errors",
    "TraceLensError": "tracelens.errors",
    "UnsupportedFormat": "tracelens.errors",
    "UsageError": "tracelens.errors",
    "Finding": "tracelens.findings",
    "Inference": "tracelens.infer.result",
    "Setup": "tracelens.infer.result",
    "open_trace": "tracelens.ingest",
    "CriticalPath": "tracelens.replay.critical",
    "Prediction": "tracelens.replay.predict",
    "Tuning": "tracelens.replay.tune",
    "Trace": "tracelens.trace",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
