"""PyTorch FSDP, the first: FullyShardedDataParallel.

torchrun --nproc-per-node 4 examples/fsdp1.py --out runs/fsdp1
"""

from __future__ import annotations

import torch
from common import Block, Gpt, batches, collector, options, start
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy


def main() -> None:
    """Train, and record some steps."""
    strategies = ["FULL_SHARD", "SHARD_GRAD_OP"]
    args = options(__doc__, strategy={"choices": strategies, "default": "FULL_SHARD"})
    device = start()
    half = torch.bfloat16
    model = FullyShardedDataParallel(
        Gpt(args).to(device),
        auto_wrap_policy=ModuleWrapPolicy({Block}),
        sharding_strategy=ShardingStrategy[args.strategy],
        mixed_precision=MixedPrecision(half, half, half),
        use_orig_params=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), fused=device.type == "cuda")
    data = batches(args, device)
    recording, steps = collector(args, model=model)
    with recording:
        for _ in steps:
            for _ in range(args.accumulation):
                model(next(data)).backward()
            optimizer.step()
            optimizer.zero_grad()
            recording.step()


if __name__ == "__main__":
    main()
