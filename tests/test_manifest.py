"""The manifest: what collectors write, tracelens reads; the format is all that they share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from builder import TraceBuilder

import tracelens
from collectors import _manifest
from collectors._job import identity, versions
from tracelens.ingest.ds_config import read_ds_config
from tracelens.ingest.manifest import FORMAT, VERSION, is_manifest, read_manifests
from tracelens.ingest.run import discover

REPO = Path(__file__).parent.parent


def steps(plain: float, traced: float) -> dict[str, Any]:
    return {
        "unprofiled": {"first_step": 5, "count": 2, "mean_ms": plain, "each_ms": [plain, plain]},
        "profiled": {"first_step": 9, "count": 1, "mean_ms": traced, "each_ms": [traced]},
        "cost": {"ms_per_step": traced - plain, "percent": 100 * (traced / plain - 1)},
    }


def write(folder: Path, rank: int, **more: Any) -> Path:
    """A manifest as a collector writes it."""
    parts = {
        **identity(),
        "rank": rank,
        "world_size": 2,
        "versions": versions(),
        "recording": {"collector": "torch", "level": "light", "traces": [f"rank{rank}.json"]},
        "steps": steps(40.0 + rank, 50.0 + rank),
        **more,
    }
    return _manifest.update(folder, rank, parts)


def trace(folder: Path, rank: int) -> None:
    folder.mkdir(exist_ok=True)
    built = TraceBuilder(rank, 2).step(1, 0, 100).cpu_op("aten::mm", ts=5, dur=10, ext=3)
    built.launch(corr=9).kernel("gemm", ts=20, dur=60, corr=9, ext=3)
    built.write(folder / f"rank{rank}.json")


def run(folder: Path) -> Path:
    for rank in (0, 1):
        trace(folder, rank)
        write(folder, rank, ds_config={"zero_optimization": {"stage": 2}})
    return folder


def test_both_sides_name_one_format() -> None:
    assert (_manifest.FORMAT, _manifest.VERSION) == (FORMAT, VERSION)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    analysis = tracelens.analyze(run(tmp_path))
    assert analysis.manifest is not None
    assert analysis.manifest.unprofiled_step_ms == 40.5
    assert analysis.manifest.profiled_step_ms == 50.5
    assert [r.rank for r in analysis.manifest.ranks] == [0, 1]
    assert (analysis.manifest.world_size, analysis.manifest.level) == (2, "light")
    assert analysis.manifest.versions["python"] == versions()["python"]
    assert analysis.ds_config is not None
    assert analysis.ds_config.get("zero_optimization.stage") == 2
    assert not [n.code for n in analysis.notes if n.code in ("ignored_file", "bad_manifest")]
    report: Any = analysis.to_json()
    assert report["manifest"]["unprofiled_step_ms"] == 40.5
    assert report["ds_config"] == {
        "source": "manifest",
        "values": {"zero_optimization": {"stage": 2}},
    }
    assert any("Without a profiler a step took 40.5 ms" in s for s in report["verdict"])


def test_one_rank_read_keeps_the_manifests_of_all(tmp_path: Path) -> None:
    analysis = tracelens.analyze(run(tmp_path), ranks=[1])
    assert analysis.manifest is not None
    assert len(analysis.manifest.ranks) == 2


def test_a_given_ds_config_comes_first(tmp_path: Path) -> None:
    given = tmp_path / "ds.json"
    given.write_text('{"zero_optimization": {"stage": 3, "overlap_comm": "auto"}}')
    analysis = tracelens.analyze(run(tmp_path / "run"), ds_config=given)
    assert analysis.ds_config is not None
    assert analysis.ds_config.source == str(given)
    assert analysis.ds_config.get("zero_optimization.stage") == 3
    assert analysis.ds_config.get("zero_optimization.overlap_comm") is None
    assert analysis.ds_config.get("zero_optimization.stage.deeper") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not JSON"), ("[1]", "no ds_config"), ('{"lr": 1}', "no ds_config")],
)
def test_what_is_no_ds_config_is_said(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(tracelens.InputError, match=says) as caught:
        read_ds_config(tmp_path / "x.json")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"format": "tracelens.run", "version": 1}', "bad_manifest"),  # no rank
        ('{"format": "tracelens.run", "version": 99, "rank": 0}', "bad_manifest"),
        ('{"format": "tracelens.run", "vers', "bad_manifest"),
        (
            '{"format": "tracelens.run", "version": 1, "rank": 0, "recording": '
            '{"traces": ["rank9.json"]}}',
            "stale_manifest",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_a_note(tmp_path: Path, text: str, code: str) -> None:
    trace(tmp_path, 0)
    (tmp_path / "rank0.run.json").write_text(text)
    analysis = tracelens.analyze(tmp_path)
    assert analysis.manifest is None
    assert [n.code for n in analysis.notes if "manifest" in n.code] == [code]


def test_the_least_a_manifest_says(tmp_path: Path) -> None:
    trace(tmp_path, 0)
    (tmp_path / "a.run.json").write_text('{"format": "tracelens.run", "version": 1, "rank": 0}')
    manifest = tracelens.analyze(tmp_path).manifest
    assert manifest is not None
    assert (manifest.unprofiled_step_ms, manifest.ds_config, manifest.launcher) == (None,) * 3


def test_other_json_is_still_ignored_with_a_note(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "truth.json").write_text('{"format": "else"}')
    plan = discover([tmp_path])
    assert [n.code for n in plan.notes] == ["ignored_file"]
    assert [p.name for p in plan.manifests] == ["rank0.run.json", "rank1.run.json"]
    assert not is_manifest(tmp_path / "truth.json")


def test_of_several_windows_the_manifests_of_the_one_that_is_read(tmp_path: Path) -> None:
    """Both windows have a rank0.json; the last one is the run, and so is its manifest."""
    for number, name in enumerate(("window0", "window1")):
        trace(tmp_path / name, 0)
        write(tmp_path / name, 0, steps=steps(40.0 + number, 50.0))
    analysis = tracelens.analyze(tmp_path)
    assert analysis.manifest is not None
    assert [Path(p).parent.name for p in analysis.run.paths] == ["window1"]
    assert [r.path.parent.name for r in analysis.manifest.ranks] == ["window1"]
    assert analysis.manifest.unprofiled_step_ms == 41.0


def test_what_ranks_do_not_agree_on_is_unknown(tmp_path: Path) -> None:
    paths = [write(tmp_path, 0), write(tmp_path, 1, launcher="torchrun", world_size=4)]
    told, notes = read_manifests(paths, [tmp_path / "rank0.json", tmp_path / "rank1.json"])
    assert told is not None
    assert not notes
    assert (told.world_size, told.launcher) == (None, "torchrun")


def test_secrets_paths_and_infinities_are_not_recorded() -> None:
    kept, left = _manifest.ds_config_parts(
        {
            "comet": {"api_key": "s3cret"},
            "wandb": {"team": "t"},
            "steps_per_print": float("inf"),
            "zero_optimization": {
                "stage": 3,
                "offload_param": {"device": "nvme", "nvme_path": "/data/me"},
            },
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-4, "betas": (0.9, 0.95)}},
        }
    )
    assert left == ["comet", "wandb"]
    text = json.dumps(kept)
    assert "s3cret" not in text
    assert "/data" not in text
    assert kept["zero_optimization"]["offload_param"] == {"device": "nvme", "nvme_path": None}
    assert kept["steps_per_print"] is None
    assert kept["optimizer"]["params"]["betas"] == [0.9, 0.95]


def test_no_value_of_the_environment_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-of-nobody")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    text = write(tmp_path, 0).read_text()
    assert "job-of-nobody" not in text
    assert "s3cret" not in text
    assert json.loads(text)["launcher"] == "torchrun"


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path, 0)
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        _manifest.update(tmp_path, 0, {"steps": float("nan")})
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rank0.run.json"]


def test_keys_of_another_collector_of_this_run_stay(tmp_path: Path) -> None:
    write(tmp_path, 0)
    _manifest.update(tmp_path, 0, {"flops": {"forward": 1}})
    assert json.loads((tmp_path / "rank0.run.json").read_text())["steps"]["profiled"]
    old = tmp_path / "rank1.run.json"
    old.write_text('{"format": "tracelens.run", "version": 1, "rank": 1, "flops": {"forward": 2}}')
    _manifest.update(tmp_path, 1, {"rank": 1})
    assert "flops" not in json.loads(old.read_text())


def test_every_key_that_is_written_is_documented(tmp_path: Path) -> None:
    page = (REPO / "docs" / "formats.md").read_text(encoding="utf-8")
    section = page.partition("## The manifest")[2].partition("## How")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    written = json.loads(write(tmp_path, 0, ds_config=None, device={}).read_text())
    assert set(written) <= documented
    assert set(written["versions"]) <= documented
    assert {*written["steps"], *written["steps"]["unprofiled"]} <= documented
