"""What each level of the torch collector costs a step: a table in Markdown.

    torchrun --nproc-per-node 4 benchmarks/collector_cost.py --out runs/cost [--hidden 4096 ...]

One DeepSpeed ZeRO-2 job; each level records twice, each time after timing steps without a profiler.
Options are those of the examples.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import deepspeed
import torch.distributed as dist
from common import Gpt, Schedule, TorchTraceCollector, batches, ds_config, options, start

SCHEDULE = Schedule(skip=3, timed=10, warmup=2, active=5)


def main() -> None:
    """Train once, record each level twice, print what it cost on rank 0."""
    args = options(__doc__)
    device = start()
    model = Gpt(args)
    zero = {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 50_000_000}
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=ds_config(args, **zero)
    )
    data = batches(args, device)
    rows = []
    for level in ("light", "standard", "deep") * 2:
        folder = Path(args.out) / f"{level}{len(rows)}"
        with TorchTraceCollector(folder, engine=engine, level=level, schedule=SCHEDULE) as trace:
            while trace.on:
                engine.backward(engine(next(data)))
                engine.step()
                trace.step()
        dist.barrier()
        told = json.loads((folder / f"rank{dist.get_rank()}.run.json").read_text())
        size = (folder / f"rank{dist.get_rank()}.pt.trace.json.gz").stat().st_size
        rows.append((level, told["steps"], told["recording"]["export_s"], size))
    if dist.get_rank() == 0:
        columns = "level", "without, ms", "recorded, ms", "cost, ms", "cost, %", "written, s"
        print(f"| {' | '.join(columns)} | MB a step |")
        print("|---|---|---|---|---|---|---|")
        for level, steps, seconds, size in rows:
            plain, traced = steps["unprofiled"]["mean_ms"], steps["profiled"]["mean_ms"]
            cost = steps["cost"]
            print(
                f"| {level} | {plain:.2f} | {traced:.2f} | {cost['ms_per_step']:.2f} "
                f"| {cost['percent']:.0f} | {seconds:.1f} | {size / 1e6 / SCHEDULE.active:.2f} |"
            )


if __name__ == "__main__":
    main()
