"""DeepSpeed-Ulysses: all ranks share each sequence, and attention exchanges it for heads.

deepspeed --num_gpus 4 examples/ulysses.py --out runs/ulysses
"""

from __future__ import annotations

import deepspeed
import torch
import torch.distributed as dist
from common import Attention, Block, Gpt, batches, collector, ds_config, options, start
from deepspeed.sequence.layer import DistributedAttention
from torch import nn


class Exchanged(nn.Module):
    """Attention whose heads are split over the group while the sequence is whole."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.inner = DistributedAttention(Attention(), group, scatter_idx=2, gather_idx=1)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.inner(q, k, v, 0)


def main() -> None:
    """Train, and record some steps."""
    args = options(__doc__, stage={"type": int, "default": 1})
    device = start()
    deepspeed.init_distributed()
    group = dist.new_group(list(range(dist.get_world_size())))
    model = Gpt(args, lambda _: Block(args.hidden, attention=Exchanged(group)))
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(),
        config=ds_config(args, stage=args.stage, overlap_comm=True),
    )  # fmt: skip
    data = batches(args, device)
    recording, steps = collector(args, engine)
    with recording:
        for _ in steps:
            for _ in range(args.accumulation):
                engine.backward(engine(next(data)))
                engine.step()
                recording.step()


if __name__ == "__main__":
    main()
