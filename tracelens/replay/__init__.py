"""What another configuration would give: the recorded steps as a program, changed and run again."""

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
