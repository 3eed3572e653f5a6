"""What the examples share: a small GPT, its data, the options, the collector."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout needs no install

from collectors import FlopsCollector, NsysCollector, Schedule, TorchTraceCollector

CUDA = torch.cuda.is_available()


def options(description: str | None, **more: dict[str, object]) -> argparse.Namespace:
    """The command line: where to record, how, and the size of the model."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", default="runs/example", help="run folder")
    parser.add_argument("--record", choices=["torch", "nsys", "flops", "none"], default="torch")
    parser.add_argument("--level", choices=["light", "standard", "deep"], default="standard")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, default=8000)
    for name, how in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **how)  # type: ignore[arg-type]
    parser.add_argument("--local_rank", type=int, default=0)  # the deepspeed launcher passes it
    return parser.parse_args()


def start() -> torch.device:
    """Join the job: NCCL on GPUs, gloo on CPUs."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if CUDA:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if CUDA else "gloo")
    return torch.device("cuda", local) if CUDA else torch.device("cpu")


class Attention(nn.Module):
    """Causal self-attention over (batch, sequence, heads, size)."""

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


class Block(nn.Module):
    """A transformer block; `attention` and `mlp` may be others."""

    def __init__(
        self, hidden: int, attention: nn.Module | None = None, mlp: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.attention = attention or Attention()
        self.mlp = mlp or nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, sequence, hidden = x.shape
        q, k, v = (t.reshape(batch, sequence, -1, 64) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(self.attention(q, k, v).reshape(batch, sequence, hidden))
        y = self.mlp(self.norm2(x))
        return x + (y[0] if isinstance(y, tuple) else y)  # DeepSpeed's MoE returns three things


class Gpt(nn.Module):
    """Tokens in, loss out."""

    def __init__(self, args: argparse.Namespace, block: Callable[[int], nn.Module] | None = None):
        super().__init__()
        make = block or (lambda _: Block(args.hidden))
        self.embed = nn.Embedding(args.vocabulary, args.hidden)
        self.blocks = nn.ModuleList(make(i) for i in range(args.layers))
        self.head = nn.Linear(args.hidden, args.vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return loss_of(self.head(x), tokens)


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each token (of itself: these examples learn nothing)."""
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())


def batches(args: argparse.Namespace, device: torch.device) -> Iterator[torch.Tensor]:
    """The same random tokens for ever."""
    shape = (args.micro_batch, args.sequence)
    tokens = torch.randint(0, args.vocabulary, shape, device=device)
    while True:
        yield tokens


def ds_config(args: argparse.Namespace, **zero: object) -> dict[str, object]:
    """A DeepSpeed configuration: bf16 on GPUs, fp32 on CPUs."""
    optimizer = {"lr": 1e-4} if CUDA else {"lr": 1e-4, "torch_adam": True}
    return {
        "train_micro_batch_size_per_gpu": args.micro_batch,
        "gradient_accumulation_steps": args.accumulation,
        "optimizer": {"type": "AdamW", "params": optimizer},
        "bf16": {"enabled": CUDA},
        "zero_optimization": zero,
    }


Collector = TorchTraceCollector | NsysCollector | FlopsCollector


def collector(
    args: argparse.Namespace, engine: object = None, model: object = None
) -> tuple[Collector, range]:
    """The collector that was asked for, and the steps that it needs."""
    schedule = Schedule(skip=5, timed=10, warmup=2, active=3)
    on = args.record != "none"
    if args.record == "nsys":
        return NsysCollector(args.out, engine=engine, schedule=schedule), range(schedule.total)
    if args.record == "flops":
        return FlopsCollector(args.out, engine or model), range(6)
    trace = TorchTraceCollector(
        args.out, engine=engine, level=args.level, schedule=schedule, enabled=on
    )
    return trace, range(schedule.total)
