"""PyTorch DistributedDataParallel.

torchrun --nproc-per-node 4 examples/ddp.py --out runs/ddp
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from common import CUDA, Gpt, batches, collector, options, start
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    """Train, and record some steps."""
    args = options(__doc__)
    device = start()
    model = DistributedDataParallel(Gpt(args).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), fused=CUDA)
    data = batches(args, device)
    recording, steps = collector(args, model=model)
    with recording:
        for _ in steps:
            for micro in range(args.accumulation):
                last = micro == args.accumulation - 1
                with nullcontext() if last else model.no_sync():
                    with torch.autocast(device.type, torch.bfloat16, enabled=CUDA):
                        loss = model(next(data))
                    loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recording.step()


if __name__ == "__main__":
    main()
