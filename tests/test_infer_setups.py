"""What is inferred of jobs of known setup: every key, rank by rank, and between ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_infer_jobs import (
    INTERNAL,
    LAYER,
    MODEL,
    REDUCE,
    Job,
    ddp,
    exchange,
    facts_of,
    fsdp,
    infer,
    pipeline,
    stage0,
    tensor_parallel,
    zero3,
    zero12,
)  # fmt: skip

from tracelens.infer.result import Inference, Setup
from tracelens.infer.roles import find_roles
from tracelens.infer.zero import infer_stage
from tracelens.ingest import open_trace

# ---------------------------------------------------------------------- what is inferred of them
DEEPSPEED: dict[str, Any] = {
    "framework": "deepspeed",
    "mode": "training",
    "precision": "bf16",
    "gradient_accumulation_steps": 1,
    "data_parallel_size": 4,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "expert_parallel_size": 1,
    "sequence_parallel_size": 1,
    "activation_checkpointing": False,
    "offload_optimizer": "none",
}
TORCH = DEEPSPEED | {"zero_stage": None, "overlap_comm": None, "reduce_bucket_size": None}
BUCKET = {"reduce_bucket_size": 2 * LAYER, "contiguous_gradients": True}

JOBS: dict[str, tuple[Callable[[], Job], dict[str, Any]]] = {
    "ZeRO-1 without overlap": (
        lambda: zero12(Job(), 1, overlap=False),
        DEEPSPEED | BUCKET | {"zero_stage": 1, "overlap_comm": False},
    ),
    "ZeRO-1 with overlap, one micro-step: ZeRO-2 looks the same": (
        lambda: zero12(Job(), 1, overlap=True),
        DEEPSPEED | BUCKET | {"zero_stage": None, "overlap_comm": True},
    ),
    "ZeRO-1 with overlap, accumulated": (
        lambda: zero12(Job(), 1, overlap=True, micro_steps=3),
        DEEPSPEED | BUCKET
        | {"zero_stage": 1, "overlap_comm": True, "gradient_accumulation_steps": 3},
    ),
    "ZeRO-2 without overlap": (
        lambda: zero12(Job(), 2, overlap=False),
        DEEPSPEED | BUCKET | {"zero_stage": 2, "overlap_comm": False},
    ),
    "ZeRO-2 with overlap, one micro-step": (
        lambda: zero12(Job(), 2, overlap=True),
        DEEPSPEED | BUCKET | {"zero_stage": None, "overlap_comm": True},
    ),
    "ZeRO-2 with overlap, accumulated": (
        lambda: zero12(Job(), 2, overlap=True, micro_steps=4),
        DEEPSPEED | BUCKET
        | {"zero_stage": 2, "overlap_comm": True, "gradient_accumulation_steps": 4},
    ),
    "ZeRO-2 without shapes: the bucket's size cannot be read": (
        lambda: zero12(Job(shapes=False), 2, overlap=False, micro_steps=2),
        DEEPSPEED | {"zero_stage": 2, "reduce_bucket_size": None, "gradient_accumulation_steps": 2},
    ),
    "ZeRO-2 with torch before 2.8: all communication has one stream": (
        lambda: zero12(Job(shapes=False), 2, overlap=True, stream=INTERNAL),
        DEEPSPEED | {"zero_stage": None, "overlap_comm": None},
    ),
    "ZeRO-3": (
        lambda: zero3(Job()),
        DEEPSPEED | {"zero_stage": 3, "overlap_comm": True, "reduce_bucket_size": None,
                     "reduce_scatter": True, "offload_param": "none"},
    ),
    "ZeRO-3 without overlap, accumulated": (
        lambda: zero3(Job(), overlap=False, micro_steps=2),
        DEEPSPEED | {"zero_stage": 3, "overlap_comm": False, "gradient_accumulation_steps": 2},
    ),
    "ZeRO-3 before 0.13.2": (
        lambda: zero3(Job(), hooks="PreBackwardFunction"),
        DEEPSPEED | {"zero_stage": 3},
    ),
    "ZeRO-3 with reduce_scatter off": (
        lambda: zero3(Job(), reduce="all_reduce"),
        DEEPSPEED | {"zero_stage": 3, "reduce_scatter": False},
    ),
    "ZeRO-3 with parameters on the host": (
        lambda: zero3(Job(), shard_on_host=True),
        DEEPSPEED | {"zero_stage": 3, "offload_param": "cpu"},
    ),
    "stage 0": (
        lambda: stage0(Job()),
        DEEPSPEED | {"zero_stage": 0, "overlap_comm": None, "reduce_bucket_size": None},
    ),
    "DDP": (lambda: ddp(Job()), TORCH | {"framework": "ddp"}),
    "DDP with no_sync": (
        lambda: ddp(Job(), micro_steps=3),
        TORCH | {"framework": "ddp", "gradient_accumulation_steps": 3},
    ),
    "DDP with ZeroRedundancyOptimizer": (
        lambda: ddp(Job(), optimizer="ZeroRedundancyOptimizer"),
        TORCH | {"framework": "zero_redundancy_optimizer"},
    ),
    "DDP in fp32": (
        lambda: ddp(Job(types="float"), dtype="Float"),
        TORCH | {"framework": "ddp", "precision": "fp32"},
    ),
    "FSDP2": (lambda: fsdp(Job()), TORCH | {"framework": "fsdp2"}),
    "FSDP1": (lambda: fsdp(Job(), named="fsdp1"), TORCH | {"framework": "fsdp1"}),
    "HSDP: shards times replicas are the data-parallel ranks": (
        lambda: fsdp(Job(), replicas=2),
        TORCH | {"framework": "fsdp2", "data_parallel_size": 4},
    ),
    "sharded by hand: neither FSDP nor ZeRO-3": (
        lambda: fsdp(Job(), named=""),
        TORCH | {"framework": "pytorch"},
    ),
    "tensor parallelism by DTensor": (
        lambda: tensor_parallel(Job()),
        TORCH | {"framework": "pytorch", "tensor_parallel_size": 4, "data_parallel_size": 1},
    ),
    "experts": (
        lambda: exchange(Job(), "_AllToAll", 2),
        DEEPSPEED | {"expert_parallel_size": 2, "overlap_comm": True},
    ),
    "Ulysses: sequence parts take their share of the ranks that reduce": (
        lambda: exchange(Job(), "_SeqAllToAll", 2),
        DEEPSPEED | {"sequence_parallel_size": 2, "data_parallel_size": 2},
    ),
    "an all_to_all of unknown use": (
        lambda: exchange(Job(), "Shuffle", 2),
        DEEPSPEED
        | dict.fromkeys(["sequence_parallel_size", "expert_parallel_size", "data_parallel_size"]),
    ),
}  # fmt: skip


def values(setup: Setup, keys: dict[str, Any]) -> dict[str, Any]:
    """The inferred values of some keys."""
    return {k: setup[k].value for k in keys}


@pytest.mark.parametrize("case", JOBS.values(), ids=JOBS.keys())
def test_job(case: tuple[Callable[[], Job], dict[str, Any]], tmp_path: Path) -> None:
    build, expected = case
    assert values(infer(tmp_path, build()), expected) == expected


# ---------------------------------------------------------------------- several ranks
def test_a_pipeline_s_size_is_that_of_the_group_of_its_stages(tmp_path: Path) -> None:
    setup = infer(tmp_path, *(pipeline(rank) for rank in range(4)))
    expected = {
        "framework": "pytorch",
        "pipeline_parallel_size": 2,
        "data_parallel_size": 2,
        "tensor_parallel_size": 1,
        "expert_parallel_size": 1,
        "gradient_accumulation_steps": 2,
    }
    assert values(setup, expected) == expected


@pytest.mark.parametrize(("flag", "value", "candidates"), [(False, None, (0, 1)), (True, 1, (1,))])
def test_a_pipeline_partitions_its_optimizer_at_stage_0_too(
    tmp_path: Path, flag: bool, value: int | None, candidates: tuple[int, ...]
) -> None:
    """With bf16 it gets BF16_Optimizer, which gathers; ZeRO-1's own has an overflow flag too."""
    job = pipeline(0, gathers=True, flag=flag)
    facts = facts_of(open_trace(job.trace.write(tmp_path / "rank0.json")))
    deepspeed = Inference("framework", "deepspeed", ("deepspeed",), 0.9)
    stage = infer_stage(facts, find_roles(facts), deepspeed, 2)
    assert (stage.value, stage.candidates) == (value, candidates)


