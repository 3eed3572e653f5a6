"""What GPUs can compute at most: dense matrix products, by element type.

Figures are the vendors' data sheets', without sparsity (where a sheet gives the sparse figure only,
half of it), at the sheet's boost clock. A GPU under load clocks lower: no product reaches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Peak:
    """Dense TFLOP/s of one kind of GPU; None where the unit does not exist.

    `fp16` is with fp32 accumulation. `fp32` is without tensor cores, `tf32` with them.
    """

    names: tuple[str, ...]
    bf16: float | None
    fp16: float | None
    tf32: float | None
    fp32: float
    fp8: float | None
    source: str


#: The first row of which a name is in the device's name holds: special ones come before general.
PEAKS: Final = (
    Peak(("GB200",), 2500, 2500, 1250, 80, 5000, "NVIDIA GB200 NVL72 data sheet, a GPU of it"),
    Peak(("B200",), 2250, 2250, 1125, 75, 4500, "NVIDIA DGX B200 and HGX data sheets"),
    Peak(("H200 NVL",), 835.5, 835.5, 417.5, 60, 1670.5, "NVIDIA H200 data sheet, NVL column"),
    Peak(("H200",), 989.5, 989.5, 494.5, 67, 1979, "NVIDIA H200 data sheet, SXM column"),
    Peak(("H100 NVL",), 835.5, 835.5, 417.5, 60, 1670.5, "NVIDIA H100 data sheet, NVL column"),
    Peak(
        ("H100 PCIe", "H800 PCIe"),
        756.5,
        756.5,
        378,
        51,
        1513,
        "NVIDIA H100 data sheet, PCIe",
    ),
    Peak(
        ("H100", "H800", "GH200"),
        989.5,
        989.5,
        494.5,
        67,
        1979,
        "NVIDIA H100 data sheet, SXM column",
    ),
    Peak(("A100", "A800"), 312, 312, 156, 19.5, None, "NVIDIA A100 data sheet"),
    Peak(("A40",), 149.7, 149.7, 74.8, 37.4, None, "NVIDIA A40 data sheet"),
    Peak(("A30",), 165, 165, 82, 10.3, None, "NVIDIA A30 data sheet"),
    Peak(("A10",), 125, 125, 62.5, 31.2, None, "NVIDIA A10 data sheet"),
    Peak(("L40S",), 362, 362, 183, 91.6, 733, "NVIDIA L40S data sheet"),
    Peak(("L40",), 181, 181, 90.5, 90.5, 362, "NVIDIA L40 data sheet"),
    Peak(("L4",), 121, 121, 60, 30.3, 242.5, "NVIDIA L4 data sheet, half of the sparse figures"),
    Peak(("V100-PCIE",), None, 112, None, 14, None, "NVIDIA V100 data sheet, PCIe column"),
    Peak(("V100",), None, 125, None, 15.7, None, "NVIDIA V100 data sheet, NVLink column"),
    Peak(("T4",), None, 65, None, 8.1, None, "NVIDIA T4 data sheet"),
    Peak(("RTX 4090",), 165.2, 165.2, 82.6, 82.6, 330.3, "NVIDIA Ada whitepaper, appendix A"),
    Peak(("RTX 3090",), 71, 71, 35.6, 35.6, None, "NVIDIA GA102 whitepaper, appendix A"),
    Peak(("MI325X", "MI300X"), 1307.4, 1307.4, 653.7, 163.4, 2614.9, "AMD Instinct data sheets"),
)


def find_peak(device: str | None) -> Peak | None:
    """The row of a device by its name; None where it is not in the table.

    Examples
    --------
    >>> find_peak("NVIDIA H100 80GB HBM3").bf16, find_peak("NVIDIA H100 PCIe").bf16
    (989.5, 756.5)
    >>> find_peak("NVIDIA A100-SXM4-80GB").source
    'NVIDIA A100 data sheet'
    >>> find_peak("Test GPU") is None
    True
    """
    words = (device or "").replace("-", " ").split()
    for peak in PEAKS:
        for name in peak.names:
            wanted = name.replace("-", " ").split()
            spans = range(len(words) - len(wanted) + 1)
            if any(words[i : i + len(wanted)] == wanted for i in spans):
                return peak
    return None
