"""What goes into a training job to record it well: guests, and they behave.

    from collectors import TorchTraceCollector

    with TorchTraceCollector("runs/a", engine=engine) as trace:
        for batch in batches:
            ...                       # forward, backward, engine.step()
            trace.step()

Importing this loads the standard library only. torch, deepspeed, transformers and accelerate are
imported when a collector starts, and only the ones it needs. A collector that is off does nothing;
one that fails says so once, in a warning, and the training goes on. What they write is described in
docs/formats.md; tracelens reads it, and neither imports the other.
"""

from __future__ import annotations

from ._guard import CollectorWarning
from ._steps import Schedule
from .callbacks import record_accelerate, trainer_callback
from .flops import FlopsCollector
from .nsys import NsysCollector
from .torch_trace import TorchTraceCollector

__all__ = [
    "CollectorWarning",
    "FlopsCollector",
    "NsysCollector",
    "Schedule",
    "TorchTraceCollector",
    "record_accelerate",
    "trainer_callback",
]
