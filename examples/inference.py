"""DeepSpeed inference with tensor parallelism: a Llama of random weights, forward passes only.

deepspeed --num_gpus 4 examples/inference.py --out runs/inference
"""

from __future__ import annotations

import deepspeed
import torch
import torch.distributed as dist
from common import batches, collector, options, start
from transformers import LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Run forward passes, and record some."""
    args = options(__doc__)
    device = start()
    heads = args.hidden // 64
    config = LlamaConfig(
        hidden_size=args.hidden, intermediate_size=4 * args.hidden, vocab_size=args.vocabulary,
        num_hidden_layers=args.layers, num_attention_heads=heads, num_key_value_heads=heads,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    engine = deepspeed.init_inference(
        model, tensor_parallel={"tp_size": dist.get_world_size()}, dtype=torch.bfloat16
    )
    data = batches(args, device)
    recording, steps = collector(args)
    with recording, torch.no_grad():
        for _ in steps:
            engine(input_ids=next(data), use_cache=False)
            recording.step()


if __name__ == "__main__":
    main()
