"""What was running, read from the timeline alone."""

from __future__ import annotations

from tracelens.infer.result import Inference, Setup

__all__ = ["Inference", "Setup"]
