"""What another configuration would give: changes, predictions, tuning, the commands."""

from __future__ import annotations

import json
import lzma
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tracelens.api import Analysis, analyze, tune, whatif
from tracelens.cli import main
from tracelens.errors import CannotPredict, UsageError
from tracelens.gradients import fill
from tracelens.reducing import affine, host_line
from tracelens.replay import Predictor, load, make_change, parse_change
from tracelens.replay.transforms.reduction import Setting, reduce_with
from tracelens.thresholds import BUCKET_LAG_NS
from tracelens.transfer import fit_line

REPO = Path(__file__).parent.parent
SAMPLES = REPO / "sample_traces"
TRACES = REPO.parent / "shared" / "traces"


@pytest.fixture(scope="module")
def slow() -> Predictor:
    """ZeRO-2 with overlap and a bucket of half the model, on a slow link."""
    analysis = analyze(SAMPLES / "zero2_slow_fabric")
    return Predictor(analysis, load(analysis))


def predicted(predictor: Predictor, **values: object) -> float:
    return predictor.predict(make_change(values)).ratio


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (["overlap_com=true"], "overlap_com"),
        (["overlap_comm=yes"], "true or false"),
        (["reduce_bucket_size=1.5"], "whole number"),
        (["reduce_bucket_size=-1"], "whole number"),
        (["reduce_bucket_size=0"], "whole number"),
        (["interconnect_speed=inf"], "above 0"),
        (["interconnect_speed=nan"], "above 0"),
        (["overlap_comm"], "KEY=VALUE"),
        (["stage=1", "stage=2"], "each key once"),
        ([], "nothing to change"),
    ],
)
def test_a_wrong_change_says_what_is_wanted(text: list[str], hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        parse_change(text)


def test_numbers_may_be_written_as_in_a_ds_config() -> None:
    change = parse_change(["zero_optimization.reduce_bucket_size=5e7", "interconnect_speed=.5"])
    assert dict(change.values) == {"reduce_bucket_size": 50_000_000, "interconnect_speed": 0.5}


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 100])
def test_buckets_hold_everything_once_and_no_more_than_fits(limit: int) -> None:
    sizes = [4, 1, 9, 2, 2, 30, 1, 1, 1, 8]
    made = fill(sizes, limit)
    assert [i for b in made for i in b.members] == list(range(len(sizes)))
    assert all(b.nelems <= limit or len(b.members) == 1 for b in made)
    for b, following in pairwise(made):  # no bucket was flushed too early
        assert b.nelems + sizes[following.members[0]] > limit
        assert b.at == following.members[0]
    assert made[-1].at == len(sizes)


def test_a_line_through_transfers() -> None:
    n = np.array([1_000_000, 4_000_000, 16_000_000])
    line, slowed = fit_line(n, 20_000 + 0.1 * n)
    assert line.alpha_ns == pytest.approx(20_000)
    assert line.beta_ns == pytest.approx(0.1)
    assert slowed == 0.0


def test_what_kernels_cost_a_transfer_is_taken_out() -> None:
    n = np.array([1e7, 1e7, 1e7, 2e7, 2e7]).astype(np.int64)
    alone = 0.1 * n
    share = np.array([1.0, 0.9, 0.0, 1.0, 0.0])
    time = alone / (1 - 0.2 * share)
    line, slowed = fit_line(n, time, share * time)
    assert slowed == pytest.approx(0.2, abs=0.01)
    assert line.beta_ns == pytest.approx(0.1, rel=0.02)


def test_sizes_are_not_compared_with_each_other() -> None:
    """Small messages, always beside kernels, move faster than large ones do."""
    n = np.array([1e6, 1e6, 2e7, 2e7]).astype(np.int64)
    time = np.array([0.07e6, 0.07e6, 2e6, 2e6])
    beside = np.array([0.07e6, 0.07e6, 0.0, 0.0])
    assert fit_line(n, time, beside)[1] == 0.0
    assert fit_line(n, time, beside, prior=0.25)[1] == 0.25


def test_one_size_leaves_latency_open() -> None:
    line, _ = fit_line(np.array([1000, 1000]), np.array([300.0, 320.0]))
    assert line.alpha_ns == 0
    assert line.at(2000) == pytest.approx(620)