def test_ranks_that_contradict_each_other_answer_nothing(tmp_path: Path) -> None:
    ranks = zero12(Job(rank=0), 2, overlap=False), zero3(Job(rank=1))
    stage = infer(tmp_path, *ranks)["zero_stage"]
    assert (stage.value, stage.candidates) == (None, (2, 3))
    assert "disagree" in stage.evidence[0]


def test_a_rank_that_cannot_tell_does_not_contradict(tmp_path: Path) -> None:
    ranks = Job(rank=0, shapes=False), Job(rank=1)
    setup = infer(tmp_path, *(zero12(job, 2, overlap=False) for job in ranks))
    assert values(setup, BUCKET) == BUCKET


# ---------------------------------------------------------------------- evidence and candidates
@pytest.mark.parametrize("stage", [1, 2])
def test_what_would_decide_between_zero_1_and_2_is_said(stage: int, tmp_path: Path) -> None:
    found = infer(tmp_path, zero12(Job(), stage, overlap=True))["zero_stage"]
    assert (found.value, found.candidates) == (None, (1, 2))
    assert "with_stack=True" in found.evidence[-1]
    assert "accumulation" in found.evidence[-1]


@pytest.mark.parametrize(
    ("frame", "stage"),
    [
        ("deepspeed/runtime/zero/stage_1_and_2.py(861): reduce_gradients", 1),
        ("deepspeed/runtime/zero/stage_1_and_2.py(1701): clear_grad_attribute", 2),
    ],
)
def test_a_frame_decides_between_zero_1_and_2(frame: str, stage: int, tmp_path: Path) -> None:
    job = zero12(Job(), stage, overlap=True)
    job.trace.python(frame, ts=20, dur=1)
    job.trace.python("deepspeed/runtime/zero/stage_1_and_2.py(9): step", ts=30, dur=1)
    assert infer(tmp_path, job)["zero_stage"].value == stage


