"""Hugging Face Trainer: DDP, or DeepSpeed with --stage; the collector is one callback.

torchrun --nproc-per-node 4 examples/trainer.py --stage 3 --out runs/trainer
"""

from __future__ import annotations

import tempfile

import torch
from common import CUDA, Gpt, Schedule, options
from torch import nn
from transformers import Trainer, TrainingArguments

from collectors import trainer_callback


class Model(nn.Module):
    """The GPT as the Trainer wants it: named inputs, a dict with the loss out."""

    def __init__(self, gpt: Gpt) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.gpt(tokens)}


def main() -> None:
    """Train, and record some steps."""
    args = options(__doc__, stage={"type": int, "default": 0})
    config = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": args.stage, "overlap_comm": True},
    }
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=Schedule().total,
        per_device_train_batch_size=args.micro_batch,
        gradient_accumulation_steps=args.accumulation,
        deepspeed=config if args.stage else None,
        bf16=CUDA,
        use_cpu=not CUDA,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
    )
    data = [{"tokens": torch.randint(0, args.vocabulary, (args.sequence,))} for _ in range(1024)]
    recording = trainer_callback(args.out, level=args.level, enabled=args.record == "torch")
    model = Model(Gpt(args))
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[recording]).train()


if __name__ == "__main__":
    main()