def test_host_time_is_split_where_buckets_differ_and_by_the_prior_where_not() -> None:
    n = np.array([1.0, 2.0, 5.0])
    assert affine(n, 100 + 30 * n) == pytest.approx((100, 30))
    fixed, each = host_line(np.array([10.0, 10.0]), np.array([2e6, 2.2e6]))
    assert fixed + 10 * each == pytest.approx(2.1e6)
    assert fixed > 0
    assert each > 0


def test_reductions_that_come_beside_kernels_wait_for_room() -> None:
    """In a recording without overlap_comm none had to: what it takes to begin is the prior's."""
    model = load(analyze(SAMPLES / "zero1"))
    now = Setting(500_000_000, False)
    for overlap in (False, True):
        changed = reduce_with(model, now, Setting(50_000_000, overlap))
        for m in changed.ranks:
            pause = m.program.pause_ns[np.isin(m.program.uid, m.reductions)]
            assert len(pause) > 0
            assert (pause >= BUCKET_LAG_NS).all() == overlap


def test_the_recorded_setting_rebuilt_is_the_recorded_step(slow: Predictor) -> None:
    now = slow.now.reduction(slow.model)
    assert now == Setting(500_000_000, True)
    rebuilt = reduce_with(slow.model, now, now)

    length = rebuilt.replay().step_ns
    assert length == pytest.approx(slow.model.recorded_ns, rel=0.01)


def test_smaller_buckets_hide_more_and_no_overlap_hides_nothing(slow: Predictor) -> None:
    """Measured without a profiler: 283.6 ms; at 5e7 266.9, and without overlap 309.1."""
    assert predicted(slow, reduce_bucket_size=5e7) == pytest.approx(0.941, abs=0.03)
    off = predicted(slow, overlap_comm=False, reduce_bucket_size=5e7)
    assert off == pytest.approx(1.090, abs=0.03)


def test_a_faster_link_moves_transfers_alone(slow: Predictor) -> None:
    ratio = predicted(slow, interconnect_speed=2)
    transfers = sum(slow.model.costs.transfer_ns.values()) / slow.model.programs[0].n_steps
    share = transfers / slow.model.recorded_ns
    assert 1 - share / 2 <= ratio < 1
    assert predicted(slow, interconnect_speed=0.5) > 1


def test_accumulation_repeats_the_passes_not_the_update(slow: Predictor) -> None:
    two, four = (predicted(slow, stage=2, gradient_accumulation_steps=k) for k in (2, 4))
    assert 1 < two < 2
    assert four - 1 == pytest.approx(3 * (two - 1), rel=0.05)


def test_stage_1_reduces_once_a_step_and_stage_2_each_micro_step(slow: Predictor) -> None:
    once = predicted(slow, stage=1, gradient_accumulation_steps=4)
    each = predicted(slow, stage=2, gradient_accumulation_steps=4)
    assert once < each
    assert predicted(slow, stage=1) == 1.0
    with pytest.raises(CannotPredict, match="accumulate differently"):
        predicted(slow, gradient_accumulation_steps=4)


def test_more_ranks_move_more(slow: Predictor) -> None:
    p = slow.predict(make_change({"world_size": 8}))
    assert 1 < p.ratio < 1.3
    assert p.confidence == "low"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"stage": 3}, "gathering parameters in the forward"),
        ({"stage": 0}, "step on all parameters on every rank"),
    ],
)
def test_what_cannot_be_predicted_is_refused_with_what_to_record(
    slow: Predictor, values: dict[str, object], why: str
) -> None:
    with pytest.raises(CannotPredict, match=why) as e:
        slow.predict(make_change(values))
    assert "record" in str(e.value.hint)


def test_a_dead_key_has_no_effect_and_says_why(slow: Predictor) -> None:
    p = slow.predict(make_change({"allgather_bucket_size": 1e8}))
    assert p.ratio == 1.0
    assert "no effect" in p.notes[0]


def test_kernels_alone_are_refused() -> None:
    with pytest.raises(CannotPredict, match="no reduction of known size"):
        whatif(SAMPLES / "zero2_kernels_only", {"reduce_bucket_size": 5e7, "overlap_comm": True})


