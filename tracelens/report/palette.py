"""The colours of all figures and pages, defined once.

Hues are Okabe and Ito's, told apart with any colour vision (Color Universal Design, 2008); they
keep enough contrast on white and on near-black. Exposed communication alone is vermillion.
"""

from __future__ import annotations

from typing import Final

#: Parts of a step, and communication hidden beside compute.
PARTS: Final = {
    "compute": "#0072B2",
    "overlapped_comm": "#56B4E9",
    "exposed_comm": "#D55E00",
    "exposed_copy": "#E69F00",
    "idle": "#B4BAC2",
}

#: Kinds of GPU work on the timeline.
WORK: Final = {
    "gemm": "#0072B2",
    "attention": "#3A4FA0",
    "optimizer": "#009E73",
    "elementwise": "#6C93B8",
    "other compute": "#8A97A6",
    "overlapped communication": PARTS["overlapped_comm"],
    "exposed communication": PARTS["exposed_comm"],
    "copy": PARTS["exposed_copy"],
    "memset": "#C9A227",
}

#: Phases on the host.
PHASES: Final = {"forward": "#CC79A7", "backward": "#8B5E9B", "optimizer step": "#009E73"}

#: Severity of a finding: darker is worse; the word always stands beside it.
SEVERITY: Final = {
    "critical": "#A4243B",
    "high": "#D8843C",
    "low": "#8A97A6",
    "info": "#B4BAC2",
}

#: The same parts, and severities, in a terminal.
TERMINAL: Final = {
    "compute": "blue",
    "exposed_comm": "red",
    "exposed_copy": "yellow",
    "idle": "bright_black",
}
TERMINAL_SEVERITY: Final = {
    "critical": "bold red",
    "high": "yellow",
    "low": "",
    "info": "bright_black",
}

#: How the parts look in a bar of characters, with and without Unicode.
BLOCKS: Final = {"compute": "█", "exposed_comm": "▓", "exposed_copy": "▒", "idle": "·"}
ASCII_BLOCKS: Final = {"compute": "#", "exposed_comm": "X", "exposed_copy": "o", "idle": "."}