def test_a_patched_linear_alone_proves_nothing(tmp_path: Path) -> None:
    """ZeRO-3 replaces F.linear for the whole process, and never restores it."""
    job = ddp(Job())
    job.op("LinearFunctionForZeroStage3")
    assert values(infer(tmp_path, job), TORCH) == TORCH | {"framework": "ddp"}


def test_the_size_of_a_bucket_that_was_not_recorded_is_bounded(tmp_path: Path) -> None:
    bucket = infer(tmp_path, zero12(Job(shapes=False), 2, overlap=False))["reduce_bucket_size"]
    assert bucket.value is None
    assert (bucket.low, bucket.high) == (2 * LAYER, 4 * LAYER)


# ---------------------------------------------------------------------- kernels alone
def kernels_alone(*, stage: int) -> Job:
    """GPU work of ZeRO-1 or 2, ZeRO-3, FSDP or DDP without any host op."""
    job = Job(host=False)
    if stage in (1, 2):
        return zero12(job, stage, overlap=stage == 1)
    return zero3(job) if stage == 3 else fsdp(job, named="") if stage == 4 else ddp(job)


@pytest.mark.parametrize(
    ("stage", "framework", "zero"),
    [(1, "deepspeed", None), (2, "deepspeed", None), (3, "deepspeed", 3), (4, None, None),
     (5, None, None)],
)  # fmt: skip
def test_kernels_alone(stage: int, framework: str | None, zero: int | None, tmp_path: Path) -> None:
    setup = infer(tmp_path, kernels_alone(stage=stage))
    expected = {"framework": framework, "zero_stage": zero, "precision": "bf16", "mode": "training"}
    assert values(setup, expected) == expected
    for key in ("reduce_bucket_size", "tensor_parallel_size", "data_parallel_size"):
        assert setup[key].value is None


