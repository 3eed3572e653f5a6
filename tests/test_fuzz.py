"""Files that chance made wrong: an answer or an error made on purpose, never a crash or a hang.

A few seconds each here; ``make fuzz MINUTES=60`` goes on for longer (docs/robustness.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import fuzz_check
import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: Examples of each kind: together they take under a minute.
EXAMPLES = {"torch.profiler": 100, "recorded": 6, "nsys": 80, "store": 60, "report": 100}


@pytest.fixture(autouse=True)
def _bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelens.reading.BOUNDS", fuzz_check.SMALL)


@pytest.mark.parametrize("kind", fuzzing.MAKERS)
def test_no_file_is_a_crash(kind: str, tmp_path: Path) -> None:
    seen: dict[str, int] = {}

    @settings(max_examples=EXAMPLES[kind], suppress_health_check=[HealthCheck.too_slow])
    @given(st.integers(0, 2**32))
    def examine(seed: int) -> None:
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        fuzzing.MAKERS[kind](folder, Random(seed))
        outcome = fuzz_check.check(folder, seed)
        seen[outcome] = seen.get(outcome, 0) + 1

    with fuzz_check.held_memory():
        examine()
    assert len(seen) >= 2 or kind == "recorded", f"all files ended alike: {seen}"


def test_the_check_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzzing.good(0).write(tmp_path / "rank0.json")
    assert fuzz_check.check(tmp_path) == "noted"  # rank 1 is missing

    def crash(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr("tracelens.pipeline.link", crash)
    with pytest.raises(ValueError):  # noqa: PT011
        fuzz_check.check(tmp_path)
