"""Every run of a model predicts every other configuration of it: predicted against measured.

    python benchmarks/whatif_table.py RUNS... [--ablations] [--timed] [--pairs]

RUNS are folders of recorded runs with a ``truth.json`` beside the traces that holds ``step_ms``
(un-profiled steps) and the ``ds_config``. Prints Markdown. The measured ratio is of un-profiled
steps; the predicted one comes from a single run's profiled trace.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from tracelens.api import analyze
from tracelens.errors import InputError
from tracelens.replay import Predictor, load, make_change
from tracelens.replay.model import Model
from tracelens.replay.program import Act

#: Keys of zero_optimization that are predicted, with DeepSpeed's defaults (0.19.8
#: runtime/zero/config.py).
KEYS = {
    "overlap_comm": None,
    "reduce_bucket_size": 500_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
    "stage3_param_persistence_threshold": 100_000,
}
#: A measured change below this, in percent, is not one that communication settings matter for.
MATTERS = 3.0


@dataclass
class Run:
    """One recorded run and its truth."""

    name: str
    truth: dict[str, Any]
    predictor: Predictor

    @property
    def step_ms(self) -> float:
        return float(np.mean(self.truth["step_ms"]))

    @property
    def zero(self) -> dict[str, Any]:
        return dict(self.truth["ds_config"]["zero_optimization"])

    @property
    def stage(self) -> int:
        return int(self.zero["stage"])

    @property
    def accumulation(self) -> int:
        return int(self.truth["ds_config"].get("gradient_accumulation_steps", 1))

    def setting(self) -> dict[str, Any]:
        values = {k: self.zero.get(k, default) for k, default in KEYS.items()}
        if values["overlap_comm"] is None:
            values["overlap_comm"] = self.stage == 3
        if self.stage != 3:
            values = {k: v for k, v in values.items() if not k.startswith("stage3_")}
        return {**values, "gradient_accumulation_steps": self.accumulation}

    def model(self) -> tuple[Any, ...]:
        """What has to be the same for a pair: model, ranks, fabric, batch, stage's family."""
        spec, env = self.truth["spec"], self.truth.get("env", {})
        shape = tuple(spec.get(k) for k in ("hidden", "layers", "seq", "mbs", "ffn"))
        # (stages 1 and 2 issue the same reductions without accumulation, yet their runs were made
        # hours apart: pairs stay within a stage)
        return (shape, self.truth["world_size"], env.get("NCCL_P2P_DISABLE"), self.stage)


@dataclass
class Pair:
    """A prediction and what was measured, as ratios to the source run."""

    source: Run
    target: Run
    predicted: float
    low: float
    high: float
    confidence: str

    @property
    def measured(self) -> float:
        return self.target.step_ms / self.source.step_ms

    @property
    def error(self) -> float:
        return 100 * (self.predicted / self.measured - 1)

    @property
    def accumulates(self) -> bool:
        return self.source.accumulation != self.target.accumulation


Alter = Callable[[Model], Model]


def read(folders: list[Path], alter: Alter, one_rank: bool, timed: bool = False) -> list[Run]:
    runs = []
    for folder in folders:
        truth = json.loads((folder / "truth.json").read_text())
        if "zero_optimization" not in truth.get("ds_config", {}):
            continue
        analysis = analyze(folder, ranks=[0] if one_rank else None)
        known = float(np.mean(truth["step_ms"])) if timed else None
        runs.append(Run(folder.name, truth, Predictor(analysis, alter(load(analysis)), known)))
    return runs


def pairs(runs: list[Run], refused: list[str]) -> Iterator[Pair]:
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for r in runs:
        groups[r.model()].append(r)
    for same in groups.values():
        for a in same:
            for b in same:
                changes = {k: v for k, v in b.setting().items() if a.setting()[k] != v}
                if a is b or not changes:
                    continue
                if "gradient_accumulation_steps" in changes:
                    changes["stage"] = a.stage  # both may leave the trace of one micro-step
                try:
                    p = a.predictor.predict(make_change(changes))
                except InputError as e:
                    refused.append(f"{a.name} -> {b.name}: {e}")
                    continue
                yield Pair(a, b, p.ratio, p.low, p.high, p.confidence)


