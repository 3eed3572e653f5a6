"""What a finding of uneven work says of it: sizes, kernels of one rank alone, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from builder import TraceBuilder
from test_detectors import Adds, Rank, Run, context_of, found_in, op, work

import tracelens
from tracelens.detectors.other_work import kernel_head
from tracelens.findings import Finding

EXTRA = "void at::native::(anonymous namespace)::extra<float>(int)"


def multiplies(dims: list[list[int]], kernel: str | None = None) -> Adds:
    """A product of these sizes in each step, and 20 ms of a kernel."""

    def add(trace: TraceBuilder, step: int, zero: float) -> None:
        op(trace, "aten::mm", zero + 0.2, 0.1, dims=dims, types=["float"] * 2)
        if kernel:
            work(trace, kernel, (zero + 1.99, zero + 2, 20))

    return add


def uneven(ranks: tuple[Rank, ...], folder: Path) -> Finding:
    return found_in(context_of(Run(ranks), folder))["uneven_work"]


def test_work_besides_the_others(tmp_path: Path) -> None:
    """All multiply 64 x 64; rank 1 multiplies 9 x 9 as well, in a kernel of its own."""
    slow = Rank(compute=110, lead=20, add=multiplies([[9, 9], [9, 9]], EXTRA))
    found = uneven((Rank(), slow, Rank()), tmp_path)
    assert found.evidence[0].endswith("(compute 110 ms, median 90.0 ms)")
    assert found.evidence[1:] == (
        "kernels that the others do not run take 20.0 ms a step: extra (20.0 ms)",
        "it has the others' matrix products, and sizes of its own besides: [9, 9] x [9, 9]",
    )
    assert found.remedy.startswith("find what that rank alone runs")


def test_kernels_instead_of_the_others(tmp_path: Path) -> None:
    """Rank 1 has 30 ms of a kernel where the others have 10 ms of another."""

    def fused(trace: TraceBuilder, step: int, zero: float) -> None:
        work(trace, "fused", (zero + 1.99, zero + 2, 10))

    def plain(trace: TraceBuilder, step: int, zero: float) -> None:
        work(trace, "plain", (zero + 1.99, zero + 2, 30))

    fast, slow = Rank(lead=10, add=fused), Rank(compute=110, lead=30, add=plain)
    found = uneven((fast, slow, fast), tmp_path)
    assert found.evidence[1:] == (
        "kernels that the others do not run take 30.0 ms a step: plain (30.0 ms); it does not run "
        "their fused (10.0 ms), 10.0 ms a step",
        "its matrix products have the sizes of the other ranks'",
    )


def test_products_of_other_sizes(tmp_path: Path) -> None:
    """Each rank has a product more than the 64 x 64 that all have; rank 1's is longer."""
    usual = Rank(add=multiplies([[7, 7], [7, 8]]))
    found = uneven((usual, Rank(compute=110, add=multiplies([[9, 7], [7, 8]])), usual), tmp_path)
    assert found.evidence[1] == (
        "its matrix products have other sizes: [9, 7] x [7, 8], others [7, 7] x [7, 8]"
    )
    assert found.remedy.startswith("balance the batch")


def test_sizes_that_were_not_recorded(tmp_path: Path) -> None:
    run = Run((Rank(), Rank(compute=110), Rank()))
    folder = run.write(tmp_path)
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace("Input Dims", "Other Dims"))
    (found,) = [f for f in tracelens.analyze(folder).finding_rows if f.id == "uneven_work"]
    assert found.evidence[1].startswith("sizes of operands were not recorded")
    assert "balance the batch" in found.remedy
    assert "find what that rank alone runs" in found.remedy


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (EXTRA, "extra"),
        ("nvjet_sm90_tst_192x192", "nvjet_sm90_tst_192x192"),
        ("<odd>", "<odd>"),
        ("k" * 60, "k" * 45 + "..."),
    ],
)
def test_heads_of_kernels(name: str, head: str) -> None:
    assert kernel_head(name) == head
