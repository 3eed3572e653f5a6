"""What another configuration would give: the recorded steps as a program, changed and run again."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracelens.replay.change import Change, make_change, parse_change
    from tracelens.replay.model import load, read_and_load
    from tracelens.replay.predict import Baseline, Prediction, Predictor

__all__ = [
    "Baseline",
    "Change",
    "Prediction",
    "Predictor",
    "load",
    "make_change",
    "parse_change",
    "read_and_load",
]

_HOME = {
    "Baseline": "predict",
    "Change": "change",
    "Prediction": "predict",
    "Predictor": "predict",
    "load": "model",
    "make_change": "change",
    "parse_change": "change",
    "read_and_load": "model",
}


def __getattr__(name: str) -> object:
    """Import a name on first use: a report needs the keys of changes and no replay."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
