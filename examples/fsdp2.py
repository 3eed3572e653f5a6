"""PyTorch FSDP2 (fully_shard); with --replicas 2 hybrid: sharded within, replicated across.

torchrun --nproc-per-node 4 examples/fsdp2.py --out runs/fsdp2
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from common import Gpt, batches, collector, options, start
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def main() -> None:
    """Train, and record some steps."""
    args = options(__doc__, replicas={"type": int, "default": 1})
    device = start()
    shape, names = (dist.get_world_size(),), ("shard",)
    if args.replicas > 1:
        shape, names = (args.replicas, shape[0] // args.replicas), ("replicate", "shard")
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    how = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)}
    model = Gpt(args).to(device)
    for block in model.blocks:
        fully_shard(block, **how)
    fully_shard(model, **how)
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
