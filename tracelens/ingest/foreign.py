"""Chrome traces of other tools: said by name, not analysed as something they are not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tracelens.errors import EmptyTrace, UnsupportedFormat
from tracelens.trace import Kind, Trace, Tracks

#: Names of processes in traces of XLA's profiler (xla/tsl/profiler/utils/xplane_schema.cc), which
#: JAX and TensorFlow write: ``/device:GPU:0``, ``/device:TPU:0 ...``, ``/host:CPU``.
_XLA = re.compile(r"^/(?:device:[A-Z]+:\d+|host:)")
#: Names of processes in TensorFlow 1's timeline.
_TENSORFLOW = re.compile(r"^/job:\w+/")

#: How many names a message spells out.
_NAMED = 3

_HINT = (
    "tracelens reads traces of torch.profiler (export_chrome_trace, tensorboard_trace_handler) "
    "and Nsight Systems exports"
)


def refuse_others(path: str, keys: Mapping[str, Any], tracks: Tracks) -> None:
    """Stop at a trace that names another tool.

    Raises
    ------
    UnsupportedFormat
    """
    tool = _told(keys, tracks)
    if tool is not None:
        raise UnsupportedFormat(f"{path}: a Chrome trace, but one of {tool}", hint=_HINT)


def refuse_unknown(trace: Trace) -> None:
    """Stop at a trace of which nothing is of a kind that a training job's profiler records.

    Raises
    ------
    EmptyTrace
    """
    s = trace.slices
    if not len(s):
        raise EmptyTrace(f"{trace.info.path}: no events", hint="was anything recorded?")
    if bool((s.kind == Kind.OTHER).all()):
        seen = ", ".join(repr(trace.strings[i]) for i in np.unique(s.name)[:_NAMED].tolist())
        raise EmptyTrace(
            f"{trace.info.path}: a sound Chrome trace, but nothing in it is an operator, a call or "
            f"a kernel of a training job: its {len(s)} slices are such as {seen}",
            hint=_HINT,
        )


def _told(keys: Mapping[str, Any], tracks: Tracks) -> str | None:
    """The tool that a file's keys or processes name."""
    metadata = keys.get("metadata")
    if isinstance(metadata, dict) and "product-version" in metadata:
        return "a browser (chrome://tracing)"
    if "viztracer_metadata" in keys:
        return "VizTracer"
    if any(_XLA.match(p) for p in tracks.process):
        return "XLA's profiler (JAX or TensorFlow)"
    if any(_TENSORFLOW.match(p) for p in tracks.process):
        return "TensorFlow's timeline"
    return None
