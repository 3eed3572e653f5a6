"""What the timeline tells apart by colour."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tracelens.classify import Op
from tracelens.phases import Phase
from tracelens.report.marks import KINDS
from tracelens.report.palette import PARTS, PHASES, WORK
from tracelens.trace import Kind

from .lod import UInt8s


class Class(NamedTuple):
    """A colour and what it stands for; `where` is ``gpu``, ``band`` or ``host``."""

    name: str
    color: str
    where: str


CLASSES: Final = (
    *(Class(name, color, "gpu") for name, color in WORK.items()),
    Class("compute", PARTS["compute"], "gpu"),
    Class("step", "#8A97A6", "band"),
    *(Class(name, color, "band") for name, color in PHASES.items()),
    Class("operator", "#7A8FA6", "host"),
    Class("CUDA call", "#B5895A", "host"),
    Class("range", "#8B5E9B", "host"),
    Class("Python", "#6B8E5A", "host"),
    Class("synchronisation", "#A4243B", "host"),
    Class("profiler", "#B4BAC2", "host"),
    Class("other", "#9AA3AD", "host"),
)
CODE: Final = {c.name: i for i, c in enumerate(CLASSES)}

_HOST_NAMES = {
    Kind.CPU_OP: "operator",
    Kind.RUNTIME: "CUDA call",
    Kind.ANNOTATION: "range",
    Kind.GPU_ANNOTATION: "range",
    Kind.PYTHON: "Python",
    Kind.SYNC: "synchronisation",
    Kind.OVERHEAD: "profiler",
}


def _of_op(op: Op) -> str:
    if op <= Op.COMM_OTHER:
        return "overlapped communication"  # exposure is drawn over it
    return KINDS.get(op, "copy")


OF_OP: Final[UInt8s] = np.array([CODE[_of_op(op)] for op in Op], np.uint8)
OF_KIND: Final[UInt8s] = np.array([CODE[_HOST_NAMES.get(k, "other")] for k in Kind], np.uint8)
OF_PHASE: Final[UInt8s] = np.array(
    [CODE[name] for _, name in zip(Phase, PHASES, strict=True)], np.uint8
)
EXPOSED: Final = CODE["exposed communication"]