def test_tuning_says_what_it_tried_and_what_is_best(slow: Predictor) -> None:
    from tracelens.replay.tune import tune as search

    found = search(slow)
    ratios = [p.ratio for p in found.candidates]
    assert ratios == sorted(ratios)
    assert found.best is not None
    assert found.best.change.values["overlap_comm"] is True
    assert found.best.change.values["reduce_bucket_size"] < 500_000_000
    assert dict(found.no_effect).keys() == {"allgather_bucket_size"}
    assert found.ds_config == {"zero_optimization": dict(found.best.change.values)}


def test_a_fast_link_is_not_worth_a_change() -> None:
    found = tune(SAMPLES / "zero1_overlap")
    assert found.best is None
    assert found.not_worth_it
    assert found.ds_config is None


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_whatif_command() -> None:
    run = SAMPLES / "zero2_slow_fabric"
    done = invoke("whatif", run, "--set", "reduce_bucket_size=5e7", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["format"] == 1
    assert told["change"] == {"reduce_bucket_size": 50_000_000}
    p = told["predicted"]
    assert p["low_ms"] < p["step_ms"] < p["high_ms"]
    assert p["step_ms"] == pytest.approx(p["ratio"] * told["baseline"]["step_ms"], rel=1e-3)
    text = invoke("whatif", run, "--set", "reduce_bucket_size=5e7").stdout
    assert f"{p['step_ms']:.1f} ms predicted" in text
    refused = invoke("whatif", run, "--set", "stage=3")
    assert refused.exit_code == 1
    assert "hint: record" in refused.stderr
    assert invoke("whatif", run, "--set", "stge=3").exit_code == 2


def test_tune_command_writes_a_new_file_only(tmp_path: Path) -> None:
    run, target = SAMPLES / "zero2_slow_fabric", tmp_path / "tuned.json"
    given = tmp_path / "ds.json"
    given.write_text('{"train_batch_size": 16, "zero_optimization": {"stage": 2}}')
    done = invoke("tune", run, "--ds-config", given, "--write", target, "--json")
    assert done.exit_code == 0, done.output
    told, written = json.loads(done.stdout), json.loads(target.read_text())
    assert written == told["ds_config"]
    assert written["train_batch_size"] == 16
    assert written["zero_optimization"]["stage"] == 2
    assert written["zero_optimization"]["reduce_bucket_size"] < 500_000_000
    assert invoke("tune", run, "--write", target).exit_code == 2
    assert json.loads(target.read_text()) == written


@pytest.mark.skipif(not TRACES.is_dir(), reason="the recorded corpus is not beside the project")
def test_configurations_of_one_model_predict_each_other(tmp_path: Path) -> None:
    """All ordered pairs of the ZeRO-2 runs on a slow link, against un-profiled steps."""
    truth: dict[str, tuple[Predictor, float, dict[str, object]]] = {}
    for name in ("s_shm_z2_off_rb5e07", "s_shm_z2_on_rb5e07", "s_shm_z2_on_rb5e08"):
        (tmp_path / name).mkdir()
        for packed in sorted((TRACES / name).glob("*.xz")):
            data = lzma.decompress(packed.read_bytes())
            (tmp_path / name / packed.stem).write_bytes(data)
        known = json.loads((TRACES / name / "truth.json").read_text())
        zero = known["ds_config"]["zero_optimization"]
        analysis: Analysis = analyze(tmp_path / name)
        setting = {k: zero[k] for k in ("overlap_comm", "reduce_bucket_size")}
        predictor = Predictor(analysis, load(analysis))
        truth[name] = predictor, float(np.mean(known["step_ms"])), setting
    for name, (source, measured, setting) in truth.items():
        for other, (_, wanted, then) in truth.items():
            change = {k: v for k, v in then.items() if setting[k] != v}
            if other != name:
                ratio = source.predict(make_change(change)).ratio
                assert ratio == pytest.approx(wanted / measured, rel=0.03), (name, other)


@pytest.mark.parametrize("key", ["offload_optimizer", "zero_optimization.offload_param.device"])
def test_what_no_recording_shows_is_refused_with_what_to_record(key: str) -> None:
    with pytest.raises(CannotPredict, match="not in a run without") as e:
        make_change({key: "cpu"})
    assert "record a few steps" in (e.value.hint or "")