def test_reduce_scatter_kernels_alone_fit_several_frameworks(tmp_path: Path) -> None:
    found = infer(tmp_path, kernels_alone(stage=4))["framework"]
    assert {"fsdp2", "fsdp1", "deepspeed", "megatron"} <= set(found.candidates)


# ---------------------------------------------------------------------- training and its memory
def plain(job: Job, step: Callable[[Job], None], steps: int = 2) -> Job:
    """A loop of marked steps."""
    for k in range(steps):
        with job.step(k):
            step(job)
    return job


def one_key(folder: Path, job: Job, key: str) -> Any:
    return infer(folder, job)[key].value


def test_no_backward_pass_is_inference(tmp_path: Path) -> None:
    setup = infer(tmp_path, plain(Job(), Job.evaluate))
    assert setup["mode"].value == "inference"
    for key in ("gradient_accumulation_steps", "offload_optimizer", "activation_checkpointing"):
        assert setup[key].value is None


@pytest.mark.parametrize(
    ("types", "precision"),
    [("c10::BFloat16", "bf16"), ("c10::Half", "fp16"), ("float", "fp32"), ("double", "fp64")],
)
def test_precision_is_that_of_the_products(types: str, precision: str, tmp_path: Path) -> None:
    job = ddp(Job(types=types), dtype="Float")  # autocast: the gradients are float32
    assert one_key(tmp_path, job, "precision") == precision


def test_precision_without_operands_or_telling_names_is_unknown(tmp_path: Path) -> None:
    job = Job(host=False)
    job.gpu("my_kernel")
    assert one_key(tmp_path, job, "precision") is None


def checkpointed(job: Job) -> None:
    """Every backward node runs its forward op again, with gradients, before its own products."""

    def inner(i: int) -> None:
        with job.inside("aten::linear", seq=5000 + i):
            job.product()

    job.forward()
    job.backward(inner=inner)
    job.update()
    job.zero_grad()


def test_forward_ops_inside_backward_nodes_are_recomputed(tmp_path: Path) -> None:
    setup = infer(tmp_path, plain(Job(), checkpointed))
    expected = {"activation_checkpointing": True, "gradient_accumulation_steps": 1}
    assert values(setup, expected) == expected


@pytest.mark.parametrize(
    ("forward", "backward", "value"), [(2, 2, False), (4, 2, None), (3, 2, None), (2, 0, None)]
)
def test_checkpointing_by_attention_kernels(
    forward: int, backward: int, value: bool | None, tmp_path: Path
) -> None:
    job = Job(host=False)
    for name, n in (("F", forward), ("B", backward)):
        for _ in range(n):
            job.gpu(f"fmha_cutlass{name}_bf16_aligned_64x64_rf_sm80")
    assert one_key(tmp_path, job, "activation_checkpointing") is value


def offloaded(job: Job, *, optimizer: str, gradients: int) -> Job:
    """The optimizer launches nothing; gradients go to the host, parameters come back."""

    def step(job: Job) -> None:
        job.forward()
        job.backward()
        if gradients:
            job.copy("DtoH", gradients)
        job.update(optimizer, kernels=0)
        job.copy("HtoD", gradients)

    return plain(job, step)


