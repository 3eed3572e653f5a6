"""What GPUs can compute at most: dense matrix products, by element type.

Figures are the vendors' data sheets', without sparsity (where a sheet gives the sparse figure only,
half of it), at the sheet's boost clock. A GPU under load clocks lower: no product reaches them.
Each was held against its source, or against a table made from it, on 21 November 2026.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_SHEETS = "https://www.nvidia.com/content/dam/en-zz/Solutions"


@dataclass(frozen=True, slots=True)
class Peak:
    """Dense TFLOP/s of one kind of GPU; None where the unit does not exist.

    `fp16` is with fp32 accumulation. `fp32` is without tensor cores, `tf32` with them. `url` is
    where `source` was found.
    """

    names: tuple[str, ...]
    bf16: float | None
    fp16: float | None
    tf32: float | None
    fp32: float
    source: str
    url: str


#: The first row of which a name is in the device's name holds: special ones come before general.
PEAKS: Final = (
    # bf16 and tf32 are printed as 5 and 2.5 PFLOP/s with sparsity, of one GPU
    Peak(
        ("GB200",), 2500, 2500, 1250, 80,
        "NVIDIA Blackwell data sheet, a GPU of GB200 NVL72",
        "https://nvdam.widen.net/s/wwnsxrhm2w/blackwell-datasheet-3384703",
    ),
    # tf32 is printed as 18 PFLOP/s with sparsity for eight, and as 2.2 for one
    Peak(
        ("B200",), 2250, 2250, 1125, 75,
        "NVIDIA Blackwell and DGX B200 data sheets, a GPU of HGX B200",
        "https://resources.nvidia.com/en-us-dgx-systems/dgx-b200-datasheet",
    ),
    Peak(
        ("H200 NVL",), 835.5, 835.5, 417.5, 60,
        "NVIDIA H200 data sheet, NVL column", f"{_NVIDIA}/h200/",
    ),
    Peak(
        ("H200",), 989.5, 989.5, 494.5, 67,
        "NVIDIA H200 data sheet, SXM column", f"{_NVIDIA}/h200/",
    ),
    Peak(
        ("H100 NVL",), 835.5, 835.5, 417.5, 60,
        "NVIDIA H100 data sheet, NVL column", f"{_NVIDIA}/h100/",
    ),
    # H800 and A800 have the chips of H100 and A100 with fewer NVLinks
    Peak(
        ("H100 PCIe", "H800 PCIe"), 756.5, 756.5, 378, 51,
        "NVIDIA H100 data sheet, PCIe column", f"{_NVIDIA}/h100/",
    ),
    Peak(
        ("H100", "H800", "GH200"), 989.5, 989.5, 494.5, 67,
        "NVIDIA H100 data sheet, SXM column", f"{_NVIDIA}/h100/",
    ),
    Peak(("A100", "A800"), 312, 312, 156, 19.5, "NVIDIA A100 data sheet", f"{_NVIDIA}/a100/"),
    Peak(
        ("A40",), 149.7, 149.7, 74.8, 37.4, "NVIDIA A40 data sheet",
        f"{_SHEETS}/Data-Center/a40/nvidia-a40-datasheet.pdf",
    ),
    Peak(
        ("A30",), 165, 165, 82, 10.3, "NVIDIA A30 data sheet",
        f"{_SHEETS}/data-center/products/a30-gpu/pdf/a30-datasheet.pdf",
    ),
    Peak(
        ("A10",), 125, 125, 62.5, 31.2, "NVIDIA A10 data sheet",
        f"{_SHEETS}/Data-Center/a10/nvidia-a10-datasheet.pdf",
    ),
    Peak(("L40S",), 362, 362, 183, 91.6, "NVIDIA L40S data sheet", f"{_NVIDIA}/l40s/"),
    Peak(("L40",), 181, 181, 90.5, 90.5, "NVIDIA L40 data sheet", f"{_NVIDIA}/l40/"),
    Peak(
        ("L4",), 121, 121, 60, 30.3,
        "NVIDIA L4 data sheet, half of the sparse figures", f"{_NVIDIA}/l4/",
    ),
    Peak(
        ("V100-PCIE",), None, 112, None, 14, "NVIDIA V100 data sheet, PCIe column",
        "https://images.nvidia.com/content/technologies/volta/pdf/tesla-volta-v100-datasheet-letter-fnl-web.pdf",
    ),
    Peak(
        ("V100",), None, 125, None, 15.7, "NVIDIA V100 data sheet, NVLink column",
        "https://images.nvidia.com/content/technologies/volta/pdf/tesla-volta-v100-datasheet-letter-fnl-web.pdf",
    ),
    Peak(
        ("T4",), None, 65, None, 8.1, "NVIDIA T4 data sheet",
        f"{_SHEETS}/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf",
    ),
    Peak(
        ("RTX 4090",), 165.2, 165.2, 82.6, 82.6,
        "NVIDIA Ada GPU Architecture whitepaper 2.1, appendix A",
        "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
    ),
    Peak(
        ("RTX 3090",), 71, 71, 35.6, 35.6,
        "NVIDIA Ampere GA102 GPU Architecture whitepaper 1, appendix A",
        "https://images.nvidia.com/aem-dam/en-zz/Solutions/geforce/ampere/pdf/NVIDIA-ampere-GA102-GPU-Architecture-Whitepaper-V1.pdf",
    ),
    Peak(
        ("MI325X", "MI300X"), 1307.4, 1307.4, 653.7, 163.4, "AMD Instinct MI300X data sheet",
        "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
    ),
)  # fmt: skip

#: Words behind a name that make it another, smaller GPU, or a part of one.
_OTHERS: Final = frozenset({"Laptop", "Mobile", "Max", "Ti", "D", "SUPER", "MIG"})


def find_peak(device: str | None) -> Peak | None:
    """The row of a device by its name; None where it is not in the table.

    Examples
    --------
    >>> find_peak("NVIDIA H100 80GB HBM3").bf16, find_peak("NVIDIA H100 PCIe").bf16
    (989.5, 756.5)
    >>> find_peak("NVIDIA A100-SXM4-80GB").source
    'NVIDIA A100 data sheet'
    >>> find_peak("Test GPU") is None, find_peak("NVIDIA A100-SXM4-40GB MIG 1g.5gb") is None
    (True, True)
    """
    return next((p for p in PEAKS if any(is_named(device, name) for name in p.names)), None)


def is_named(device: str | None, name: str) -> bool:
    """Whether a device has a name in its own, word by word, and is no lesser one of that name.

    Examples
    --------
    >>> is_named("NVIDIA A100-SXM4-80GB", "A100-SXM4"), is_named("NVIDIA GH200 480GB", "H200")
    (True, False)
    """
    words, wanted = ((text or "").replace("-", " ").split() for text in (device, name))
    spans = range(len(words) - len(wanted) + 1)
    there = any(words[i : i + len(wanted)] == wanted for i in spans)
    return there and not _OTHERS.intersection(words)
