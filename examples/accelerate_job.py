"""Hugging Face Accelerate: DDP, or DeepSpeed with --stage; the collector is one line.

accelerate launch --num_processes 4 examples/accelerate_job.py --stage 2 --out runs/accelerate
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin
from common import CUDA, Gpt, Schedule, ds_config, options

from collectors import record_accelerate


def main() -> None:
    """Train, and record some steps."""
    args = options(__doc__, stage={"type": int, "default": 0})
    plugin = None
    if args.stage:
        config = {**ds_config(args, stage=args.stage, overlap_comm=True)}
        del config["optimizer"]
        plugin = DeepSpeedPlugin(hf_ds_config=config)
    accelerator = Accelerator(
        deepspeed_plugin=plugin,
        gradient_accumulation_steps=args.accumulation,
        mixed_precision="bf16" if CUDA else "no",
        cpu=not CUDA,
    )
    model = Gpt(args)
    tokens = torch.randint(0, args.vocabulary, (4096, args.sequence))
    loader = torch.utils.data.DataLoader(tokens, batch_size=args.micro_batch)
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    recording = record_accelerate(
        accelerator, args.out, level=args.level, enabled=args.record == "torch"
    )
    for i, batch in enumerate(loader):
        with accelerator.accumulate(model):
            accelerator.backward(model(batch))
            optimizer.step()
            optimizer.zero_grad()
        if not recording.on and i >= Schedule().total * args.accumulation:
            break


if __name__ == "__main__":
    main()
