"""What a recorded run's truth.json says the analysis should find.

The keys are those of the report's `setup`. A key that is absent was not part of the recording's
configuration; None means that the configuration has no bearing on this run.
"""

from __future__ import annotations

from typing import Any

_FRAMEWORK = {
    "ddp": "ddp",
    "zro": "zero_redundancy_optimizer",
    "fsdp1": "fsdp1",
    "fsdp2": "fsdp2",
    "tp": "pytorch",
    "accelerate_ddp": "ddp",
    "torch_pipe": "pytorch",
    "plain": "pytorch",
    "plain_infer": "pytorch",
}
_NO_COLLECTION = {"ds_infer", "plain_infer"}


def expected_setup(truth: dict[str, Any]) -> dict[str, Any]:
    """Expected values by key, from the recorded spec and the effective ds_config."""
    spec = truth["spec"]
    kind = spec["kind"]
    training = kind not in _NO_COLLECTION
    expected: dict[str, Any] = {
        "framework": _FRAMEWORK.get(kind, "deepspeed"),
        "mode": "training" if training else "inference",
        "gradient_accumulation_steps": spec.get("ga", 1) if training else None,
        "activation_checkpointing": bool(spec.get("act_ckpt")) if training else None,
        "precision": spec.get("dtype", "bf16"),
        **_parallel(truth, kind),
    }
    if truth.get("ds_config") and training:
        expected.update(_deepspeed(truth["ds_config"], kind))
    elif training:
        place = "cpu" if spec.get("cpu_offload") else "none"
        expected |= {"zero_stage": None, "offload_optimizer": place, "offload_param": place}
    if kind == "hf_trainer" and not truth.get("ds_config"):
        del expected["framework"]  # the spec of such a run does not say what the Trainer used
    return expected


def _parallel(truth: dict[str, Any], kind: str) -> dict[str, Any]:
    spec, world = truth["spec"], truth["world_size"]
    autotp = (truth.get("ds_config") or {}).get("tensor_parallel", {}).get("autotp_size", 1)
    tensor = world if kind in ("tp", "ds_infer") else 2 if spec.get("tp2d") else autotp
    pipeline = spec.get("pp", world if kind == "torch_pipe" else 1)
    sequence = spec.get("sp", world) if kind == "ds_ulysses" else 1
    return {
        "tensor_parallel_size": tensor,
        "pipeline_parallel_size": pipeline,
        "sequence_parallel_size": sequence,
        "expert_parallel_size": spec.get("ep", 1),
        "data_parallel_size": world // (tensor * pipeline * sequence),
    }


def _deepspeed(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Effective values: DeepSpeed's defaults filled in (runtime/zero/config.py, 0.19.8)."""
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    expected: dict[str, Any] = {"zero_stage": stage}
    for key in ("bf16", "fp16"):
        if config.get(key, {}).get("enabled"):
            expected["precision"] = key
    if stage:
        overlap = zero.get("overlap_comm")
        overlap = stage == 3 if overlap is None else overlap
        # PipelineModule forces overlap_comm off (runtime/engine.py)
        expected["overlap_comm"] = False if kind == "ds_pipe" else overlap
        bucket = zero.get("reduce_bucket_size", 500_000_000)
        if isinstance(bucket, (int, float)):
            expected["reduce_bucket_size"] = int(bucket)
        expected["contiguous_gradients"] = zero.get("contiguous_gradients", True)
        expected["reduce_scatter"] = zero.get("reduce_scatter", True)
    if config.get("torch_autocast", {}).get("enabled"):
        expected["precision"] = {"bfloat16": "bf16", "float16": "fp16"}[
            config["torch_autocast"]["dtype"]
        ]
    for key in ("offload_optimizer", "offload_param"):
        expected[key] = (zero.get(key) or {}).get("device", "none")
    return expected
