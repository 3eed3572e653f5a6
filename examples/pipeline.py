"""DeepSpeed's pipeline engine: stages of a model on different GPUs.

deepspeed --num_gpus 4 examples/pipeline.py --stages 2 --accumulation 8 --out runs/pipeline
"""

from __future__ import annotations

import deepspeed
from common import Block, batches, collector, ds_config, loss_of, options, start
from deepspeed.pipe import LayerSpec, PipelineModule
from torch import nn


def main() -> None:
    """Train, and record some steps."""
    args = options(
        __doc__,
        stages={"type": int, "default": 2},
        zero={"type": int, "choices": [0, 1], "default": 0},
    )
    device = start()
    deepspeed.init_distributed()
    model = PipelineModule(
        layers=[
            LayerSpec(nn.Embedding, args.vocabulary, args.hidden),
            *(LayerSpec(Block, args.hidden) for _ in range(args.layers)),
            LayerSpec(nn.Linear, args.hidden, args.vocabulary, bias=False),
        ],
        num_stages=args.stages,
        loss_fn=loss_of,
        partition_method="uniform",
    )
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=list(model.parameters()),
        config=ds_config(args, stage=args.zero),
    )  # fmt: skip
    data = ((tokens, tokens) for tokens in batches(args, device))
    recording, steps = collector(args, engine)
    with recording:
        for _ in steps:
            engine.train_batch(data_iter=data)
            recording.step()


if __name__ == "__main__":
    main()
