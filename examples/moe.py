"""DeepSpeed mixture of experts: every second block's MLP is a choice of experts.

deepspeed --num_gpus 4 examples/moe.py --experts 4 --expert-parallel 2 --out runs/moe
"""

from __future__ import annotations

import deepspeed
from common import Block, Gpt, batches, collector, ds_config, options, start
from deepspeed.moe.layer import MoE
from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer
from torch import nn


def main() -> None:
    """Train, and record some steps."""
    args = options(
        __doc__,
        experts={"type": int, "default": 4},
        expert_parallel={"type": int, "default": 2},
        stage={"type": int, "default": 1},
    )
    device = start()
    deepspeed.init_distributed()

    def block(i: int) -> nn.Module:
        if i % 2 == 0:
            return Block(args.hidden)
        h = args.hidden
        expert = nn.Sequential(nn.Linear(h, 4 * h), nn.GELU(), nn.Linear(4 * h, h))
        return Block(
            h, mlp=MoE(h, expert, num_experts=args.experts, ep_size=args.expert_parallel, k=1)
        )

    model = Gpt(args, block)
    groups = split_params_into_different_moe_groups_for_optimizer(
        {"params": list(model.parameters()), "name": "all"}
    )
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=groups,
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