def summary(found: list[Pair], title: str) -> None:
    if not found:
        return
    error = np.abs([p.error for p in found])
    still = np.abs([100 * (1 / p.measured - 1) for p in found])
    large = [p for p in found if abs(p.measured - 1) * 100 > MATTERS]
    sign = [(p.predicted > 1) == (p.measured > 1) for p in large]
    inside = [p.low <= p.measured <= p.high for p in found]
    print(
        f"| {title} | {len(found)} | {np.median(error):.1f} | {np.percentile(error, 95):.1f} "
        f"| {error.max():.1f} | {np.median(still):.1f} | {np.percentile(still, 95):.1f} "
        f"| {sum(sign)} of {len(sign)} | {100 * np.mean(inside):.0f} % |"
    )


def head() -> None:
    print(
        "| predictions | pairs | error, median % | p95 % | worst % | no-change predictor, median % "
        "| p95 % | sign right where > 3 % | measured within the band |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )


def table(found: list[Pair]) -> None:
    head()
    plain = [p for p in found if not p.accumulates]
    for fabric, text in (("1", "slow link"), (None, "NVLink")):
        for stages, name in (((1, 2), "ZeRO-1, 2"), ((3,), "ZeRO-3")):
            mine = [
                p
                for p in plain
                if p.source.stage in stages
                and p.source.truth.get("env", {}).get("NCCL_P2P_DISABLE") == fabric
            ]
            summary(mine, f"{name}, {text}")
    summary([p for p in found if p.accumulates], "accumulation")
    summary(found, "all")


def regret(runs: list[Run], found: list[Pair]) -> None:
    """The recorded configuration that each run would pick, against the best recorded one."""
    print("\n| picked from | best predicted of the recorded ones | measured, above the best % |")
    print("|---|---|---|")
    for a in runs:
        mine = [p for p in found if p.source is a and not p.accumulates]
        if not mine:
            continue
        options = [(1.0, a), *((p.predicted, p.target) for p in mine)]
        best = min(r.step_ms for _, r in options)
        picked = min(options, key=lambda o: o[0])[1]
        print(f"| {a.name} | {picked.name} | {100 * (picked.step_ms / best - 1):.1f} |")


def without_contention(model: Model) -> Model:
    return replace(
        model,
        costs=replace(model.costs, product_slowdown=1.0, compute_slowdown=1.0, comm_slowdown=0.0),
    )


def without_edges(model: Model) -> Model:
    """No stream waits for another."""
    ranks = []
    for m in model.ranks:
        stream = np.where(m.program.act == Act.WAIT, -1, m.program.stream).astype(np.int32)
        target = np.where(m.program.act == Act.WAIT, -1, m.program.target).astype(np.int32)
        until = np.where(m.program.act == Act.WAIT, -1, m.program.until)
        program = replace(m.program, stream=stream, target=target, until=until)
        ranks.append(replace(m, program=program))
    return replace(model, ranks=tuple(ranks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--ablations", action="store_true", help="also with parts left out")
    parser.add_argument(
        "--timed", action="store_true", help="the source's own un-profiled step is known"
    )
    parser.add_argument("--pairs", action="store_true", help="also a row a pair")
    args = parser.parse_args()
    folders = sorted(f for f in args.runs if (f / "truth.json").is_file())
    runs = read(folders, lambda m: m, one_rank=False, timed=args.timed)
    errors = np.abs([r.predictor.baseline.replay_error_pct for r in runs])
    print(
        f"{len(runs)} runs. Replay of the recorded steps: median error {np.median(errors):.2f} %, "
        f"worst {errors.max():.2f} %.\n"
    )
    refused: list[str] = []
    found = list(pairs(runs, refused))
    table(found)
    regret(runs, found)
    if args.pairs:
        print("\n| from | to | measured | predicted | band | error % | confidence |")
        print("|---|---|---|---|---|---|---|")
        for p in found:
            print(
                f"| {p.source.name} | {p.target.name} | {p.measured:.3f} | {p.predicted:.3f} "
                f"| {p.low:.3f} to {p.high:.3f} | {p.error:+.1f} | {p.confidence} |"
            )
    for line in refused:
        print(f"\nrefused: {line}")
    if args.ablations:
        print()
        head()
        parts: tuple[tuple[str, Alter, bool], ...] = (
            ("no contention", without_contention, False),
            ("no waits between streams", without_edges, False),
            ("one rank only", lambda m: m, True),
        )
        summary(found, "complete")
        for title, alter, one in parts:
            summary(list(pairs(read(folders, alter, one), [])), title)


if __name__ == "__main__":
    main()