def test_deepspeed_s_cpu_optimizer(tmp_path: Path) -> None:
    job = offloaded(Job(), optimizer="DeepSpeedCPUAdam", gradients=2 * MODEL)
    found = infer(tmp_path, job)
    assert (found["offload_optimizer"].value, found["framework"].value) == ("cpu", "deepspeed")
    assert found["offload_optimizer"].candidates == ("cpu", "nvme")


def test_an_optimizer_on_the_host_and_one_that_nobody_recorded(tmp_path: Path) -> None:
    job = offloaded(Job(), optimizer="AdamW", gradients=4 * MODEL)
    assert one_key(tmp_path, job, "offload_optimizer") == "cpu"

    def step(job: Job) -> None:
        job.forward()
        job.backward()

    assert one_key(tmp_path, plain(Job(), step), "offload_optimizer") is None


def test_two_losses_over_different_parameters_are_no_accumulation(tmp_path: Path) -> None:
    def step(job: Job) -> None:
        job.forward(6)
        job.backward()
        job.forward(2)
        job.backward()
        job.update()

    found = infer(tmp_path, plain(Job(), step))["gradient_accumulation_steps"]
    assert (found.value, found.candidates) == (None, (1, 2))


def test_two_optimizers_that_take_turns_do_not_accumulate(tmp_path: Path) -> None:
    def step(job: Job) -> None:
        for name in ("Adam", "SGD"):
            job.forward()
            job.backward()
            job.update(name)
            job.zero_grad(name)

    assert one_key(tmp_path, plain(Job(), step), "gradient_accumulation_steps") == 1


def test_a_window_without_an_update_only_bounds_the_accumulation(tmp_path: Path) -> None:
    def step(job: Job) -> None:
        job.forward()
        job.backward()

    found = infer(tmp_path, plain(Job(), step, 3))["gradient_accumulation_steps"]
    assert (found.value, found.low) == (None, 3)


def test_evaluation_between_steps_changes_nothing(tmp_path: Path) -> None:
    job = ddp(Job())
    for k in (2, 3):
        with job.step(k):
            job.evaluate()
    expected = TORCH | {"framework": "ddp"}
    assert values(infer(tmp_path, job), expected) == expected


def test_a_model_on_one_gpu_without_zero_grad_may_be_anyone_s(tmp_path: Path) -> None:
    def step(job: Job) -> None:
        job.forward()
        job.backward()
        job.update()

    found = infer(tmp_path, plain(Job(world=1), step))["framework"]
    assert (found.value, found.candidates) == (None, ("pytorch", "deepspeed"))


def test_hpz_fetches_from_fewer_ranks_in_the_backward_pass(tmp_path: Path) -> None:
    def step(job: Job) -> None:
        def fetch(ranks: tuple[int, ...]) -> None:
            job.comm("all_gather", LAYER // len(ranks), out=LAYER, stream=INTERNAL, ranks=ranks)

        job.op("PreBackwardFunctionForModule")
        job.forward(before=lambda i: fetch((0, 1, 2, 3)))
        scatter = lambda i: job.comm("reduce_scatter", LAYER, out=LAYER // 4, stream=REDUCE)  # noqa: E731
        job.backward(inner=lambda i: fetch((0, 1)), hook=scatter)
        job.update()

    assert one_key(tmp_path, plain(Job(), step), "hpz_partition_size") == 2


def test_an_all_reduced_flag_and_a_loss_beside_ddp_change_nothing(tmp_path: Path) -> None:
    job = Job()
    plain_update = job.update

    def update(*args: Any) -> None:
        plain_update(*args)
        job.comm("all_reduce", 1, dtype="Float")
        job.comm("all_reduce", 1, dtype="Byte")

    job.update = update  # type: ignore[method-assign]
    expected = TORCH | {"framework": "ddp"}
    assert values(infer(tmp_path, ddp(job)), expected) == expected
