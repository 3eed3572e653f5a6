"""A training job of two processes on the CPU, for test_collectors.py: ``gloo_job.py FOLDER``."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

from collectors import Schedule, TorchTraceCollector


def main(folder: str) -> None:
    """Train a few steps, record three of them."""
    dist.init_process_group("gloo")
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)))
    optimizer = torch.optim.AdamW(model.parameters())
    config = {"train_batch_size": 64, "comet": {"api_key": "s3cret"}}
    schedule = Schedule(skip=2, timed=3, warmup=1, active=3)
    with TorchTraceCollector(folder, engine=config, schedule=schedule) as trace:
        for _ in range(schedule.total + 2):  # steps beyond the recording are free
            model(torch.randn(32, 64)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            trace.step()
    assert not trace.on
    assert not trace.broken
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
