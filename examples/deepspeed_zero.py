"""DeepSpeed ZeRO-0 to 3, with or without offload.

deepspeed --num_gpus 4 examples/deepspeed_zero.py --stage 2 --out runs/zero2
tracelens analyze runs/zero2
"""

from __future__ import annotations

import deepspeed
from common import Gpt, batches, collector, ds_config, options, start


def main() -> None:
    """Train, and record some steps."""
    args = options(
        __doc__,
        stage={"type": int, "default": 2},
        overlap={"action": "store_true"},
        offload={"choices": ["none", "optimizer", "all"], "default": "none"},
        bucket={"type": int, "default": 5_000_000},
    )
    device = start()
    cpu = {"device": "cpu", "pin_memory": device.type == "cuda"}
    zero: dict[str, object] = {
        "stage": args.stage, "overlap_comm": args.overlap, "reduce_bucket_size": args.bucket,
    }  # fmt: skip
    if args.offload != "none":
        zero["offload_optimizer"] = cpu
    if args.offload == "all":
        zero["offload_param"] = cpu
    model = Gpt(args)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=ds_config(args, **zero)
    )
    data = batches(args, device)
    recording, steps = collector(args, engine)
    with recording:
        for _ in steps:
            for _ in range(args.accumulation):
                engine.backward(engine(next(data)))
                engine.step()
                recording.step()  # counts steps of the engine, so micro-steps do no harm


if __name__ == "__main__":
    main()
