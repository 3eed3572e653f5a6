"""Events kept beside a store: the same when they come back, and never in the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracelens
from tracelens.analysis import Analysis, RankEvents
from tracelens.store import codec, events

SAMPLE = Path(__file__).parent.parent / "sample_traces" / "zero2_slow_fabric"


@pytest.fixture(scope="module")
def seen() -> RankEvents:
    return tracelens.analyze(SAMPLE / "rank0.pt.trace.json.xz").open_rank(0)


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WORTH_EVENTS", 1)


def parts(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All fields of a tree of dataclasses, by path."""
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            yield from parts(getattr(value, f.name), f"{name}.{f.name}")
    else:
        yield name, value


def test_events_come_back_as_they_were(tmp_path: Path, seen: RankEvents) -> None:
    assert events.keep(tmp_path / "cache", 3, seen)
    again = events.kept(tmp_path / "cache", 3)
    assert again is not None
    count = 0
    for (name, a), (same, b) in zip(parts(seen), parts(again), strict=True):
        assert name == same
        assert type(a) is type(b), name
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, name
            assert np.array_equal(a, b), name
            count += 1
        else:
            assert a == b, name
    assert count > 30
    assert events.kept(tmp_path / "cache", 0) is None


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x28\xb5\x2f\xfd"])
def test_what_is_damaged_is_as_if_it_were_not_there(
    tmp_path: Path, seen: RankEvents, damage: bytes
) -> None:
    events.keep(tmp_path, 0, seen)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for bad in (damage, whole[: len(whole) // 2], whole[:-1]):
        file.write_bytes(bad)
        assert events.kept(tmp_path, 0) is None
    assert events.keep(tmp_path, 0, seen)
    assert events.kept(tmp_path, 0) is not None


def test_another_value_of_other_types_is_not_taken_for_events(
    tmp_path: Path, seen: RankEvents
) -> None:
    events.keep(tmp_path, 0, seen)
    (file,) = tmp_path.iterdir()
    file.write_bytes(codec.encode(tracelens.analyze(SAMPLE / "rank0.pt.trace.json.xz")))
    assert events.kept(tmp_path, 0) is None


def test_what_another_version_kept_is_passed_by_and_replaced(
    tmp_path: Path, seen: RankEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.keep(tmp_path, 0, seen)
    events.keep(tmp_path, 1, seen)
    monkeypatch.setattr(codec, "shape", lambda _: "of-later-types")
    assert events.kept(tmp_path, 0) is None
    events.keep(tmp_path, 0, seen)
    names = sorted(f.name.split(".")[0] for f in tmp_path.iterdir())
    assert names == ["rank0", "rank1"]


def test_a_disk_that_takes_nothing_is_no_failure(tmp_path: Path, seen: RankEvents) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert not events.keep(tmp_path / "cache", 0, seen)
    assert events.kept(tmp_path / "cache", 0) is None


def test_few_events_are_not_worth_a_file(
    tmp_path: Path, seen: RankEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "WORTH_EVENTS", len(seen.trace.slices) + 1)
    assert not events.keep(tmp_path / "cache", 0, seen)
    assert not (tmp_path / "cache").exists()


def test_the_cache_goes_with_its_run(tmp_path: Path, seen: RankEvents) -> None:
    tracelens.analyze(SAMPLE / "rank0.pt.trace.json.xz", db=tmp_path / "run.db")
    store = tracelens.open_store(tmp_path / "run.db")
    cache = store.get(1).cache
    assert events.keep(cache, 0, seen)
    store.delete(1)
    assert not cache.exists()


def test_the_two_kinds_have_shapes_of_their_own() -> None:
    assert codec.shape(Analysis) == codec.shape()
    assert codec.shape(RankEvents) != codec.shape()
